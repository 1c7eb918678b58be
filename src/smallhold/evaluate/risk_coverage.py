"""What abstaining buys, and whether prediction sets keep their promise.

A model that may abstain is a curve: the fewer questions it answers, the fewer answers should be wrong. And a promise
of coverage is a number to be counted, for each group and each choice by itself, with an exact interval.

Rows are one a patient (or text). Rows of one patient at several hours are not independent: count hour by hour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv

from smallhold.errors import InputError, ShapeError

Floats = NDArray[np.float64]


def risk_coverage_curve(is_wrong: ArrayLike, confidence: ArrayLike) -> Floats:
    """Share answered against share wrong of those, from the most confident answer on.

    Source: El-Yaniv and Wiener 2010, JMLR 11; Geifman and El-Yaniv 2017, arXiv:1705.08500.

    Args:
        is_wrong: (n,) binary: the most probable choice is not the truth.
        confidence: (n,) higher = answered earlier; rows of equal confidence are answered together.

    Returns:
        (K, 2) columns (coverage, risk), one row for each distinct confidence; the last is (1, error of all).

    Raises:
        InputError: an empty array, NaN, or `is_wrong` other than 0 and 1.
        ShapeError: the lengths differ.
    """
    given, wrong = _counts(is_wrong, confidence)
    return np.column_stack([given / given[-1], wrong / given])


def aurc(is_wrong: ArrayLike, confidence: ArrayLike) -> float:
    """Area under the risk-coverage curve: mean risk over answering 1, 2, ... n rows; lower is better.

    Rows of equal confidence are taken in a random order, in expectation: no order among them is invented.
    Source: Geifman, Uziel and El-Yaniv 2019, arXiv:1805.08206, equation 2.

    Args:
        is_wrong: (n,) binary.
        confidence: (n,) higher = answered earlier.

    Returns:
        A value in [0, 1]. With a constant confidence it is the error rate.

    Raises:
        InputError: an empty array, NaN, or `is_wrong` other than 0 and 1.
        ShapeError: the lengths differ.

    >>> aurc([0, 0, 1, 1], [0.9, 0.8, 0.7, 0.6])  # (0 + 0 + 1/3 + 2/4) / 4
    0.20833333333333331
    """
    given, wrong = _counts(is_wrong, confidence)
    answered = np.arange(1, int(given[-1]) + 1)
    expected_wrong = np.interp(answered, np.append(0, given), np.append(0, wrong))
    return float((expected_wrong / answered).mean())


def excess_aurc(is_wrong: ArrayLike, confidence: ArrayLike) -> float:
    """AURC beyond that of a confidence which puts every wrong answer last: 0 = ranked as well as can be.

    Source: Geifman, Uziel and El-Yaniv 2019, arXiv:1805.08206, E-AURC.

    Args:
        is_wrong: (n,) binary.
        confidence: (n,) higher = answered earlier.

    Raises:
        InputError: an empty array, NaN, or `is_wrong` other than 0 and 1.
        ShapeError: the lengths differ.
    """
    return aurc(is_wrong, confidence) - aurc(is_wrong, 1 - np.asarray(is_wrong, dtype=np.float64))


def selective_error(is_wrong: ArrayLike, confidence: ArrayLike, coverage: float) -> float:
    """Share of wrong answers when at least `coverage` of the rows are answered, the most confident first.

    Args:
        is_wrong: (n,) binary.
        confidence: (n,) higher = answered earlier; rows of equal confidence are answered together.
        coverage: Share to be answered, 0 < coverage <= 1.

    Raises:
        InputError: coverage is outside (0, 1], an empty array, NaN, or `is_wrong` other than 0 and 1.
        ShapeError: the lengths differ.
    """
    if not 0 < coverage <= 1:
        raise InputError(f"coverage: expected a share in (0, 1], got {coverage}")
    curve = risk_coverage_curve(is_wrong, confidence)
    return float(curve[np.argmax(curve[:, 0] >= coverage - 1e-12), 1])


def exact_interval(hits: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a share that holds the truth at least `confidence` of the time, whatever the share is.

    Source: Clopper and Pearson 1934, doi:10.1093/biomet/26.4.404.

    Args:
        hits: Successes, 0 to n.
        n: Independent trials; with none nothing is known, and the interval is (0, 1).
        confidence: In (0, 1).

    Raises:
        InputError: hits is outside 0 to n, or confidence outside (0, 1).

    >>> exact_interval(0, 10)
    (0.0, 0.30849710781876083)
    """
    if not 0 <= hits <= n or not 0 < confidence < 1:
        raise InputError(f"exact interval: expected 0 <= hits <= n and a share, got {hits}, {n} and {confidence}")
    tail = (1 - confidence) / 2
    low = float(betaincinv(hits, n - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, n - hits, 1 - tail)) if hits < n else 1.0
    return low, high


@dataclass(frozen=True, slots=True, kw_only=True)
class SetCoverage:
    """How the rows of one group that have one true choice fared.

    Attributes:
        group: Name of the group, empty when there is one.
        choice: Index of the true choice; None for all choices together.
        n: Rows.
        coverage: Share whose set held the truth; nan without rows.
        low: Lower end of its exact 95 % interval.
        high: Upper end.
        answered: Share that got an answer.
        wrong: Share of all n that got a wrong answer.
        set_size: Mean number of choices in the set.
    """

    group: str
    choice: int | None
    n: int
    coverage: float
    low: float
    high: float
    answered: float
    wrong: float
    set_size: float


def set_coverage(
    sets: NDArray[np.bool_],
    labels: NDArray[np.int64],
    chosen: NDArray[np.int64],
    *,
    groups: Sequence[str] | NDArray[Any] | None = None,
    is_by_choice: bool = True,
) -> tuple[SetCoverage, ...]:
    """Count coverage and abstention for each group and each true choice.

    Args:
        sets: (n, K) prediction sets.
        labels: (n,) index of the true choice.
        chosen: (n,) index of the choice given, -1 where the model abstained.
        groups: (n,) group of each row: an hour, a unit, a hospital that was held out; None for one group.
        is_by_choice: Count every true choice by itself; else one entry a group.

    Returns:
        One entry for each group, in the order of its first row, and choice that occurs in it.

    Raises:
        ShapeError: rows differ in number.
    """
    n = len(sets)
    names = np.full(n, "") if groups is None else np.asarray(groups).astype(str)
    if not len(labels) == len(chosen) == len(names) == n:
        raise ShapeError(f"set coverage: {n} sets, {len(labels)} labels, {len(chosen)} answers, {len(names)} groups")
    is_covered = sets[np.arange(n), labels]
    is_wrong = (chosen >= 0) & (chosen != labels)
    found = []
    for name in dict.fromkeys(names.tolist()):
        for choice in np.unique(labels[names == name]).tolist() if is_by_choice else [None]:
            part = (names == name) & ((labels == choice) if choice is not None else True)
            low, high = exact_interval(int(is_covered[part].sum()), int(part.sum()))
            found.append(
                SetCoverage(
                    group=name,
                    choice=choice,
                    n=int(part.sum()),
                    coverage=float(is_covered[part].mean()),
                    low=low,
                    high=high,
                    answered=float((chosen[part] >= 0).mean()),
                    wrong=float(is_wrong[part].mean()),
                    set_size=float(sets[part].sum(axis=1).mean()),
                )
            )
    return tuple(found)


def _counts(is_wrong: ArrayLike, confidence: ArrayLike) -> tuple[Floats, Floats]:
    """Answered and wrong so far, (K,) each, at every distinct confidence from the highest."""
    wrong, score = np.asarray(is_wrong, dtype=np.float64), np.asarray(confidence, dtype=np.float64)
    if wrong.ndim != 1 or wrong.shape != score.shape:
        raise ShapeError(f"is_wrong and confidence: expected equal lengths (n,), got {wrong.shape} and {score.shape}")
    if not wrong.size or np.isnan(score).any() or not np.isin(wrong, (0, 1)).all():
        raise InputError("is_wrong and confidence: expected one or more rows of 0 or 1 and of numbers without NaN")
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order]) != 0), score.size - 1)
    return (last + 1).astype(np.float64), np.cumsum(wrong[order])[last]
