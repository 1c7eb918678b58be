"""Buckets on a clock of the test's own, and every form in which a server asks for a pause."""

import asyncio
import random

import pytest

from smallhold.teach.endpoint.limits import TokenBucket, announced_pause, backoff_seconds

NOW = 1_750_000_000.0  # Sun, 15 Jun 2025 15:06:40 GMT


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.now += seconds


def times(per_minute, amounts, give_back=None):
    """When each amount is let through, one after the other."""
    clock, seen = Clock(), []
    bucket = TokenBucket(per_minute, clock=clock, sleep=clock.sleep)

    async def run():
        for amount in amounts:
            await bucket.take(amount)
            seen.append(round(clock.now, 6))
            if give_back:
                bucket.give_back(give_back)

    asyncio.run(run())
    return seen


def test_a_full_bucket_lets_ten_seconds_worth_through_and_then_keeps_the_rate():
    assert times(60, [1] * 13) == [0.0] * 10 + [1.0, 2.0, 3.0]


def test_a_bucket_of_less_than_one_request_still_holds_one():
    assert times(1, [1, 1, 1]) == [0.0, 60.0, 120.0]


def test_no_rate_lets_everything_through():
    assert times(0, [10**9] * 3) == [0.0] * 3


def test_what_is_larger_than_the_bucket_passes_when_it_is_full_and_leaves_a_debt():
    assert times(60, [30, 1]) == [0.0, 21.0]  # 10 - 30 = -20: one more takes 21 s


def test_what_was_not_used_comes_back_up_to_the_rim():
    assert times(60, [10] * 4, give_back=10) == [0.0] * 4
    assert times(60, [10, 10], give_back=4) == [0.0, 6.0]


@pytest.mark.parametrize("per_minute", [6, 30, 100, 1000])
def test_no_minute_ever_sees_more_than_the_rate_and_one_burst(per_minute):
    rng = random.Random(per_minute)
    amounts = [rng.uniform(0.1, per_minute / 6) for _ in range(200)]
    at = times(per_minute, amounts)
    for i, begin in enumerate(at):
        within = sum(amount for amount, t in zip(amounts[i:], at[i:], strict=True) if t < begin + 60)
        assert within <= per_minute + max(1, per_minute / 6) + 1e-6


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "Sun, 15 Jun 2025 15:07:10 GMT"}, 30),
        ({"retry-after": "Sunday, 15-Jun-25 15:07:10 GMT"}, 30),
        ({"retry-after": "Sun, 15 Jun 2025 15:00:00 GMT"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "Sun, 15 Jun 2025 15:07:10 +" + "9" * 20}, None),
        ({"x-ratelimit-timeremaining": "55"}, 55),
        ({"retry-after": "soon", "x-ratelimit-timeremaining": "55"}, 55),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "120ms"}, 0.12),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(NOW + 90)}, 90),
        ({"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "6m0s"}, None),
        ({"x-ratelimit-remaining-requests": "0"}, None),
        ({}, None),
    ],
)
def test_an_announced_pause_is_read(headers, seconds):
    assert announced_pause(headers, NOW, is_refused=True) == (None if seconds is None else pytest.approx(seconds))


def test_of_a_good_answer_only_a_used_up_limit_counts():
    used_up = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2s"}
    assert announced_pause({"x-ratelimit-timeremaining": "55"}, NOW, is_refused=False) is None
    assert announced_pause({"retry-after": "5", **used_up}, NOW, is_refused=False) == 2


def test_the_backoff_is_jittered_over_its_whole_range_and_bounded():
    rng = random.Random(0)
    for attempt in range(12):
        waits = [backoff_seconds(attempt, 0.5, rng) for _ in range(300)]
        most = min(30.0, 0.5 * 2**attempt)
        assert 0 <= min(waits) < most * 0.1
        assert most * 0.9 < max(waits) <= most
