"""How often something may happen: a count in a sliding window, with a bound on how many are told apart."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from smallhold.errors import SmallholdError

_MOST_KEYS = 10_000


class RateLimited(SmallholdError):  # noqa: N818 - a state that passes, not a fault
    """Too often; it works again later."""

    def __init__(self, what: str, wait_seconds: float) -> None:
        super().__init__(f"{what}: too many attempts, wait {wait_seconds:.0f} s")
        self.wait_seconds = wait_seconds


class RateLimit:
    """At most so many events a window and key.

    Args:
        most: Events.
        window_seconds: In so long.
        steady: A stopwatch in seconds.
    """

    def __init__(self, most: int, window_seconds: float, steady: Callable[[], float] = time.monotonic) -> None:
        self._most, self._window, self._steady = most, window_seconds, steady
        self._events: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, key: str, what: str) -> None:
        """Whether one more may happen.

        Raises:
            RateLimited: not now.
        """
        with self._lock:
            self._check(key, what)

    def note(self, key: str) -> None:
        """One has happened."""
        with self._lock:
            self._note(key)

    def spend(self, key: str, what: str) -> None:
        """`check`, then `note`, at once.

        Raises:
            RateLimited: not now; it does not count.
        """
        with self._lock:
            self._check(key, what)
            self._note(key)

    def _check(self, key: str, what: str) -> None:
        events, now = self._events.get(key), self._steady()
        if events is None:
            return
        while events and now - events[0] >= self._window:
            events.popleft()
        if len(events) >= self._most:
            raise RateLimited(what, self._window - (now - events[0]))

    def _note(self, key: str) -> None:
        # The key that was quiet for the longest is forgotten first, so that many addresses cannot fill the memory.
        events = self._events.setdefault(key, deque(maxlen=self._most))
        events.append(self._steady())
        self._events.move_to_end(key)
        while len(self._events) > _MOST_KEYS:
            self._events.popitem(last=False)
