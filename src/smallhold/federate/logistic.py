"""Logistic regression in numpy: for tables and texts, and for devices that cannot carry torch.

Also the simple thing that every larger federated model is printed beside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from smallhold.federate.job import LocalChoice
from smallhold.federate.layout import Layout, Vector
from smallhold.federate.local_model import Rows, Trained, odds_of_label

if TYPE_CHECKING:
    from smallhold.federate.record_privacy import RecordGuard


class Logistic:
    """Log-odds = features @ weight + bias, trained by gradient descent on shuffled batches.

    Two labels have one column of weights, K > 2 have K: multinomial logistic regression.

    Args:
        num_features: I, the columns of the input `features` (N, I).
        num_labels: K.
        ridge: Weight of half the squared weights in the loss.
    """

    def __init__(self, num_features: int, *, num_labels: int = 2, ridge: float = 1e-3) -> None:
        self._columns = 1 if num_labels == 2 else num_labels
        shape = (num_features,) if num_labels == 2 else (num_features, num_labels)
        self.layout = Layout.of({"bias": np.zeros(self._columns, np.float32), "weight": np.zeros(shape, np.float32)})
        self._ridge = ridge

    def initial(self, seed: int) -> Vector:
        """Zeros: the loss is convex, so that the beginning does not matter."""
        del seed
        return np.zeros(self.layout.size, np.float32)

    def train(
        self, model: Vector, rows: Rows, choice: LocalChoice, seed: int, guard: RecordGuard | None = None
    ) -> Trained:
        """See `LocalModel`."""
        if guard is not None:
            return self._train_guarded(model, rows, choice, guard)
        wide, start = _wide(rows), self._matrix(model)
        at = start.copy()
        rng = np.random.default_rng(seed)
        losses: list[float] = []
        steps = max(1, round(choice.epochs * len(rows) / choice.batch_size))
        order = np.zeros(0, np.int64)
        for _ in range(steps):
            while len(order) < min(choice.batch_size, len(rows)):
                order = np.concatenate([order, rng.permutation(len(rows))])
            batch, order = order[: choice.batch_size], order[choice.batch_size :]
            logits = self._logits(wide[batch], at)
            losses.append(float(np.logaddexp(0, -odds_of_label(logits, rows.label[batch])).mean()))
            step = wide[batch].T @ _error(logits, rows.label[batch]) / len(batch)
            at -= choice.learning_rate * (step + self._pull(at, start, choice))
        return Trained(at.astype(np.float32).ravel(), float(np.mean(losses)))

    def _train_guarded(self, model: Vector, rows: Rows, choice: LocalChoice, guard: RecordGuard) -> Trained:
        """DP-SGD. One record's gradient is the outer product of (1, features) and its error."""
        wide, start = _wide(rows), self._matrix(model)
        length, at = np.linalg.norm(wide, axis=1), start.copy()
        for _ in range(guard.steps):
            batch = guard.draw()
            error = _error(self._logits(wide[batch], at), rows.label[batch])
            norm = np.linalg.norm(error, axis=1) * length[batch]
            factor = np.minimum(1.0, guard.clip_norm / np.maximum(norm * (1 + 1e-9), 1e-30))
            total = wide[batch].T @ (error * factor[:, None])
            step = guard.release(total.ravel()).reshape(at.shape)
            at -= choice.learning_rate * (step + self._pull(at, start, choice))
        return Trained(at.astype(np.float32).ravel(), 0.0)

    def predict(self, model: Vector, rows: Rows) -> NDArray[np.float64]:
        """See `LocalModel`."""
        return self._logits(_wide(rows), self._matrix(model))

    def _matrix(self, model: Vector) -> NDArray[np.float64]:
        """(I + 1, columns): the bias, then the weights, as they lie in the vector."""
        return model.astype(np.float64).reshape(-1, self._columns)

    def _logits(self, wide: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
        return wide @ at[:, 0] if self._columns == 1 else wide @ at

    def _pull(self, at: NDArray[np.float64], start: NDArray[np.float64], choice: LocalChoice) -> NDArray[np.float64]:
        """Gradient of the ridge, which leaves the bias alone, and of FedProx."""
        pull = choice.proximal * (at - start)
        pull[1:] += self._ridge * at[1:]
        return pull


def _wide(rows: Rows) -> NDArray[np.float64]:
    """(N, I + 1): 1, and the features."""
    return np.column_stack([np.ones(len(rows)), rows.inputs["features"].astype(np.float64)])


def _error(logits: NDArray[np.float64], label: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N, columns) probabilities less what is true."""
    if logits.ndim == 1:
        return np.asarray(1 / (1 + np.exp(-logits)) - (label == 1))[:, None]
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True) - np.eye(logits.shape[1])[label])
