"""A simulated ward: seeded patients with deterioration episodes, measured the way an intensive care unit measures.

No person stands behind any of it. It exists so that the whole way runs on a fresh machine, and every stay says
`is_simulated`. What it shows about models is that the machinery works; clinically it shows nothing.

A patient depends on (seed, index, hours) alone: the first ten of a ward of three thousand are a ward of ten.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from smallhold.device.durable_file import write_durably
from smallhold.errors import InputError
from smallhold.sectors.hospital.measuring import measure
from smallhold.sectors.hospital.parameters import PARAMETERS
from smallhold.sectors.hospital.physiology import CONDITIONS, EPISODES, Episode, hidden_signals, intensities
from smallhold.sectors.hospital.stays import ICU_TYPES, SIMULATED_WARD, Stay, readings, sift
from smallhold.sectors.splits import Split, split_of

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SimulatedWard:
    """Which ward to simulate.

    Attributes:
        num_stays: Number of patients.
        seed: Another seed gives other patients.
        hours: Length of every stay.
        split: Only the stays of one part of the split; simulating the others would cost time.
        most: At most so many of them, the first ones; None for all.
    """

    num_stays: int = 3_000
    seed: int = 0
    hours: int = 48
    split: Split | Literal["all"] = "all"
    most: int | None = None

    def simulate(self) -> list[Stay]:
        """The stays; see `simulate_ward`.

        Raises:
            InputError: a number is out of range.
        """
        _check(self.num_stays, self.seed, self.hours)
        wanted = (
            index
            for index in range(self.num_stays)
            if self.split == "all" or split_of(SIMULATED_WARD, _record_id(self.seed, index)) == self.split
        )
        return [_simulate_stay(self.seed, index, self.hours) for index in islice(wanted, self.most)]


# By unit type, in the order of ICU_TYPES.
_ICU_TYPE_SHARE = (0.36, 0.28, 0.21, 0.15)
_AGE = ((64, 17), (61, 19), (67, 12), (69, 14))  # mean, standard deviation
_ADMITTED_ILL = (0.75, 0.45, 0.30, 0.60)
_ADMISSION_KINDS = (  # probabilities of EPISODES for what brought the patient in
    (0.42, 0.28, 0.10, 0.08, 0.12),
    (0.30, 0.15, 0.40, 0.05, 0.10),
    (0.10, 0.20, 0.30, 0.35, 0.05),
    (0.08, 0.17, 0.05, 0.65, 0.05),
)
_LATER_KINDS = (0.34, 0.24, 0.14, 0.14, 0.14)
_LATER_EPISODES = 0.45  # expected number for each 48 h
_CONDITION_SHARE = (0.22, 0.34, 0.16, 0.08)

# How deadly each kind is, and the logistic model of death; set by hand for about 14 % deaths.
_LETHALITY = np.array([1.0, 0.9, 0.8, 1.0, 0.55])
_DEATH_INTERCEPT = -4.52
_DEATH_LATEST, _DEATH_WORST = 3.4, 1.5  # for each unit of severity: mean of the last 12 h, worst of the stay
_DEATH_BURDEN, _DEATH_AGE = 1.0, 0.045  # for each unit of chronic illness, for each year above 65


@dataclass(frozen=True, slots=True, eq=False)
class _Patient:
    age: float
    sex: Literal["F", "M"]
    height_cm: float
    icu_type: int
    conditions: FloatArray  # (4,) extent, 0-1
    episodes: tuple[Episode, ...]


def simulate_ward(num_stays: int, seed: int, hours: int = 48) -> list[Stay]:
    """Simulate patients.

    Args:
        num_stays: Number of patients, at least 1.
        seed: Another seed gives other patients.
        hours: Length of every stay, at least 1.

    Returns:
        Stays whose arrays hold accepted readings only; the artefacts that the simulator puts in are in `refused`,
        as with real data. `record_id` is `sim-<seed>-<index>`.

    Raises:
        InputError: a number is out of range.
    """
    return SimulatedWard(num_stays, seed, hours).simulate()


def _check(num_stays: int, seed: int, hours: int) -> None:
    if num_stays < 1 or hours < 1 or seed < 0:
        raise InputError(
            "simulated ward: expected num_stays >= 1, hours >= 1 and seed >= 0, "
            f"got num_stays {num_stays}, hours {hours}, seed {seed}"
        )


def _record_id(seed: int, index: int) -> str:
    return f"sim-{seed}-{index:05d}"


def _simulate_stay(seed: int, index: int, hours: int) -> Stay:
    rng = np.random.default_rng([seed, index])
    patient = _draw_patient(rng, hours)
    intensity = intensities(patient.episodes, hours)
    signals = hidden_signals(rng, intensity, patient.conditions, hours)
    died = bool(rng.random() < 1 / (1 + np.exp(-_death_logit(patient, intensity))))
    minute, code, value = measure(rng, signals, intensity, ICU_TYPES[patient.icu_type], patient.height_cm, hours)
    accepted_minute, accepted_code, accepted_value, refused = sift(minute, code, value)
    return Stay(
        record_id=_record_id(seed, index),
        age=patient.age,
        sex=patient.sex,
        height_cm=patient.height_cm if rng.random() < 0.52 else None,
        icu_type=ICU_TYPES[patient.icu_type],
        saps1=None,
        died=died,
        minute=accepted_minute,
        code=accepted_code,
        value=accepted_value,
        data_set=SIMULATED_WARD,
        is_simulated=True,
        refused=refused,
    )


def _draw_patient(rng: np.random.Generator, hours: int) -> _Patient:
    icu_type = int(rng.choice(len(ICU_TYPES), p=_ICU_TYPE_SHARE))
    age = float(np.clip(np.round(rng.normal(*_AGE[icu_type])), 18, 90))
    sex: Literal["F", "M"] = "M" if rng.random() < 0.56 else "F"
    height_cm = float(np.round(rng.normal(176 if sex == "M" else 162, 7.5), 1))
    is_ill = rng.random(len(CONDITIONS)) < np.array(_CONDITION_SHARE) * (0.4 + age / 110)
    conditions = np.where(is_ill, rng.uniform(0.3, 1.0, len(CONDITIONS)), 0.0)
    episodes: list[Episode] = []
    if rng.random() < _ADMITTED_ILL[icu_type]:
        kind = int(rng.choice(len(EPISODES), p=_ADMISSION_KINDS[icu_type]))
        episodes.append(_draw_episode(rng, kind, -float(rng.uniform(0.5, 10.0)), age, conditions))
    for _ in range(int(rng.poisson(_LATER_EPISODES * hours / 48))):
        kind = int(rng.choice(len(EPISODES), p=_LATER_KINDS))
        episodes.append(_draw_episode(rng, kind, float(rng.uniform(2.0, max(hours, 3))), age, conditions))
    return _Patient(age, sex, height_cm, icu_type, conditions, tuple(episodes))


def _draw_episode(rng: np.random.Generator, kind: int, onset_h: float, age: float, conditions: FloatArray) -> Episode:
    frailty = conditions.sum() * 0.6 + (age - 65) / 40
    responds = rng.random() < 1 / (1 + np.exp(-(1.1 - 0.9 * frailty)))
    return Episode(
        kind=kind,
        onset_h=onset_h,
        ramp_h=float(rng.uniform(2.0, 9.0)),
        peak=float(np.clip(rng.beta(2.2, 2.6) * (1 + 0.12 * frailty), 0.1, 1.2)),
        treated_h=float(rng.uniform(3.0, 10.0)) if responds else float("inf"),
        recovery_h=float(rng.uniform(6.0, 22.0)),
    )


def _death_logit(patient: _Patient, intensity: FloatArray) -> float:
    severity = intensity @ _LETHALITY  # (T,)
    latest = severity[-72:].mean()  # 12 h of ten-minute steps
    return float(
        _DEATH_INTERCEPT
        + _DEATH_LATEST * latest
        + _DEATH_WORST * severity.max()
        + _DEATH_BURDEN * patient.conditions.sum()
        + _DEATH_AGE * (patient.age - 65)
    )


def write_ward(stays: Sequence[Stay], folder: Path) -> Path:
    """Write simulated stays as `folder/ward.jsonl` in the layout that `read_physionet2012` reads.

    Args:
        stays: Simulated stays.
        folder: Created when absent; name it `simulated_ward` for `--data` to find it.

    Returns:
        The file written, whole; an interruption leaves what was there before.

    Raises:
        InputError: a stay is not simulated; rows of persons are never copied.
    """
    for stay in stays:
        if not stay.is_simulated:
            raise InputError(f"stay {stay.record_id} is not simulated: expected simulated stays alone")
    path = folder / "ward.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(_row(stay), separators=(",", ":")).encode() + b"\n" for stay in stays)
    write_durably(path, lines, mode=0o644)
    return path


def _row(stay: Stay) -> dict[str, Any]:
    # str of a single-precision number is the shortest decimal that reads back to it.
    return {
        "record_id": stay.record_id,
        "simulated": True,
        "age": stay.age,
        "sex": stay.sex,
        "height_cm": stay.height_cm,
        "icu_type": stay.icu_type,
        "saps1": None,
        "died_in_hospital": None if stay.died is None else int(stay.died),
        "events": [
            [minute, PARAMETERS[code].name, float(str(np.float32(value)))] for minute, code, value in readings(stay)
        ],
    }
