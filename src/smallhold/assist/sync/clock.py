"""A hybrid logical clock: stamps that follow the wall clock and never contradict cause and effect.

Source: Kulkarni et al. 2014, "Logical Physical Clocks and Consistent Snapshots in Globally Distributed Databases",
section 3. A stamp of another device that is too far ahead of this machine's wall clock is not followed: one device
with a wrong date must not pull everybody's along.
"""

from __future__ import annotations

from typing import NamedTuple

MOST_AHEAD_MS = 60_000


class Stamp(NamedTuple):
    """Milliseconds of the fastest clock seen, and ticks within one of them; stamps compare."""

    ms: int
    ticks: int


_FIRST = Stamp(0, 0)


class HybridClock:
    """One device's clock; it only goes forward.

    Args:
        newest: The newest stamp that this device gave or followed.
        most_ahead_ms: Stamps further ahead of the wall clock than this are not followed.
    """

    def __init__(self, newest: Stamp = _FIRST, most_ahead_ms: int = MOST_AHEAD_MS) -> None:
        self.newest = newest
        self._most_ahead_ms = most_ahead_ms

    def tick(self, wall_ms: int) -> Stamp:
        """A stamp for something that happens here now, later than every stamp given or followed before."""
        ms = max(self.newest.ms, wall_ms)
        self.newest = Stamp(ms, self.newest.ticks + 1 if ms == self.newest.ms else 0)
        return self.newest

    def follow(self, stamp: Stamp, wall_ms: int) -> bool:
        """Something with this stamp was heard of; False when it is too far ahead to be followed."""
        if stamp.ms - wall_ms > self._most_ahead_ms:
            return False
        self.newest = max(self.newest, stamp)
        return True
