"""`limit_reason` for many patients at once, to watch ten thousand simulated ones. For simulations only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smallhold.assist.orders.standing_order import StandingOrder

IntArray = NDArray[np.int64]


class VectorLimits:
    """What one order leaves to each of N patients; whole 64-bit numbers, times in milliseconds that do not go back.

    Sums cannot overflow: an amount is at most 1e15, and no more than `rate_max + dose_max` is ever added up.
    """

    def __init__(self, order: StandingOrder, num_patients: int) -> None:
        self._order = order
        self.total = np.zeros(num_patients, np.int64)
        self.count = np.zeros(num_patients, np.int64)
        self._last_ms = np.full(num_patients, -(2**62), np.int64)
        self._recent: list[tuple[int, IntArray]] = []

    def release(self, amounts: IntArray, now_ms: int) -> IntArray:
        """(N,) the amounts that lie within the order, 0 for the others; what is returned counts as given."""
        order = self._order
        self._recent = [(t, given) for t, given in self._recent if t > now_ms - order.rate_window_ms]
        within = sum((given for _, given in self._recent), np.zeros_like(self.total))
        # Compared before they are added: a proposal may be any number.
        is_allowed = (
            (amounts > 0)
            & (amounts <= order.dose_max)
            & (now_ms - self._last_ms >= order.interval_ms)
            & (self.count < order.count_max)
            & (amounts <= order.rate_max - within)
            & (amounts <= order.total_max - self.total)
            & (order.not_before_ms <= now_ms < order.expires_ms)
        )
        given = np.where(is_allowed, amounts, 0).astype(np.int64)
        self.total += given
        self.count += is_allowed
        self._last_ms = np.where(is_allowed, now_ms, self._last_ms)
        self._recent.append((now_ms, given))
        return given
