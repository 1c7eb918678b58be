"""What a standing order leaves of a drug for one patient: whole numbers in, one reason out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smallhold.assist.orders.amount import format_amount
from smallhold.assist.orders.standing_order import StandingOrder


@dataclass(frozen=True, slots=True)
class Dose:
    """One dose that counts as given.

    Attributes:
        id: Unique for the patient; the same one is never given twice.
        t_ms: When it was released, UTC milliseconds.
        amount: Millionths of `unit`.
        order: Digest of the order that covered it.
    """

    id: str
    t_ms: int
    amount: int
    unit: str
    order: str


def limit_reason(order: StandingOrder, earlier: Sequence[Dose], amount: int, now_ms: int) -> str | None:
    """Why one more dose would go beyond the order, or None when it would not.

    Doses count whichever order covered them: two orders for one drug do not add up to twice as much.

    Args:
        order: In whose bounds it must lie.
        earlier: All doses of this drug to this patient, none of them after `now_ms`.
        amount: Of the new dose, millionths of the order's unit.
        now_ms: UTC milliseconds.
    """
    unit = order.unit
    if amount <= 0:
        return f"a dose of {format_amount(max(amount, 0))} {unit} is none"
    if amount > order.dose_max:
        return f"dose {format_amount(amount)} {unit} is above dose_max {format_amount(order.dose_max)} {unit}"
    recent = [dose for dose in earlier if dose.t_ms > now_ms - max(order.rate_window_ms, order.interval_ms)]
    during = [dose for dose in earlier if dose.t_ms >= order.not_before_ms]
    if any(dose.unit != unit for dose in (*recent, *during)):
        return f"it was given in another unit than {unit}, so that sums cannot be formed"
    if any(dose.t_ms > now_ms - order.interval_ms for dose in recent):
        return f"the last dose was less than interval {order.interval_ms // 1000} s ago"
    if len(during) >= order.count_max:
        return f"count_max {order.count_max} doses are given"
    rate = sum(dose.amount for dose in recent if dose.t_ms > now_ms - order.rate_window_ms) + amount
    if rate > order.rate_max:
        return (
            f"{format_amount(rate)} {unit} within {order.rate_window_ms // 1000} s would be above rate_max "
            f"{format_amount(order.rate_max)} {unit}"
        )
    total = sum(dose.amount for dose in during) + amount
    if total > order.total_max:
        return f"{format_amount(total)} {unit} in all would be above total_max {format_amount(order.total_max)} {unit}"
    return None
