"""Fit the n-gram path of a text task: multinomial logistic regression on hashed features.

The features and the form in which the weights are kept are those of `decide/ngrams.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from smallhold.decide.ngrams import NGramClassifier, NGramSpec
from smallhold.errors import DataError, InputError

_ITERATIONS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class NGramConfig:
    """What is chosen on the validation split.

    Attributes:
        spec: Features.
        strength: C of scikit-learn: the inverse of the L2 penalty.
        is_balanced: Weigh every choice alike, however rare it is.
        ratio_power: The weights of an n-gram may grow with how unevenly the choices use it, to this power (see
            `_unevenness`); 0 gives every n-gram the same penalty.
    """

    spec: NGramSpec = field(default_factory=NGramSpec)
    strength: float = 30.0
    is_balanced: bool = False
    ratio_power: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a power that would shut out the n-grams that tell the choices apart."""
        if not 0 <= self.ratio_power <= 2 or not 0 < self.strength < np.inf:
            raise InputError(f"n-grams: expected a ratio_power in [0, 2] and a strength above 0, got {self}")


def fit_ngrams(
    texts: Sequence[str], labels: NDArray[np.int64], num_choices: int, config: NGramConfig
) -> NGramClassifier:
    """Fit idf, weights and bias; the same input gives the same bytes.

    Args:
        texts: N texts of the training split.
        labels: (N,) choice of each, in [0, num_choices).
        num_choices: K.
        config: See `NGramConfig`.

    Raises:
        DataError: all texts have the same choice.
        InputError: a label is no choice.
    """
    _require_labels(labels, num_choices)
    hits = [(config.spec.word_hits(text), config.spec.char_hits(text)) for text in texts]
    buckets = config.spec.word_buckets + config.spec.char_buckets
    documents = np.zeros(buckets, dtype=np.int64)
    for pair in hits:
        documents[np.unique(np.concatenate(pair))] += 1
    # Smoothed, as if one more text held every n-gram. Rounded before the fit, so that it sees what the device sees.
    idf = (np.log((1 + len(texts)) / (1 + documents)) + 1).astype(np.float16)
    matrix = _matrix(config.spec, idf, texts)
    freedom = _unevenness(matrix, labels) ** config.ratio_power
    matrix.data *= freedom[matrix.indices]  # a scaled feature is a scaled penalty
    model = LogisticRegression(
        C=config.strength, class_weight="balanced" if config.is_balanced else None, max_iter=_ITERATIONS
    ).fit(matrix, labels)
    weight, bias = _every_choice(model, labels, num_choices)
    weight *= freedom[:, None]
    scale = np.maximum(np.abs(weight).max(axis=0) / 127, 1e-12).astype(np.float32)
    values = np.clip(np.rint(weight / scale), -127, 127).astype(np.int8)
    return NGramClassifier(spec=config.spec, idf=idf, values=values, scale=scale, bias=bias.astype(np.float32))


def out_of_fold_logits(
    texts: Sequence[str],
    labels: NDArray[np.int64],
    num_choices: int,
    config: NGramConfig,
    *,
    folds: int = 5,
    seed: int = 0,
) -> NDArray[np.float32]:
    """(N, K) logits of every text by a classifier that never saw it: what a student may be taught with.

    Raises:
        DataError: all texts, or all outside some fold, have the same choice.
        InputError: fewer than two folds, or a label is no choice.
    """
    if folds < 2:
        raise InputError(f"folds: expected two or more, got {folds}")
    _require_labels(labels, num_choices)
    logits = np.zeros((len(texts), num_choices), dtype=np.float32)
    for inside, outside in _folds(labels, folds, seed):
        model = fit_ngrams([texts[i] for i in inside], labels[inside], num_choices, config)
        logits[outside] = [model.logits(texts[i]) for i in outside]
    return logits


def _folds(labels: NDArray[np.int64], folds: int, seed: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Stratified: the texts of every choice are dealt out in turn, so that a rare choice never lies in one fold."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(labels), dtype=np.int64)
    fold[order] = np.arange(len(labels)) % folds
    return [(np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in range(folds)]


def _matrix(spec: NGramSpec, idf: NDArray[np.float16], texts: Sequence[str]) -> csr_matrix:
    wide = idf.astype(np.float32)
    rows = [spec.features(text, wide) for text in texts]
    starts = np.cumsum([0, *(len(buckets) for buckets, _ in rows)])
    columns = np.concatenate([buckets for buckets, _ in rows])
    values = np.concatenate([value for _, value in rows])
    return csr_matrix((values, columns, starts), shape=(len(texts), len(idf)), dtype=np.float32)


def _unevenness(matrix: csr_matrix, labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """(B,) root mean square, over the choices, of an n-gram's log-count ratio; 0 for what all choices use alike.

    Source: Wang and Manning 2012, "Baselines and Bigrams", section 2.1, with alpha = 1 and presence instead of counts.
    They scale each choice's weights by its own ratio; one number for all choices did as well (docs/experiments.md).
    """
    is_of = (labels[:, None] == np.unique(labels)).astype(np.float32)
    inside = (matrix > 0).astype(np.float32).T @ is_of  # (B, K) texts of the choice that hold the n-gram
    outside = inside.sum(axis=1, keepdims=True) - inside
    shares = [(counts + 1) / (counts + 1).sum(axis=0) for counts in (inside, outside)]
    uneven: NDArray[np.float32] = np.sqrt((np.log(shares[0] / shares[1]) ** 2).mean(axis=1))
    return uneven


def _every_choice(
    model: LogisticRegression, labels: NDArray[np.int64], num_choices: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (B, K) and bias (K,); a choice without texts gets no weights and the bias of a very rare one."""
    known, fitted, bias = model.classes_, model.coef_.T, model.intercept_
    if len(known) == 2:  # scikit-learn fits one column then: the log-odds of the second choice
        fitted, bias = np.concatenate([-fitted, fitted], axis=1) / 2, np.concatenate([-bias, bias]) / 2
    counts = np.bincount(labels, minlength=num_choices)[known]
    weight = np.zeros((len(fitted), num_choices))
    weight[:, known] = fitted
    # As if half a text of it had been seen, next to the least likely of the others.
    every = np.full(num_choices, (bias - np.log(counts)).min() + np.log(0.5))
    every[known] = bias
    return weight, every


def _require_labels(labels: NDArray[np.int64], num_choices: int) -> None:
    if labels.ndim != 1 or not len(labels) or labels.min() < 0 or labels.max() >= num_choices:
        raise InputError(f"labels: expected (N,) in [0, {num_choices}), got {labels}")
    if len(np.unique(labels)) < 2:
        raise DataError("n-grams: expected texts of two or more different choices")
