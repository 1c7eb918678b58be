"""A specialist for stays that outlast the model's context: its session begins anew over the newest bins.

A task answers for a fixed number of bins. When they are over, a new session is opened and the readings of the newest
`keep_bins` bins are put into it, on the watchdog's thread, so that no reading waits for it. Where the sessions begin
depends on the number of bins alone: after a restart the same bins give the same state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from smallhold.assist.specialist import Specialist
from smallhold.errors import InputError
from smallhold.records import Card, Provenance, Risk


def first_bin(bins: int, *, capacity: int, keep_bins: int) -> int:
    """The bin, counted from 0, with which the session that holds `bins` closed bins began.

    Args:
        bins: Closed since admission.
        capacity: Bins that one session answers for.
        keep_bins: Bins that a new session is begun with, less than `capacity`.
    """
    if bins <= capacity:
        return 0
    step = capacity - keep_bins
    return -(-(bins - capacity) // step) * step


class RollingSpecialist:
    """Sessions one after the other, seen as one specialist.

    Args:
        open_session: Makes a specialist without any bin.
        capacity: Bins that one session answers for.
        keep_bins: Bins that the next session begins with, 0 to `capacity` - 1.
    """

    def __init__(self, open_session: Callable[[], Specialist], *, capacity: int, keep_bins: int) -> None:
        if not 0 <= keep_bins < capacity:
            raise InputError(f"keep_bins: expected 0 to {capacity - 1}, got {keep_bins}")
        self._open_session = open_session
        self._capacity, self._keep_bins = capacity, keep_bins
        self._session: Specialist | None = None
        self._closed: deque[tuple[int, list[tuple[str, float, int]]]] = deque(maxlen=capacity)
        self._open: list[tuple[str, float, int]] = []
        self._bins = 0  # closed in the present session

    def observe(self, code: str, value: float, t_ms: int) -> None:
        """See `Specialist.observe`."""
        self._current().observe(code, value, t_ms)
        self._open.append((code, value, t_ms))

    def close_bin(self, t_ms: int) -> None:
        """See `Specialist.close_bin`; opens the next session when the present one is full."""
        if self._bins >= self._capacity:
            self._begin_anew()
        self._current().close_bin(t_ms)
        self._closed.append((t_ms, self._open))
        self._open = []
        self._bins += 1

    def decide(self, t_ms: int, provenance: Provenance) -> Risk:
        """See `Specialist.decide`."""
        return self._current().decide(t_ms, provenance)

    def explain(self) -> Card:
        """See `Specialist.explain`."""
        return self._current().explain()

    def _current(self) -> Specialist:
        if self._session is None:
            self._session = self._open_session()
        return self._session

    def _begin_anew(self) -> None:
        session = self._open_session()
        kept = list(self._closed)[len(self._closed) - self._keep_bins :]
        for closed_ms, readings in kept:
            for reading in readings:
                session.observe(*reading)
            session.close_bin(closed_ms)
        for reading in self._open:
            session.observe(*reading)
        # Only now: a call that raised leaves the old session, and the same call can be made again.
        self._session, self._bins = session, len(kept)
