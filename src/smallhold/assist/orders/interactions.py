"""Allergies and interactions, by a table that is a file.

The shipped table is a short demonstration of well known pairs, **not a drug database**; a site plugs in a file of its
own. A drug that a table does not list cannot be checked and is refused, so a small table is safe and not useful.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from smallhold.errors import OrderError

SHIPPED = Path(__file__).with_name("interactions.toml")


@dataclass(frozen=True, slots=True)
class Finding:
    """Why a drug must not be given by itself.

    Attributes:
        kind: `unlisted` when the table knows nothing of a drug, and nothing can be excluded.
        drug: What would be given.
        other: The drug or the allergen that forbids it; the unlisted drug itself.
        summary: What happens.
        source: Where that is written.
    """

    kind: Literal["allergy", "interaction", "unlisted"]
    drug: str
    other: str
    summary: str
    source: str


@dataclass(frozen=True, slots=True, eq=False)
class InteractionTable:
    """A checked table.

    Attributes:
        name: Of the table.
        version: Of its content.
        note: What a reader must know.
        drugs: Everything it speaks of; absence of a pair means something for these alone.
        pairs: Two drugs -> finding's summary and source.
        allergies: Allergen -> drug -> summary and source.
    """

    name: str
    version: str
    note: str
    drugs: frozenset[str]
    pairs: Mapping[frozenset[str], tuple[str, str]]
    allergies: Mapping[str, Mapping[str, tuple[str, str]]]

    def check(self, drug: str, *, drugs: Iterable[str], allergies: Iterable[str]) -> tuple[Finding, ...]:
        """Everything that speaks against giving a drug.

        Args:
            drug: What would be given.
            drugs: What the patient takes already.
            allergies: What the patient is allergic to: an allergen of the table, or a drug.

        Returns:
            Findings, sorted; empty when the table lists everything and forbids nothing. An allergen that the table
            does not know is a finding as well.
        """
        found: list[Finding] = []
        drug = _plain(drug)
        taken, allergens = sorted({_plain(other) for other in drugs}), sorted({_plain(item) for item in allergies})
        unlisted = [other for other in (drug, *taken) if other not in self.drugs]
        found += [Finding("unlisted", drug, other, "the table does not list it", self.name) for other in unlisted]
        pairs = [(other, self.pairs.get(frozenset((drug, other)))) for other in taken]
        found += [Finding("interaction", drug, other, *pair) for other, pair in pairs if pair is not None]
        for allergen in allergens:
            if allergen == drug:
                found.append(Finding("allergy", drug, allergen, "an allergy to the drug itself", "the record"))
            elif allergen in self.allergies:
                if reaction := self.allergies[allergen].get(drug):
                    found.append(Finding("allergy", drug, allergen, *reaction))
            elif allergen not in self.drugs:
                found.append(Finding("unlisted", drug, allergen, "the table does not list the allergen", self.name))
        return tuple(found)


def load_interactions(path: Path = SHIPPED) -> InteractionTable:
    """Read a table.

    ::

        format = 1
        name = "demonstration"
        version = "1.0.0"
        note = "Not a drug database."
        drugs = ["warfarin", "amiodarone", "amoxicillin", "heparin"]
        [[interaction]]
        between = ["warfarin", "amiodarone"]
        summary = "More bleeding."
        source = "Product information of warfarin, interactions"
        [[allergy]]
        allergen = "penicillin"
        drugs = ["amoxicillin"]
        summary = "A penicillin itself."
        source = "Product information of amoxicillin, contraindications"

    Raises:
        OrderError: absent, not TOML, or an entry is unknown, missing or contradicts another.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise OrderError(f"interaction table {path} cannot be read: {error}") from error
    where = f"interaction table {path.name}"
    _members(where, data, ("format", "name", "version", "note", "drugs"), ("interaction", "allergy"))
    if data["format"] != 1:
        raise OrderError(f"{where}: format: expected 1, got {data['format']!r}")
    drugs = frozenset(_words(f"{where}: drugs", data["drugs"]))
    pairs: dict[frozenset[str], tuple[str, str]] = {}
    for number, item in enumerate(_tables(where, data, "interaction")):
        here = f"{where}: interaction[{number}]"
        _members(here, item, ("between", "summary", "source"))
        between = frozenset(_listed(here, _words(f"{here}.between", item["between"]), drugs))
        if len(between) != 2:
            raise OrderError(f"{here}: between: expected two different drugs, got {item['between']!r}")
        if between in pairs:
            raise OrderError(f"{here}: the pair {', '.join(sorted(between))} is there already")
        pairs[between] = _said(here, item)
    allergies: dict[str, dict[str, tuple[str, str]]] = {}
    for number, item in enumerate(_tables(where, data, "allergy")):
        here = f"{where}: allergy[{number}]"
        _members(here, item, ("allergen", "drugs", "summary", "source"))
        (allergen,) = _words(f"{here}.allergen", [item["allergen"]])
        for drug in _listed(here, _words(f"{here}.drugs", item["drugs"]), drugs):
            if drug in allergies.setdefault(allergen, {}):
                raise OrderError(f"{here}: {allergen} and {drug} are there already")
            allergies[allergen][drug] = _said(here, item)
    return InteractionTable(
        name=_text(where, data, "name"),
        version=_text(where, data, "version"),
        note=_text(where, data, "note"),
        drugs=drugs,
        pairs=pairs,
        allergies=allergies,
    )


def _plain(word: str) -> str:
    return word.strip().lower()


def _members(where: str, data: Any, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
    if not isinstance(data, dict):
        raise OrderError(f"{where}: expected a table, got {data!r}")
    for key in data:
        if key not in required and key not in optional:
            raise OrderError(f"{where}: unknown key {key!r}", hint=f"expected {', '.join((*required, *optional))}")
    for key in required:
        if key not in data:
            raise OrderError(f"{where}: key {key!r} is missing")


def _tables(where: str, data: Mapping[str, Any], key: str) -> list[Any]:
    value = data.get(key, [])
    if not isinstance(value, list):
        raise OrderError(f"{where}: write [[{key}]] with double brackets")
    return value


def _words(where: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(word, str) for word in value):
        raise OrderError(f"{where}: expected texts, got {value!r}")
    for word in value:
        if not word or word != _plain(word):
            raise OrderError(f"{where}: expected lower case without blanks around it, got {word!r}")
    return tuple(value)


def _listed(where: str, words: tuple[str, ...], drugs: frozenset[str]) -> tuple[str, ...]:
    for word in words:
        if word not in drugs:
            raise OrderError(f"{where}: {word!r} is not among the table's drugs")
    return words


def _text(where: str, data: Mapping[str, Any], key: str) -> str:
    value = data[key]
    if not isinstance(value, str) or not value.strip():
        raise OrderError(f"{where}: {key}: expected a text that is not empty, got {value!r}")
    return value


def _said(where: str, data: Mapping[str, Any]) -> tuple[str, str]:
    return _text(where, data, "summary"), _text(where, data, "source")
