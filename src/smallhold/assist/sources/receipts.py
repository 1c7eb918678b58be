"""Receipts: a sender is told that a reading is taken when it is on record, not when it waits in memory.

A source leaves word with a reading (`expect`); the ward says when it is journalled, or could not be (`settle`). Until
then a broker keeps the message and a sender of HL7 waits for its answer, so that a process that dies loses nothing that
it acknowledged.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from smallhold.records import Observation

Settled = Callable[[], None]


class Receipts:
    """Readings on their way whose senders wait for word; safe from any thread."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], list[Settled]] = {}
        self._lock = threading.Lock()

    def expect(self, observation: Observation, settled: Settled) -> None:
        """Call `settled` once, from any thread and quickly, when the reading is on record or given up."""
        with self._lock:
            self._waiting.setdefault((observation.patient, observation.id), []).append(settled)

    def join(self, patient: str, observation_id: str, settled: Settled) -> bool:
        """For a reading that was sent again: wait for the same word; False when there is nothing to wait for."""
        with self._lock:
            waiting = self._waiting.get((patient, observation_id))
            if waiting is not None:
                waiting.append(settled)
            return waiting is not None

    def settle(self, observation: Observation) -> None:
        """The reading is on record, or nothing more will become of it."""
        with self._lock:
            waiting = self._waiting.pop((observation.patient, observation.id), [])
        for settled in waiting:
            settled()

    @property
    def count(self) -> int:
        """Readings whose senders wait."""
        return len(self._waiting)


class Countdown:
    """Calls `done` once, when everything that was counted is over and no more will be."""

    def __init__(self, done: Callable[[], object]) -> None:
        self._done, self._left, self._lock = done, 1, threading.Lock()

    def one(self) -> Settled:
        """Count one more; call the result once when it is over."""
        with self._lock:
            self._left += 1
        return self.close

    def close(self) -> None:
        """One is over; called by the owner, no more will be counted."""
        with self._lock:
            self._left -= 1
            is_over = self._left == 0
        if is_over:
            self._done()
