from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("torch", reason="distillation needs torch, the extra 'train'")

import torch

from smallhold.compress.decision_teachers import TeacherPool, decision_loss, fit_pool
from smallhold.errors import DataError, ShapeError


def softmax(score: np.ndarray) -> np.ndarray:
    score = np.exp(score - score.max(axis=-1, keepdims=True))
    return score / score.sum(axis=-1, keepdims=True)


def world(rows: int = 3000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three teachers and outcomes: one sees half of the truth, one the other half, one guesses."""
    rng = np.random.default_rng(seed)
    half, other = rng.normal(size=(2, rows, 3)) * 1.5
    truth = softmax(half + other)
    labels = np.array([rng.choice(3, p=p) for p in truth])
    return np.stack([softmax(half), softmax(other), softmax(rng.normal(size=(rows, 3)))]), labels, truth


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.log(probabilities[np.arange(len(labels)), labels]).mean())


def test_pools_by_hand() -> None:
    opinions = np.array([[[0.8, 0.2]], [[0.5, 0.5]]])
    linear = TeacherPool("linear", (0.75, 0.25), {})
    np.testing.assert_allclose(linear.combine(opinions), [[0.725, 0.275]], atol=1e-5)
    product = TeacherPool("log_linear", (2.0, 1.0), {})
    np.testing.assert_allclose(product.combine(opinions), [[0.64 / 0.68, 0.04 / 0.68]], atol=1e-5)


def test_independent_halves_are_multiplied_and_the_guesser_is_ignored() -> None:
    opinions, labels, _ = world()
    pool = fit_pool(opinions, labels)
    assert pool.kind == "log_linear"
    assert pool.log_loss["log_linear"] < pool.log_loss["linear"] - 0.05
    assert pool.weights[0] == pytest.approx(1, abs=0.15)
    assert pool.weights[1] == pytest.approx(1, abs=0.15)
    assert pool.weights[2] < 0.1
    fresh, fresh_labels, fresh_truth = world(seed=1)
    assert log_loss(pool.combine(fresh), fresh_labels) < log_loss(fresh_truth, fresh_labels) + 0.01


def test_an_overconfident_teacher_is_calibrated_along_the_way() -> None:
    rng = np.random.default_rng(2)
    score = rng.normal(size=(4000, 2))
    labels = np.array([rng.choice(2, p=p) for p in softmax(score)])
    pool = fit_pool(softmax(3 * score)[None], labels)
    assert pool.kind == "log_linear"
    assert pool.weights[0] == pytest.approx(1 / 3, abs=0.05)


def test_a_mixture_of_experts_is_pooled_linearly() -> None:
    """Each row was decided by one of two teachers at random: the truth is their mean."""
    rng = np.random.default_rng(3)
    opinions = softmax(4 * rng.normal(size=(2, 4000, 3)))
    labels = np.array([rng.choice(3, p=opinions[rng.integers(2), i]) for i in range(4000)])
    pool = fit_pool(opinions, labels)
    assert pool.kind == "linear"
    assert pool.weights == pytest.approx((0.5, 0.5), abs=0.08)


def test_rows_without_a_teacher_are_pooled_from_the_others() -> None:
    opinions, labels, _ = world()
    available = np.random.default_rng(4).random(opinions.shape[:2]) < 0.7
    hidden = np.where(available[:, :, None], opinions, np.nan)
    pool = fit_pool(hidden, labels, available)
    combined = pool.combine(hidden, available)
    has_one = available.any(axis=0)
    assert np.isfinite(combined[has_one]).all()
    np.testing.assert_allclose(combined[has_one].sum(axis=1), 1)
    assert np.isnan(combined[~has_one]).all()
    only_first = np.flatnonzero(available[0] & ~available[1] & ~available[2])
    alone = TeacherPool(pool.kind, pool.weights, {}).combine(
        opinions[:, only_first], np.array([[True], [False], [False]]).repeat(len(only_first), axis=1)
    )
    np.testing.assert_allclose(combined[only_first], alone)


def test_the_students_loss_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0], [0.0, math.log(3)]])
    target = torch.tensor([[0.5, 0.5], [1.0, 0.0], [math.nan, math.nan]])
    first = -(0.5 * math.log(0.25) + 0.5 * math.log(0.75))
    assert float(decision_loss(logits, target)) == pytest.approx((first + math.log(2)) / 2)
    label = torch.tensor([1, 0, 1])
    mixed = [0.6 * first - 0.4 * math.log(0.75), math.log(2), -math.log(0.75)]
    assert float(decision_loss(logits, target, label=label, teacher_weight=0.6)) == pytest.approx(np.mean(mixed))
    logits.requires_grad_()
    decision_loss(logits, target).backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
    assert not logits.grad[2].any()
    assert float(decision_loss(logits, torch.full((3, 2), math.nan)).detach()) == 0


def test_bad_opinions_are_refused() -> None:
    opinions, labels, _ = world(60)
    with pytest.raises(ShapeError, match=r"expected probabilities \(M, N, K\), got \(60, 3\)"):
        fit_pool(opinions[0], labels)
    with pytest.raises(DataError, match="expected probabilities that sum to 1"):
        fit_pool(2 * opinions, labels)
    with pytest.raises(DataError, match="labels: expected 0 to 2, got 0 to 3"):
        fit_pool(opinions, np.where(np.arange(60) == 0, 3, np.minimum(labels, 2) * (np.arange(60) != 1)))
    with pytest.raises(DataError, match="at least 10 rows"):
        fit_pool(opinions[:, :8], labels[:8])
    with pytest.raises(ShapeError, match="teachers: expected 2, got 3"):
        TeacherPool("linear", (0.5, 0.5), {}).combine(opinions)
