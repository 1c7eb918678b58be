"""Who lies on a ward: a TOML file that says of each patient what is known on admission, and nothing that names them.

::

    format = 1

    [patients.bed-7]
    age = 71
    sex = "F"
    height_cm = 160        # optional
    icu_type = "medical"   # as in training; anything else counts as unknown
    is_hypercapnic = false # optional: NEWS2's scale 2 for the oxygen saturation
    admission = "Sepsis, renal/UTI"        # optional, as are the next four: who watches the patient (`router`)
    diagnoses = ["renal|disorder of kidney|acute renal failure"]
    icd9 = ["584.9"]
    icd10 = ["N17.9"]
    specialties = ["Nephrology"]           # under what the notes are filed

The name of a table is the pseudonym that the readings carry.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from smallhold.assist.router import record_from
from smallhold.assist.sources.intake import check_identifier
from smallhold.assist.ward import Admitted
from smallhold.errors import RecipeError
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.conditions import AdmissionRecord
from smallhold.sectors.hospital.stays import Stay

_MEMBERS: dict[str, tuple[type, ...]] = {
    "age": (int, float),
    "sex": (str,),
    "height_cm": (int, float),
    "icu_type": (str,),
    "is_hypercapnic": (bool,),
    "admission": (str,),
    "diagnoses": (list,),
    "icd9": (list,),
    "icd10": (list,),
    "specialties": (list,),
}
_ON_RECORD = ("admission", "diagnoses", "icd9", "icd10", "specialties", "icu_type")


def read_roster(path: Path) -> dict[str, Admitted]:
    """Read a roster.

    Raises:
        RecipeError: absent, not TOML, empty, or an entry is unknown or impossible; the message names it.
    """
    try:
        value = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"roster {path}: cannot be read: {error}") from error
    patients = value.get("patients")
    if value.get("format") != 1 or set(value) != {"format", "patients"} or not isinstance(patients, dict):
        raise RecipeError(f"roster {path}: expected format = 1 and [patients.NAME] tables, got {sorted(value)}")
    if not patients:
        raise RecipeError(f"roster {path}: names no patient")
    return {check_identifier("patient", name): _admitted(item, f"{path}: {name}") for name, item in patients.items()}


def roster_of(stays: Sequence[Stay]) -> dict[str, Admitted]:
    """The roster of recorded or simulated stays."""
    return {
        stay.record_id: Admitted(
            static=icu_risk.static_features(stay),
            is_simulated=stay.is_simulated,
            record=AdmissionRecord(icu_type=stay.icu_type),
        )
        for stay in stays
    }


def _admitted(item: Any, where: str) -> Admitted:
    if not isinstance(item, Mapping):
        raise RecipeError(f"roster {where}: expected a table, got {item!r}")
    for name, value in item.items():
        types = _MEMBERS.get(name)
        if types is None:
            raise RecipeError(f"roster {where}: unknown entry {name!r}, expected some of {', '.join(_MEMBERS)}")
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise RecipeError(f"roster {where}: {name}: got {value!r}")
    age = item.get("age")
    if age is not None and not 16 <= age <= 130:
        raise RecipeError(
            f"roster {where}: age: expected 16 to 130 years (NEWS2 and the model are for adults), got {age}"
        )
    static = icu_risk.static_features_from(age, item.get("sex"), item.get("height_cm"), item.get("icu_type", ""))
    record = record_from({name: item[name] for name in _ON_RECORD if name in item}, where=f"roster {where}")
    return Admitted(static=static, is_hypercapnic=item.get("is_hypercapnic", False), record=record)
