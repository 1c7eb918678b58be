"""What a federated task has to offer: a model as one vector, trained and measured on rows that stay where they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from smallhold.federate.job import LocalChoice
from smallhold.federate.layout import Layout, Vector

if TYPE_CHECKING:
    from smallhold.federate.record_privacy import RecordGuard


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one site, or of several put together.

    Attributes:
        inputs: Arrays whose first axis is the row; a task knows its own.
        label: (N,) int64 answer of each row.
        group: (N,) whom each row is about: the unit of consent.
    """

    inputs: Mapping[str, NDArray[Any]]
    label: NDArray[np.int64]
    group: tuple[str, ...]

    def __len__(self) -> int:
        """N."""
        return len(self.label)

    def take(self, index: NDArray[np.int64] | list[int]) -> Rows:
        """Some of the rows."""
        chosen = np.asarray(index, dtype=np.int64)
        inputs = {name: array[chosen] for name, array in self.inputs.items()}
        return Rows(inputs, self.label[chosen], tuple(self.group[i] for i in chosen))

    @classmethod
    def together(cls, parts: list[Rows]) -> Rows:
        """Rows of several sites, in order."""
        inputs = {name: np.concatenate([part.inputs[name] for part in parts]) for name in parts[0].inputs}
        label = np.concatenate([part.label for part in parts])
        return cls(inputs, label, tuple(group for part in parts for group in part.group))


@dataclass(frozen=True, slots=True)
class Trained:
    """What local training gives.

    Attributes:
        model: (P,).
        loss: Mean loss over the rows on the way.
    """

    model: Vector
    loss: float


class LocalModel(Protocol):
    """A model that a site can train; it keeps nothing between calls."""

    @property
    def layout(self) -> Layout:
        """Of the vector."""
        ...

    def initial(self, seed: int) -> Vector:
        """(P,) where a job begins; the same for everybody who gives the same seed."""
        ...

    def train(
        self, model: Vector, rows: Rows, choice: LocalChoice, seed: int, guard: RecordGuard | None = None
    ) -> Trained:
        """Train from a global model (P,) on rows; a function of its arguments, noise apart.

        With a guard, every step is of the records that it draws, on what it releases of their clipped gradients.
        """
        ...

    def predict(self, model: Vector, rows: Rows) -> NDArray[np.float64]:
        """(N,) log-odds that the label is 1; where there are K > 2 labels, (N, K) logits."""
        ...


def odds_of_label(predicted: NDArray[np.float64], label: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N,) log-odds of the true label; its log loss is log(1 + exp(-odds)).

    Args:
        predicted: As `LocalModel.predict` gives them.
        label: (N,).
    """
    if predicted.ndim == 1:
        return np.where(label == 1, predicted, -predicted)
    true = np.eye(predicted.shape[1], dtype=bool)[label]  # (N, K)
    odds: NDArray[np.float64] = predicted[true] - np.logaddexp.reduce(np.where(true, -np.inf, predicted), axis=1)
    return odds
