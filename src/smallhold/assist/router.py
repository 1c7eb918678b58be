"""Who watches a patient: from what is on record on admission to the specialists of a bundle.

A route is a function of the record and of the groups alone: the same record gives the same route, and every watcher
comes with the entries that name it. Rules come before learning here because a wrong route is silent: a patient whom
the right specialist never sees raises no alarm. So nothing is decided by likeness, several specialists may watch one
patient, and the general task watches everybody, also those of whom nothing is known.

What a person wrote about the patient in free text may be read by the bundle's own text task (`note-specialty`), whose
answer is one more entry of the record; an abstention names nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from smallhold.errors import InputError
from smallhold.sectors.hospital.conditions import AdmissionRecord, ConditionGroup, condition_groups

_TEXTS = ("admission", "icu_type")
_LISTS = ("diagnoses", "icd9", "icd10", "specialties")
_MOST_CHARACTERS = 2000
_MOST_ENTRIES = 200


@dataclass(frozen=True, slots=True)
class Watcher:
    """One task that watches a patient.

    Attributes:
        task: Name of the task.
        group: Group that the patient belongs to; empty for the general task.
        because: The entries of the record that say so.
    """

    task: str
    group: str
    because: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unwatched:
    """A group that a patient belongs to and nobody watches for.

    Attributes:
        group: The group.
        because: The entries of the record that say so.
        reason: Why no specialist speaks.
    """

    group: str
    because: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Route:
    """Who watches a patient, and who does not.

    Attributes:
        watchers: The general task first, then specialists in the order of the groups, each task once.
        unwatched: Groups without a specialist that speaks: there the general task and the scores are alone.
    """

    watchers: tuple[Watcher, ...]
    unwatched: tuple[Unwatched, ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, the general one first."""
        return tuple(item.task for item in self.watchers)

    def lines(self) -> tuple[str, ...]:
        """The route in words, a line a watcher or a gap."""
        found = []
        for item in self.watchers:
            why = "; ".join(item.because) if item.group else "watches every patient"
            found.append(f"{item.task}{f' ({item.group})' if item.group else ''}: {why}")
        gaps = (f"no specialist for {gap.group} ({'; '.join(gap.because)}): {gap.reason}" for gap in self.unwatched)
        return (*found, *gaps)


def route(
    record: AdmissionRecord,
    speaking: Collection[str],
    *,
    general: str,
    groups: tuple[ConditionGroup, ...] | None = None,
) -> Route:
    """Choose the watchers of one patient.

    Args:
        record: What is on record.
        speaking: Tasks of the bundle that may be asked; one that failed its ablation is not in a bundle.
        general: The task that watches everybody.
        groups: Default: the hospital's, as shipped.

    Raises:
        InputError: the bundle lacks the general task.
    """
    if general not in speaking:
        raise InputError(f"route: the bundle has no task {general!r}, only {', '.join(sorted(speaking)) or 'none'}")
    watchers: dict[str, Watcher] = {general: Watcher(general, "", ())}
    gaps = []
    for group in condition_groups() if groups is None else groups:
        because = group.reasons(record)
        if not because:
            continue
        if group.task and group.task in speaking:
            earlier = watchers.get(group.task)
            if earlier is None:
                watchers[group.task] = Watcher(group.task, group.name, because)
            elif earlier.group:
                watchers[group.task] = replace(
                    earlier, group=f"{earlier.group}, {group.name}", because=(*earlier.because, *because)
                )
        else:
            reason = group.reason or f"the bundle has no task {group.task!r}"
            gaps.append(Unwatched(group.name, because, reason))
    return Route(tuple(watchers.values()), tuple(gaps))


def record_from(item: Mapping[str, Any], *, where: str) -> AdmissionRecord:
    """A record from a table of a roster.

    Raises:
        InputError: an unknown entry, one of the wrong type, or one that is too long; the message names it, and
            never what it holds.
    """
    made: dict[str, Any] = {}
    for name, value in item.items():
        if name not in (*_TEXTS, *_LISTS):
            raise InputError(f"{where}: unknown entry {name!r}, expected some of {', '.join((*_TEXTS, *_LISTS))}")
        entries = [value] if name in _TEXTS else value
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            kind = "text" if name in _TEXTS else "a list of texts"
            raise InputError(f"{where}: {name}: expected {kind}, got {type(value).__name__}")
        if len(entries) > _MOST_ENTRIES or any(len(entry) > _MOST_CHARACTERS for entry in entries):
            raise InputError(
                f"{where}: {name}: expected at most {_MOST_ENTRIES} entries of {_MOST_CHARACTERS} characters"
            )
        made[name] = value if name in _TEXTS else tuple(value)
    return AdmissionRecord(**made)
