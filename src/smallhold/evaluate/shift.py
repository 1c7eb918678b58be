"""Is the promise kept for patients of a kind that calibration never saw?

One kind of unit at a time is held out: the field is calibrated again on the calibration patients of all other kinds,
and its prediction sets are counted on the measured patients of that kind. Nothing is exchangeable there, so nothing is
promised; what is counted is what is left of the promise. The trunk stays the one that ships, and may have learnt from
such patients: only the calibration has not.

Beside it the rule that follows what happens (Gibbs and Candes 2021, arXiv:2106.00170). A promise for each outcome and
hour by itself needs a state for each outcome and hour: the outcome of a patient tells about the threshold of that
outcome alone. Patients come one after the other in a seeded order, each outcome known before the next patient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from smallhold.decide.conformal import AdaptiveConformal, least_probability, with_top_choice
from smallhold.decide.plan import Field, calibrate_logits, choose
from smallhold.errors import ShapeError
from smallhold.evaluate.predict import Predictions
from smallhold.evaluate.promise import promise_row
from smallhold.evaluate.result import Shift, ShiftGroup, ShiftRow
from smallhold.evaluate.risk_coverage import set_coverage
from smallhold.evaluate.subgroups import LEAST_OF_EITHER_OUTCOME
from smallhold.sectors.hospital.stays import ICU_TYPES, Stay

Progress = Callable[[str, int, int], None]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

#: Ten times the paper's, whose streams have thousands of outcomes: with .005 nothing is guaranteed before 202.
STEP = 0.05


class Recalibrate(Protocol):
    """What fits a field as `bundle build` does."""

    def __call__(self, field: Field, margins: Floats, died: Bools, horizons: Sequence[int], *, alpha: float) -> Field:
        """The field fitted on margins (N, H) of the positive choice and outcomes (N,)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Patients:
    """Patients and what the shipped model says of them.

    Attributes:
        margins: (N, H) log-odds of the positive choice at each horizon.
        died: (N,).
        units: (N,) kind of unit, as text.
    """

    margins: Floats
    died: Bools
    units: NDArray[np.str_]

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        if not len(self.margins) == len(self.died) == len(self.units):
            raise ShapeError(
                f"patients: {len(self.margins)} margins, {len(self.died)} outcomes, {len(self.units)} units"
            )

    @classmethod
    def asked(cls, predictions: Predictions, stays: Sequence[Stay]) -> Patients:
        """The patients of both, in the same order."""
        units = np.array([stay.icu_type for stay in stays])
        return cls(margins=predictions.numbers["shipped"], died=predictions.died, units=units)

    def where(self, member: Bools) -> Patients:
        """Some of them."""
        return Patients(margins=self.margins[member], died=self.died[member], units=self.units[member])


def shift_by_unit(
    field: Field,
    calibration: Patients,
    measured: Patients,
    horizons: Sequence[int],
    *,
    recalibrate: Recalibrate,
    seed: int,
    progress: Progress,
) -> Shift | None:
    """Hold out every kind of unit in turn.

    Args:
        field: The field as shipped; its alpha is promised again.
        calibration: Patients of the calibration split.
        measured: Patients that the sets are counted on.
        horizons: (H,) hours.
        recalibrate: Fits the field again.
        seed: Of the order in which the adaptive rule meets the patients.
        progress: Called with a caption, kinds done and kinds in all.

    Returns:
        None where no sets are promised, or where the units are unknown or all of one kind.
    """
    kinds = [unit for unit in ICU_TYPES if (measured.units == unit).any()]
    if field.conformal is None or len({*calibration.units, *measured.units} & set(ICU_TYPES)) < 2 or not kinds:
        return None
    groups = []
    for done, unit in enumerate(kinds):
        progress("kinds of units held out", done, len(kinds))
        others, members = calibration.where(calibration.units != unit), measured.where(measured.units == unit)
        group: ShiftGroup = {
            "held_out": unit,
            "n": len(members.died),
            "num_events": int(members.died.sum()),
            "num_calibration": len(others.died),
            "num_calibration_events": int(others.died.sum()),
            "is_too_small": _fewest(others.died) < LEAST_OF_EITHER_OUTCOME,
            "rows": [],
        }
        if not group["is_too_small"]:
            fitted = recalibrate(field, others.margins, others.died, horizons, alpha=field.conformal.alpha)
            for i, hour in enumerate(horizons):
                group["rows"] += _rows(field, fitted, others, members, i, hour, seed)
        groups.append(group)
    progress("kinds of units held out", len(kinds), len(kinds))
    return {"alpha": field.conformal.alpha, "step": STEP, "groups": groups}


def adaptive_sets(
    reference: Sequence[Floats], probabilities: Floats, labels: Ints, *, alpha: float, step: float = STEP
) -> tuple[Bools, tuple[AdaptiveConformal, ...]]:
    """Prediction sets of a stream, each choice at a level that follows what became of the patients before.

    Args:
        reference: For each of the K choices, the probabilities that it was given where it was the truth, on the
            calibration split.
        probabilities: (N, K) calibrated, in the order in which patients come.
        labels: (N,) index of the true choice, known before the next patient.
        alpha: The share of misses aimed at, of each choice by itself.
        step: How fast the levels follow.

    Returns:
        (N, K) sets before an empty one is filled: of the patients whose truth is choice k, the share that misses it
        is within `bound` of alpha. And the K states at the end, which hold that bound.
    """
    states = [AdaptiveConformal.start(alpha, step=step) for _ in reference]
    sets = np.zeros(probabilities.shape, dtype=bool)
    for i, truth in enumerate(labels.tolist()):
        for choice, state in enumerate(states):
            sets[i, choice] = probabilities[i, choice] >= least_probability(reference[choice], state.level)
        states[truth] = states[truth].update(is_missed=not sets[i, truth])
    return sets, tuple(states)


def _rows(
    shipped: Field, fitted: Field, others: Patients, members: Patients, at: int, hour: int, seed: int
) -> list[ShiftRow]:
    """One row for each outcome at one hour; without figures where too few have it."""
    assert shipped.conformal is not None and fitted.conformal is not None  # noqa: S101 - asked by the caller
    (p, labels), (before, known) = (_probabilities(fitted, patients, at) for patients in (members, others))
    group, own_group = fitted.conformal.group_at(hour), shipped.conformal.group_at(hour)
    counted = {
        item.choice: item for item in set_coverage(fitted.conformal.sets(p, group), labels, choose(fitted, p, group))
    }
    own = shipped.conformal.sets(_probabilities(shipped, members, at)[0], own_group)
    reference = [before[known == k, k] for k in range(len(fitted.choices))]
    order = np.random.default_rng(seed).permutation(len(labels))
    raw, states = adaptive_sets(reference, p[order], labels[order], alpha=fitted.conformal.alpha)
    adaptive = with_top_choice(raw[np.argsort(order)], p)
    rows: list[ShiftRow] = []
    for k, choice in enumerate(fitted.choices):
        mine = labels == k
        if mine.sum() < LEAST_OF_EITHER_OUTCOME:
            rows.append({"horizon_h": hour, "choice": choice, "n": int(mine.sum()), "is_too_small": True})
            continue
        rows.append(
            {
                **promise_row(fitted, counted[k], horizon_h=hour),
                "is_too_small": False,
                "shipped_coverage": float(own[mine, k].mean()),
                "adaptive_coverage": float(adaptive[mine, k].mean()),
                "adaptive_set_size": float(adaptive[mine].sum(axis=1).mean()),
                "adaptive_bound": states[k].bound,
            }
        )
    return rows


def _probabilities(field: Field, patients: Patients, at: int) -> tuple[Floats, Ints]:
    """Calibrated probabilities (N, 2) at one horizon, and the true choices (N,)."""
    positive = field.choices.index(field.positive)
    logits = np.zeros((len(patients.died), 2))
    logits[:, positive] = patients.margins[:, at]
    return calibrate_logits(field, logits), np.where(patients.died, positive, 1 - positive)


def _fewest(died: Bools) -> int:
    return int(min(died.sum(), (~died).sum()))
