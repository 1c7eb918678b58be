"""Gradient-boosted trees: the baseline that every report shows, and the teacher of the small model.

One ensemble for each of several hours, on the same features that the model sees. Soft labels for the training
patients are out of fold: they come from trees that have not seen this patient's outcome. Recombined patients, who have
no outcome, are labelled by the trees fitted on all training patients.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from smallhold.decide.trees import Trees
from smallhold.errors import RecipeError

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier

FloatArray = NDArray[np.float32]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeConfig:
    """Settings of every ensemble; plain defaults of the method, not tuned on any test data."""

    hours: tuple[int, ...] = (6, 12, 24, 48)
    iterations: int = 250
    learning_rate: float = 0.04
    leaves: int = 15
    min_samples_leaf: int = 20
    l2: float = 1.0
    feature_share: float = 0.3
    folds: int = 4

    def __post_init__(self) -> None:
        """Refuse what cannot be fitted."""
        for name, least in (("folds", 2), ("leaves", 2), ("iterations", 1), ("min_samples_leaf", 1)):
            if getattr(self, name) < least:
                raise RecipeError(f"teacher.{name}: expected at least {least}, got {getattr(self, name)}")
        if self.folds > 20:
            raise RecipeError(f"teacher.folds: expected at most 20, got {self.folds}")
        if not 0 < self.learning_rate < float("inf") or not 0 <= self.l2 < float("inf"):
            raise RecipeError(
                f"teacher: expected a positive learning_rate and l2 >= 0, got {self.learning_rate} and {self.l2}"
            )
        if not 0 < self.feature_share <= 1:
            raise RecipeError(f"teacher.feature_share: expected a share in (0, 1], got {self.feature_share}")
        if list(self.hours) != sorted(set(self.hours)) or not self.hours or self.hours[0] < 1:
            raise RecipeError(f"teacher.hours: expected ascending positive hours, got {list(self.hours)}")


def features_at(channels: NDArray[np.floating], static: FloatArray, hour: int) -> FloatArray:
    """(B, F) feature vectors at an hour, of channels (B, T, C) and static features (B, S)."""
    return np.concatenate([channels[:, hour - 1].astype(np.float32), static], axis=1)


def fit_trees(
    channels: NDArray[np.floating],
    static: FloatArray,
    died: NDArray[np.bool_],
    config: TreeConfig,
    seed: int,
    progress: Progress,
) -> Trees:
    """Fit one ensemble an hour.

    Args:
        channels: (B, T, C) signal channels.
        static: (B, S).
        died: (B,) labels.
        config: Settings.
        seed: Seed of the feature sampling.
        progress: Called with ensembles done and ensembles in all.
    """
    jobs = [(features_at(channels, static, hour), died) for hour in config.hours]
    return _to_arrays(_fit_all(jobs, config, seed, progress), config.hours)


def out_of_fold_logits(
    channels: NDArray[np.floating],
    static: FloatArray,
    died: NDArray[np.bool_],
    fold: NDArray[np.int64],
    config: TreeConfig,
    hour: int,
    seed: int,
    progress: Progress,
) -> FloatArray:
    """Log-odds at one hour, for every patient from trees that never saw that patient.

    Args:
        channels: (B, T, C).
        static: (B, S).
        died: (B,).
        fold: (B,) fold of each patient, 0 to config.folds - 1.
        config: Settings.
        hour: The hour.
        seed: Seed of the feature sampling.
        progress: Called with folds done and folds in all.

    Returns:
        (B,) float32.
    """
    features = features_at(channels, static, hour)
    held_out = [fold == part for part in range(config.folds)]
    jobs = [(features[~mine], died[~mine]) for mine in held_out]
    out = np.zeros(len(died), dtype=np.float32)
    for mine, model in zip(held_out, _fit_all(jobs, config, seed, progress), strict=True):
        out[mine] = model.decision_function(features[mine])
    return out


def fit_asked_trees(
    channels: NDArray[np.floating],
    static: FloatArray,
    label: NDArray[np.bool_],
    is_asked: NDArray[np.bool_],
    config: TreeConfig,
    seed: int,
    progress: Progress,
) -> Trees:
    """`fit_trees` of a question whose answer, and whether it is asked at all, differ from hour to hour.

    Args:
        channels: As for `fit_trees`, as are the others.
        static: See there.
        label: (B, T) the answer at each hour.
        is_asked: (B, T) which patients count at each hour.
        config: See there.
        seed: See there.
        progress: See there.
    """
    jobs = []
    for hour in config.hours:
        asked = is_asked[:, hour - 1]
        jobs.append((features_at(channels[asked], static[asked], hour), label[asked, hour - 1]))
    return _to_arrays(_fit_all(jobs, config, seed, progress), config.hours)


def out_of_fold_asked_logits(
    channels: NDArray[np.floating],
    static: FloatArray,
    label: NDArray[np.bool_],
    is_asked: NDArray[np.bool_],
    fold: NDArray[np.int64],
    config: TreeConfig,
    hour: int,
    seed: int,
    progress: Progress,
) -> FloatArray:
    """`out_of_fold_logits` of such a question: patients who are not asked at the hour teach nothing and are told all.

    Args:
        channels: As for `fit_asked_trees`, as are static, label, is_asked, config, seed and progress.
        static: See there.
        label: See there.
        is_asked: See there.
        fold: (B,) as for `out_of_fold_logits`.
        config: See there.
        hour: The hour.
        seed: See there.
        progress: Called with folds done and folds in all.

    Returns:
        (B,) float32, of asked patients and of others.
    """
    features, asked = features_at(channels, static, hour), is_asked[:, hour - 1]
    teaches = [(fold != part) & asked for part in range(config.folds)]
    jobs = [(features[rows], label[rows, hour - 1]) for rows in teaches]
    out = np.zeros(len(fold), dtype=np.float32)
    for part, model in enumerate(_fit_all(jobs, config, seed, progress)):
        out[fold == part] = model.decision_function(features[fold == part])
    return out


def interpolate_hours(logits: FloatArray, hours: tuple[int, ...], num_bins: int) -> FloatArray:
    """Log-odds at every hour, (B, T), from log-odds (B, E) at some: linear between them, constant outside."""
    at = np.arange(1, num_bins + 1)
    right = np.clip(np.searchsorted(hours, at), 1, len(hours) - 1) if len(hours) > 1 else np.zeros(num_bins, int)
    left = np.maximum(right - 1, 0)
    grid = np.array(hours, dtype=np.float64)
    span = np.maximum(grid[right] - grid[left], 1)
    share = np.clip((at - grid[left]) / span, 0, 1) if len(hours) > 1 else np.zeros(num_bins)
    return (logits[:, left] * (1 - share) + logits[:, right] * share).astype(np.float32)


def _fit_all(
    jobs: Sequence[tuple[FloatArray, NDArray[np.bool_]]], config: TreeConfig, seed: int, progress: Progress
) -> list[HistGradientBoostingClassifier]:
    """One ensemble a job, two at a time, each on one thread.

    Not one at a time on several threads: those meet at a barrier thousands of times a second, and on a machine that has
    other work every meeting can cost a time slice (docs/experiments.md). The result is the same.
    """
    models: list[HistGradientBoostingClassifier] = []
    with ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
        try:
            progress(0, len(jobs))
            for model in pool.map(lambda job: _fit_one(job[0], job[1], config, seed), jobs):
                models.append(model)
                progress(len(models), len(jobs))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return models


def _fit_one(
    features: FloatArray, died: NDArray[np.bool_], config: TreeConfig, seed: int
) -> HistGradientBoostingClassifier:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    model = HistGradientBoostingClassifier(
        max_iter=config.iterations,
        learning_rate=config.learning_rate,
        max_leaf_nodes=config.leaves,
        min_samples_leaf=config.min_samples_leaf,
        l2_regularization=config.l2,
        max_features=config.feature_share,
        max_bins=127,
        early_stopping=False,
        random_state=seed,
    )
    with threadpool_limits(1, user_api="openmp"):  # of this thread alone: OpenMP keeps the number per thread
        return model.fit(features, died)


def _to_arrays(models: list[HistGradientBoostingClassifier], hours: tuple[int, ...]) -> Trees:
    # scikit-learn has no public view of its nodes; `_predictors` and the field names below have been stable since 0.21,
    # and tests/teach/test_trees.py compares every prediction with scikit-learn's own.
    tables, root, tree_hour, offset = [], [], [], 0
    for which, model in enumerate(models):
        for (predictor,) in model._predictors:
            nodes = predictor.nodes
            leaf = nodes["is_leaf"].astype(bool)
            tables.append(
                (
                    np.where(leaf, -1, nodes["feature_idx"].astype(np.int64)),
                    np.where(leaf, 0.0, nodes["num_threshold"]),
                    np.where(leaf, 0, nodes["left"].astype(np.int64) + offset),
                    np.where(leaf, 0, nodes["right"].astype(np.int64) + offset),
                    np.where(leaf, nodes["value"], 0.0),
                )
            )
            root.append(offset)
            tree_hour.append(which)
            offset += len(nodes)
    feature, threshold, left, right, value = (np.concatenate(column) for column in zip(*tables, strict=True))
    return Trees(
        hours=np.array(hours, np.int32),
        base=np.array([float(model._baseline_prediction.reshape(-1)[0]) for model in models]),
        root=np.array(root, np.int32),
        tree_hour=np.array(tree_hour, np.int32),
        feature=feature.astype(np.int16),
        threshold=threshold.astype(np.float64),
        left=left.astype(np.int32),
        right=right.astype(np.int32),
        value=value.astype(np.float32),
        num_features=np.array([models[0].n_features_in_], np.int32),
    )
