"""One model's numbers at one horizon, and how they are read: as probability, as alert, as silence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smallhold.decide.plan import ABSTAINED, Field, calibrate_logits, choose
from smallhold.decide.task import Comparator

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """What one model says of N patients.

    Attributes:
        number: (N,) log-odds or points, higher = more likely to die.
        probability: (N,) calibrated; None for a number that was never fitted to one.
        is_called: (N,) an alert is due, by a threshold fixed on the calibration split; None without a probability.
        has_abstained: (N,); None without a probability.
        sets: (N, 2) prediction sets in the order of the field's choices; None where nothing was promised.
    """

    number: Floats
    probability: Floats | None = None
    is_called: Bools | None = None
    has_abstained: Bools | None = None
    sets: Bools | None = None


def read_by_field(field: Field, margin: Floats, hour: int | None = None) -> Judged:
    """Read log-odds as the device does: by the field's calibration, promise and alert threshold.

    Args:
        field: A field with two choices, fitted.
        margin: (N,) log-odds of the positive choice.
        hour: Hours of record: the group of the promise. None keeps the promise in every group.
    """
    positive = field.choices.index(field.positive)
    logits = np.zeros((len(margin), 2))
    logits[:, positive] = margin
    group = None if hour is None or field.conformal is None else field.conformal.group_at(hour)
    probabilities = calibrate_logits(field, logits)
    return Judged(
        number=margin,
        probability=probabilities[:, positive],
        is_called=probabilities[:, positive] >= field.alert_threshold,
        has_abstained=choose(field, probabilities, group) == ABSTAINED,
        sets=None if field.conformal is None else field.conformal.sets(probabilities, group),
    )


def read_by_comparator(fitted: Comparator | None, number: Floats) -> Judged:
    """Read another model's log-odds, or a score's points; these never abstain."""
    if fitted is None:
        return Judged(number=number)
    probability = 1 / (1 + np.exp(-np.clip(fitted.scale * number + fitted.offset, -60, 60)))
    return Judged(
        number=number,
        probability=probability,
        is_called=probability >= fitted.threshold,
        has_abstained=np.zeros(len(number), dtype=bool),
    )
