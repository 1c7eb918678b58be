"""From updates to one step of the global model. Pure functions.

Whatever order updates arrive in, they are added in the order of their sites' names and in float64: one job gives the
same bytes on every engine.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from smallhold.errors import FederationError
from smallhold.federate.layout import Vector

#: Numbers that are looked at together: bounds the memory of what compares all updates, about 50 MB.
_BLOCK = 2**20


class Rows(Protocol):
    """Updates (N, P) of float32, of which a part at a time is in memory: an array, or rows on the disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, P)."""
        ...

    def __getitem__(self, index: Any, /) -> NDArray[np.float32]:
        """`[a:b]` are whole updates, `[:, a:b]` some coordinates of all."""
        ...


def weighted_mean(updates: Iterable[tuple[Vector, float]]) -> Vector:
    """Mean of updates (P,), weighted; one update is held at a time, and the sum.

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


def trimmed_mean(updates: Rows, *, trim: float) -> Vector:
    """Mean of each coordinate without its largest and its smallest values, unweighted.

    Holds against floor(trim * N) sites that say anything at all, at either end.

    Source: Yin et al. 2018, arXiv:1803.01498, definition 2.

    Args:
        updates: (N, P).
        trim: Share cut off at either end, in [0, 0.5).
    """
    count, size = updates.shape
    cut = int(trim * count)
    found = np.empty(size, np.float32)
    for start, stop in _blocks(size, max(4, _BLOCK // count)):
        ordered = np.sort(updates[:, start:stop].astype(np.float64), axis=0)
        found[start:stop] = ordered[cut : count - cut].mean(axis=0)
    return found


def krum(updates: Rows, *, byzantine: int) -> int:
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
    count, size = updates.shape
    if count < 2 * byzantine + 3:
        raise FederationError(f"krum: expected at least {2 * byzantine + 3} updates, got {count}")
    tiles = _blocks(count, max(1, _BLOCK // max(size, count)))
    scores = np.empty(count)
    for start, stop in tiles:
        ours = updates[start:stop].astype(np.float64)
        distance = np.empty((stop - start, count))
        for first, last in tiles:
            theirs = updates[first:last].astype(np.float64)
            for row, one in zip(distance, ours, strict=True):
                row[first:last] = np.square(theirs - one).sum(axis=1)
        nearest = np.sort(distance, axis=1)[:, 1 : count - byzantine - 1]  # without itself
        scores[start:stop] = nearest.sum(axis=1)
    return int(scores.argmin())


def _blocks(count: int, most: int) -> list[tuple[int, int]]:
    """About equal parts of a range, of `most` at the most; numpy would add a column that is alone in another order."""
    edges = np.linspace(0, count, max(1, -(-count // most)) + 1).astype(int).tolist()
    return list(itertools.pairwise(edges))


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
