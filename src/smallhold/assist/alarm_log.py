"""The alarms of a ward, whose log and state survive a power cut: `AlarmManager`s that write down what they come to.

Each time the state of a patient's alarms has changed, one journal entry of kind `alarm` holds what happened since and
the whole state. After a kill or a power cut `AlarmLog.resume` reads the newest state of each patient, and every
unresolved alert, acknowledgement and inactivation stands as it did when the last entry was written.

An act of a person is on the disk when its method returns. A change that came with a step is written after its step
and after people were called: cut off in between, the condition is announced again, never lost.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from smallhold.assist.alarm import AlarmManager, AlarmRules, AlarmTimes, Inactivation, InactivationState
from smallhold.assist.alarm_condition import AlarmChange
from smallhold.assist.alarm_inactivation import InactivationEvent
from smallhold.assist.step import Step, pack_change, unpack_change
from smallhold.device.journal import Journal
from smallhold.errors import InputError, JournalError
from smallhold.records import Provenance, canonical_json

KIND = "alarm"
_SCHEMA = "smallhold.alarm/1"
_NO_PROVENANCE = Provenance(trace_id="")  # equals no record's own, so that each keeps its provenance


@dataclass(frozen=True, slots=True)
class AlarmEntry:
    """What one journal entry of kind `alarm` says.

    Attributes:
        patient: Whose alarms.
        t_ms: When.
        changes: Of alerts, apart from those that a journalled step tells of.
        inactivations: Beginnings and ends, likewise.
        state: All alarms of the patient after it (`AlarmManager.snapshot`).
    """

    patient: str
    t_ms: int
    changes: tuple[AlarmChange, ...]
    inactivations: tuple[InactivationEvent, ...]
    state: dict[str, Any]

    def to_payload(self) -> bytes:
        """Canonical JSON for one journal entry."""
        return canonical_json(
            {
                "schema": _SCHEMA,
                "patient": self.patient,
                "t_ms": self.t_ms,
                "changes": [pack_change(item, _NO_PROVENANCE) for item in self.changes],
                "inactivations": [item.to_json() for item in self.inactivations],
                "state": self.state,
            }
        )

    @classmethod
    def from_payload(cls, payload: bytes) -> AlarmEntry:
        """Read back what `to_payload` wrote.

        Raises:
            JournalError: it is not an alarm entry of this version.
        """
        try:
            value = json.loads(payload)
            if value["schema"] != _SCHEMA:
                raise InputError(f"schema: expected {_SCHEMA!r}, got {value['schema']!r}")
            return cls(
                value["patient"],
                value["t_ms"],
                tuple(unpack_change(item, {}) for item in value["changes"]),
                tuple(map(InactivationEvent.from_json, value["inactivations"])),
                value["state"],
            )
        except (KeyError, TypeError, ValueError, InputError) as error:
            raise JournalError(f"a journalled alarm entry cannot be read: {error}") from error


class AlarmLog:
    """The alarm managers of a ward and the journal that remembers them.

    A journal that fails does not stop alarms: what people do still counts, and `journal_error` says that it is not
    on record.

    Args:
        journal: Open for appending; with a key, each entry is forced to the disk.
        rules: What the ward sets.
    """

    def __init__(self, journal: Journal, rules: AlarmRules | AlarmTimes | None = None) -> None:
        self.journal_error: str | None = None
        self._journal = journal
        self._rules = rules
        self._managers: dict[str, AlarmManager] = {}
        self._written: dict[str, bytes] = {}
        self._unwritten: dict[str, tuple[tuple[AlarmChange, ...], tuple[InactivationEvent, ...]]] = {}

    @classmethod
    def resume(cls, journal: Journal, rules: AlarmRules | AlarmTimes | None = None) -> AlarmLog:
        """Take up the newest state of every patient.

        Raises:
            JournalError: an entry cannot be read.
        """
        log = cls(journal, rules)
        newest = {}
        for _, payload in journal.entries(kind=KIND):
            if payload is not None:  # an erased patient has no alarms
                entry = AlarmEntry.from_payload(payload)
                newest[entry.patient] = entry.state
        for patient, state in newest.items():
            log._add(patient, AlarmManager.restore(state, rules))
        return log

    @property
    def patients(self) -> tuple[str, ...]:
        """Everybody with a state, in the order in which they came."""
        return tuple(self._managers)

    def manager(self, patient: str) -> AlarmManager:
        """The alarms of one patient, for `Bedside(alarms=...)`; call `follow` after each step then."""
        found = self._managers.get(patient)
        return self._add(patient, AlarmManager(self._rules)) if found is None else found

    def follow(self, step: Step) -> None:
        """Write down what a journalled step left behind, if it changed anything."""
        self._save(step.patient, step.t_ms, ())

    def acknowledge(
        self, patient: str, condition: str, actor: str, t_ms: int, *, for_ms: int | None = None
    ) -> tuple[AlarmChange, ...]:
        """See `AlarmManager.acknowledge`."""
        changes = self.manager(patient).acknowledge(patient, condition, actor, t_ms, for_ms=for_ms)
        self._save(patient, t_ms, changes)
        return changes

    def inactivate(self, wanted: Inactivation) -> Inactivation:
        """See `AlarmManager.inactivate`."""
        begun = self.manager(wanted.patient).inactivate(wanted)
        self._save(wanted.patient, wanted.from_ms, ())
        return begun

    def reactivate(self, patient: str, condition: str, state: InactivationState, actor: str, t_ms: int) -> None:
        """See `AlarmManager.reactivate`."""
        self.manager(patient).reactivate(patient, condition, state, actor, t_ms)
        self._save(patient, t_ms, ())

    def tick(self, t_ms: int) -> tuple[AlarmChange, ...]:
        """Let time pass for every patient, also for one whose monitor says nothing."""
        changes: tuple[AlarmChange, ...] = ()
        for patient, manager in self._managers.items():
            new = manager.tick(t_ms)
            self._save(patient, t_ms, new)
            changes += new
        return changes

    def _add(self, patient: str, manager: AlarmManager) -> AlarmManager:
        self._managers[patient] = manager
        self._written[patient] = canonical_json(manager.snapshot())
        return manager

    def _save(self, patient: str, t_ms: int, changes: tuple[AlarmChange, ...]) -> None:
        manager = self.manager(patient)
        earlier_changes, earlier_events = self._unwritten.pop(patient, ((), ()))
        changes, events = earlier_changes + changes, earlier_events + manager.take_events()
        state = manager.snapshot()
        data = canonical_json(state)
        if not changes and not events and data == self._written[patient]:
            return
        entry = AlarmEntry(patient, t_ms, changes, events, state)
        try:
            self._journal.append(KIND, entry.to_payload(), patient=patient, must_checkpoint=self._journal.is_signing)
        except JournalError as error:
            self.journal_error = str(error)
            self._unwritten[patient] = (changes, events)
            return
        self.journal_error = None
        self._written[patient] = data


def apply_acknowledgement(log: AlarmLog, about: str, actor: str, t_ms: int) -> bool:
    """An acknowledgement from another device, about an alert by its id; applying it twice changes nothing.

    Returns:
        False when that alert no longer stands: resolved, or a later episode of its condition.
    """
    for patient in log.patients:
        for alert in log.manager(patient).current(patient):
            if alert.id == about:
                log.acknowledge(patient, alert.condition, actor, t_ms)
                return True
    return False
