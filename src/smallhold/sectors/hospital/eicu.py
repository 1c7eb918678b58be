"""Stays of the eICU demo with what is on record about the patient: diagnoses, and when vasopressors were begun.

Source of the data: eICU Collaborative Research Database Demo v2.0 (ODbL). The copy at hand has cuff pressures and no
other vital sign by the minute; a stay's readings are those.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from smallhold.errors import DataError
from smallhold.sectors.data_sets import find_data_set, jsonl_files, read_jsonl
from smallhold.sectors.hospital.conditions import AdmissionRecord
from smallhold.sectors.hospital.parameters import INDEX
from smallhold.sectors.hospital.stays import UNKNOWN_ICU_TYPE, Stay, plausible_age, plausible_height, sift

NAME = "eicu_demo_multihospital"
#: Cuff pressures by our names; cardiac output and the like have none.
_CODES = {"NISBP": "NISysABP", "NIDBP": "NIDiasABP", "NIMAP": "NIMAP"}
_UNITS = {"CSICU": "cardiac surgery recovery", "Cardiac ICU": "coronary care", "SICU": "surgical", "MICU": "medical"}
_VASOPRESSOR = re.compile(
    r"norepinephrine|levophed|vasopressin|phenylephrine|neo-?synephrine|dopamine|epinephrine", re.I
)
_OLDEST = 90.0  # "> 89" in the data, which hides the age of the oldest


@dataclass(frozen=True, slots=True, eq=False)
class RecordedStay:
    """A stay with its record.

    Attributes:
        stay: Readings and outcome; `record_id` is the patient's, so that all stays of one lie in one part of the split.
        stay_id: Of this stay.
        record: What groups are told from.
        vasopressor_minute: When the first was begun, None when none was.
        minutes: How long the stay lasted.
    """

    stay: Stay
    stay_id: str
    record: AdmissionRecord
    vasopressor_minute: int | None
    minutes: int


def load_recorded_stays(data_dir: Path | None = None) -> list[RecordedStay]:
    """Every stay of the data set.

    Raises:
        DataError: the data set is missing, or a row is not as documented; the message names file and line.
        MissingExtraError: a file is compressed and `zstandard` is not installed.
    """
    found = []
    for path in jsonl_files(find_data_set(NAME, data_dir)):
        for number, row in enumerate(read_jsonl(path), start=1):
            try:
                found.append(recorded_stay(row))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise DataError(f"{path}, line {number}: not a row of {NAME}: {error!r}") from error
    return found


def recorded_stay(row: dict[str, Any]) -> RecordedStay:
    """One row; KeyError, TypeError or ValueError where it is not as documented."""
    vitals = [(minute, _CODES[name], value) for minute, name, value in row["vitals"] if name in _CODES and minute >= 0]
    minute = np.array([item[0] for item in vitals], dtype=np.int32)
    code = np.array([INDEX[item[1]] for item in vitals], dtype=np.int16)
    value = np.array([item[2] for item in vitals], dtype=np.float32)
    minute, code, value, refused = sift(minute, code, value)
    age, status = row["age"], row["hospital_status"]
    sex: Literal["F", "M"] | None = {"Female": "F", "Male": "M"}.get(row["sex"])  # type: ignore[assignment]
    icu_type = _UNITS.get(row["unit"], UNKNOWN_ICU_TYPE)
    begun = [t for t, name in row["treatments"] if "vasopressors" in name and t >= 0]
    begun += [t for t, name in row["infusions"] if _VASOPRESSOR.search(name) and t >= 0]
    return RecordedStay(
        stay=Stay(
            record_id=row["patient"],
            age=plausible_age(None if age in (None, "") else _OLDEST if str(age).startswith(">") else float(age)),
            sex=sex,
            height_cm=plausible_height(row.get("height")),
            icu_type=icu_type,
            saps1=None,
            died=None if status is None else status == "Expired",
            minute=minute,
            code=code,
            value=value,
            data_set=NAME,
            is_simulated=False,
            refused=refused,
        ),
        stay_id=str(row["stay_id"]),
        record=AdmissionRecord(
            admission=row["admit_dx"] or "",
            diagnoses=tuple(name for _, name in row["diagnoses"]),
            icu_type=icu_type,
        ),
        vasopressor_minute=min(begun, default=None),
        minutes=int(row["los_minutes"] or 0),
    )
