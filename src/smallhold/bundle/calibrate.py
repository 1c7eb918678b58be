"""Fit what turns logits into honest answers, on the calibration split and with the model as it ships.

- Temperature: one for the field, by maximum likelihood (Guo et al. 2017, arXiv:1706.04599).
- Abstention: the lowest confidence at which the share of wrong answers among those given is at most `max_error`.
- Alert threshold: the best event 1, min(sensitivity, PPV), over all horizons together, as the bed uses it.
- Comparators: logistic regression on each other number (Platt 1999), and its own event-1 threshold.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from smallhold.decide.task import Comparator, Task
from smallhold.errors import DataError
from smallhold.evaluate.metrics import best_event1_threshold
from smallhold.evaluate.predict import Predictions

_LEAST_COVERAGE = 0.5
#: Fewer deaths or survivors than this, and nothing can be fitted.
LEAST_OF_EITHER_OUTCOME = 10


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was fitted, and how it went.

    Attributes:
        task: The task with fitted fields and comparators.
        coverage: Share of the calibration answers given, over all horizons.
        error: Share of those that were wrong.
        is_feasible: Whether `max_error` was reached at a coverage of at least one half.
    """

    task: Task
    coverage: float
    error: float
    is_feasible: bool


def calibrate(task: Task, predictions: Predictions, *, max_error: float) -> Calibration:
    """Fit everything.

    Args:
        task: The task; its first field is fitted.
        predictions: Of the calibration split alone.
        max_error: Largest share of wrong answers that is accepted before the field abstains, 0 < max_error < 1.

    Raises:
        DataError: the split has fewer than ten patients of either outcome: nothing can be fitted on it.
    """
    died = predictions.died
    if min(died.sum(), (~died).sum()) < LEAST_OF_EITHER_OUTCOME:
        raise DataError(
            f"calibration split: expected at least {LEAST_OF_EITHER_OUTCOME} patients of either outcome, "
            f"got {int(died.sum())} who died and {int((~died).sum())} who lived"
        )
    margin = predictions.numbers["shipped"].reshape(-1)
    outcome = np.repeat(died, len(predictions.horizons))
    temperature = fit_temperature(margin, outcome)
    probability = expit(margin / temperature)
    abstain_below, coverage, error = fit_abstention(probability, outcome, max_error)
    field = replace(
        task.fields[0],
        temperature=temperature,
        abstain_below=abstain_below,
        # Rounded down, so that the answer the threshold was read from still alerts.
        alert_threshold=_rounded_down(best_event1_threshold(outcome, probability)),
    )
    comparators = {
        name: {
            str(hour): fit_comparator(numbers[:, i], died)
            for i, hour in enumerate(predictions.horizons)
            if not np.isnan(numbers[:, i]).any()
        }
        for name, numbers in predictions.numbers.items()
        if name != "shipped"  # the shipped model is read as the device reads it: by the field itself
    }
    fitted = replace(task, fields=(field, *task.fields[1:]), comparators={k: v for k, v in comparators.items() if v})
    return Calibration(fitted, coverage, error, error <= max_error)


def fit_temperature(margin: NDArray[np.float64], outcome: NDArray[np.bool_]) -> float:
    """The T > 0 that makes sigmoid(margin / T) most likely; found within [0.05, 20]."""

    def negative_log_likelihood(log_temperature: float) -> float:
        scaled = margin / np.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, scaled) - outcome * scaled))

    best = minimize_scalar(negative_log_likelihood, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    return round(float(np.exp(best.x)), 6)


def fit_abstention(
    probability: NDArray[np.float64], outcome: NDArray[np.bool_], max_error: float
) -> tuple[float, float, float]:
    """Confidence below which the field abstains.

    Args:
        probability: (M,) of the positive choice.
        outcome: (M,).
        max_error: Largest accepted share of wrong answers among those given.

    Returns:
        Threshold, coverage and error at it. Where no threshold reaches `max_error` with at least half of the
        answers given, the one with half of them given: it abstains as much as it may, and the error says the rest.
    """
    confidence = np.maximum(probability, 1 - probability)
    is_wrong = (probability >= 0.5) != outcome
    order = np.argsort(-confidence, kind="stable")
    given = np.arange(1, len(order) + 1)
    error = np.cumsum(is_wrong[order]) / given
    # A threshold gives all answers of equal confidence or none of them.
    is_boundary = np.append(np.diff(confidence[order]) != 0, True)
    allowed = np.flatnonzero(is_boundary & (error <= max_error) & (given >= _LEAST_COVERAGE * len(order)))
    fallback = np.flatnonzero(is_boundary & (given >= _LEAST_COVERAGE * len(order)))[0]
    last = int(allowed[-1]) if len(allowed) else int(fallback)
    threshold = _rounded_down(confidence[order][last]) if last + 1 < len(order) else 0.0
    return threshold, float((last + 1) / len(order)), float(error[last])


def fit_comparator(number: NDArray[np.float64], died: NDArray[np.bool_]) -> Comparator:
    """Probability and decision of one model or score at one hour, from its number (N,) and the outcome (N,)."""
    model = LogisticRegression(C=np.inf).fit(number[:, None], died)
    scale, offset = float(model.coef_[0, 0]), float(model.intercept_[0])
    return Comparator(scale, offset, best_event1_threshold(died, expit(scale * number + offset)))


def _rounded_down(share: float) -> float:
    """Six decimals, never above the share itself."""
    return float(np.clip(np.floor(share * 1e6) / 1e6, 0, 1))
