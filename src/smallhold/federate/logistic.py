"""Logistic regression in numpy: for tables, and for devices that cannot carry torch.

Also the simple thing that every larger federated model is printed beside.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smallhold.federate.job import LocalChoice
from smallhold.federate.layout import Layout, Vector
from smallhold.federate.local_model import Rows, Trained


class Logistic:
    """Log-odds = features @ weight + bias, trained by gradient descent on shuffled batches.

    Args:
        num_features: I, the columns of the input `features` (N, I).
        ridge: Weight of half the squared weights in the loss.
    """

    def __init__(self, num_features: int, *, ridge: float = 1e-3) -> None:
        self.layout = Layout.of({"bias": np.zeros(1, np.float32), "weight": np.zeros(num_features, np.float32)})
        self._ridge = ridge

    def initial(self, seed: int) -> Vector:
        """Zeros: the loss is convex, so that the beginning does not matter."""
        del seed
        return np.zeros(self.layout.size, np.float32)

    def train(self, model: Vector, rows: Rows, choice: LocalChoice, seed: int) -> Trained:
        """See `LocalModel`."""
        x, y = rows.inputs["features"].astype(np.float64), rows.label.astype(np.float64)
        start = model.astype(np.float64)
        bias, weight = start[0], start[1:].copy()
        rng = np.random.default_rng(seed)
        losses: list[float] = []
        steps = max(1, round(choice.epochs * len(rows) / choice.batch_size))
        order = np.zeros(0, np.int64)
        for _ in range(steps):
            while len(order) < min(choice.batch_size, len(rows)):
                order = np.concatenate([order, rng.permutation(len(rows))])
            batch, order = order[: choice.batch_size], order[choice.batch_size :]
            odds = x[batch] @ weight + bias
            losses.append(float(np.logaddexp(0, np.where(y[batch] == 1, -odds, odds)).mean()))
            error = 1 / (1 + np.exp(-odds)) - y[batch]
            pull = choice.proximal
            weight -= choice.learning_rate * (
                x[batch].T @ error / len(batch) + self._ridge * weight + pull * (weight - start[1:])
            )
            bias -= choice.learning_rate * (error.mean() + pull * (bias - start[0]))
        return Trained(np.concatenate([[bias], weight]).astype(np.float32), float(np.mean(losses)))

    def predict(self, model: Vector, rows: Rows) -> NDArray[np.float64]:
        """See `LocalModel`."""
        wide = model.astype(np.float64)
        return np.asarray(rows.inputs["features"].astype(np.float64) @ wide[1:] + wide[0])
