"""Logits beside those of the oracle: how far apart, and whether the same token comes first."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

LEAST_TOP1 = 0.999
"""Share of positions at which the same token comes first, near ties included where a tolerance allows them."""
ENOUGH_POSITIONS = 10_000
"""From here on the share itself is asked for; of fewer positions, that it is not refuted (see `most_others`)."""
_RISK = 1e-3


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a runtime may be off.

    The distance of a position is |a - b| / |b| of its logits (V,), Euclidean. Where weights are rounded it is counted
    in units of the position's own: how far rounding activations moves the oracle itself (`conformance.rounding`).

    Attributes:
        worst: Largest distance of any position.
        most: Of 99 % of the positions; all but one, where there are fewer than 200.
        median: Of the median position.
        tie: A first choice other than the oracle's counts as a near tie where the oracle's own logit of it is at most
            so much below its best: the oracle gives the two nearly the same probability. 0: nothing counts as one.
    """

    worst: float
    most: float
    median: float
    tie: float


#: Weights and activations in float32: sums in another order, and nothing else. Distances themselves.
FLOAT32 = Tolerance(worst=1e-4, most=1e-4, median=1e-5, tie=0.0)
#: Weights in 8 or 4 bits, activations rounded to 8. Of the oracle's own eight roundings, each beside the seven others,
#: the median position is at .73 at most, 99 % at 1.48 and the worst of 80,000 at 2.4 (docs/experiments.md). A tie of
#: 0.05 is two probabilities within 5 % of each other.
ROUNDED = Tolerance(worst=3.0, most=1.6, median=0.8, tie=0.05)


def relative_distance(found: FloatArray, expected: FloatArray) -> FloatArray:
    """(T,) Euclidean distance of logits (T, V), relative to the length of the expected."""
    apart: FloatArray = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    return apart


def most_others(positions: int, tolerance: Tolerance) -> int:
    """At how many of the positions another token may come first.

    A hundred positions cannot tell a share of .999 from one of .99. Where roundings decide near ties, a run of fewer
    than `ENOUGH_POSITIONS` therefore fails when more differ than a runtime with a share of exactly `LEAST_TOP1` would
    show once in a thousand runs (a one-sided binomial test). In float32 nothing but an error makes another token come
    first, and the share is asked for at any length.
    """
    plain = math.floor((1 - LEAST_TOP1) * positions + 1e-9)
    if positions >= ENOUGH_POSITIONS or not tolerance.tie:
        return plain
    count, below = 0, LEAST_TOP1**positions
    term = below
    while 1 - below > _RISK:
        term *= (positions - count) / (count + 1) * (1 - LEAST_TOP1) / LEAST_TOP1
        count, below = count + 1, below + term
    return max(plain, count)


class Tally:
    """Counts over positions; `add` as they come, then `result`."""

    def __init__(self, tolerance: Tolerance) -> None:
        self.tolerance = tolerance
        self.positions = self.equal = self.near_ties = 0
        self.relative: list[FloatArray] = []
        self.judged: list[FloatArray] = []
        self.largest = 0.0
        self.widest_gap = 0.0

    def add(self, found: FloatArray, expected: FloatArray, moves: FloatArray | None = None) -> None:
        """Compare logits (T, V) of T positions.

        Args:
            found: What the runtime says.
            expected: What the oracle says.
            moves: (T,) unit in which each position's distance is judged; None: the distance itself is.

        Raises:
            ValueError: another shape, or a number that is none.
        """
        if found.shape != expected.shape:
            raise ValueError(f"logits: expected {expected.shape}, got {found.shape}")
        if not np.isfinite(found).all():
            raise ValueError("logits: a number is NaN or infinite")
        relative = relative_distance(found, expected)
        self.relative.append(relative)
        self.judged.append(relative if moves is None else relative / moves)
        self.largest = max(self.largest, float(np.abs(found - expected).max()))
        first = found.argmax(axis=1)
        gap = expected.max(axis=1) - np.take_along_axis(expected, first[:, None], axis=1)[:, 0]
        is_equal = first == expected.argmax(axis=1)
        self.positions += len(found)
        self.equal += int(is_equal.sum())
        self.near_ties += int((~is_equal & (gap <= self.tolerance.tie)).sum())
        self.widest_gap = max(self.widest_gap, float(gap.max()))

    def result(self) -> dict[str, Any]:
        """Plain numbers, and `status`; what is judged lies under `distance`, in the units of the tolerance."""
        relative, judged = (np.sort(np.concatenate(rows or [np.zeros(1)])) for rows in (self.relative, self.judged))
        others = self.positions - self.equal - self.near_ties
        beyond = max(1, len(judged) // 100)  # of how many positions `most` says nothing
        distance = {
            "worst": float(judged[-1]),
            "most": float(judged[max(0, len(judged) - 1 - beyond)]),
            "median": float(np.median(judged)),
        }
        allowed = asdict(self.tolerance)
        is_near = all(found <= allowed[name] for name, found in distance.items())
        is_good = self.positions > 0 and others <= most_others(self.positions, self.tolerance) and is_near
        return {
            "status": "pass" if is_good else "fail",
            "positions": self.positions,
            "top1_equal": self.equal,
            "top1_near_ties": self.near_ties,
            "top1_other": others,
            "distance": distance,
            "relative_median": float(np.median(relative)),
            "relative_worst": float(relative[-1]),
            "largest_difference": self.largest,
            "widest_gap": self.widest_gap,
            "tolerance": allowed,
        }
