"""The ward's clock: the wall clock when it starts, from then on steady, and faster on purpose in a rehearsal."""

from __future__ import annotations

import time
from collections.abc import Callable

from smallhold.device.wall_clock import wall_ms
from smallhold.errors import InputError

#: A wall clock that leaves the steady one by more than this has jumped; NTP slews by less.
JUMP_MS = 2_000


class WardClock:
    """Ward time in milliseconds: never goes back, whatever is done to the machine's clock.

    Args:
        speed: Ward seconds a second; 1 on a ward with people, more to rehearse with recorded ones.
        not_before_ms: Ward time begins here at least: where an earlier process stopped.
        wall: UTC in milliseconds.
        steady: A stopwatch in seconds that is never set.
    """

    def __init__(
        self,
        speed: float = 1.0,
        *,
        not_before_ms: int = 0,
        wall: Callable[[], int] = wall_ms,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 < speed <= 100_000:
            raise InputError(f"speed: expected more than 0 and at most 100000, got {speed}")
        self.speed = speed
        self._wall, self._steady = wall, steady
        self._begun_wall_ms, self._begun_steady = wall(), steady()
        self._origin_ms = max(self._begun_wall_ms, not_before_ms)

    def now_ms(self) -> int:
        """The present in ward time."""
        return self._origin_ms + int((self._steady() - self._begun_steady) * 1e3 * self.speed)

    def of_wall(self, t_ms: int) -> int:
        """A moment of the wall clock in ward time, by its distance from now."""
        return self.now_ms() + int((t_ms - self._wall()) * self.speed)

    def seconds_until(self, ward_ms: int) -> float:
        """Real seconds until a moment of ward time; 0 when it is past."""
        return max(0.0, (ward_ms - self.now_ms()) / 1e3 / self.speed)

    def take_jump_ms(self) -> int:
        """How far the wall clock jumped since the last call, 0 when it did not; ward time does not follow it."""
        passed_ms = (self._steady() - self._begun_steady) * 1e3
        jump_ms = round(self._wall() - self._begun_wall_ms - passed_ms)
        if abs(jump_ms) <= JUMP_MS:
            return 0
        self._begun_wall_ms += jump_ms
        return jump_ms
