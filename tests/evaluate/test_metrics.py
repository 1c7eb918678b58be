"""Each metric by hand, against its slow twin, on ties, and refusing what is unusable."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from smallhold.errors import InputError, ShapeError
from smallhold.evaluate import metrics

sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the slow twin of these metrics")

# Few distinct scores, so that most cases hold ties; both classes present.
rows = st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=40).filter(
    lambda pairs: len({outcome for outcome, _ in pairs}) == 2
)
Pairs = list[tuple[bool, int]]
# scikit-learn takes milliseconds a call, and a busy machine takes longer.
quick = settings(max_examples=40, deadline=None)


def split(pairs: Pairs) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    outcome, score = zip(*pairs, strict=True)
    return np.array(outcome, dtype=int), np.array(score) / 5


def test_auroc_by_hand_counts_a_tie_as_one_half() -> None:
    # Pairs (positive, negative): 0.5 > 0.2 is won, 0.5 = 0.5 is half, 0.1 < 0.2 and 0.1 < 0.5 are lost.
    assert metrics.auroc([0, 0, 1, 1], [0.2, 0.5, 0.5, 0.1]) == (1 + 0.5) / 4


def test_auprc_by_hand() -> None:
    # Thresholds .9 (1 of 1 true), .8 (1 of 2), .7 (2 of 3): half the recall at precision 1, half at 2/3.
    assert metrics.auprc([1, 0, 1], [0.9, 0.8, 0.7]) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_event1_by_hand_is_the_smaller_of_sensitivity_and_ppv() -> None:
    # Sensitivity 2/3, positive predictive value 2/4.
    assert metrics.event1([1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 1, 0]) == 0.5


def test_event1_of_a_silent_model_is_zero() -> None:
    assert metrics.event1([1, 0], [0, 0]) == 0


def test_calibration_error_by_hand() -> None:
    # Bin [0, .5): mean p .2, mean y 0.5; bin [.5, 1]: p 1, y 1. ECE = 2/3 * 0.3 + 1/3 * 0.
    assert metrics.expected_calibration_error([0, 1, 1], [0.1, 0.3, 1.0], bins=2) == pytest.approx(0.2)
    assert_allclose(metrics.reliability([0, 1, 1], [0.1, 0.3, 1.0], bins=2), [[0.2, 0.5, 2], [1.0, 1.0, 1]])


def test_coverage_is_the_share_answered() -> None:
    assert metrics.coverage([True, False, False, False]) == 0.75


@pytest.mark.parametrize("outcome", [0, 1])
@pytest.mark.parametrize("metric", [metrics.auroc, metrics.auprc, metrics.event1, metrics.event1_best])
def test_ranking_figures_are_nan_with_one_class_only(metric: Any, outcome: int) -> None:
    assert math.isnan(metric([outcome] * 3, [0, 1, 1]))


@pytest.mark.parametrize("curve", [metrics.roc_curve, metrics.precision_recall_curve])
def test_curves_are_empty_with_one_class_only(curve: Any) -> None:
    assert curve([1, 1], [0.1, 0.2]).shape == (0, 2)


@quick
@given(rows)
def test_auroc_and_auprc_agree_with_scikit_learn_on_ties(pairs: Pairs) -> None:
    y, score = split(pairs)
    assert metrics.auroc(y, score) == pytest.approx(sklearn_metrics.roc_auc_score(y, score))
    assert metrics.auprc(y, score) == pytest.approx(sklearn_metrics.average_precision_score(y, score))


@quick
@given(rows)
def test_auroc_depends_on_the_order_alone(pairs: Pairs) -> None:
    y, score = split(pairs)
    assert metrics.auroc(y, score) == pytest.approx(metrics.auroc(y, np.exp(3 * score) - 7))
    assert metrics.auroc(y, -score) == pytest.approx(1 - metrics.auroc(y, score))


@quick
@given(rows)
def test_event1_agrees_with_sensitivity_and_precision_of_scikit_learn(pairs: Pairs) -> None:
    y, score = split(pairs)
    for threshold in np.unique(score):
        called = score >= threshold
        recall = sklearn_metrics.recall_score(y, called, zero_division=0)
        precision = sklearn_metrics.precision_score(y, called, zero_division=0)
        assert metrics.event1(y, called) == pytest.approx(min(recall, precision))


@quick
@given(rows)
def test_best_threshold_reaches_the_best_event1_and_is_the_highest_that_does(pairs: Pairs) -> None:
    y, score = split(pairs)
    tried = {threshold: metrics.event1(y, score >= threshold) for threshold in np.unique(score)}
    best = max(tried.values())
    assert metrics.event1_best(y, score) == pytest.approx(best)
    assert metrics.best_event1_threshold(y, score) == max(t for t, value in tried.items() if value == best)


@quick
@given(rows)
def test_curves_agree_with_scikit_learn(pairs: Pairs) -> None:
    y, score = split(pairs)
    fpr, tpr, _ = sklearn_metrics.roc_curve(y, score, drop_intermediate=False)
    assert_allclose(metrics.roc_curve(y, score), np.column_stack([fpr, tpr]))
    precision, recall, _ = sklearn_metrics.precision_recall_curve(y, score)
    assert_allclose(metrics.precision_recall_curve(y, score), np.column_stack([recall, precision])[::-1])


@quick
@given(rows, st.integers(1, 20))
def test_calibration_error_agrees_with_one_bin_at_a_time(pairs: Pairs, bins: int) -> None:
    y, p = split(pairs)
    total = 0.0
    for i in range(bins):
        inside = [(yi, pi) for yi, pi in zip(y, p, strict=True) if min(int(pi * bins), bins - 1) == i]
        if inside:
            total += abs(sum(yi for yi, _ in inside) - sum(pi for _, pi in inside))
    assert metrics.expected_calibration_error(y, p, bins) == pytest.approx(total / len(y))
    points = metrics.reliability(y, p, bins)
    gap = (points[:, 2] * np.abs(points[:, 0] - points[:, 1])).sum() / len(y)
    assert gap == pytest.approx(total / len(y))


@quick
@given(rows)
def test_brier_agrees_with_scikit_learn(pairs: Pairs) -> None:
    y, p = split(pairs)
    assert metrics.brier(y, p) == pytest.approx(sklearn_metrics.brier_score_loss(y, p))


@quick
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcde")), min_size=1, max_size=30))
def test_label_metrics_agree_with_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    y, predicted = zip(*pairs, strict=True)
    assert metrics.accuracy(y, predicted) == pytest.approx(sklearn_metrics.accuracy_score(y, predicted))
    twin = sklearn_metrics.f1_score(y, predicted, average="macro", zero_division=0)
    assert metrics.macro_f1(y, predicted) == pytest.approx(twin)


def test_thinned_curve_keeps_both_ends_and_its_area() -> None:
    generator = np.random.default_rng(0)
    y = generator.random(5000) < 0.2
    full = metrics.roc_curve(y, generator.normal(size=5000) + y)
    thin = metrics.thin_curve(full, 200)
    assert len(thin) <= 200
    assert_allclose(thin[[0, -1]], full[[0, -1]])
    # Between kept points the curve moves by at most 2 / 199 of its length, so the area by less than that.
    assert np.trapezoid(thin[:, 1], thin[:, 0]) == pytest.approx(np.trapezoid(full[:, 1], full[:, 0]), abs=0.01)


def test_nan_is_refused_with_its_count() -> None:
    with pytest.raises(InputError, match="score holds NaN in 1 of 2 rows"):
        metrics.auroc([0, 1], [0.5, float("nan")])


def test_outcomes_other_than_0_and_1_are_refused() -> None:
    with pytest.raises(InputError, match="y must be binary: expected 0 or 1, got 2"):
        metrics.auprc([0, 2], [0.1, 0.2])


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ShapeError, match="got 2 and 3"):
        metrics.brier([0, 1], [0.1, 0.2, 0.3])


def test_matrices_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"score .* got \(2, 1\)"):
        metrics.auroc([0, 1], [[0.1], [0.2]])


def test_an_empty_array_is_refused() -> None:
    with pytest.raises(InputError, match="y is empty"):
        metrics.accuracy([], [])


def test_raw_scores_have_no_calibration_error() -> None:
    with pytest.raises(InputError, match=r"expected 0 to 1, got -2 to 0\.5"):
        metrics.expected_calibration_error([0, 1], [-2.0, 0.5])


def test_no_bins_are_refused() -> None:
    with pytest.raises(InputError, match="bins must be at least 1, got 0"):
        metrics.reliability([0, 1], [0.2, 0.5], bins=0)


def test_words_as_scores_are_refused() -> None:
    with pytest.raises(InputError, match="score must hold numbers"):
        metrics.auroc([0, 1], ["low", "high"])


def test_a_threshold_from_one_class_is_refused() -> None:
    with pytest.raises(InputError, match="expected 0 and 1 in y, got 3 times 0"):
        metrics.best_event1_threshold([0, 0, 0], [0.1, 0.2, 0.3])


def test_brier_skill_is_what_is_saved_of_the_best_constant() -> None:
    y = [0, 0, 0, 1]
    assert metrics.brier_skill(y, [0.25] * 4) == pytest.approx(0.0)
    assert metrics.brier_skill(y, y) == 1.0
    assert metrics.brier_skill(y, [1, 1, 1, 0]) == pytest.approx(1 - 1 / (3 / 16))
    assert math.isnan(metrics.brier_skill([1, 1], [0.5, 0.9]))


def test_a_share_is_a_ratio_of_sums_and_nothing_of_nothing_is_undefined() -> None:
    assert metrics.share([1, 0, 2], [2, 2, 2]) == 0.5
    assert math.isnan(metrics.share([0, 0], [0, 0]))


def test_a_blind_guess_among_three_surprises_by_log_three() -> None:
    assert metrics.negative_log_likelihood([1 / 3] * 5) == pytest.approx(math.log(3))
    assert metrics.negative_log_likelihood([0.0]) == pytest.approx(12 * math.log(10))
    with pytest.raises(InputError, match="p_of_truth must hold probabilities"):
        metrics.negative_log_likelihood([1.5])
