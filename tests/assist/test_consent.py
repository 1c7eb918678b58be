"""Consent and patients' own reports at a live bed: in force at once, on record, and the same after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from smallhold.assist.care import CONSENT, INTAKE, Care
from smallhold.assist.consent import Consent, Consents, Purpose
from smallhold.assist.messages import Message
from smallhold.assist.self_report import Intake, Review, Triage, clean_text
from smallhold.errors import InputError, JournalError
from smallhold.records import ActionClass, Priority, Proposal

from .small_ward import PROVENANCE
from .test_care import HOUR, filled, prescription
from .test_live import Clocks, Ward

ASKED = Triage(where="device", choice="Acne", confidence=0.97, has_abstained=False)


def intake(id: str = "a" * 32, **changes: object) -> Intake:
    values: dict[str, object] = {
        "id": id, "patient": "p", "t_ms": 5, "received_ms": 6, "language": "en", "text": "my chest hurts",
        "red_flags": ("chest-pain",), "triage": ASKED, "urgency": "emergency",
    }  # fmt: skip
    return Intake(**{**values, **changes})  # type: ignore[arg-type]


def proposal(action: ActionClass, priority: Priority = Priority.LOW) -> Proposal:
    return Proposal(
        patient="p", t_ms=0, condition="c", action=action, priority=priority, source="model", has_abstained=False,
        is_degraded=False, rationale="because", provenance=PROVENANCE,
    )  # fmt: skip


def test_withdrawal_stops_reminders_at_once_and_after_a_restart(tmp_path: Path) -> None:
    clocks = Clocks()
    ward = filled(tmp_path, clocks)
    sent: list[Message] = []
    care = Care(ward.live, ward.journal, deliver=sent.append)
    care.say_consent("p", "messages", "given", "p", 1, id="b" * 32)
    ward.until_decided(0)
    clocks.pass_seconds(61 * 60)
    ward.put("HR", 81.0)
    ward.turn()
    ward.until_decided(1)
    start = ward.live.clock.now_ms()
    care.board("p").prescribe(prescription(start))
    care.remind(start + 1)
    assert len(sent) == 1
    care.say_consent("p", "messages", "withheld", "p", 2)
    care.remind(start + 6 * HOUR + 1)
    assert len(sent) == 1
    ward.die()
    again = Ward(tmp_path, clocks)
    care = Care(again.live, again.journal, deliver=sent.append)
    assert again.live.beds["p"].bed.consents[Purpose.MESSAGES].state == "withheld"
    care.remind(start + 6 * HOUR + 1)
    assert len(sent) == 1
    assert again.live.beds["p"].bed.judge(proposal(ActionClass.A2)).effect == "forbid"
    again.die()


def test_alerts_to_staff_do_not_depend_on_consent(tmp_path: Path) -> None:
    ward = filled(tmp_path, Clocks())
    care = Care(ward.live, ward.journal)
    bed = ward.live.beds["p"].bed
    before = [bed.judge(proposal(action, priority)) for action in ("A0", "A1") for priority in Priority]  # type: ignore[arg-type]
    for purpose in Purpose:
        care.say_consent("p", purpose, "withheld", "p", 1)
    after = [bed.judge(proposal(action, priority)) for action in ("A0", "A1") for priority in Priority]  # type: ignore[arg-type]
    assert before == after and all(verdict.effect == "auto" for verdict in after)
    ward.die()


def test_a_standing_order_needs_consent_to_treatment_and_to_nothing_else(tmp_path: Path) -> None:
    clocks = Clocks()
    ward = filled(tmp_path, clocks)
    care = Care(ward.live, ward.journal)
    clocks.pass_seconds(61 * 60)
    ward.put("HR", 81.0)
    ward.turn()
    ward.until_decided(1)  # the floor is not alone any more: alone, nothing is started
    bed = ward.live.beds["p"].bed

    def effect() -> str:
        covered = bed.judge(proposal(ActionClass.A4), standing_order="valid", device_class="closed_loop_cleared")
        return covered.effect.value

    care.say_consent("p", "messages", "withheld", "p", 1)
    care.say_consent("p", "treatment", "given", "p", 2)
    assert effect() == "confirm_one"
    care.say_consent("p", "messages", "given", "p", 3)
    care.say_consent("p", "treatment", "withheld", "p", 4)
    assert effect() == "forbid"
    ward.die()


def test_a_site_that_learns_hears_of_every_withdrawal_also_after_a_restart(tmp_path: Path) -> None:
    clocks = Clocks()
    ward = filled(tmp_path, clocks)
    heard: list[tuple[str, str, str]] = []

    def hear(patient: str, purpose: str, consent: Consent) -> None:
        heard.append((patient, purpose, consent.state))

    care = Care(ward.live, ward.journal, on_consent=hear)
    care.say_consent("p", "learning", "given", "p", 1)
    care.say_consent("p", "learning", "withheld", "p", 2)
    assert heard == [("p", "learning", "given"), ("p", "learning", "withheld")]
    ward.die()
    heard.clear()
    again = Ward(tmp_path, clocks)
    Care(again.live, again.journal, on_consent=hear)
    assert heard == [("p", "learning", "withheld")]
    again.die()


def test_staff_hear_of_a_patient_who_has_no_bed(tmp_path: Path) -> None:
    ward = filled(tmp_path, Clocks())
    told: list[str] = []
    care = Care(ward.live, ward.journal, on_report=lambda report: told.append(report.id))
    care.reports.report(intake(patient="at-home"))
    care.reports.report(intake(patient="at-home"))
    care.reports.ask_review(Review(id="c" * 32, patient="at-home", t_ms=1, about="", text=""))
    assert told == ["a" * 32, "c" * 32] and care.calls_staff("at-home")
    quiet = Care(ward.live, ward.journal)
    assert quiet.calls_staff("p") and not quiet.calls_staff("at-home")
    assert told == ["a" * 32, "c" * 32]  # what is on record already is not told anew
    care.take_report("at-home", "a" * 32, "nurse")
    ward.die()


def test_what_is_said_twice_counts_once_and_what_cannot_be_written_is_withdrawn_all_the_same() -> None:
    written: list[str] = []
    consents = Consents(lambda patient, event: written.append(event["state"]))
    consents.say("p", "learning", "given", "p", 1, id="1")
    consents.say("p", "learning", "withheld", "p", 2, id="2")
    consents.say("p", "learning", "given", "p", 3, id="1")  # a device that did not hear the answer
    assert written == ["given", "withheld"] and not consents.allows("p", Purpose.LEARNING)
    with pytest.raises(InputError, match="purpose: expected one of messages, treatment, learning, got 'sale'"):
        consents.say("p", "sale", "given", "p", 1)
    with pytest.raises(InputError, match="state: expected one of given, unknown, withheld"):
        consents.say("p", "learning", "yes", "p", 1)

    def full(patient: str, event: object) -> None:
        raise JournalError("disk full")

    consents = Consents(full)
    with pytest.raises(JournalError):
        consents.say("p", "messages", "given", "p", 1)
    assert consents.of("p")[Purpose.MESSAGES].state == "unknown"
    with pytest.raises(JournalError):
        consents.say("p", "messages", "withheld", "p", 1)
    assert consents.of("p")[Purpose.MESSAGES].state == "withheld"


def test_a_red_flag_calls_staff_until_somebody_takes_it_on_and_is_not_told_twice(tmp_path: Path) -> None:
    clocks = Clocks()
    ward = filled(tmp_path, clocks)
    care = Care(ward.live, ward.journal)
    care.reports.report(intake())
    care.reports.report(intake(text="something else"))  # the same id again
    assert [item.text for item in care.intakes("p")] == ["my chest hurts"]
    ward.tick()
    (told,) = [alert for alert in ward.alerts if alert.source == "patient"]
    assert (told.kind, told.priority) == ("physiological", Priority.HIGH)
    assert "red flags: chest-pain" in told.message and "my chest hurts" not in told.message
    ward.die()
    again = Ward(tmp_path, clocks)
    care = Care(again.live, again.journal)
    assert care.intakes("p")[0].urgency == "emergency"
    care.take_report("p", "a" * 32, "nurse")
    care.take_report("p", "a" * 32, "another")
    assert care.intakes("p")[0].taken_by == "nurse"
    again.tick()
    clocks.pass_seconds(3600)
    again.tick()
    assert not [a for a in again.live.beds["p"].bed.alarms.current("p") if a.source == "patient"]
    kinds = [entry.kind for entry, _ in again.journal.entries()]
    assert kinds.count(INTAKE) == 2 and kinds.count(CONSENT) == 0
    again.die()


def test_a_report_belongs_to_one_patient(tmp_path: Path) -> None:
    ward = filled(tmp_path, Clocks())
    care = Care(ward.live, ward.journal)
    care.reports.report(intake())
    with pytest.raises(InputError, match="id: it is taken"):
        care.reports.report(intake(patient="q"))
    with pytest.raises(InputError, match="no report 'aaaa"):
        care.reports.take("q", "a" * 32, "nurse", 1)
    with pytest.raises(InputError, match="expected 32 hexadecimal digits"):
        care.reports.ask_review(Review(id="../x", patient="p", t_ms=1, about="", text=""))
    with pytest.raises(InputError, match="confidence: expected 0 to 1"):
        Triage(where="device", choice="Acne", confidence=float("nan"), has_abstained=False)
    ward.die()


@pytest.mark.parametrize(("text", "clean"), [
    ("a\x00b\u202ec", "a b c"), ("  x\r\ny\tz ", "x\ny z"), ("\ud800 help", "help"), ("e\u0301", "é"),
])  # fmt: skip
def test_a_call_for_help_is_cleaned_and_not_refused(text: str, clean: str) -> None:
    assert clean_text(text) == clean
