from __future__ import annotations

import pytest

from smallhold.decide.conformal import Conformal, Group
from smallhold.decide.plan import Field
from smallhold.evaluate.promise import describe_promise, promise_rows
from smallhold.evaluate.risk_coverage import SetCoverage

PROMISE = Conformal(alpha=0.1, is_by_choice=True, groups=(Group(name="6", least=(0.7, 0.1), counts=(9, 99)),))
FIELD = Field(name="died", choices=("no", "yes"), positive="yes", conformal=PROMISE)


def counted(coverage: float, low: float, high: float) -> SetCoverage:
    return SetCoverage(
        group="", choice=1, n=40, coverage=coverage, low=low, high=high, answered=0.6, wrong=0.1, set_size=1.4
    )


@pytest.mark.parametrize(
    ("coverage", "low", "high", "reading"),
    [(0.8, 0.7, 0.899, "below"), (0.8, 0.7, 0.9, "within"), (0.97, 0.9, 1, "within"), (0.97, 0.901, 1, "above")],
)
def test_a_coverage_is_read_by_where_its_interval_lies(coverage: float, low: float, high: float, reading: str) -> None:
    (row,) = promise_rows(FIELD, [counted(coverage, low, high)], horizon_h=6)
    assert row["reading"] == reading
    assert (row["horizon_h"], row["choice"], row["n"], row["answered"]) == (6, "yes", 40, 0.6)
    assert describe_promise(PROMISE, [row])["smallest_alpha"] == 0.1
