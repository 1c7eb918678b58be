"""Intervals: the fast way equals the slow way, pairs stay paired, and undefined stays undefined."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallhold.errors import InputError, ShapeError
from smallhold.evaluate import metrics
from smallhold.evaluate.bootstrap import Interval, bootstrap_interval, paired_difference, resample, resample_counts


def arrays_for(metric: Callable[..., float], num_rows: int, seed: int) -> tuple[Any, ...]:
    generator = np.random.default_rng(seed)
    y = generator.random(num_rows) < 0.3
    score = np.round(generator.random(num_rows), 1)  # ties
    if metric in (metrics.accuracy, metrics.macro_f1):
        return generator.choice(list("abc"), num_rows), generator.choice(list("abcd"), num_rows)
    if metric is metrics.coverage:
        return (score > 0.3,)
    if metric is metrics.negative_log_likelihood:
        return (score,)
    if metric is metrics.share:
        return y * score, score
    return y, score > 0.5 if metric is metrics.event1 else score


def slowly(metric: Callable[..., float]) -> Callable[..., float]:
    """The same metric as a stranger, so that it is evaluated one resample at a time."""
    return lambda *arrays: metric(*arrays)


ALL = [
    metrics.auroc,
    metrics.auprc,
    metrics.event1,
    metrics.event1_best,
    metrics.expected_calibration_error,
    metrics.brier,
    metrics.brier_skill,
    metrics.share,
    metrics.negative_log_likelihood,
    metrics.accuracy,
    metrics.macro_f1,
    metrics.coverage,
]


@pytest.mark.parametrize("metric", ALL)
@settings(max_examples=15, deadline=None)
@given(num_rows=st.integers(2, 40), seed=st.integers(0, 10**6))
def test_fast_interval_equals_the_slow_one(metric: Callable[..., float], num_rows: int, seed: int) -> None:
    arrays = arrays_for(metric, num_rows, seed)
    fast = bootstrap_interval(metric, *arrays, num_resamples=20, seed=seed)
    slow = bootstrap_interval(slowly(metric), *arrays, num_resamples=20, seed=seed)
    expected = [slow.value, slow.low, slow.high]
    assert [fast.value, fast.low, fast.high] == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("metric", ALL)
@settings(max_examples=8, deadline=None)
@given(num_rows=st.integers(2, 30), num_groups=st.integers(1, 12), seed=st.integers(0, 10**6))
def test_groups_are_drawn_as_a_whole(metric: Callable[..., float], num_rows: int, num_groups: int, seed: int) -> None:
    arrays = [np.asarray(array) for array in arrays_for(metric, num_rows, seed)]
    groups = np.random.default_rng(seed).integers(num_groups, size=num_rows)
    fast = resample(metric, *arrays, num_resamples=12, seed=seed, groups=groups)
    # Slow twin: draw names, then gather the rows of each name as often as it was drawn.
    names = np.unique(groups)
    generator, slow = np.random.default_rng(seed), []
    for _ in range(12):
        drawn = generator.integers(names.size, size=names.size)
        if names.size == num_rows:
            rows = np.sort(drawn)
        else:
            rows = np.concatenate([np.flatnonzero(groups == names[i]) for i in drawn])
        slow.append(metric(*(array[rows] for array in arrays)))
    np.testing.assert_allclose(fast.resamples, slow, atol=1e-12)


def test_copies_of_a_text_widen_the_interval() -> None:
    right = np.repeat(np.random.default_rng(0).random(60) < 0.7, 10)
    labels, groups = np.ones(600), np.repeat(np.arange(60), 10)
    alone = resample(metrics.accuracy, labels, right.astype(float), seed=0).interval()
    together = resample(metrics.accuracy, labels, right.astype(float), seed=0, groups=groups).interval()
    # Sixty independent texts, not six hundred: the square root of ten.
    assert (together.high - together.low) / (alone.high - alone.low) == pytest.approx(10**0.5, rel=0.15)


def test_interval_of_a_mean_matches_the_normal_one() -> None:
    y = np.zeros(2000)
    y[:600] = 1
    found = bootstrap_interval(metrics.coverage, 1 - y, num_resamples=2000, seed=1)
    half_width = 1.96 * math.sqrt(0.3 * 0.7 / 2000)
    # 2,000 resamples place a 2.5 % quantile within about a tenth of the half-width.
    assert found.value == pytest.approx(0.3)
    assert found.low == pytest.approx(0.3 - half_width, abs=0.15 * half_width)
    assert found.high == pytest.approx(0.3 + half_width, abs=0.15 * half_width)


def test_every_resample_draws_as_many_rows_as_there_are() -> None:
    counts = resample_counts(50, 30, 7)
    assert counts.shape == (30, 50)
    assert (counts.sum(axis=1) == 50).all()
    assert not (counts[0] == counts[1]).all()


def test_equal_seeds_give_equal_intervals_and_others_do_not() -> None:
    arrays = arrays_for(metrics.auroc, 200, 0)
    once = bootstrap_interval(metrics.auroc, *arrays, seed=1)
    assert once == bootstrap_interval(metrics.auroc, *arrays, seed=1)
    assert once != bootstrap_interval(metrics.auroc, *arrays, seed=2)


def test_a_model_does_not_differ_from_itself() -> None:
    arrays = arrays_for(metrics.auroc, 100, 3)
    assert paired_difference(metrics.auroc, arrays, arrays, seed=0) == Interval(0.0, 0.0, 0.0)


def test_pairing_finds_a_small_difference_that_separate_intervals_hide() -> None:
    generator = np.random.default_rng(5)
    y = generator.random(1500) < 0.2
    shared = generator.normal(size=1500) + y
    good, poor = shared + generator.normal(size=1500) * 0.2, shared + generator.normal(size=1500) * 0.7
    difference = paired_difference(metrics.auroc, (y, good), (y, poor), seed=0)
    assert difference.low > 0
    one, other = (bootstrap_interval(metrics.auroc, y, score, seed=0) for score in (good, poor))
    assert one.low < other.high  # the separate intervals overlap
    opposite = paired_difference(metrics.auroc, (y, poor), (y, good), seed=0)
    assert (opposite.low, opposite.high) == pytest.approx((-difference.high, -difference.low))


def test_one_class_gives_null() -> None:
    found = bootstrap_interval(metrics.auroc, [0, 0, 0], [0.1, 0.2, 0.3], seed=0)
    assert found.to_json() == {"value": None, "low": None, "high": None}


def test_too_few_defined_resamples_give_no_interval_but_keep_the_value() -> None:
    # Drawn exactly once: in 37 % of the resamples.
    found = bootstrap_interval(lambda y: 1.0 if sum(y) == 1 else float("nan"), [1, 0, 0, 0, 0, 0], seed=0)
    assert found.to_json() == {"value": 1.0, "low": None, "high": None}


def test_a_report_of_ten_thousand_patients_takes_seconds() -> None:
    generator = np.random.default_rng(0)
    y = generator.random(10_000) < 0.14
    p = generator.random(10_000)
    start = time.process_time()
    for metric in (metrics.auroc, metrics.auprc, metrics.event1_best):
        bootstrap_interval(metric, y, p, num_resamples=500, seed=0)
    # The three slow ones of 4 horizons x 5 models; 60 s are allowed for all. Generous, for busy machines.
    assert (time.process_time() - start) * 20 < 120


@pytest.mark.parametrize("level", [0, 1, 95])
def test_a_level_outside_0_and_1_is_refused(level: float) -> None:
    with pytest.raises(InputError, match=f"level must lie between 0 and 1, got {level}"):
        bootstrap_interval(metrics.coverage, [0, 1], seed=0, level=level)


def test_no_resamples_are_refused() -> None:
    with pytest.raises(InputError, match="num_resamples must be at least 1, got 0"):
        bootstrap_interval(metrics.coverage, [0, 1], seed=0, num_resamples=0)


def test_what_the_metric_refuses_is_refused() -> None:
    with pytest.raises(InputError, match="is_positive must be binary"):
        bootstrap_interval(metrics.event1, [0, 1], [0.2, 0.7], seed=0)


def test_different_patients_cannot_be_paired() -> None:
    with pytest.raises(ShapeError, match=r"equal length, one entry per patient: got \[2, 2, 3, 3\]"):
        paired_difference(metrics.auroc, ([0, 1], [0.1, 0.2]), ([0, 1, 1], [0.1, 0.2, 0.3]), seed=0)
