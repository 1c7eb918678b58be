"""Groups of conditions: which patients belong to which, from what is on record when they are admitted.

The definitions are data (`conditions.toml`, whose head says what each list means). Nothing here reads vital signs, and
nothing is guessed: a record that names no group belongs to none.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib import resources
from typing import Any

from smallhold.errors import RecipeError
from smallhold.sectors.hospital.stays import ICU_TYPES, UNKNOWN_ICU_TYPE

FORMAT = "smallhold.conditions/1"
_ICD9 = re.compile(r"([EV]?)(\d{3})(?:-\1(\d{3}))?")
_ICD10 = re.compile(r"[A-Z]\d{2}(?:-[A-Z]\d{2})?|[A-Z]\d[\dA-Z](?:\.?[\dA-Z]{1,4})?")
_BRACKETS = re.compile(r"\([^()]*\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionRecord:
    """What is written about a patient on admission, as far as groups are told from it; all of it may be absent.

    Attributes:
        admission: Reason for admission in words.
        diagnoses: Diagnoses, in words or as paths (`renal|disorder of kidney|acute renal failure`).
        icd9: ICD-9-CM codes, with or without the point.
        icd10: ICD-10 codes, with or without the point.
        icu_type: Kind of unit.
        specialties: Under what the patient's notes are filed.
    """

    admission: str = ""
    diagnoses: tuple[str, ...] = ()
    icd9: tuple[str, ...] = ()
    icd10: tuple[str, ...] = ()
    icu_type: str = UNKNOWN_ICU_TYPE
    specialties: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionGroup:
    """One group; see `conditions.toml` for what the lists mean.

    Attributes:
        name: For example `nephrology`.
        title: In words.
        task: The task that watches this group, empty when there is none.
        reason: Why there is none.
        admission: Beginnings of words.
        paths: Beginnings of diagnoses.
        icd9: Categories and ranges.
        icd10: Beginnings and ranges.
        icu_types: Kinds of unit.
        specialties: Names of specialties.
    """

    name: str
    title: str
    task: str = ""
    reason: str = ""
    admission: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    icd9: tuple[str, ...] = ()
    icd10: tuple[str, ...] = ()
    icu_types: tuple[str, ...] = ()
    specialties: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a group that nobody could belong to, or that neither has a task nor says why."""
        if bool(self.task) == bool(self.reason):
            raise RecipeError(f"group {self.name}: expected a task, or else the reason why there is none")
        lists = [f.name for f in fields(self) if f.name not in ("name", "title", "task", "reason")]
        if not any(getattr(self, name) for name in lists):
            raise RecipeError(f"group {self.name}: expected one or more of {', '.join(lists)}: nobody can belong to it")
        for name, pattern in (("icd9", _ICD9), ("icd10", _ICD10)):
            for code in getattr(self, name):
                if not pattern.fullmatch(code):
                    raise RecipeError(f"group {self.name}: {name}: expected a category or a range, got {code!r}")
        if unknown := set(self.icu_types) - set(ICU_TYPES):
            raise RecipeError(
                f"group {self.name}: icu_types: expected some of {list(ICU_TYPES)}, got {sorted(unknown)}"
            )

    def reasons(self, record: AdmissionRecord) -> tuple[str, ...]:
        """Why a patient belongs to this group, one sentence a match and each once; empty when it does not."""
        found: dict[str, None] = {}
        for where, text in (("admission", record.admission), *(("diagnosis", item) for item in record.diagnoses)):
            lowered = text.lower()
            if path := next((path for path in self.paths if lowered.startswith(path.lower())), None):
                found[f"{where} {text!r} begins with {path!r}"] = None
            elif "|" not in text and (word := _begins_word(self.admission, lowered)):
                found[f"{where} {text!r} holds {word!r}"] = None
        found |= {f"ICD-9 {code}": None for code in record.icd9 if any(_in_icd9(code, r) for r in self.icd9)}
        found |= {f"ICD-10 {code}": None for code in record.icd10 if any(_in_icd10(code, r) for r in self.icd10)}
        if record.icu_type in self.icu_types:
            found[f"unit {record.icu_type!r}"] = None
        filed = [name for name in record.specialties if name in self.specialties]
        return (*found, *(f"note filed under {name!r}" for name in dict.fromkeys(filed)))


def parse_conditions(text: str, *, where: str) -> tuple[ConditionGroup, ...]:
    """Groups in the order of the file.

    Raises:
        RecipeError: not TOML, another format, an unknown member or one of the wrong type, or a group that makes no
            sense; the message names it.
    """
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{where}: not TOML: {error}") from error
    if value.pop("format", None) != FORMAT:
        raise RecipeError(f"{where}: expected format = {FORMAT!r}")
    if not value:
        raise RecipeError(f"{where}: expected one or more groups")
    return tuple(_group(name, item, where) for name, item in value.items())


@lru_cache(maxsize=1)
def condition_groups() -> tuple[ConditionGroup, ...]:
    """The hospital's groups, as shipped."""
    file = resources.files("smallhold.sectors.hospital") / "conditions.toml"
    return parse_conditions(file.read_text(encoding="utf-8"), where="conditions.toml")


def _group(name: str, item: Any, where: str) -> ConditionGroup:
    if not isinstance(item, Mapping):
        raise RecipeError(f"{where}: {name}: expected a table, got {item!r}")
    members = {f.name: f for f in fields(ConditionGroup) if f.name != "name"}
    made: dict[str, Any] = {}
    for key, value in item.items():
        if key not in members:
            raise RecipeError(f"{where}: {name}: unknown entry {key!r}, expected some of {', '.join(members)}")
        is_text = key in ("title", "task", "reason")
        if is_text and not isinstance(value, str):
            raise RecipeError(f"{where}: {name}: {key}: expected text, got {value!r}")
        if not is_text and not (isinstance(value, list) and all(isinstance(v, str) and v for v in value)):
            raise RecipeError(f"{where}: {name}: {key}: expected a list of texts, got {value!r}")
        made[key] = value.strip() if is_text else tuple(value)
    if "title" not in made:
        raise RecipeError(f"{where}: {name}: expected a title")
    return ConditionGroup(name=name, **made)


def _begins_word(words: tuple[str, ...], lowered: str) -> str | None:
    plain = _BRACKETS.sub(" ", lowered)
    return next((word for word in words if re.search(rf"(?<![a-z0-9]){re.escape(word)}", plain)), None)


def _in_icd9(code: str, wanted: str) -> bool:
    plain = code.upper().replace(".", "").strip()
    letter = plain[:1] if plain[:1] in ("E", "V") else ""
    category = plain[len(letter) : len(letter) + 3]
    match = _ICD9.fullmatch(wanted)
    if match is None or match[1] != letter or len(category) < 3 or not category.isdigit():
        return False
    return int(match[2]) <= int(category) <= int(match[3] or match[2])


def _in_icd10(code: str, wanted: str) -> bool:
    plain = code.upper().replace(".", "").strip()
    first, _, last = wanted.replace(".", "").partition("-")
    return first <= plain[:3] <= last if last else plain.startswith(first)
