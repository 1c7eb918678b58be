"""How a field's promise, its prediction sets, was kept on other patients: as members of a result."""

from __future__ import annotations

from collections.abc import Sequence

from smallhold.decide.conformal import Conformal
from smallhold.decide.plan import Field
from smallhold.evaluate.result import Promise, PromiseRow, Reading
from smallhold.evaluate.risk_coverage import SetCoverage


def promise_rows(field: Field, found: Sequence[SetCoverage], *, horizon_h: float | None) -> list[PromiseRow]:
    """One row for each true choice.

    Args:
        field: Names the choices, and holds the promise.
        found: What was counted at one horizon.
        horizon_h: Hours of record, None without a clock.
    """
    return [promise_row(field, item, horizon_h=horizon_h) for item in found]


def promise_row(field: Field, item: SetCoverage, *, horizon_h: float | None) -> PromiseRow:
    """What was counted of one true choice, read against what the field promises."""
    return {
        "horizon_h": horizon_h,
        "choice": None if item.choice is None else field.choices[item.choice],
        "n": item.n,
        "coverage": {"value": item.coverage, "low": item.low, "high": item.high},
        "reading": _read(item, 1 - field.conformal.alpha if field.conformal else 0.0),
        "answered": item.answered,
        "wrong": item.wrong,
        "set_size": item.set_size,
    }


def _read(item: SetCoverage, promised: float) -> Reading:
    """Where the interval of the coverage lies, seen from the promise."""
    if item.high < promised:
        return "below"
    return "above" if item.low > promised else "within"


def describe_promise(conformal: Conformal, rows: list[PromiseRow]) -> Promise:
    """What was promised, and the rows that say how it went."""
    return {
        "alpha": conformal.alpha,
        "is_by_choice": conformal.is_by_choice,
        "is_feasible": conformal.is_feasible,
        "smallest_alpha": conformal.smallest_alpha,
        "rows": rows,
    }
