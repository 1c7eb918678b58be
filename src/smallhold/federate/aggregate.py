"""From updates to one step of the global model. Pure functions.

Whatever order updates arrive in, they are added in the order of their sites' names and in float64: one job gives the
same bytes on every engine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smallhold.errors import FederationError
from smallhold.federate.layout import Vector

#: Columns that are sorted at once: bounds the memory of a trimmed mean.
_BLOCK = 65_536


def weighted_mean(updates: Iterable[tuple[Vector, float]]) -> Vector:
    """Mean of updates (P,), weighted; one update is held at a time.

    Source: FedAvg, McMahan et al. 2017, arXiv:1602.05629, algorithm 1.

    Raises:
        FederationError: there are none, or all weights are 0.
    """
    total: NDArray[np.float64] | None = None
    sum_of_weights = 0.0
    for vector, weight in updates:
        part = vector.astype(np.float64) * weight
        total = part if total is None else total + part
        sum_of_weights += weight
    if total is None or not sum_of_weights > 0:
        raise FederationError("mean: expected updates of some weight, got none")
    return (total / sum_of_weights).astype(np.float32)


def trimmed_mean(updates: NDArray[np.float32], *, trim: float) -> Vector:
    """Mean of each coordinate without its largest and its smallest values, unweighted.

    Holds against floor(trim * N) sites that say anything at all, at either end.

    Source: Yin et al. 2018, arXiv:1803.01498, definition 2.

    Args:
        updates: (N, P).
        trim: Share cut off at either end, in [0, 0.5).
    """
    cut = int(trim * len(updates))
    found = np.empty(updates.shape[1], np.float32)
    for start in range(0, updates.shape[1], _BLOCK):
        ordered = np.sort(updates[:, start : start + _BLOCK].astype(np.float64), axis=0)
        found[start : start + _BLOCK] = ordered[cut : len(updates) - cut].mean(axis=0)
    return found


def krum(updates: NDArray[np.float32], *, byzantine: int) -> int:
    """Which update lies closest to its N - f - 2 nearest neighbours.

    Source: Blanchard et al. 2017, arXiv:1703.02757, section 4. Holds against f < (N - 2) / 2 liars.

    Args:
        updates: (N, P).
        byzantine: f.

    Returns:
        Its index; ties go to the lower one.

    Raises:
        FederationError: fewer than 2 f + 3 updates.
    """
    count = len(updates)
    if count < 2 * byzantine + 3:
        raise FederationError(f"krum: expected at least {2 * byzantine + 3} updates, got {count}")
    wide = updates.astype(np.float64)
    distance = np.array([np.square(wide - row).sum(axis=1) for row in wide])
    nearest = np.sort(distance, axis=1)[:, 1 : count - byzantine - 1]  # without itself
    return int(nearest.sum(axis=1).argmin())


@dataclass(frozen=True, slots=True)
class Adam:
    """Moments of FedAdam.

    Source: Reddi et al. 2021, arXiv:2003.00295, algorithm 2; beta 0.9 and 0.99, tau 1e-3 as recommended there.
    """

    first: Vector
    second: Vector

    @classmethod
    def start(cls, size: int) -> Adam:
        """Before the first round; the second moment begins at tau squared."""
        return cls(np.zeros(size, np.float32), np.full(size, _TAU**2, np.float32))

    def step(self, aggregate: Vector, *, learning_rate: float) -> tuple[Adam, Vector]:
        """The moments after an aggregate (P,), and the step of the model."""
        first = _BETA1 * self.first + (1 - _BETA1) * aggregate
        second = _BETA2 * self.second + (1 - _BETA2) * np.square(aggregate)
        step = learning_rate * first / (np.sqrt(second) + _TAU)
        return Adam(first.astype(np.float32), second.astype(np.float32)), step.astype(np.float32)


_BETA1, _BETA2, _TAU = 0.9, 0.99, 1e-3
