"""Waiting with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

from smallhold.assist.sources import Inbox
from smallhold.records import Observation


def wait_until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def take(inbox: Inbox, count: int, seconds: float = 10.0) -> list[Observation]:
    """Exactly so many readings, or a failure."""
    taken: list[Observation] = []
    deadline = time.monotonic() + seconds
    while len(taken) < count:
        left = deadline - time.monotonic()
        assert left > 0, f"expected {count} readings, got {len(taken)}"
        taken += inbox.take(count - len(taken), min(left, 1))
    return taken
