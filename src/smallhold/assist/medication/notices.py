"""What the plan of doses says to people: staff are told of overdue and missed ones, the patient of due ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from smallhold.assist.alarm import Harm, Onset, priority_of
from smallhold.assist.medication.board import MedicationBoard, SlotView
from smallhold.assist.medication.prescription import SlotState
from smallhold.assist.words import load_words
from smallhold.errors import InputError
from smallhold.records import ActionClass, Facts, Proposal, Provenance

CONDITION = "medication"

#: Reminders to the patient; they say what, and leave when and whether to the people who give it.
_REMINDERS = {
    "en": "It is time for your medicine: {drug}, {dose} {unit}. A nurse will come, or ring the bell.",
    "fr": "C'est l'heure de votre médicament : {drug}, {dose} {unit}. Une infirmière va venir, ou sonnez.",
    "ru": "Пора принять лекарство: {drug}, {dose} {unit}. Медсестра подойдёт, или позвоните.",
}


@dataclass(frozen=True, slots=True)
class Reminder:
    """One message to the patient, once a dose."""

    prescription: str
    due_ms: int
    text: str


def staff_notices(board: MedicationBoard, now_ms: int, provenance: Provenance) -> Iterator[Proposal]:
    """An alert for every dose that is overdue (LOW) or missed (MEDIUM) now; it goes when the dose is dealt with."""
    for view in board.plan(now_ms, until_ms=now_ms + 1):
        if view.state is SlotState.OVERDUE:
            yield _notice(board.patient, view, now_ms, provenance, "dose_overdue", Onset.PROMPT)
        elif view.state is SlotState.MISSED:
            yield _notice(board.patient, view, now_ms, provenance, "dose_missed", Onset.IMMEDIATE)


def due_reminders(board: MedicationBoard, now_ms: int, language: str = "en") -> Iterator[Reminder]:
    """A reminder for every planned dose whose time has come; the caller sends each once.

    Raises:
        InputError: no reminder is written in this language.
    """
    if language not in _REMINDERS:
        raise InputError(f"language: expected one of {', '.join(_REMINDERS)}, got {language!r}")
    for view in board.plan(now_ms, until_ms=now_ms + 1):
        if view.state in (SlotState.DUE, SlotState.OVERDUE) and view.slot.due_ms <= now_ms:
            item = view.prescription
            text = _REMINDERS[language].format(drug=item.drug, dose=item.dose, unit=item.unit)
            yield Reminder(item.id, view.slot.due_ms, text)


def _notice(patient: str, view: SlotView, now_ms: int, provenance: Provenance, key: str, onset: Onset) -> Proposal:
    item = view.prescription
    facts = Facts(
        key=key,
        numbers={"dose": float(item.dose), "minutes": float((now_ms - view.slot.due_ms) // 60_000)},
        texts={"drug": item.drug, "unit": item.unit, "route": item.route},
    )
    return Proposal(
        patient=patient,
        t_ms=now_ms,
        condition=f"{CONDITION}:{item.id}:{view.slot.due_ms}",
        action=ActionClass.A1,
        priority=priority_of(Harm.MINOR, onset),
        source="medication",
        has_abstained=False,
        is_degraded=False,
        rationale=load_words().sentence(facts),
        facts=facts,
        provenance=provenance,
    )
