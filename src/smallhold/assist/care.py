"""What people do on a live ward: medication, messages, consent; each on record before it is true.

One `Care` belongs to one `LiveWard` and is used on its thread (`LiveWard.call`). Its state is the journal: at the start
the events of every patient are read back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from smallhold.assist.consent import Consent, Consents, Purpose
from smallhold.assist.live import LiveWard
from smallhold.assist.medication.board import CheckDrug, MedicationBoard
from smallhold.assist.medication.notices import due_reminders, staff_notices
from smallhold.assist.messages import Message, Messages
from smallhold.assist.orders.limits import Dose
from smallhold.assist.self_report import SOURCE, Intake, Review, SelfReports
from smallhold.device.journal import Journal
from smallhold.errors import InputError, JournalError
from smallhold.records import ActionClass, Priority, Proposal, Provenance, canonical_json

MEDICATION, MESSAGE, CONSENT, INTAKE, REVIEW = "medication", "message", "consent", "intake", "review"


class Care:
    """Medication boards, messages, consents and patients' own reports of a ward.

    Attributes:
        messages: To patients.
        consents: What patients said; change them by `say_consent`, so that the beds know.
        reports: Symptoms and review requests that patients sent.

    Args:
        ward: Runs the beds; gets the notices of overdue doses.
        journal: The ward's.
        check_drug: Patient to the check of allergies and interactions.
        elsewhere: (patient, drug) to doses under standing orders.
        is_stopped: The stop control.
        deliver: Puts a message on its way to the patient's device.
        language: Patient to the language of their reminders.
        on_report: Told of every new report of a patient. With it staff hear of patients who have no bed here (yet);
            without it nobody is called for those.
        on_consent: Told of (patient, purpose, consent) whenever it is said, and of all that was said at the start: for
            a site that learns, `federate.consent.ConsentList`. May come again for the same.

    Raises:
        JournalError: an event on record cannot be read.
    """

    def __init__(
        self,
        ward: LiveWard,
        journal: Journal,
        *,
        check_drug: Callable[[str], CheckDrug | None] = lambda _: None,
        elsewhere: Callable[[str, str], Iterable[Dose]] = lambda _patient, _drug: (),
        is_stopped: Callable[[], bool] = lambda: False,
        deliver: Callable[[Message], None] = lambda _: None,
        language: Callable[[str], str] = lambda _: "en",
        on_report: Callable[[Intake | Review], None] | None = None,
        on_consent: Callable[[str, Purpose, Consent], None] = lambda _patient, _purpose, _consent: None,
    ) -> None:
        self._ward, self._journal, self._on_report, self._on_consent = ward, journal, on_report, on_consent
        self._check_drug, self._elsewhere, self._is_stopped, self._language = (
            check_drug,
            elsewhere,
            is_stopped,
            language,
        )
        self._boards: dict[str, MedicationBoard] = {}
        self.messages = Messages(self._write_message, deliver)
        self.consents = Consents(lambda patient, event: self._write(CONSENT, patient, event))
        self.reports = SelfReports(self._write, on_report or (lambda _: None))
        try:
            for _, payload in journal.entries(kind=MEDICATION):
                if payload is not None:
                    event = json.loads(payload)
                    self.board(event["patient"]).recall([event])
            self.messages.recall(self._recorded(MESSAGE))
            self.consents.recall(self._recorded(CONSENT))
            for kind in (INTAKE, REVIEW):
                self.reports.recall(self._recorded(kind))
        except (InputError, ValueError, KeyError, TypeError) as error:
            raise JournalError(f"an event of the ward's care cannot be read: {error}") from error
        for patient, purpose, consent in self.consents.said():
            on_consent(patient, purpose, consent)
        ward.on_admit = self._watch
        for patient in ward.beds:
            self._watch(patient)

    def board(self, patient: str) -> MedicationBoard:
        """A patient's board; made when first asked for."""
        held = self._boards.get(patient)
        if held is None:
            held = self._boards[patient] = MedicationBoard(
                patient,
                lambda event: self._write(MEDICATION, patient, event),
                check_drug=self._check_drug(patient),
                is_stopped=self._is_stopped,
                elsewhere=lambda drug: self._elsewhere(patient, drug),
            )
        return held

    def remind(self, now_ms: int) -> tuple[Message, ...]:
        """Send the reminders whose time has come, each once, as far as the policy lets the machine write."""
        sent = []
        for patient, board in self._boards.items():
            live = self._ward.beds.get(patient)
            if live is None:
                continue
            language = self._language(patient)
            for reminder in due_reminders(board, now_ms, language):
                about = f"{reminder.prescription}@{reminder.due_ms}"
                verdict = live.bed.judge(
                    _message_proposal(patient, reminder.text, now_ms, live.bed.ward.profile.digest)
                )
                message = self.messages.send_by_machine(patient, reminder.text, now_ms, verdict, language, about)
                sent += [] if message is None else [message]
        return tuple(sent)

    def say_consent(
        self, patient: str, purpose: str, state: str, actor: str, now_ms: int, *, id: str = ""
    ) -> dict[Purpose, Consent]:
        """A patient gives or takes back their consent; in force at the bed when this returns, whatever it raises.

        See `Consents.say`.
        """
        try:
            return self.consents.say(patient, purpose, state, actor, now_ms, id=id)
        finally:
            held = self.consents.of(patient)
            live = self._ward.beds.get(patient)
            if live is not None:
                live.bed.consents = held
            if purpose in held:
                self._on_consent(patient, Purpose(purpose), held[Purpose(purpose)])

    def intakes(self, patient: str) -> tuple[Intake, ...]:
        """The symptoms that a patient handed over to staff, oldest first."""
        return self.reports.intakes(patient)

    def calls_staff(self, patient: str) -> bool:
        """Whether a report of this patient calls somebody: at their bed, or by `on_report`."""
        return patient in self._ward.beds or self._on_report is not None

    def take_report(self, patient: str, id: str, actor: str) -> None:
        """A member of staff takes on what a patient reported; its alert is acknowledged with it. On the ward's thread.

        See `SelfReports.take`.
        """
        self.reports.take(patient, id, actor, self._ward.clock.now_ms())
        with suppress(InputError):  # no bed yet, or its alert is over
            self._ward.acknowledge(patient, f"{SOURCE}:{id}", actor)

    def _watch(self, patient: str) -> None:
        """Let a bed know what the patient said, and hear of doses that are overdue."""

        def suggest(t_ms: int, provenance: Provenance) -> Iterable[Proposal]:
            board = self._boards.get(patient)
            return () if board is None else staff_notices(board, t_ms, provenance)

        bed = self._ward.beds[patient].bed
        bed.others[MEDICATION] = suggest
        bed.others[SOURCE] = lambda t_ms, provenance: self.reports.suggest(patient, t_ms, provenance)
        bed.consents = self.consents.of(patient)

    def _recorded(self, kind: str) -> Iterator[Mapping[str, Any]]:
        return (json.loads(payload) for _, payload in self._journal.entries(kind=kind) if payload is not None)

    def _write_message(self, patient: str, event: Mapping[str, Any]) -> None:
        self._write(MESSAGE, patient, event)

    def _write(self, kind: str, patient: str, event: Mapping[str, Any]) -> None:
        # Signed and on the disk before anything is given or said.
        self._journal.append(kind, canonical_json(event), patient=patient, must_checkpoint=True)


def _message_proposal(patient: str, text: str, now_ms: int, profile: str) -> Proposal:
    return Proposal(
        patient=patient,
        t_ms=now_ms,
        condition="reminder",
        action=ActionClass.A2,
        priority=Priority.INFO,
        source="medication",
        has_abstained=False,
        is_degraded=False,
        rationale=text,
        provenance=Provenance(trace_id="0" * 32, profile=profile),
    )
