"""Fit a text task on the calibration split: how much each of its two paths says, then its calibration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from smallhold.bundle.calibrate import Calibration, calibrate_field, summarize
from smallhold.bundle.calibration_map import loss_and_residual
from smallhold.decide.text_task import FloatArray, LocalTextTask
from smallhold.errors import DataError, ShapeError
from smallhold.sectors.text_task import TextExample

_BLOCK = 64

#: So that some path is asked where neither says anything about the labels.
_LEAST = 1e-3


def fit_text_task(
    local: LocalTextTask, examples: Sequence[TextExample], *, alpha: float, progress: Callable[[str, int, int], None]
) -> Calibration:
    """Weigh the paths, then calibrate the field, with the model as it ships.

    The promise is judged by rows that had no part in the weights or the map behind it: both are cross-fitted.

    Args:
        local: The task of an opened bundle; its own weights are not used.
        examples: Of the calibration split alone.
        alpha: See `calibrate_field`.
        progress: Called with a caption, texts done and texts in all.

    Raises:
        DataError: the split is empty, has a label that is no choice, or a single label.
    """
    task, field, door = local.task, local.field, local.door
    if unknown := sorted({example.label for example in examples} - set(field.choices)):
        raise DataError(f"task {task.name}: calibration labels {unknown} are not among its choices")
    labels = np.array([field.choices.index(example.label) for example in examples], dtype=np.int64)
    if not examples:
        raise DataError(f"task {task.name}: the calibration split is empty")
    texts = [example.text for example in examples]
    # A trunk without weight never learnt this task.
    has_trunk, has_ngrams = local.ngrams is None or door.trunk_weight > 0, local.ngrams is not None
    silent = np.zeros((len(texts), len(field.choices)), np.float32)
    trunk = _read(local, texts, progress) if has_trunk else silent
    ngrams = local.logits(texts, "ngrams") if has_ngrams else silent

    def refit(rows: NDArray[np.bool_]) -> FloatArray:
        a, b = fit_path_weights(trunk[rows], ngrams[rows], labels[rows])
        return a * trunk + b * ngrams

    is_weighed = has_trunk and has_ngrams
    a, b = fit_path_weights(trunk, ngrams, labels) if is_weighed else (float(has_trunk), float(has_ngrams))
    logits = a * trunk + b * ngrams
    # Texts that the split keeps together, such as one headline posted twice, count as one.
    units = np.unique([example.group for example in examples], return_inverse=True)[1]
    fitted = calibrate_field(
        field, logits, labels, alpha=alpha, units=units, fits_alert=False, refit=refit if is_weighed else None
    )
    door = replace(door, trunk_weight=a, ngram_weight=b)
    return Calibration(replace(task, fields=(fitted,), text=door), summarize(fitted, logits, labels))


def _read(local: LocalTextTask, texts: Sequence[str], progress: Callable[[str, int, int], None]) -> FloatArray:
    """(N, K) logits of the trunk."""
    blocks = []
    for start in range(0, len(texts), _BLOCK):
        blocks.append(local.logits(texts[start : start + _BLOCK], "trunk"))
        progress(f"texts of {local.task.name}", min(start + _BLOCK, len(texts)), len(texts))
    return np.concatenate(blocks)


def fit_path_weights(
    trunk: NDArray[np.floating], ngrams: NDArray[np.floating], labels: NDArray[np.integer]
) -> tuple[float, float]:
    """The a, b >= 0 that make softmax(a * trunk + b * ngrams) most likely, by the smoothed `loss_and_residual`.

    A logistic regression without intercept on two numbers a choice (conditional logit, McFadden 1974): the negative
    log-likelihood is convex, so there is one answer. A path that adds nothing gets exactly 0.

    Args:
        trunk: (N, K) logits.
        ngrams: (N, K) logits.
        labels: (N,) index of the true choice.

    Raises:
        ShapeError: the three do not belong together.
        DataError: no rows.
    """
    if trunk.ndim != 2 or trunk.shape != ngrams.shape or labels.shape != (len(trunk),):
        raise ShapeError(
            f"path weights: expected (N, K), (N, K), (N,), got {trunk.shape}, {ngrams.shape}, {labels.shape}"
        )
    if not len(labels):
        raise DataError("path weights: the calibration split is empty")
    paths = np.stack([trunk, ngrams]).astype(np.float64)  # (2, N, K)

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        total, residual = loss_and_residual(np.tensordot(weights, paths, 1), labels.astype(np.int64))
        return total, (paths * residual).sum(axis=(1, 2)) / len(labels)

    found = minimize(loss, np.array([0.5, 0.5]), jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * 2)
    a, b = (round(float(weight), 6) for weight in found.x)
    return (a, b) if a or b else (0.0, _LEAST)
