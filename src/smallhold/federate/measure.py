"""By which figure a federated task is judged, from what its model predicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smallhold.evaluate import metrics
from smallhold.evaluate.bootstrap import Metric

#: Fewer of either outcome, or fewer rows with an answer, give no figure: the interval would span everything.
LEAST_OF_EITHER = 5
LEAST_ANSWERS = 20


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure of which more is better.

    Attributes:
        name: In JSON.
        title: In a table.
        metric: (labels, answers) -> figure.
        answer: Predictions of `LocalModel.predict` -> (N,) what the metric takes.
        has_enough: Whether (N,) labels say anything.
    """

    name: str
    title: str
    metric: Metric
    answer: Callable[[NDArray[np.float64]], NDArray[Any]]
    has_enough: Callable[[NDArray[np.int64]], bool]


def _has_both(label: NDArray[np.int64]) -> bool:
    return bool(min(label.sum(), len(label) - label.sum()) >= LEAST_OF_EITHER)


AUROC = Measure("auroc", "AUROC", metrics.auroc, lambda odds: odds, _has_both)
ACCURACY = Measure(
    "accuracy",
    "accuracy",
    metrics.accuracy,
    lambda logits: logits.argmax(axis=1),
    lambda label: len(label) >= LEAST_ANSWERS,
)
