"""Medication and messages on a live ward: notices to staff, reminders to the patient, and a journal that keeps both."""

from pathlib import Path
from typing import Any

import pytest

from smallhold.assist.care import MEDICATION, MESSAGE, Care
from smallhold.assist.medication import Kind, Prescription, SlotState
from smallhold.assist.messages import Message, Messages
from smallhold.errors import InputError, JournalError, PolicyError
from smallhold.records import ActionClass, Effect, Verdict

from .small_ward import PROVENANCE
from .test_live import Clocks, Ward

HOUR = 3_600_000


def prescription(start_ms: int, **changes: Any) -> Prescription:
    values: dict[str, Any] = {
        "id": "rx1", "patient": "p", "drug": "paracetamol", "dose": 500, "unit": "mg", "route": "oral",
        "kind": Kind.SCHEDULED, "start_ms": start_ms, "every_ms": 6 * HOUR, "prescribers": ("dr A",),
    }  # fmt: skip
    return Prescription(**{**values, **changes})


def filled(folder: Path, clocks: Clocks) -> Ward:
    ward = Ward(folder, clocks)
    ward.put("HR", 80.0)
    ward.turn()
    return ward


def test_an_overdue_dose_calls_staff_until_it_is_given(tmp_path: Path) -> None:
    clocks = Clocks()
    ward = filled(tmp_path, clocks)
    care = Care(ward.live, ward.journal)
    now = ward.live.clock.now_ms()
    care.board("p").prescribe(prescription(now))
    clocks.pass_seconds(2 * 3600)
    ward.tick()
    (told,) = [alert for alert in ward.alerts if alert.source == "medication"]
    assert (told.kind, told.priority.value) == ("technical", "low")
    assert "paracetamol 500 mg (oral) is overdue: due 120 min ago" in told.message
    care.board("p").give("rx1", "nurse", ward.live.clock.now_ms(), slot_ms=now)
    ward.tick()
    clocks.pass_seconds(3600)  # an alert follows its condition after it has settled
    ward.tick()
    assert not [a for a in ward.live.beds["p"].bed.alarms.current("p") if a.source == "medication"]
    ward.die()


def test_a_missed_dose_is_said_louder_and_again_when_nobody_answers(tmp_path: Path) -> None:
    clocks = Clocks()
    ward = filled(tmp_path, clocks)
    care = Care(ward.live, ward.journal)
    care.board("p").prescribe(prescription(ward.live.clock.now_ms()))
    for _ in range(5):
        clocks.pass_seconds(3600)
        ward.tick()
    told = [alert.priority.value for alert in ward.alerts if alert.source == "medication"]
    assert told == ["low", "medium", "medium"]
    ward.die()


def test_a_reminder_is_sent_once_and_says_that_a_machine_wrote_it(tmp_path: Path) -> None:
    clocks = Clocks()
    ward = filled(tmp_path, clocks)
    delivered: list[Message] = []
    care = Care(ward.live, ward.journal, deliver=delivered.append, language=lambda _: "fr")
    ward.live.beds["p"].bed.ward = _consenting(ward.live.beds["p"].bed.ward)
    start = ward.live.clock.now_ms()
    care.board("p").prescribe(prescription(start))
    ward.until_decided(0)
    clocks.pass_seconds(61 * 60)
    ward.put("HR", 81.0)
    ward.turn()
    ward.until_decided(1)  # the floor is not alone any more: alone, a message would need a person
    care.remind(start + 1)
    care.remind(start + 2)
    assert len(delivered) == 1
    assert "paracetamol, 500 mg" in delivered[0].text
    assert "Ceci est un message automatique." in delivered[0].text
    # A later process does not send it again.
    again = Care(ward.live, ward.journal, deliver=delivered.append)
    again.remind(start + 3)
    assert len(delivered) == 1
    ward.die()


def _consenting(ward: Any) -> Any:
    from dataclasses import replace

    return replace(ward, consent="given")


def test_after_a_death_boards_and_messages_stand_as_they_stood(tmp_path: Path) -> None:
    clocks = Clocks()
    ward = filled(tmp_path, clocks)
    care = Care(ward.live, ward.journal)
    now = ward.live.clock.now_ms()
    care.board("p").prescribe(prescription(now))
    care.board("p").give("rx1", "nurse", now, slot_ms=now)
    message = care.messages.send("p", "dr A", "Bitte klingeln,\nwenn Ihnen übel wird.", now)
    ward.die()
    again = Ward(tmp_path, clocks)
    care = Care(again.live, again.journal)
    assert [dose.slot_ms for dose in care.board("p").given()] == [now]
    assert care.board("p").plan(now)[0].state is SlotState.GIVEN
    assert care.messages.of("p", is_open=True) == (message,)
    care.messages.seen("p", message.id, now + 5)
    care.messages.seen("p", message.id, now + 9)
    assert care.messages.of("p")[0].seen_ms == now + 5
    assert not care.messages.of("p", is_open=True)
    kinds = [entry.kind for entry, _ in again.journal.entries()]
    assert kinds.count(MEDICATION) == 2 and kinds.count(MESSAGE) == 2
    again.die()


def verdict(effect: Effect, *obligations: str, action: ActionClass = ActionClass.A2) -> Verdict:
    return Verdict(action=action, effect=effect, clauses=(), obligations=obligations, provenance=PROVENANCE)


def test_a_machine_writes_only_as_far_as_the_policy_lets_it() -> None:
    messages = Messages(lambda patient, event: None)
    assert messages.send_by_machine("p", "x", 1, verdict(Effect.CONFIRM_ONE)) is None
    assert messages.send_by_machine("p", "x", 1, verdict(Effect.FORBID)) is None
    sent = messages.send_by_machine("p", "x", 1, verdict(Effect.AUTO))
    assert sent is not None and sent.text == "x" and sent.is_machine
    with pytest.raises(PolicyError, match="expected a verdict on A2, got one on A1"):
        messages.send_by_machine("p", "x", 1, verdict(Effect.AUTO, action=ActionClass.A1))
    with pytest.raises(PolicyError, match="no words in 'tlh'"):
        messages.send_by_machine("p", "x", 1, verdict(Effect.AUTO, "disclose_ai"), "tlh")


@pytest.mark.parametrize("text", ["", "   ", "x" * 2001, "a\x00b", "a\x1b[31mb", "a\u202eb", "a\tb"])
def test_hostile_texts_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="message: expected 1 to 2000 characters"):
        Messages(lambda patient, event: None).send("p", "dr A", text, 1)


def test_nothing_is_sent_that_cannot_be_journalled() -> None:
    def full(patient: str, event: object) -> None:
        raise JournalError("disk full")

    delivered: list[Message] = []
    messages = Messages(full, delivered.append)
    with pytest.raises(JournalError):
        messages.send("p", "dr A", "hello", 1)
    assert not delivered and not messages.of("p")
    with pytest.raises(InputError, match="no message 'abc' of this patient"):
        messages.seen("p", "abc", 1)
