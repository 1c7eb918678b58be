"""Fit what turns logits into probabilities: the simplest map that the calibration split supports.

Three maps, from simple to rich:

- `temperature`: one number (Guo et al. 2017, arXiv:1706.04599, section 4.2).
- `bias`: a temperature and a bias for each choice (Alexandari et al. 2020, arXiv:1901.06852); for two choices this is
  Platt's line. It mends a model that was taught by another mix of outcomes than it meets.
- `isotonic`, for two choices only: any rising map (Zadrozny and Elkan 2002), as straight lines between knots.

They are compared by cross-validated negative log-likelihood, all rows of a patient in one fold. A richer map is taken
only when it gains more than one standard error of the difference: on few patients a simple map is right by default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import logit, logsumexp
from sklearn.isotonic import IsotonicRegression

from smallhold.decide.plan import Field, calibrate_logits

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_FOLDS = 5
_TEMPERATURES = (0.05, 20.0)
# Prior deviation of a bias, in log-odds: what keeps a choice finite that a fold has not seen.
_BIAS_DEVIATION = 3.0


@dataclass(frozen=True, slots=True)
class FittedMap:
    """The map that was chosen.

    Attributes:
        field: The field with temperature, bias or knots.
        name: `temperature`, `bias` or `isotonic`.
        losses: Map to its cross-validated negative log-likelihood in nats, the units weighing alike.
    """

    field: Field
    name: str
    losses: dict[str, float]


def fit_map(field: Field, logits: Floats, labels: Ints, *, units: ArrayLike | None = None, seed: int = 0) -> FittedMap:
    """Fit every map, choose one, and put it into the field.

    Args:
        field: What was fitted of it before is dropped.
        logits: (R, K) in the order of the choices.
        labels: (R,) index of the true choice.
        units: (R,) patient or text behind each row; None when every row is one of its own.
        seed: Of the folds.
    """
    _, unit = np.unique(np.arange(len(labels)) if units is None else np.asarray(units), return_inverse=True)
    fold = np.random.default_rng(seed).permutation(unit.max() + 1) % _FOLDS
    maps: dict[str, Callable[[Field, Floats, Ints], Field]] = {"temperature": fit_temperature, "bias": fit_bias}
    if len(field.choices) == 2:
        maps["isotonic"] = fit_isotonic
    losses = {name: _held_out_losses(fit, field, logits, labels, unit, fold) for name, fit in maps.items()}
    chosen = "temperature"
    for name in maps:
        gain = losses[chosen] - losses[name]
        if gain.mean() > gain.std(ddof=1) / np.sqrt(len(gain)):
            chosen = name
    means = {name: float(loss.mean()) for name, loss in losses.items()}
    return FittedMap(maps[chosen](field, logits, labels), chosen, means)


def fit_temperature(field: Field, logits: Floats, labels: Ints) -> Field:
    """The temperature within [0.05, 20] that makes the labels most likely; see `loss_and_residual`."""
    spread = logits.astype(np.float64) - logits.mean(axis=1, keepdims=True)

    def loss_and_slope(log_temperature: Floats) -> tuple[float, Floats]:
        scaled = spread / np.exp(log_temperature[0])
        total, residual = loss_and_residual(scaled, labels)
        return total, np.array([-(residual * scaled).sum() / len(labels)])

    bounds = [np.log(_TEMPERATURES)]
    best = minimize(loss_and_slope, np.zeros(1), jac=True, method="L-BFGS-B", bounds=bounds, tol=1e-12)
    return replace(field, temperature=round(float(np.exp(best.x[0])), 6), bias=(), knots=())


def fit_bias(field: Field, logits: Floats, labels: Ints) -> Field:
    """Temperature and biases that make the labels most likely, the biases under a wide normal prior.

    The biases sum to 0: a constant changes no probability.
    """
    spread = logits.astype(np.float64) - logits.mean(axis=1, keepdims=True)
    rows = len(labels)

    def loss_and_slope(parameters: Floats) -> tuple[float, Floats]:
        scaled, bias = spread / np.exp(parameters[0]), parameters[1:]
        total, residual = loss_and_residual(scaled + bias, labels)
        prior = bias / (_BIAS_DEVIATION**2 * rows)
        slope = np.concatenate([[-(residual * scaled).sum() / rows], residual.sum(axis=0) / rows + prior])
        return total + float(bias @ prior) / 2, slope

    bounds = [np.log(_TEMPERATURES), *[(None, None)] * logits.shape[1]]
    start = np.zeros(1 + logits.shape[1])
    best = minimize(loss_and_slope, start, jac=True, method="L-BFGS-B", bounds=bounds, tol=1e-12)
    bias = best.x[1:] - best.x[1:].mean()
    temperature = round(float(np.exp(best.x[0])), 6)
    return replace(field, temperature=temperature, bias=tuple(round(float(b), 6) for b in bias), knots=())


def fit_isotonic(field: Field, logits: Floats, labels: Ints) -> Field:
    """Knots at the middle of every block that isotonic regression pools; temperature where that leaves one block.

    A block of n rows with k positives counts as (k + 1/2) / (n + 1): no block is ever certain.
    """
    positive = field.choices.index(field.positive)
    margin = (logits[:, positive] - logits[:, 1 - positive]).astype(np.float64)
    order = np.argsort(margin, kind="stable")
    x, y = margin[order], (labels[order] == positive).astype(np.float64)
    level = IsotonicRegression().fit(x, y).predict(x)
    _, block, size = np.unique(level, return_inverse=True, return_counts=True)
    if len(size) < 2:
        return fit_temperature(field, logits, labels)
    share = (np.bincount(block, weights=y) + 0.5) / (size + 1)
    height = np.maximum.accumulate(logit(share))  # smoothing may turn two neighbours round
    middle = np.bincount(block, weights=x) / size
    return replace(
        field,
        temperature=1.0,
        bias=(),
        knots=tuple((round(float(a), 6), round(float(b), 6)) for a, b in zip(*_apart(middle, height), strict=True)),
    )


def surprise(field: Field, logits: Floats, labels: Ints) -> Floats:
    """(R,) negative log-likelihood of each row in nats."""
    p = calibrate_logits(field, logits)[np.arange(len(labels)), labels]
    return -np.log(np.maximum(p, np.finfo(np.float64).tiny))


def _apart(middle: Floats, height: Floats) -> tuple[Floats, Floats]:
    """Knots that still differ at the sixth decimal."""
    keep = np.append(True, np.diff(np.round(middle, 6)) > 0)
    return middle[keep], height[keep]


def loss_and_residual(logits: Floats, labels: Ints) -> tuple[float, Floats]:
    """Mean cross-entropy of R rows, and its slope (R, K) in the logits, times R.

    The true choice counts as (R + 1) / (R + 2), the others share the rest (Platt 1999, section 2.2). Where every row is
    right the most likely map is infinitely sure; R rows without a mistake do not say that there never will be one.
    """
    rows, num_choices = np.arange(len(labels)), logits.shape[1]
    target = np.full(logits.shape, 1 / (len(labels) + 2) / (num_choices - 1))
    target[rows, labels] = (len(labels) + 1) / (len(labels) + 2)
    log_p = logits - logsumexp(logits, axis=1, keepdims=True)
    return float(-(target * log_p).sum(axis=1).mean()), np.exp(log_p) - target


def _held_out_losses(
    fit: Callable[[Field, Floats, Ints], Field], field: Field, logits: Floats, labels: Ints, unit: Ints, fold: Ints
) -> Floats:
    """(U,) mean loss of each unit under the map fitted without its fold."""
    loss = np.empty(len(labels))
    for k in range(_FOLDS):
        held_out = fold[unit] == k
        if held_out.any():
            fitted = fit(field, logits[~held_out], labels[~held_out])
            loss[held_out] = surprise(fitted, logits[held_out], labels[held_out])
    return np.bincount(unit, weights=loss) / np.bincount(unit)
