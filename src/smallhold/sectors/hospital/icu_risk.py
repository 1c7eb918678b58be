"""The task `icu-risk`: will this patient die in hospital? Asked at any hour of the first 48 in intensive care.

Plain data and small pure functions: what is asked, which closed answers there are, what is known on admission,
how an alert is worded, and which stays it is trained and measured on.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smallhold.decide.plan import Field
from smallhold.errors import DataError
from smallhold.sectors.data_sets import find_data_set
from smallhold.sectors.hospital.simulator import SimulatedWard
from smallhold.sectors.hospital.stays import (
    ICU_TYPES,
    PHYSIONET_2012,
    SIMULATED_WARD,
    Stay,
    plausible_height,
    read_physionet2012,
)
from smallhold.sectors.splits import Split, split_of

NAME = "icu-risk"
QUESTION = "Will this patient die before leaving hospital?"
SCHEMA: tuple[Field, ...] = (Field(name="in_hospital_death", choices=("no", "yes"), positive="yes"),)
"""Temperature and thresholds are fitted later, on the calibration split."""

BIN_MINUTES = 60
NUM_BINS = 48
"""A decision at hour h, 1 to 48, rests on the minutes up to 60 h and on nothing later."""

HORIZONS_H = (6, 12, 24, 48)
"""The hours at which every report measures."""

STATIC_FEATURES = (
    "age",
    "sex_m",
    "sex_unknown",
    "height",
    "height_known",
    *(f"icu_type {name}" for name in ICU_TYPES),
)

CONDITION = "deterioration"
ALERT_WORDING = (
    "Estimated risk of death in hospital {risk:.0%} after {hour} h in intensive care, at or above the alert threshold "
    "of {threshold:.0%}. Please review the patient."
)
"""For `str.format` with `risk` and `threshold` as fractions and `hour` as an integer."""


def static_features_from(
    age: float | None, sex: str | None, height_cm: float | None, icu_type: str
) -> NDArray[np.float32]:
    """What is known on admission, as numbers of about unit size; unknown = 0.

    Args:
        age: Years.
        sex: `F`, `M` or None.
        height_cm: An impossible height counts as unknown.
        icu_type: One of `ICU_TYPES`; anything else is all zero.

    Returns:
        (9,) float32 in the order of `STATIC_FEATURES`.
    """
    height = plausible_height(height_cm)
    return np.array(
        [
            0.0 if age is None else (age - 65) / 17,
            sex == "M",
            sex not in ("F", "M"),
            0.0 if height is None else (height - 170) / 10,
            height is not None,
            *(icu_type == name for name in ICU_TYPES),
        ],
        dtype=np.float32,
    )


def static_features(stay: Stay) -> NDArray[np.float32]:
    """(9,) float32 of a stay; see `static_features_from`."""
    return static_features_from(stay.age, stay.sex, stay.height_cm, stay.icu_type)


def load_stays(data_dir: Path | None = None, *, simulated: SimulatedWard | None = None) -> list[Stay]:
    """Find the stays to train on or to replay: real ones before simulated ones.

    Looks for `physionet2012_icu`, then for a folder `simulated_ward`, in the places of `find_data_set`; where
    neither exists, simulates the ward that the caller allows. A directory that the user named, by `--data` or by
    `$SMALLHOLD_DATA`, is never replaced by a simulation.

    Args:
        data_dir: What the user gave as `--data`, or None.
        simulated: The ward to simulate when no data set is found, or None to raise instead.

    Raises:
        DataError: no data set, and no simulation allowed; or a file is not as documented.
        MissingExtraError: a file is compressed and `zstandard` is not installed.
    """
    try:
        folder = find_data_set(PHYSIONET_2012, data_dir)
    except DataError as absent:
        try:
            folder = find_data_set(SIMULATED_WARD, data_dir)
        except DataError:
            if simulated is None or data_dir is not None or os.environ.get("SMALLHOLD_DATA"):
                raise absent from None
            return simulated.simulate()
    return read_physionet2012(folder)


def split(stays: Sequence[Stay], which: Split | Literal["all"]) -> list[Stay]:
    """The stays of one part, in their order; `all` gives every stay."""
    if which == "all":
        return list(stays)
    return [stay for stay in stays if split_of(stay.data_set, stay.record_id) == which]
