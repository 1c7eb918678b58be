"""The wall clock of journals and ledgers, which take it as an argument so that a test can be the clock."""

from __future__ import annotations

import time


def wall_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
