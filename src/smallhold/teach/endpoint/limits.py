"""How fast to ask: token buckets, the pauses that a server asks for, and what to wait after a failure."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_LONGEST_BACKOFF_SECONDS = 30.0


class TokenBucket:
    """Lets through so much a minute, in bursts of at most ten seconds' worth and at least one request.

    A request larger than the bucket passes when the bucket is full and leaves a debt behind. Waiting is first come,
    first served, so that a large request is not starved by small ones.
    """

    def __init__(
        self,
        per_minute: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """A bucket that is full; `per_minute` 0 lets everything through."""
        self._rate, self._clock, self._sleep = per_minute / 60.0, clock, sleep
        self._capacity = max(1.0, per_minute / 6.0)
        self._level, self._at = self._capacity, clock()
        self._turn = asyncio.Lock()

    async def take(self, amount: float) -> None:
        """Wait until there is enough, then take it."""
        if not self._rate:
            return
        async with self._turn:
            while (missing := min(amount, self._capacity) - self._filled()) > 1e-9:
                await self._sleep(missing / self._rate)
            self._level -= amount

    def give_back(self, amount: float) -> None:
        """Return what was taken and not used."""
        self._level = min(self._capacity, self._filled() + amount)

    def _filled(self) -> float:
        now = self._clock()
        self._level = min(self._capacity, self._level + (now - self._at) * self._rate)
        self._at = now
        return self._level


def announced_pause(headers: Mapping[str, str], now: float, *, is_refused: bool) -> float | None:
    """How long a server asks to be left alone.

    Args:
        headers: Of any response; names in lower case.
        now: Seconds since 1970, for dates.
        is_refused: The response is a refusal; else only a limit that is used up counts.

    Returns:
        Seconds, 0 or more: of a refusal, from `Retry-After` (RFC 9110, section 10.2.3: seconds or a date) or GitHub
        Models' `x-ratelimit-timeremaining`; else, where a kind of `x-ratelimit-remaining` is 0, from its
        `x-ratelimit-reset`. None when nothing is asked for, or it cannot be read.
    """
    for name in ("retry-after", "x-ratelimit-timeremaining") if is_refused else ():
        if name in headers and (seconds := _seconds(headers[name], now)) is not None:
            return seconds
    waits = [
        _seconds(headers.get(name.replace("remaining", "reset"), ""), now)
        for name, value in headers.items()
        if name.startswith("x-ratelimit-remaining") and value.strip() == "0"
    ]
    return max((wait for wait in waits if wait is not None), default=None)


def _seconds(text: str, now: float) -> float | None:
    """Seconds from `12`, `1.5`, `6m0s`, `120ms`, seconds since 1970, or an HTTP date."""
    text = text.strip()
    if re.fullmatch(r"\d{1,12}(\.\d{1,9})?", text):
        value = float(text)
        return max(0.0, value - now) if value > 1e9 else value
    if text and (match := _DURATION.fullmatch(text)):
        days, hours, minutes, seconds, milliseconds = (float(part or 0) for part in match.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds + milliseconds / 1000
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)


def backoff_seconds(attempt: int, first: float, rng: random.Random) -> float:
    """What to wait after the failed attempt number `attempt`, from 0, at most `first` s: exponential with full jitter.

    Source: Brooker 2015, "Exponential Backoff and Jitter", AWS Architecture Blog.
    """
    return rng.uniform(0.0, min(_LONGEST_BACKOFF_SECONDS, first * 2.0**attempt))


def utc_now() -> str:
    """The time as it is written into files: ISO 8601 with seconds and a trailing Z."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
