"""Prediction sets that keep a promise, and when they cannot.

A choice belongs to the prediction set of a patient (or text) when it is at least as probable as a threshold that was
read off the calibration split. If patients are exchangeable with those of the split, the set holds the truth with
probability at least 1 - alpha, whatever the model is worth: a bad model pays with large sets, not with broken promises.

- Split conformal prediction: Vovk, Gammerman and Shafer 2005; Angelopoulos and Bates 2021, arXiv:2107.07511, section 1.
- The promise for every choice and every group by itself (Mondrian): Vovk 2012, arXiv:1209.2673. Without it the 86 %
  who live would pay for the promise, and those who die would be missed.
- Several rows of one patient, for example one at each hour: rows are weighted so that every patient counts once (Lee,
  Barber and Willett 2023, arXiv:2306.06342). Counting rows would promise more than the patients can bear.

What a group of n can promise is bounded: alpha >= 1 / (n + 1). Below that the group's choice is never excluded from a
set, so that the field abstains rather than say another; it is never given a weaker promise in silence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smallhold.errors import InputError, RecipeError, ShapeError

# (n + 1)(1 - alpha) is 9.000000000000002 for n = 9 and alpha = 0.1, and a group of nine can promise that.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The thresholds of one group.

    Attributes:
        name: For example `6`, the hour; empty when there is one group.
        least: (K,) a choice is in the set when its probability is at least this; 0 where nothing can be promised.
        counts: (K,) patients (or texts) behind each threshold.
    """

    name: str
    least: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conformal:
    """What a field promises, fitted on the calibration split; plain numbers, so that every runtime can apply it.

    Attributes:
        alpha: The truth is missing from the set with at most this probability.
        is_by_choice: The promise holds for each choice by itself; else for all patients of a group together.
        groups: One or more groups; the promise holds in each.
    """

    alpha: float
    is_by_choice: bool
    groups: tuple[Group, ...]

    def __post_init__(self) -> None:
        """Refuse a promise that could not be kept or read."""
        if not 0 < self.alpha < 1:
            raise RecipeError(f"conformal: expected alpha in (0, 1), got {self.alpha}")
        if not self.groups or len({group.name for group in self.groups}) != len(self.groups):
            raise RecipeError("conformal: expected one or more groups with different names")
        if len({len(values) for group in self.groups for values in (group.least, group.counts)}) != 1:
            raise RecipeError("conformal: expected one threshold and one count a choice in every group")
        for group in self.groups:
            if not all(0 <= least <= 1 for least in group.least):
                raise RecipeError(f"conformal: group {group.name!r}: expected thresholds in [0, 1], got {group.least}")

    @property
    def least(self) -> tuple[float, ...]:
        """(K,) thresholds that keep the promise in every group: for whoever does not know the group."""
        return tuple(min(column) for column in zip(*(group.least for group in self.groups), strict=True))

    @property
    def smallest_alpha(self) -> float:
        """The feasibility bound: the smallest alpha that every group could promise."""
        return max(smallest_alpha(count) for group in self.groups for count in group.counts)

    @property
    def is_feasible(self) -> bool:
        """Whether every group is large enough; where one is not, its choice is never excluded."""
        return self.alpha >= self.smallest_alpha - _ROUNDING

    def least_of(self, group: str | None) -> tuple[float, ...]:
        """(K,) thresholds of a group; of all groups at once when it is None or was not calibrated."""
        return next((item.least for item in self.groups if item.name == group), self.least)

    def group_at(self, bins: int) -> str | None:
        """The group in force after so many bins, where groups are named after bins: the newest that is not later.

        Between the measured hours a model knows more than at the earlier one, so that hour's thresholds are the
        careful ones. Before the first group it is the first; None when groups are not named after bins.
        """
        if not all(group.name.isdecimal() for group in self.groups):
            return None
        measured = sorted(int(group.name) for group in self.groups)
        return str(max((at for at in measured if at <= bins), default=measured[0]))

    def sets(self, probabilities: NDArray[np.float64], group: str | None = None) -> NDArray[np.bool_]:
        """Prediction sets, (..., K), of probabilities (..., K); never empty.

        Where no choice reaches its threshold, the most probable one is kept: this can only add to the coverage, and
        without it a model that is better than its promise would abstain for nothing.
        """
        return with_top_choice(probabilities >= np.array(self.least_of(group)), probabilities)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Conformal:
        """Read what `dataclasses.asdict` and JSON made of one.

        Raises:
            RecipeError: a member is missing, extra or of the wrong type.
        """
        try:
            groups = tuple(
                Group(**{**item, "least": tuple(item["least"]), "counts": tuple(item["counts"])})
                for item in value["groups"]
            )
            return cls(**{**value, "groups": groups})
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(f"conformal: malformed: {error!r}") from error


def with_top_choice(sets: NDArray[np.bool_], probabilities: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The sets (..., K), with the most probable choice in each that was empty."""
    is_top = np.arange(probabilities.shape[-1]) == probabilities.argmax(axis=-1)[..., None]
    filled: NDArray[np.bool_] = sets | (is_top & ~sets.any(axis=-1, keepdims=True))
    return filled


def smallest_alpha(count: int) -> float:
    """The smallest alpha that a group of `count` patients can promise, 1 / (count + 1)."""
    return 1 / (count + 1)


def smallest_count(alpha: float) -> int:
    """The smallest group that can promise alpha.

    >>> smallest_count(0.1), smallest_count(0.05)
    (9, 19)
    """
    return max(0, math.ceil(1 / alpha - 1 - _ROUNDING))


def least_abstention(model_error: float, max_error: float) -> float:
    """The least that any rule must abstain for at most `max_error` of its answers to be wrong.

    Abstaining on b of the rows can at best remove b of the errors: (e - b) / (1 - b) <= a gives b >= (e - a) / (1 - a).

    >>> round(least_abstention(0.4, 0.1), 3)
    0.333
    """
    return max(0.0, (model_error - max_error) / (1 - max_error))


def least_probability(values: ArrayLike, alpha: float, *, units: ArrayLike | None = None) -> float:
    """The threshold of one group: the truth's probability is at least this with probability at least 1 - alpha.

    The ceil((n + 1)(1 - alpha))-th largest value; with several rows a unit the first at which the weight reaches
    (n + 1)(1 - alpha) / n, n units and each row weighing 1 / (n x rows of its unit).

    Args:
        values: (R,) probability that each calibration row gave to the truth.
        alpha: Share of misses that is accepted; 1 or more gives empty sets, 0 or less full ones.
        units: (R,) patient or text behind each row; None when every row is one of its own.

    Returns:
        One of the values; 0 when the group is too small for alpha, infinity when alpha is 1 or more.

    Raises:
        ShapeError: one unit a row is missing.

    >>> least_probability([0.9, 0.8, 0.7, 0.6], 0.4)
    0.7
    >>> least_probability([0.9, 0.8, 0.7, 0.6], 0.1)
    0.0
    """
    value = np.asarray(values, dtype=np.float64)
    owner = np.arange(value.size) if units is None else np.asarray(units)
    if value.ndim != 1 or owner.shape != value.shape:
        raise ShapeError(f"units: expected one a row, {value.shape}, got {owner.shape}")
    if alpha >= 1:
        return math.inf
    _, unit, rows = np.unique(owner, return_inverse=True, return_counts=True)
    n = len(rows)
    needed = (n + 1) * (1 - alpha) / n if n else math.inf
    if needed > 1 + _ROUNDING:
        return 0.0
    order = np.argsort(-value, kind="stable")
    reached = np.cumsum(1 / (n * rows[unit[order]]))
    # Compared on the scale of units: the sum of n shares 1 / n has rounding errors of its own.
    return float(value[order][np.argmax(reached * n >= needed * n - _ROUNDING)])


def fit_conformal(
    probabilities: NDArray[np.float64],
    labels: NDArray[np.int64],
    *,
    alpha: float,
    groups: Sequence[str] | NDArray[Any] | None = None,
    units: ArrayLike | None = None,
    is_by_choice: bool = True,
) -> Conformal:
    """Fit thresholds on calibration rows that neither the model nor its training has seen.

    Args:
        probabilities: (R, K) calibrated.
        labels: (R,) index of the true choice.
        alpha: Share of misses that is accepted, 0 < alpha < 1.
        groups: (R,) group of each row, as text; None for one group.
        units: (R,) patient or text behind each row; None when every row is one of its own.
        is_by_choice: Promise for each choice by itself. Needs `smallest_count(alpha)` units of each in each group.

    Returns:
        The promise. Thresholds are rounded down at the sixth decimal: another runtime's last bit breaks nothing.

    Raises:
        InputError: alpha is outside (0, 1), or a label is no choice.
        ShapeError: rows differ in number.
    """
    if not 0 < alpha < 1:
        raise InputError(f"alpha: expected a share in (0, 1), got {alpha}")
    rows, num_choices = probabilities.shape
    names = np.full(rows, "") if groups is None else np.asarray(groups).astype(str)
    owner = np.arange(rows) if units is None else np.asarray(units)
    if not len(labels) == len(names) == len(owner) == rows or not rows:
        raise ShapeError(f"conformal: {rows} rows, {len(labels)} labels, {len(names)} groups, {len(owner)} units")
    if labels.min() < 0 or labels.max() >= num_choices:
        raise InputError(f"labels: expected 0 to {num_choices - 1}, got {labels.min()} to {labels.max()}")
    truth = probabilities[np.arange(rows), labels]
    fitted = []
    for name in dict.fromkeys(names.tolist()):  # in the order of their first row
        parts = [(names == name) & ((labels == k) if is_by_choice else True) for k in range(num_choices)]
        least = [least_probability(truth[part], alpha, units=owner[part]) for part in parts]
        fitted.append(
            Group(
                name=name,
                least=tuple(math.floor(value * 1e6) / 1e6 for value in least),
                counts=tuple(len(np.unique(owner[part])) for part in parts),
            )
        )
    return Conformal(alpha=alpha, is_by_choice=is_by_choice, groups=tuple(fitted))


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveConformal:
    """Alpha that follows what happens, for a stream whose outcomes become known later.

    After every outcome the working alpha moves: down by step x (1 - alpha) after a miss, up by step x alpha after a
    hit. Whatever the stream does, shift included, the share of misses after T outcomes differs from alpha by at most
    `bound`; no exchangeability is needed. It says nothing about any single patient or short stretch.

    Source: Gibbs and Candes 2021, arXiv:2106.00170, equation 2 and proposition 4.1.

    Attributes:
        alpha: The share of misses aimed at.
        step: How fast it follows; gamma in the paper, which uses 0.005.
        level: The working alpha, within [-step, 1 + step]. At 0 or below the set must be full, at 1 or above empty;
            `least_probability` does both.
        num_outcomes: Outcomes seen.
        num_missed: Those outside their set.
        first_level: Where it started.
    """

    alpha: float
    step: float
    level: float
    first_level: float
    num_outcomes: int = 0
    num_missed: int = 0

    @classmethod
    def start(cls, alpha: float, *, step: float = 0.005) -> AdaptiveConformal:
        """Before the first outcome.

        Raises:
            InputError: alpha or step is outside (0, 1).
        """
        if not 0 < alpha < 1 or not 0 < step < 1:
            raise InputError(f"adaptive conformal: expected alpha and step in (0, 1), got {alpha} and {step}")
        return cls(alpha=alpha, step=step, level=alpha, first_level=alpha)

    @property
    def bound(self) -> float:
        """Largest possible distance of the share of misses from alpha; infinite before the first outcome."""
        if not self.num_outcomes:
            return math.inf
        return (max(self.first_level, 1 - self.first_level) + self.step) / (self.step * self.num_outcomes)

    def update(self, *, is_missed: bool) -> AdaptiveConformal:
        """After one outcome, whose set was made at the present `level`.

        Raises:
            InputError: a full set was missed or an empty one hit: the set was not made at this level.
        """
        if (is_missed and self.level <= 0) or (not is_missed and self.level >= 1):
            raise InputError(
                f"adaptive conformal: at level {self.level:.4f} the set is {'full' if is_missed else 'empty'}, "
                f"so the outcome cannot be {'outside' if is_missed else 'inside'} it",
                hint="make every set with least_probability(values, state.level)",
            )
        return replace(
            self,
            level=self.level + self.step * (self.alpha - is_missed),
            num_outcomes=self.num_outcomes + 1,
            num_missed=self.num_missed + is_missed,
        )
