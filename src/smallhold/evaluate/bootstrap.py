"""How sure a figure is: percentile bootstrap intervals over patients, and paired differences of two models.

A resample draws n patients out of n with replacement. Written as counts, one whole number per patient, a resample is
a weighting, and most metrics are cheap functions of weights: sort once, then cumulate the counts of many resamples at
once. `_WEIGHTED` lists the metrics that have such a fast form; any other callable is evaluated one resample at a time.
Both ways see the same resamples, so they give the same interval.

Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile interval).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smallhold.errors import InputError, ShapeError
from smallhold.evaluate import metrics
from smallhold.evaluate.metrics import Bools, Floats

Metric = Callable[..., float]
Counts = NDArray[np.uint16]
# A metric whose data are already sorted and checked: (r, n) counts -> (r,) values.
WeightedMetric = Callable[[Counts], Floats]

# So many counts are turned into numbers at once: 2 MB of float64 stays in the cache of a small core.
_CHUNK_ENTRIES = 1 << 18


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and the interval around it; all three are nan when it is undefined.

    Attributes:
        value: The metric on all patients.
        low: Lower end.
        high: Upper end. Guaranteed: low <= high. The value may lie outside for a metric that is biased on few
            patients: resampling repeats patients, which raises the expected calibration error.
    """

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """`{"value", "low", "high"}`, with null for nan."""
        return {name: _number_or_none(getattr(self, name)) for name in ("value", "low", "high")}


@dataclass(frozen=True, slots=True, eq=False)
class Resampled:
    """A metric on all rows and on every resample: what intervals and paired differences are cut from.

    Attributes:
        value: The metric on all rows.
        resamples: (num_resamples,) the metric on each resample, nan where it is undefined.
    """

    value: float
    resamples: Floats

    def interval(self, level: float = 0.95) -> Interval:
        """The percentile interval; see `bootstrap_interval` for what is left out of it.

        Raises:
            InputError: level outside (0, 1).
        """
        if not 0 < level < 1:
            raise InputError(f"level must lie between 0 and 1, got {level}")
        usable = self.resamples[~np.isnan(self.resamples)]
        if math.isnan(self.value) or 2 * usable.size < self.resamples.size:
            return Interval(self.value, float("nan"), float("nan"))
        low, high = np.quantile(usable, [(1 - level) / 2, (1 + level) / 2])
        return Interval(self.value, float(low), float(high))

    def minus(self, other: Resampled) -> Resampled:
        """The paired difference; both must come from the same rows, groups, num_resamples and seed."""
        return Resampled(self.value - other.value, self.resamples - other.resamples)


def resample(
    metric: Metric, *arrays: ArrayLike, num_resamples: int = 500, seed: int, groups: ArrayLike | None = None
) -> Resampled:
    """A metric on all rows and on every resample.

    Args:
        metric: One of `smallhold.evaluate.metrics`, or any function of the arrays that gives a float.
        arrays: What the metric takes, (n,) each, one row per patient.
        num_resamples: How many resamples.
        seed: The same n, groups, num_resamples and seed draw the same patients for every metric and model.
        groups: (n,) what is drawn as a whole, for example texts that are copies of each other; None draws rows.

    Raises:
        InputError: the metric refuses the arrays, or num_resamples < 1.
        ShapeError: the arrays differ in length.
    """
    columns = [*arrays] if groups is None else [*arrays, groups]
    num_rows = _num_rows(columns)
    return Resampled(metric(*arrays), _resampled(metric, arrays, _counts(num_rows, num_resamples, seed, groups)))


def bootstrap_interval(
    metric: Metric, *arrays: ArrayLike, num_resamples: int = 500, seed: int, level: float = 0.95
) -> Interval:
    """A metric with its percentile bootstrap interval over rows.

    Args:
        metric: As for `resample`, as are `arrays`, `num_resamples` and `seed`.
        arrays: See there.
        num_resamples: See there.
        seed: See there.
        level: Share of the resamples that the interval covers, 0 to 1.

    Returns:
        The interval. Resamples in which the metric is undefined (one class only) are left out; when that is more
        than half of them, low and high are nan.

    Raises:
        InputError: the metric refuses the arrays, num_resamples < 1, or level outside (0, 1).
        ShapeError: the arrays differ in length.
    """
    return resample(metric, *arrays, num_resamples=num_resamples, seed=seed).interval(level)


def paired_difference(
    metric: Metric,
    first: Sequence[ArrayLike],
    second: Sequence[ArrayLike],
    *,
    num_resamples: int = 500,
    seed: int,
    level: float = 0.95,
) -> Interval:
    """Metric of the first model minus metric of the second, both on the same resamples.

    Pairing removes what the two models share, easy and hard patients, so this interval is much narrower than the
    distance of two separate ones.

    Args:
        metric: As for `bootstrap_interval`.
        first: The arrays of the first model, for example `(y, score)`.
        second: The arrays of the second, the same patients in the same order.
        num_resamples: How many resamples.
        seed: As for `bootstrap_interval`.
        level: Share of the resamples that the interval covers, 0 to 1.

    Raises:
        InputError: the metric refuses the arrays, num_resamples < 1, or level outside (0, 1).
        ShapeError: the arrays differ in length.
    """
    _num_rows([*first, *second])
    one = resample(metric, *first, num_resamples=num_resamples, seed=seed)
    return one.minus(resample(metric, *second, num_resamples=num_resamples, seed=seed)).interval(level)


@lru_cache(maxsize=2)
def resample_counts(num_rows: int, num_resamples: int, seed: int) -> Counts:
    """How often each row is drawn in each resample.

    Returns:
        (num_resamples, num_rows), read-only; every row sums to num_rows.

    Raises:
        InputError: num_resamples < 1.
    """
    if num_resamples < 1:
        raise InputError(f"num_resamples must be at least 1, got {num_resamples}")
    generator = np.random.default_rng(seed)
    counts = np.empty((num_resamples, num_rows), dtype=np.uint16)
    for drawn in counts:
        drawn[:] = np.bincount(generator.integers(num_rows, size=num_rows), minlength=num_rows)
    counts.flags.writeable = False
    return counts


def _counts(num_rows: int, num_resamples: int, seed: int, groups: ArrayLike | None) -> Counts:
    """(num_resamples, num_rows); the rows of a group are drawn together."""
    if groups is None:
        return resample_counts(num_rows, num_resamples, seed)
    names, group_of_row = np.unique(np.asarray(groups), return_inverse=True)
    drawn = resample_counts(names.size, num_resamples, seed)
    # Without copies a group is a row, and the order of the rows, not of the names, decides who is drawn.
    return drawn if names.size == num_rows else drawn[:, group_of_row]


def _resampled(metric: Metric, arrays: Sequence[ArrayLike], counts: Counts) -> Floats:
    """(num_resamples,) the metric on every resample."""
    num_resamples, num_rows = counts.shape
    prepare = _WEIGHTED.get(metric)
    if prepare is None:
        columns = [np.asarray(array) for array in arrays]
        rows = (np.repeat(np.arange(num_rows), drawn) for drawn in counts)
        return np.array([metric(*(column[row] for column in columns)) for row in rows])
    weighted = prepare(*arrays)
    chunk = max(1, _CHUNK_ENTRIES // num_rows)
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 is the nan that is meant
        parts = [weighted(counts[start : start + chunk]) for start in range(0, num_resamples, chunk)]
    return np.concatenate(parts)


def _num_rows(arrays: Sequence[ArrayLike]) -> int:
    lengths = [len(np.atleast_1d(np.asarray(array))) for array in arrays]
    if len(set(lengths)) != 1:
        raise ShapeError(f"arrays must be of equal length, one entry per patient: got {lengths}")
    return lengths[0]


def _number_or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _by_threshold(outcome: Bools, score: Floats) -> Callable[[Counts], tuple[Floats, Floats]]:
    """Sort once; then (r, n) counts -> (r, K) cumulated positives and negatives, strictest threshold first."""
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), score.size - 1)
    has_ties = last.size < score.size
    is_positive = outcome[order]

    def cumulate(counts: Counts) -> tuple[Floats, Floats]:
        drawn = counts[:, order]
        called = np.cumsum(drawn, axis=1, dtype=np.float64)
        positive = np.cumsum(drawn * is_positive, axis=1, dtype=np.float64)
        if has_ties:
            called, positive = called[:, last], positive[:, last]
        return positive, called - positive

    return cumulate


def _weighted_auroc(y: ArrayLike, score: ArrayLike) -> WeightedMetric:
    cumulate = _by_threshold(*metrics.checked_scores(y, score))

    def evaluate(counts: Counts) -> Floats:
        positive, negative = cumulate(counts)
        # The trapezium under the ROC curve is the rank sum with average ranks.
        area = positive[:, 0] * negative[:, 0] / 2
        area += ((positive[:, 1:] + positive[:, :-1]) * np.diff(negative, axis=1)).sum(axis=1) / 2
        return _ratio(area, positive[:, -1] * negative[:, -1])

    return evaluate


def _weighted_auprc(y: ArrayLike, score: ArrayLike) -> WeightedMetric:
    cumulate = _by_threshold(*metrics.checked_scores(y, score))

    def evaluate(counts: Counts) -> Floats:
        positive, negative = cumulate(counts)
        precision = positive / np.maximum(positive + negative, 1)
        gained = np.diff(positive, axis=1, prepend=0)
        total = (gained * precision).sum(axis=1)
        return _nan_where_one_class(total / positive[:, -1], positive, negative)

    return evaluate


def _weighted_event1_best(y: ArrayLike, score: ArrayLike) -> WeightedMetric:
    cumulate = _by_threshold(*metrics.checked_scores(y, score))

    def evaluate(counts: Counts) -> Floats:
        positive, negative = cumulate(counts)
        best = (positive / np.maximum(positive + negative, positive[:, -1:])).max(axis=1)
        return _nan_where_one_class(best, positive, negative)

    return evaluate


def _weighted_event1(y: ArrayLike, is_positive: ArrayLike) -> WeightedMetric:
    outcome, called = metrics.checked_scores(y, is_positive)
    tally = _sums(np.column_stack([outcome * called, called, outcome]))

    def evaluate(counts: Counts) -> Floats:
        hit, num_called, num_positive = tally(counts).T
        has_both = (num_positive > 0) & (num_positive < _sizes(counts))
        return np.where(has_both, hit / np.maximum(num_called, num_positive), np.nan)

    return evaluate


def _weighted_calibration_error(y: ArrayLike, p: ArrayLike, bins: int = 15) -> WeightedMetric:
    outcome, probability = metrics.checked_probabilities(y, p)
    in_bin = np.eye(bins)[metrics.probability_bin(probability, bins)]
    gap = _sums(in_bin * (outcome - probability)[:, None])
    return lambda counts: np.abs(gap(counts)).sum(axis=1) / _sizes(counts)


def _weighted_brier(y: ArrayLike, p: ArrayLike) -> WeightedMetric:
    outcome, probability = metrics.checked_probabilities(y, p)
    return _mean((outcome - probability) ** 2)


def _weighted_brier_skill(y: ArrayLike, p: ArrayLike) -> WeightedMetric:
    outcome, probability = metrics.checked_probabilities(y, p)
    tally = _sums(np.column_stack([(outcome - probability) ** 2, outcome]))

    def evaluate(counts: Counts) -> Floats:
        lost, num_positive = tally(counts).T
        size = _sizes(counts)
        return 1 - _ratio(lost * size, num_positive * (size - num_positive))

    return evaluate


def _weighted_share(part: ArrayLike, whole: ArrayLike) -> WeightedMetric:
    tally = _sums(np.column_stack([np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)]))

    def evaluate(counts: Counts) -> Floats:
        numerator, denominator = tally(counts).T
        return _ratio(numerator, denominator)

    return evaluate


def _weighted_negative_log_likelihood(p_of_truth: ArrayLike) -> WeightedMetric:
    return _mean(metrics.surprise(p_of_truth))


def _weighted_accuracy(y: ArrayLike, predicted: ArrayLike) -> WeightedMetric:
    truth, guess, _ = metrics.label_codes(y, predicted)
    return _mean(truth == guess)


def _weighted_macro_f1(y: ArrayLike, predicted: ArrayLike) -> WeightedMetric:
    truth, guess, num_labels = metrics.label_codes(y, predicted)
    is_truth, is_guess = np.eye(num_labels)[truth], np.eye(num_labels)[guess]
    hits, mentions = _sums(is_truth * is_guess), _sums(is_truth + is_guess)

    def evaluate(counts: Counts) -> Floats:
        mentioned = mentions(counts)
        f1 = 2 * hits(counts) / np.maximum(mentioned, 1)
        return _ratio(f1.sum(axis=1), (mentioned > 0).sum(axis=1).astype(np.float64))

    return evaluate


def _weighted_coverage(has_abstained: ArrayLike) -> WeightedMetric:
    metrics.coverage(has_abstained)  # refuses what is not binary
    return _mean(1 - np.asarray(has_abstained, dtype=np.float64))


def _mean(values: NDArray[Any]) -> WeightedMetric:
    total = _sums(values[:, None])
    return lambda counts: total(counts)[:, 0] / _sizes(counts)


def _sizes(counts: Counts) -> Floats:
    """(r,) rows in each resample: all equal, unless groups of several rows were drawn."""
    sizes: Floats = counts.sum(axis=1, dtype=np.float64)
    return sizes


def _sums(columns: NDArray[Any]) -> WeightedMetric:
    """(n, c) columns; then (r, n) counts -> (r, c) weighted sums."""
    return lambda counts: counts.astype(np.float64) @ columns


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def _nan_where_one_class(values: Floats, positive: Floats, negative: Floats) -> Floats:
    return np.where((positive[:, -1] > 0) & (negative[:, -1] > 0), values, np.nan)


_WEIGHTED: dict[Metric, Callable[..., WeightedMetric]] = {
    metrics.auroc: _weighted_auroc,
    metrics.auprc: _weighted_auprc,
    metrics.event1: _weighted_event1,
    metrics.event1_best: _weighted_event1_best,
    metrics.expected_calibration_error: _weighted_calibration_error,
    metrics.brier: _weighted_brier,
    metrics.brier_skill: _weighted_brier_skill,
    metrics.share: _weighted_share,
    metrics.negative_log_likelihood: _weighted_negative_log_likelihood,
    metrics.accuracy: _weighted_accuracy,
    metrics.macro_f1: _weighted_macro_f1,
    metrics.coverage: _weighted_coverage,
}
