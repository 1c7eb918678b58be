"""How the shipped model does for some of the patients: by sex, age and kind of unit.

A group with fewer than ten patients of either outcome gets no figure: an interval on so few says nothing, and a number
without one is worse than none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from smallhold.evaluate import metrics
from smallhold.evaluate.bootstrap import Metric, resample
from smallhold.evaluate.calibration_noise import calibration_noise
from smallhold.evaluate.judged import Judged
from smallhold.evaluate.result import SubgroupRow
from smallhold.sectors.hospital.stays import ICU_TYPES, Stay

LEAST_OF_EITHER_OUTCOME = 10
_AGE_BANDS = ((0.0, 50.0, "under 50"), (50.0, 65.0, "50 to 64"), (65.0, 80.0, "65 to 79"), (80.0, 999.0, "80 and over"))
_SEXES = {"F": "women", "M": "men", None: "sex unknown"}

Mask = NDArray[np.bool_]


def groups_of(stays: Sequence[Stay]) -> Iterator[tuple[str, str, Mask]]:
    """(attribute, group, (N,) who belongs to it) of every group that has anybody."""
    ages = np.array([np.nan if stay.age is None else stay.age for stay in stays])
    found: list[tuple[str, str, Mask]] = [
        ("sex", words, np.array([stay.sex == sex for stay in stays])) for sex, words in _SEXES.items()
    ]
    found += [("age", words, (ages >= low) & (ages < high)) for low, high, words in _AGE_BANDS]
    found.append(("age", "age unknown", np.isnan(ages)))
    known = [stay.icu_type for stay in stays]
    units = [*ICU_TYPES, *sorted(set(known) - set(ICU_TYPES))]
    found += [("unit", unit, np.array([each == unit for each in known])) for unit in units]
    yield from (item for item in found if item[2].any())


def subgroup_row(
    died: Mask, judged: Judged, member: Mask, *, horizon_h: float | None, num_resamples: int, seed: int
) -> SubgroupRow:
    """The shipped model on the members of one group.

    Args:
        died: (N,).
        judged: What the model says of all N.
        member: (N,) who belongs to the group.
        horizon_h: Hours of record.
        num_resamples: Of the bootstrap, over the members.
        seed: Of the bootstrap.
    """
    outcome = died[member]
    row: SubgroupRow = {
        "horizon_h": horizon_h,
        "model": "shipped",
        "n": int(member.sum()),
        "num_events": int(outcome.sum()),
        "is_too_small": bool(min(outcome.sum(), (~outcome).sum()) < LEAST_OF_EITHER_OUTCOME),
    }
    if row["is_too_small"] or judged.probability is None or judged.is_called is None:
        return row
    probability = judged.probability[member]

    def interval(metric: Metric, *arrays: NDArray[np.generic]) -> object:
        return resample(metric, *arrays, num_resamples=num_resamples, seed=seed).interval().to_json()

    figures = {
        "auroc": interval(metrics.auroc, outcome, judged.number[member]),
        "ece": interval(metrics.expected_calibration_error, outcome, probability),
        "ece_noise": calibration_noise(probability, seed=seed),
        "brier": interval(metrics.brier, outcome, probability),
        "brier_skill": interval(metrics.brier_skill, outcome, probability),
        "alert_rate": interval(metrics.share, judged.is_called[member], np.ones(row["n"])),
    }
    row.update(figures)  # type: ignore[typeddict-item]
    return row
