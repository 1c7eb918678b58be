"""Several teachers of one closed question, pooled into one target: trees, soft labels of an endpoint, larger models.

Two ways to pool opinions are fitted on held-out rows with known outcomes, and the one with the lower cross-validated
log loss is kept:

* linear: p = sum of w_k p_k, with w >= 0 and sum 1. A linear pool of calibrated forecasts is too timid (Ranjan and
  Gneiting 2010, "Combining probability forecasts", JRSS B 72), so it serves where teachers share much.
* log-linear: p proportional to the product of p_k to the power w_k, with w >= 0. The weights need not sum to 1: more
  sharpens, less flattens, so that calibration is fitted along (Satopää et al. 2014, "Combining multiple probability
  predictions using a simple logit model", IJF 30).

A teacher that has no opinion on a row is left out there and the others take its share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F

from smallhold.errors import DataError, ShapeError

FloatArray = NDArray[np.float64]
Pool = Literal["linear", "log_linear"]
_SMALLEST = 1e-6  # a teacher's certainty is not taken at its word
_FOLDS = 5


@dataclass(frozen=True, slots=True)
class TeacherPool:
    """How teachers are combined.

    Attributes:
        kind: Which pool.
        weights: One for each teacher.
        log_loss: Cross-validated, nats a row, of either pool.
    """

    kind: Pool
    weights: tuple[float, ...]
    log_loss: dict[str, float]

    def combine(self, probabilities: FloatArray, available: NDArray[np.bool_] | None = None) -> FloatArray:
        """Targets.

        Args:
            probabilities: (M, N, K) of M teachers on N rows; anything where a teacher has no opinion.
            available: (M, N) where they have one; None = everywhere.

        Returns:
            (N, K), rows that sum to 1; NaN where no teacher with a weight has an opinion: use the label alone.

        Raises:
            ShapeError: another number of teachers or shapes that do not fit.
        """
        probabilities, available = _checked(probabilities, available)
        if len(probabilities) != len(self.weights):
            raise ShapeError(f"teachers: expected {len(self.weights)}, got {len(probabilities)}")
        return _combine(self.kind, np.array(self.weights), probabilities, available)


def fit_pool(
    probabilities: FloatArray, labels: NDArray[np.int64], available: NDArray[np.bool_] | None = None, *, seed: int = 0
) -> TeacherPool:
    """Fit both pools on held-out rows and keep the better one.

    Args:
        probabilities: (M, N, K) of M teachers on rows that none of them was fitted on.
        labels: (N,) outcomes in [0, K).
        available: (M, N) where a teacher has an opinion; None = everywhere.
        seed: Of the folds.

    Raises:
        DataError: fewer than ten rows with an opinion, or a label outside [0, K).
        ShapeError: shapes that do not fit.
    """
    probabilities, available = _checked(probabilities, available)
    if labels.shape != available.shape[1:]:
        raise ShapeError(f"labels: expected {available.shape[1:]}, got {labels.shape}")
    if labels.size and not 0 <= labels.min() <= labels.max() < probabilities.shape[2]:
        raise DataError(f"labels: expected 0 to {probabilities.shape[2] - 1}, got {labels.min()} to {labels.max()}")
    rows = np.flatnonzero(available.any(axis=0))
    if len(rows) < 2 * _FOLDS:
        raise DataError(
            f"teachers: expected at least {2 * _FOLDS} rows that a teacher has an opinion on, got {len(rows)}"
        )
    fold = np.random.default_rng(seed).permutation(len(rows)) % _FOLDS
    kinds: tuple[Pool, ...] = ("linear", "log_linear")
    log_loss: dict[str, float] = {}
    for kind in kinds:
        held_out = []
        for k in range(_FOLDS):
            fit, test = rows[fold != k], rows[fold == k]
            weights = _fit(kind, probabilities[:, fit], labels[fit], available[:, fit])
            held_out.append(_losses(kind, weights, probabilities[:, test], labels[test], available[:, test]))
        log_loss[kind] = float(np.concatenate(held_out).mean())
    best = min(kinds, key=lambda kind: log_loss[kind])
    weights = _fit(best, probabilities[:, rows], labels[rows], available[:, rows])
    return TeacherPool(best, tuple(float(w) for w in weights), log_loss)


def decision_loss(
    logits: Tensor, target: Tensor, *, label: Tensor | None = None, teacher_weight: float = 1.0
) -> Tensor:
    """Cross-entropy of the student's choices against the pooled target and the label.

    Args:
        logits: (N, K) of the choices.
        target: (N, K) from `TeacherPool.combine`; rows of NaN have no teacher.
        label: (N,) int64; without it rows that have no teacher count nothing.
        teacher_weight: Share of the teacher where there are both.

    Returns:
        Mean over the rows that count.
    """
    has_teacher = ~target.isnan().any(dim=-1)
    said = F.log_softmax(logits.float(), dim=-1)
    soft = -(torch.where(has_teacher[:, None], target, 0.0) * said).sum(dim=-1)
    if label is None:
        return (soft * has_teacher).sum() / has_teacher.sum().clamp(min=1)
    hard = F.nll_loss(said, label, reduction="none")
    share = teacher_weight * has_teacher
    return (share * soft + (1 - share) * hard).mean()


def _checked(probabilities: FloatArray, available: NDArray[np.bool_] | None) -> tuple[FloatArray, NDArray[np.bool_]]:
    if probabilities.ndim != 3:
        raise ShapeError(f"teachers: expected probabilities (M, N, K), got {probabilities.shape}")
    if available is None:
        available = np.ones(probabilities.shape[:2], dtype=bool)
    if available.shape != probabilities.shape[:2]:
        raise ShapeError(f"teachers: expected available {probabilities.shape[:2]}, got {available.shape}")
    filled = np.where(available[:, :, None], probabilities, 1 / probabilities.shape[2])
    if not (np.isfinite(filled).all() and (filled >= 0).all() and np.allclose(filled.sum(axis=2), 1, atol=1e-3)):
        raise DataError("teachers: expected probabilities that sum to 1 wherever a teacher has an opinion")
    filled = np.clip(filled, _SMALLEST, None)
    return filled / filled.sum(axis=2, keepdims=True), available


def _combine(kind: Pool, weights: FloatArray, probabilities: FloatArray, available: NDArray[np.bool_]) -> FloatArray:
    share = weights[:, None] * available  # (M, N)
    total = share.sum(axis=0)
    share = share * np.where(total > 0, weights.sum() / np.maximum(total, 1e-12), np.nan)
    if kind == "linear":
        pooled = np.einsum("mn,mnk->nk", share, probabilities)
    else:
        score = np.einsum("mn,mnk->nk", share, np.log(probabilities))
        pooled = np.exp(score - score.max(axis=1, keepdims=True))
    normalised: FloatArray = pooled / pooled.sum(axis=1, keepdims=True)
    return normalised


def _losses(
    kind: Pool, weights: FloatArray, probabilities: FloatArray, labels: NDArray[np.int64], available: NDArray[np.bool_]
) -> FloatArray:
    """(N,) nats; rows without a teacher are worth a guess."""
    pooled = _combine(kind, weights, probabilities, available)
    said = pooled[np.arange(len(labels)), labels]
    losses: FloatArray = -np.log(np.where(np.isnan(said), 1 / pooled.shape[1], said))
    return losses


def _fit(kind: Pool, probabilities: FloatArray, labels: NDArray[np.int64], available: NDArray[np.bool_]) -> FloatArray:
    """Weights of least log loss; teachers are few, so the gradient is taken by differences."""
    count = len(probabilities)

    def loss(weights: FloatArray) -> float:
        return float(_losses(kind, weights, probabilities, labels, available).mean())

    # A floor above zero: a row whose only teacher had weight zero would have no target.
    found = minimize(loss, np.full(count, 1 / count), method="L-BFGS-B", bounds=[(1e-4, 10.0)] * count)
    weights: FloatArray = np.asarray(found.x)
    return weights / weights.sum() if kind == "linear" else weights
