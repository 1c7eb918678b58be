"""How good a decision is, as numbers: ranking, calibration, coverage.

Every function takes one row per patient (or document) and says what happens at the edges:

* Binary outcomes `y` are 0/1 or bool. With one class only, the ranking figures (AUROC, AUPRC, event 1) are nan.
* Tied scores are one threshold: no order among them is ever invented.
* NaN, an empty array and arrays of different lengths are refused. Infinite scores are fine, they only rank.
* All figures are over all rows, abstained or not; `coverage` says how many were answered.

These are the plain definitions. `bootstrap` holds a fast twin of each for many resamples at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smallhold.errors import InputError, ShapeError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


def auroc(y: ArrayLike, score: ArrayLike) -> float:
    """Probability that a random positive scores above a random negative, ties counting one half.

    AUROC = (sum of the average ranks of the positives - P (P + 1) / 2) / (P N).
    Source: Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747; the Mann-Whitney form.

    Args:
        y: (n,) binary outcome.
        score: (n,) any monotone score, higher = more likely positive.

    Returns:
        A value in [0, 1], or nan when only one class is present.

    Raises:
        InputError: NaN, an empty array, or outcomes other than 0 and 1.
        ShapeError: the lengths differ.

    >>> auroc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    outcome, ranked = checked_scores(y, score)
    num_positive = int(outcome.sum())
    num_negative = outcome.size - num_positive
    if num_positive == 0 or num_negative == 0:
        return float("nan")
    _, group, size = np.unique(ranked, return_inverse=True, return_counts=True)
    last_rank = np.cumsum(size)
    average_rank = (last_rank - (size - 1) / 2)[group]
    above = average_rank[outcome].sum() - num_positive * (num_positive + 1) / 2
    return float(above / (num_positive * num_negative))


def auprc(y: ArrayLike, score: ArrayLike) -> float:
    """Average precision: precision at each distinct threshold, weighted by the recall gained there.

    AP = sum over thresholds k, from the strictest, of (R_k - R_{k-1}) P_k: steps, without interpolation.
    Source: Zhu 2004 (University of Waterloo, working paper 2004-09); the definition that scikit-learn uses.

    Args:
        y: (n,) binary outcome.
        score: (n,) higher = more likely positive.

    Returns:
        A value in (0, 1], or nan when only one class is present. A constant score gives the prevalence.

    Raises:
        InputError: NaN, an empty array, or outcomes other than 0 and 1.
        ShapeError: the lengths differ.
    """
    outcome, ranked = checked_scores(y, score)
    if _is_one_class(outcome):
        return float("nan")
    true_positive, called, _ = _counts_by_threshold(outcome, ranked)
    gained = np.diff(true_positive, prepend=0)
    return float((gained * true_positive / called).sum() / outcome.sum())


def event1(y: ArrayLike, is_positive: ArrayLike) -> float:
    """The smaller of sensitivity and positive predictive value, at decisions already taken.

    Source: Silva et al. 2012, "Predicting in-hospital mortality of ICU patients: the PhysioNet/Computing in
    Cardiology Challenge 2012", event 1.

    Args:
        y: (n,) binary outcome.
        is_positive: (n,) binary decision. Fix its threshold on other patients (`best_event1_threshold`).

    Returns:
        A value in [0, 1]; 0 when nobody is called positive; nan when only one class is present.

    Raises:
        InputError: NaN, an empty array, or values other than 0 and 1.
        ShapeError: the lengths differ.
    """
    outcome, called = _checked_binary("y", y), _checked_binary("is_positive", is_positive)
    _require_equal_length(outcome, called)
    if _is_one_class(outcome):
        return float("nan")
    return float((outcome & called).sum() / max(outcome.sum(), called.sum()))


def event1_best(y: ArrayLike, score: ArrayLike) -> float:
    """Event 1 at the threshold that is best on these very data: optimistic, and reported as such.

    For orientation beside published figures that chose their threshold the same way. Never choose an operating
    point with it: see `best_event1_threshold`.

    Args:
        y: (n,) binary outcome.
        score: (n,) higher = more likely positive; called positive when score >= threshold.

    Returns:
        A value in (0, 1], at least `event1` at any threshold; nan when only one class is present.

    Raises:
        InputError: NaN, an empty array, or outcomes other than 0 and 1.
        ShapeError: the lengths differ.
    """
    outcome, ranked = checked_scores(y, score)
    if _is_one_class(outcome):
        return float("nan")
    return float(_event1_by_threshold(outcome, ranked)[0].max())


def best_event1_threshold(y: ArrayLike, score: ArrayLike) -> float:
    """The threshold with the best event 1, for use on the calibration split alone.

    Args:
        y: (n,) binary outcome.
        score: (n,) higher = more likely positive.

    Returns:
        One of the scores, to be used as `score >= threshold`. Ties go to the higher threshold: fewer alerts.

    Raises:
        InputError: only one class is present, NaN, an empty array, or outcomes other than 0 and 1.
        ShapeError: the lengths differ.
    """
    outcome, ranked = checked_scores(y, score)
    if _is_one_class(outcome):
        raise InputError(
            f"a threshold needs both outcomes: expected 0 and 1 in y, got {outcome.size} times {int(outcome[0])}",
            hint="fit the threshold on more patients",
        )
    value, threshold = _event1_by_threshold(outcome, ranked)
    return float(threshold[np.argmax(value)])


def expected_calibration_error(y: ArrayLike, p: ArrayLike, bins: int = 15) -> float:
    """Mean gap between predicted and observed share, over equal-width bins of the prediction.

    ECE = sum over bins of (n_b / n) |mean of y - mean of p in the bin|; the last bin includes 1.
    Source: Naeini et al. 2015 (AAAI); 15 bins as in Guo et al. 2017, arXiv:1706.04599.

    Args:
        y: (n,) binary outcome.
        p: (n,) predicted probability of a positive, 0 to 1.
        bins: Number of bins.

    Returns:
        A value in [0, 1]. It is biased upwards on few patients, also for a perfectly calibrated model.

    Raises:
        InputError: NaN, an empty array, p outside [0, 1], bins < 1, or outcomes other than 0 and 1.
        ShapeError: the lengths differ.
    """
    outcome, probability = checked_probabilities(y, p)
    gap = np.bincount(probability_bin(probability, bins), weights=outcome - probability, minlength=bins)
    return float(np.abs(gap).sum() / outcome.size)


def brier(y: ArrayLike, p: ArrayLike) -> float:
    """Mean squared difference of predicted probability and outcome; lower is better.

    Source: Brier 1950, doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2, in its binary form.

    Args:
        y: (n,) binary outcome.
        p: (n,) predicted probability of a positive, 0 to 1.

    Returns:
        A value in [0, 1]. Always predicting the prevalence q gives q (1 - q).

    Raises:
        InputError: NaN, an empty array, p outside [0, 1], or outcomes other than 0 and 1.
        ShapeError: the lengths differ.
    """
    outcome, probability = checked_probabilities(y, p)
    return float(((outcome - probability) ** 2).mean())


def brier_skill(y: ArrayLike, p: ArrayLike) -> float:
    """Share of the Brier score of a constant prediction that the model saves; 0 = no better than the prevalence.

    BSS = 1 - Brier / (q (1 - q)), q the share of positives in these very rows: the best constant there is.
    Source: Murphy 1973, Journal of Applied Meteorology 12(4), 595-600.

    Args:
        y: (n,) binary outcome.
        p: (n,) predicted probability of a positive, 0 to 1.

    Returns:
        At most 1, negative when worse than the constant, nan when only one class is present.

    Raises:
        InputError: NaN, an empty array, p outside [0, 1], or outcomes other than 0 and 1.
        ShapeError: the lengths differ.
    """
    outcome, _ = checked_probabilities(y, p)
    prevalence = outcome.mean()
    return float(1 - brier(y, p) / (prevalence * (1 - prevalence))) if not _is_one_class(outcome) else float("nan")


def share(part: ArrayLike, whole: ArrayLike) -> float:
    """Sum of one column over the sum of another, for example alerts on those who died over all alerts.

    Args:
        part: (n,) numbers, nothing negative.
        whole: (n,) numbers, nothing negative.

    Returns:
        The ratio, or nan when the whole is 0.

    Raises:
        InputError: an empty array or NaN.
        ShapeError: the lengths differ.
    """
    numerator, denominator = _checked_numbers("part", part), _checked_numbers("whole", whole)
    _require_equal_length(numerator, denominator)
    total = denominator.sum()
    return float(numerator.sum() / total) if total > 0 else float("nan")


def negative_log_likelihood(p_of_truth: ArrayLike) -> float:
    """Mean surprise at the truth in nats; lower is better, log K is a blind guess among K.

    Args:
        p_of_truth: (n,) probability that the model gave to what was true; below 1e-12 it counts as 1e-12.

    Raises:
        InputError: an empty array, NaN, or values outside [0, 1].
    """
    return float(surprise(p_of_truth).mean())


def surprise(p_of_truth: ArrayLike) -> Floats:
    """(n,) -log p of each row; see `negative_log_likelihood`."""
    probability = _checked_numbers("p_of_truth", p_of_truth)
    if probability.min() < 0 or probability.max() > 1:
        raise InputError(
            f"p_of_truth must hold probabilities: expected 0 to 1, got {probability.min():g} to {probability.max():g}"
        )
    surprised: Floats = -np.log(np.maximum(probability, 1e-12))
    return surprised


def accuracy(y: ArrayLike, predicted: ArrayLike) -> float:
    """Share of rows whose predicted label is the true one.

    Args:
        y: (n,) labels, numbers or strings.
        predicted: (n,) labels of the same kind.

    Raises:
        InputError: an empty array or NaN.
        ShapeError: the lengths differ.
    """
    truth, guess, _ = label_codes(y, predicted)
    return float((truth == guess).mean())


def macro_f1(y: ArrayLike, predicted: ArrayLike) -> float:
    """Unweighted mean over labels of F1 = 2 TP / (2 TP + FP + FN).

    The labels are those that occur in `y` or in `predicted`, as scikit-learn counts them; a label that is never
    hit has F1 = 0.

    Args:
        y: (n,) labels, numbers or strings.
        predicted: (n,) labels of the same kind.

    Raises:
        InputError: an empty array or NaN.
        ShapeError: the lengths differ.
    """
    truth, guess, num_labels = label_codes(y, predicted)
    hit = np.bincount(truth[truth == guess], minlength=num_labels)
    mentioned = np.bincount(truth, minlength=num_labels) + np.bincount(guess, minlength=num_labels)
    return float((2 * hit / mentioned).mean())


def coverage(has_abstained: ArrayLike) -> float:
    """Share of rows that were answered.

    Args:
        has_abstained: (n,) binary, 1 where the model stayed silent.

    Raises:
        InputError: NaN, an empty array, or values other than 0 and 1.
    """
    return float(1 - _checked_binary("has_abstained", has_abstained).mean())


def roc_curve(y: ArrayLike, score: ArrayLike) -> Floats:
    """False and true positive rate at every distinct threshold, from the strictest.

    Args:
        y: (n,) binary outcome.
        score: (n,) higher = more likely positive.

    Returns:
        (K, 2) columns (false positive rate, true positive rate), from (0, 0) to (1, 1), both non-decreasing.
        Empty, (0, 2), when only one class is present.

    Raises:
        InputError: NaN, an empty array, or outcomes other than 0 and 1.
        ShapeError: the lengths differ.
    """
    outcome, ranked = checked_scores(y, score)
    if _is_one_class(outcome):
        return np.empty((0, 2))
    true_positive, called, _ = _counts_by_threshold(outcome, ranked)
    num_positive = outcome.sum()
    points = np.column_stack([(called - true_positive) / (outcome.size - num_positive), true_positive / num_positive])
    return np.vstack([np.zeros((1, 2)), points])


def precision_recall_curve(y: ArrayLike, score: ArrayLike) -> Floats:
    """Recall and precision at every distinct threshold, from the strictest.

    Args:
        y: (n,) binary outcome.
        score: (n,) higher = more likely positive.

    Returns:
        (K, 2) columns (recall, precision). The first row is (0, 1) by convention, recall never decreases.
        Empty, (0, 2), when only one class is present.

    Raises:
        InputError: NaN, an empty array, or outcomes other than 0 and 1.
        ShapeError: the lengths differ.
    """
    outcome, ranked = checked_scores(y, score)
    if _is_one_class(outcome):
        return np.empty((0, 2))
    true_positive, called, _ = _counts_by_threshold(outcome, ranked)
    return np.vstack([[0.0, 1.0], np.column_stack([true_positive / outcome.sum(), true_positive / called])])


def reliability(y: ArrayLike, p: ArrayLike, bins: int = 15) -> Floats:
    """Predicted against observed share in each bin that holds anybody.

    Args:
        y: (n,) binary outcome.
        p: (n,) predicted probability of a positive, 0 to 1.
        bins: Number of equal-width bins, the same as for `expected_calibration_error`.

    Returns:
        (K, 3) columns (mean prediction, observed share, count), K <= bins, by rising prediction.

    Raises:
        InputError: NaN, an empty array, p outside [0, 1], bins < 1, or outcomes other than 0 and 1.
        ShapeError: the lengths differ.
    """
    outcome, probability = checked_probabilities(y, p)
    index = probability_bin(probability, bins)
    count = np.bincount(index, minlength=bins)
    is_used = count > 0
    predicted = np.bincount(index, weights=probability, minlength=bins)[is_used] / count[is_used]
    observed = np.bincount(index, weights=outcome, minlength=bins)[is_used] / count[is_used]
    return np.column_stack([predicted, observed, count[is_used]])


def thin_curve(points: Floats, num_points: int = 200) -> Floats:
    """At most `num_points` rows of a curve, evenly spaced along its length, both ends kept: for drawing only."""
    if len(points) <= num_points:
        return points
    step = np.hypot(*np.diff(points[:, :2], axis=0).T)
    length = np.concatenate([[0.0], np.cumsum(step)])
    wanted = np.searchsorted(length, np.linspace(0.0, length[-1], num_points))
    kept: Floats = points[np.unique(np.minimum(wanted, len(points) - 1))]
    return kept


def checked_scores(y: ArrayLike, score: ArrayLike) -> tuple[Bools, Floats]:
    """(n,) outcome and score, refused when unusable; see the module's docstring."""
    outcome, ranked = _checked_binary("y", y), _checked_numbers("score", score)
    _require_equal_length(outcome, ranked)
    return outcome, ranked


def checked_probabilities(y: ArrayLike, p: ArrayLike) -> tuple[Bools, Floats]:
    """(n,) outcome and probability, refused when unusable."""
    outcome, probability = _checked_binary("y", y), _checked_numbers("p", p)
    _require_equal_length(outcome, probability)
    if probability.min() < 0 or probability.max() > 1:
        raise InputError(
            f"p must hold probabilities: expected 0 to 1, got {probability.min():g} to {probability.max():g}",
            hint="calibrate the score first; a raw score has AUROC and AUPRC, but no calibration error",
        )
    return outcome, probability


def probability_bin(probability: Floats, bins: int) -> Ints:
    """(n,) index of the equal-width bin, 0 to bins - 1; a prediction of 1 falls in the last."""
    if bins < 1:
        raise InputError(f"bins must be at least 1, got {bins}")
    index: Ints = np.minimum((probability * bins).astype(np.int64), bins - 1)
    return index


def label_codes(y: ArrayLike, predicted: ArrayLike) -> tuple[Ints, Ints, int]:
    """True and predicted labels as (n,) indices into their sorted union, and the size of that union."""
    truth, guess = _checked_vector("y", y), _checked_vector("predicted", predicted)
    _require_equal_length(truth, guess)
    labels, codes = np.unique(np.concatenate([truth, guess]), return_inverse=True)
    codes = codes.astype(np.int64)
    return codes[: truth.size], codes[truth.size :], labels.size


def _is_one_class(outcome: Bools) -> bool:
    return bool(outcome.all() or not outcome.any())


def _counts_by_threshold(outcome: Bools, score: Floats) -> tuple[Ints, Ints, Floats]:
    """(K,) true positives, all called positive, and the threshold, for every distinct score, highest first."""
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), score.size - 1)
    return np.cumsum(outcome[order], dtype=np.int64)[last], last + 1, ranked[last]


def _event1_by_threshold(outcome: Bools, score: Floats) -> tuple[Floats, Floats]:
    true_positive, called, threshold = _counts_by_threshold(outcome, score)
    # min(TP / P, TP / called) has the larger denominator.
    return true_positive / np.maximum(outcome.sum(), called), threshold


def _checked_vector(name: str, values: ArrayLike) -> NDArray[np.generic]:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ShapeError(f"{name} must have one entry per row: expected shape (n,), got {array.shape}")
    if array.size == 0:
        raise InputError(f"{name} is empty: expected at least one row, got none")
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise InputError(
            f"{name} holds NaN in {int(np.isnan(array).sum())} of {array.size} rows: expected numbers",
            hint="a model that abstained still has a probability; pass that, and say so in has_abstained",
        )
    return array


def _checked_numbers(name: str, values: ArrayLike) -> Floats:
    array = _checked_vector(name, values)
    if array.dtype.kind not in "buif":
        raise InputError(f"{name} must hold numbers, got values of type {array.dtype}")
    return array.astype(np.float64)


def _checked_binary(name: str, values: ArrayLike) -> Bools:
    numbers = _checked_numbers(name, values)
    is_one: Bools = numbers == 1
    if not (is_one | (numbers == 0)).all():
        other = numbers[~is_one & (numbers != 0)][0]
        raise InputError(f"{name} must be binary: expected 0 or 1, got {other:g}")
    return is_one


def _require_equal_length(first: NDArray[np.generic], second: NDArray[np.generic]) -> None:
    if first.size != second.size:
        raise ShapeError(
            f"arrays must have one entry per row: expected equal lengths, got {first.size} and {second.size}"
        )
