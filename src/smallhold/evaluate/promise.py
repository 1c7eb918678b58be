"""How a field's promise, its prediction sets, was kept on other patients: as members of a result."""

from __future__ import annotations

from collections.abc import Sequence

from smallhold.decide.conformal import Conformal
from smallhold.decide.plan import Field
from smallhold.evaluate.result import Promise, PromiseRow
from smallhold.evaluate.risk_coverage import SetCoverage


def promise_rows(field: Field, found: Sequence[SetCoverage], *, horizon_h: float | None) -> list[PromiseRow]:
    """One row for each true choice.

    Args:
        field: Names the choices.
        found: What was counted at one horizon.
        horizon_h: Hours of record, None without a clock.
    """
    return [
        {
            "horizon_h": horizon_h,
            "choice": None if item.choice is None else field.choices[item.choice],
            "n": item.n,
            "coverage": {"value": item.coverage, "low": item.low, "high": item.high},
            "answered": item.answered,
            "wrong": item.wrong,
            "set_size": item.set_size,
        }
        for item in found
    ]


def describe_promise(conformal: Conformal, rows: list[PromiseRow]) -> Promise:
    """What was promised, and the rows that say how it went."""
    return {
        "alpha": conformal.alpha,
        "is_by_choice": conformal.is_by_choice,
        "is_feasible": conformal.is_feasible,
        "smallest_alpha": conformal.smallest_alpha,
        "rows": rows,
    }
