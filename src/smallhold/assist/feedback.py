"""What people made of alerts, and what became of the patients: kept in the journal, on site.

An answer (accept, override with a reason, snooze) is one journal entry of kind `feedback`, sealed with the patient's
key like everything about them, so that erasing a patient erases it. The outcome comes later, as an entry of kind
`outcome`.
The vocabulary follows HL7 CDS Hooks 2.0: an override names a coded reason.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from smallhold.assist.replay import STEP
from smallhold.assist.step import Step
from smallhold.device.journal import Journal
from smallhold.errors import InputError, JournalError
from smallhold.records import Alert, Feedback, canonical_json, from_json, to_json

KIND, OUTCOME = "feedback", "outcome"
RESPONSES = ("accept", "override", "snooze")
#: Why an alert was overridden. A word the site misses is `other`, and a reason to extend this list.
REASONS = (
    "already-known",
    "already-treated",
    "artefact",
    "baseline-of-patient",
    "not-clinically-relevant",
    "limits-of-care",
    "wrong-patient",
    "other",
)
_LONGEST_NAME = 128
#: As `AlarmManager` makes them.
_ALERT_ID = re.compile(r"^(?P<patient>.+)/(?P<condition>[^/]+)/\d+$")
_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a person made of one alert.

    Attributes:
        patient: Pseudonymous identifier.
        condition: Of the alert; `unknown` where no step on record says.
        feedback: The record; its subject is the alert's id, or what a console or client calls it.
    """

    patient: str
    condition: str
    feedback: Feedback


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a patient: whether the event happened that a task asks about.

    Attributes:
        patient: Pseudonymous identifier.
        task: For example `icu-risk`.
        has_happened: For `icu-risk`, death in hospital.
        actor: Who says so.
        t_ms: When they said it.
    """

    patient: str
    task: str
    has_happened: bool
    actor: str
    t_ms: int


@dataclass(frozen=True, slots=True)
class FeedbackLog:
    """Every answer and outcome that a journal still holds, oldest first."""

    answers: tuple[Answer, ...]
    outcomes: Mapping[tuple[str, str], Outcome]

    def override_rates(self) -> dict[str, dict[str, Any]]:
        """Per condition: answers, overrides, their share, and the reasons given; a snooze is no answer yet."""
        rates: dict[str, dict[str, Any]] = {}
        for condition in sorted({answer.condition for answer in self.answers}):
            mine = [a.feedback for a in self.answers if a.condition == condition and a.feedback.response != "snooze"]
            overrides = [item for item in mine if item.response == "override"]
            rates[condition] = {
                "answers": len(mine),
                "overrides": len(overrides),
                "override_rate": len(overrides) / len(mine) if mine else None,
                "reasons": dict(sorted(Counter(item.reason for item in overrides).items())),
            }
        return rates


def record_answer(
    journal: Journal, alert: Alert, *, response: str, reason: str = "", actor: str, t_ms: int
) -> Feedback:
    """Write down what a person made of an alert.

    Args:
        journal: Of the ward.
        alert: What it is about.
        response: One of `RESPONSES`.
        reason: One of `REASONS`; an override needs one.
        actor: The person.
        t_ms: When, on the clock of the alert; not before it.

    Raises:
        InputError: the response or reason is none of those, an override has no reason, nobody is named, or the
            answer is older than the alert. Nothing is written then.
        JournalError: it could not be journalled.
    """
    if response not in RESPONSES:
        raise InputError(f"feedback: response: expected one of {', '.join(RESPONSES)}, got {response!r}")
    if (reason or response == "override") and reason not in REASONS:
        raise InputError(f"feedback: reason of an {response}: expected one of {', '.join(REASONS)}, got {reason!r}")
    _check_actor(actor)
    if t_ms < alert.t_ms:
        raise InputError(f"feedback: an answer at {t_ms} ms cannot be to an alert of {alert.t_ms} ms")
    feedback = Feedback(
        subject=alert.id,
        response=response,
        reason=reason,
        actor=actor,
        t_ms=t_ms,
        response_time_ms=t_ms - alert.t_ms,
        provenance=alert.provenance,
    )
    _append(journal, KIND, alert.patient, to_json(feedback))
    return feedback


def record_outcome(journal: Journal, outcome: Outcome) -> None:
    """Write down what became of a patient; a later entry corrects an earlier one.

    Raises:
        InputError: patient or task are not named, or nobody is. Nothing is written then.
        JournalError: it could not be journalled.
    """
    _check_actor(outcome.actor)
    if not outcome.patient or not outcome.task:
        raise InputError("feedback: an outcome needs a patient and a task")
    _append(journal, OUTCOME, outcome.patient, asdict(outcome))


def read_feedback(journal: Journal) -> FeedbackLog:
    """Everything on record, whichever screen or client took it; what was erased is gone.

    An answer belongs to the alert that its subject names, or else to the step that its trace names.

    Raises:
        JournalError: an entry cannot be read.
    """
    records: list[Feedback] = []
    for entry, payload in journal.entries(kind=KIND):
        if payload is not None:
            records.append(_read(entry.seq, payload))
    outcomes: dict[tuple[str, str], Outcome] = {}
    for entry, payload in journal.entries(kind=OUTCOME):
        if payload is not None:
            try:
                outcome = Outcome(**json.loads(payload))
            except (ValueError, TypeError) as error:
                raise JournalError(f"entry {entry.seq}: an outcome cannot be read: {error}") from error
            outcomes[outcome.patient, outcome.task] = outcome
    traces = {record.provenance.trace_id for record in records if not _ALERT_ID.match(record.subject)}
    steps = _steps(journal, traces) if traces else {}
    answers = []
    for record in records:
        named = _ALERT_ID.match(record.subject)
        patient, condition = (
            (named["patient"], named["condition"]) if named else steps.get(record.provenance.trace_id, ("", _UNKNOWN))
        )
        answers.append(Answer(patient=patient, condition=condition, feedback=record))
    return FeedbackLog(tuple(answers), outcomes)


def _read(seq: int, payload: bytes) -> Feedback:
    try:
        record = from_json(json.loads(payload))
    except (ValueError, AttributeError, InputError) as error:
        raise JournalError(f"entry {seq}: feedback cannot be read: {error}") from error
    if not isinstance(record, Feedback):
        raise JournalError(f"entry {seq}: feedback cannot be read: got another record")
    return record


def _steps(journal: Journal, traces: set[str]) -> dict[str, tuple[str, str]]:
    """Trace to the patient of its step and what was proposed there."""
    found = {}
    for _, payload in journal.entries(kind=STEP):
        if payload is None:
            continue
        step = Step.from_payload(payload)
        if step.provenance.trace_id in traces and step.proposals:
            found[step.provenance.trace_id] = (step.patient, step.proposals[0].condition)
    return found


def find_alert(journal: Journal, alert_id: str) -> Alert:
    """An alert as it was first raised, from the journal.

    Raises:
        InputError: no step on record knows it.
    """
    found: Alert | None = None
    mark = alert_id.encode()
    for _, payload in journal.entries(kind=STEP):
        if payload is not None and mark in payload:
            named = [change.alert for change in Step.from_payload(payload).changes if change.alert.id == alert_id]
            found = named[0] if found is None and named else found
    if found is None:
        raise InputError(f"feedback: no alert {alert_id[:_LONGEST_NAME]!r} is on record", hint="smallhold journal show")
    return found


def _append(journal: Journal, kind: str, patient: str, value: Mapping[str, Any]) -> None:
    journal.append(kind, canonical_json(value), patient=patient, must_checkpoint=True)


def _check_actor(actor: str) -> None:
    if not actor.strip() or len(actor) > _LONGEST_NAME or not actor.isprintable():
        raise InputError(f"feedback: expected the name of a person, 1 to {_LONGEST_NAME} printable characters")
