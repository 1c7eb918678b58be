"""What people do at the console: each act is on record with whoever did it; on the ward's thread (`LiveWard.call`).

What concerns a dose, a prescription, an answer or a message is written first and true afterwards: when the journal
cannot be written it is refused. An acknowledgement and a pause count even then: people come before the record.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

from smallhold.assist.alarm_inactivation import InactivationState
from smallhold.assist.care import Care
from smallhold.assist.live import LiveBed, LiveWard
from smallhold.assist.medication import Prescription, SlotState
from smallhold.console.recorder import Recorder
from smallhold.device.journal import Journal
from smallhold.errors import InputError, JournalError, PolicyError
from smallhold.records import AlertState, Feedback, canonical_json, to_json

CONSOLE, FEEDBACK = "console", "feedback"
_DRAFT_MS = 30 * 60_000
_MOST_DRAFTS = 20


class NoSuchBedError(InputError):
    """Nobody of that name lies on the ward."""


class NoSuchItemError(InputError):
    """The bed has no such proposal, question or draft."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A prescription that waits for a second person."""

    prescription: Prescription
    expires_ms: int


class Acts:
    """Everything that the console can change.

    Args:
        ward: The live ward.
        care: Its medication and messages.
        journal: The ward's.
        recorder: Keeps proposals and questions.
        needed_prescribers: How many persons sign a prescription, 1 or 2.
    """

    def __init__(
        self, ward: LiveWard, care: Care, journal: Journal, recorder: Recorder, *, needed_prescribers: int = 1
    ) -> None:
        if needed_prescribers not in (1, 2):
            raise InputError(f"needed_prescribers: expected 1 or 2, got {needed_prescribers}")
        self.needed_prescribers = needed_prescribers
        self._ward, self._care, self._journal, self._recorder = ward, care, journal, recorder
        self._drafts: dict[str, dict[str, Draft]] = {}

    def bed(self, patient: str) -> LiveBed:
        """A bed by its patient.

        Raises:
            NoSuchBedError: there is none.
        """
        live = self._ward.beds.get(patient)
        if live is None:
            raise NoSuchBedError("no such patient lies on this ward")
        return live

    def note(self, action: str, actor: str, *, patient: str | None = None, **more: Any) -> None:
        """Put on record what changes nothing on the ward, such as a log-in; a failing journal does not prevent it."""
        with suppress(JournalError):
            self._write(CONSOLE, {"action": action, "actor": actor, **more}, patient=patient)

    def acknowledge(self, patient: str, condition: str, actor: str) -> None:
        """See `LiveWard.acknowledge`."""
        self.bed(patient)
        self._ward.acknowledge(patient, condition, actor)
        self._happened(patient, "acknowledged", condition, actor)

    def inactivate(
        self, patient: str, state: InactivationState, actor: str, *, condition: str, reason: str, for_ms: int | None
    ) -> None:
        """See `LiveWard.inactivate`."""
        self.bed(patient)
        self._ward.inactivate(patient, state, actor, condition=condition, reason=reason, for_ms=for_ms)
        self._happened(patient, state.value, f"{condition} {reason}".strip(), actor)

    def reactivate(self, patient: str, state: InactivationState, actor: str, *, condition: str) -> None:
        """See `LiveWard.reactivate`."""
        self.bed(patient)
        self._ward.reactivate(patient, state, actor, condition=condition)
        self._happened(patient, f"{state.value} ended", condition, actor)

    def answer_proposal(
        self,
        patient: str,
        proposal: str,
        response: Literal["accept", "override", "snooze"],
        actor: str,
        reason: str,
    ) -> None:
        """A person's answer to a proposal: on record as `Feedback`, and its alert counts as seen.

        To snooze is to pause the sound of its condition for as long as the ward allows; the proposal stays open.

        Raises:
            NoSuchItemError: no such proposal.
            InputError: an override gives no reason, or another answer is on record.
            JournalError: it could not be put on record.
        """
        live = self.bed(patient)
        kept = self._recorder.bed(patient).proposals.get(proposal)
        if kept is None:
            raise NoSuchItemError("no such proposal at this bed")
        if response == "override" and not reason.strip():
            raise InputError("override: expected a reason")
        if kept.answer is not None:
            raise InputError(f"this proposal was answered already: {kept.answer}")
        now_ms = self._ward.clock.now_ms()
        feedback = Feedback(
            subject=kept.id,
            response=response,
            reason=reason,
            actor=actor,
            t_ms=now_ms,
            response_time_ms=max(0, now_ms - kept.proposal.t_ms),
            provenance=kept.proposal.provenance,
        )
        self._write(FEEDBACK, to_json(feedback), patient=patient, must_checkpoint=True)
        condition = kept.proposal.condition
        standing = {alert.condition: alert for alert in live.bed.alarms.current(patient)}
        if response == "snooze":
            longest_ms = live.bed.alarms.rules.times.longest_audio_pause_ms
            state = InactivationState.AUDIO_PAUSED
            self._ward.inactivate(patient, state, actor, condition=condition, reason=reason, for_ms=longest_ms)
        else:
            kept.answer, kept.actor = response, actor
            if condition in standing and standing[condition].state is not AlertState.ACKNOWLEDGED:
                self._ward.acknowledge(patient, condition, actor)
        self._happened(patient, response, f"{condition} {reason}".strip(), actor)

    def answer_ask(self, patient: str, ask: str, answer: Literal["agree", "refuse"], actor: str, reason: str) -> None:
        """A person agrees or refuses; a question that wants two persons is agreed when two different ones did.

        Raises:
            NoSuchItemError: no such question.
            InputError: it is over, or this person agreed already.
            JournalError: it could not be put on record.
        """
        self.bed(patient)
        kept = self._recorder.bed(patient).asks.get(ask)
        if kept is None:
            raise NoSuchItemError("no such question at this bed")
        now_ms = self._ward.clock.now_ms()
        if kept.answer is not None or now_ms >= kept.ask.expires_ms:
            raise InputError(f"this question is over: {kept.answer or 'expired'}")
        if actor in kept.agreed and answer == "agree":
            raise InputError("you agreed already: a second, different person is needed")
        said = {"action": "answer-ask", "ask": ask, "answer": answer, "actor": actor, "reason": reason, "t_ms": now_ms}
        self._write(CONSOLE, said, patient=patient, must_checkpoint=True)
        if answer == "refuse":
            kept.answer = "refused"
        else:
            kept.agreed.append(actor)
            kept.answer = "agreed" if len(kept.agreed) >= max(1, kept.ask.confirmations) else None
        self._happened(patient, answer, kept.ask.question, actor)

    def prescribe(self, patient: str, values: Mapping[str, Any], actor: str) -> dict[str, Any]:
        """Prescribe, or draft a prescription that a second person signs.

        Returns:
            `id`, `is_draft`, and `cautions` that whoever gives it will meet.

        Raises:
            InputError: impossible, or too many drafts wait.
            PolicyError: contraindicated.
            JournalError: it could not be put on record.
        """
        self.bed(patient)
        now_ms = self._ward.clock.now_ms()
        item = Prescription(
            id=f"rx-{secrets.token_hex(4)}",
            patient=patient,
            prescribers=(actor,),
            **{**values, "start_ms": values.get("start_ms") or now_ms},
        )
        if self.needed_prescribers == 1:
            found = self._care.board(patient).prescribe(item)
            self._happened(patient, "prescribed", _in_words(item), actor)
            return {"id": item.id, "is_draft": False, "cautions": [conflict.text for conflict in found]}
        drafts = self._open_drafts(patient)
        if len(drafts) >= _MOST_DRAFTS:
            raise InputError(f"{len(drafts)} drafts of this patient wait for a second person already")
        said = {"action": "draft-prescription", "id": item.id, "drug": item.drug, "actor": actor, "t_ms": now_ms}
        self._write(CONSOLE, said, patient=patient)
        drafts[item.id] = Draft(item, now_ms + _DRAFT_MS)
        return {"id": item.id, "is_draft": True, "cautions": []}

    def sign_draft(self, patient: str, draft: str, actor: str) -> dict[str, Any]:
        """The second person signs: only then it is prescribed. Arguments and errors as for `prescribe`."""
        self.bed(patient)
        held = self._open_drafts(patient).get(draft)
        if held is None:
            raise NoSuchItemError("no such draft of this patient; it may have expired")
        if actor in held.prescription.prescribers:
            raise PolicyError("a second, different person has to sign")
        item = replace(held.prescription, prescribers=(*held.prescription.prescribers, actor))
        found = self._care.board(patient).prescribe(item, needed_prescribers=self.needed_prescribers)
        del self._drafts[patient][draft]
        self._happened(patient, "prescribed", _in_words(item), " + ".join(item.prescribers))
        return {"id": item.id, "is_draft": False, "cautions": [conflict.text for conflict in found]}

    def drafts(self, patient: str) -> list[dict[str, Any]]:
        """Prescriptions that wait for a second person."""
        return [
            {
                "id": item.prescription.id,
                "text": _in_words(item.prescription),
                "by": item.prescription.prescribers[0],
                "expires_ms": item.expires_ms,
            }
            for item in self._open_drafts(patient).values()
        ]

    def stop_prescription(self, patient: str, prescription: str, actor: str, reason: str) -> None:
        """See `MedicationBoard.stop`."""
        self.bed(patient)
        self._care.board(patient).stop(prescription, actor, self._ward.clock.now_ms(), reason)
        self._happened(patient, "stopped", f"{prescription} {reason}", actor)

    def give(
        self, patient: str, prescription: str, actor: str, *, slot_ms: int | None, witness: str, reason: str
    ) -> None:
        """See `MedicationBoard.give`."""
        self.bed(patient)
        now_ms = self._ward.clock.now_ms()
        self._care.board(patient).give(prescription, actor, now_ms, slot_ms=slot_ms, witness=witness, reason=reason)
        self._happened(patient, "given", f"{prescription} {reason}".strip(), actor)

    def settle(self, patient: str, prescription: str, slot_ms: int, state: SlotState, actor: str, reason: str) -> None:
        """See `MedicationBoard.settle`."""
        self.bed(patient)
        now_ms = self._ward.clock.now_ms()
        self._care.board(patient).settle(prescription, slot_ms, state, actor, now_ms, reason)
        self._happened(patient, state.value, f"{prescription} {reason}", actor)

    def message(self, patient: str, actor: str, text: str) -> None:
        """See `Messages.send`."""
        self.bed(patient)
        self._care.messages.send(patient, actor, text, self._ward.clock.now_ms())
        self._happened(patient, "message", text, actor)

    def _open_drafts(self, patient: str) -> dict[str, Draft]:
        now_ms = self._ward.clock.now_ms()
        drafts = self._drafts.setdefault(patient, {})
        for name in [name for name, item in drafts.items() if item.expires_ms <= now_ms]:
            del drafts[name]
        return drafts

    def _happened(self, patient: str, what: str, text: str, actor: str) -> None:
        self._recorder.happened(patient, self._ward.clock.now_ms(), what, text, actor)

    def _write(
        self, kind: str, value: Mapping[str, Any], *, patient: str | None, must_checkpoint: bool = False
    ) -> None:
        must = must_checkpoint and self._journal.is_signing
        told = value if patient is None or kind == FEEDBACK else {"patient": patient, **value}
        self._journal.append(kind, canonical_json(told), patient=patient, must_checkpoint=must)


def _in_words(item: Prescription) -> str:
    return f"{item.drug} {item.dose} {item.unit} {item.route}, {item.kind.value}"
