"""Records to FHIR: judged by fhir.resources and by the spec's required value sets, read back by our own reader."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from smallhold.assist import replay
from smallhold.assist.consent import Consents
from smallhold.assist.interop import fhir_medication, fhir_out
from smallhold.assist.interop.fhir_base import Dialect, Release
from smallhold.assist.interop.fhir_export import export_fhir
from smallhold.assist.interop.fhir_step import decision_bundle
from smallhold.assist.medication.board import MedicationBoard
from smallhold.assist.medication.prescription import Kind, Prescription, SlotState
from smallhold.assist.messages import Messages
from smallhold.assist.sources.fhir import read_observation
from smallhold.assist.sources.intake import Reading
from smallhold.assist.step import Step
from smallhold.cli.main import main
from smallhold.device.journal import Journal
from smallhold.errors import InputError
from smallhold.records import (
    ActionClass,
    Alert,
    AlertState,
    Ask,
    AuditEntry,
    Observation,
    Order,
    Priority,
    Provenance,
    Risk,
    canonical_json,
)
from smallhold.sectors.hospital.codes import HospitalCodes
from smallhold.sectors.hospital.parameters import PARAMETERS
from smallhold.sectors.hospital.stays import SYSTEM
from smallhold.sectors.hospital.terms import HospitalTerms

from ..small_ward import make_bedside, make_plan
from ..test_live import BAD, Clocks, Ward
from .fhir_judge import check, references

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
LIVE = Provenance(trace_id="ab" * 16, bundle="b" * 64, profile="c" * 64)
NOW_MS = 1_800_000_000_123
RELEASES = pytest.mark.parametrize("release", ["r4", "r5"])


def dialect(release: str) -> Dialect:
    return Dialect(Release(release), HospitalTerms())


def alert(priority: Priority = Priority.HIGH, **changes: Any) -> Alert:
    members: dict[str, Any] = {
        "id": "a-1", "patient": "p", "t_ms": NOW_MS, "kind": "physiological", "condition": "deterioration",
        "priority": priority, "source": "floor", "is_degraded": False, "message": "NEWS2 is 9", "provenance": LIVE,
    }  # fmt: skip
    return Alert(**(members | changes))


def risk(**changes: Any) -> Risk:
    members: dict[str, Any] = {
        "patient": "p", "task": "icu-risk", "field": "in_hospital_death", "t_ms": NOW_MS, "choice": "yes",
        "probabilities": {"no": 0.25, "yes": 0.75}, "confidence": 0.75, "has_abstained": False, "horizon_h": 6,
        "model": "shipped", "latency_ms": 3.0, "provenance": LIVE,
    }  # fmt: skip
    return Risk(**(members | changes))


@RELEASES
def test_a_risk_by_hand(release: str) -> None:
    made = fhir_out.risk_assessment(risk(), dialect(release), [{"reference": "Observation/1"}])
    check(made, release)
    assert made["occurrenceDateTime"] == "2027-01-15T08:00:00.123Z"
    assert [one["probabilityDecimal"] for one in made["prediction"]] == [0.25, 0.75]
    assert made["meta"]["security"][0]["code"] == "AIAST"
    assert made["basis"] == [{"reference": "Observation/1"}]
    silent = fhir_out.risk_assessment(risk(choice=None, has_abstained=True), dialect(release))
    check(silent, release)
    assert silent["extension"][0]["valueBoolean"] is True
    assert "abstains" in silent["note"][0]["text"]


@RELEASES
@pytest.mark.parametrize(
    ("priority", "severity", "urgency"),
    [
        (Priority.HIGH, "high", "stat"),
        (Priority.MEDIUM, "moderate", "asap"),
        (Priority.LOW, "low", "urgent"),
        (Priority.INFO, None, "routine"),
    ],
)
def test_an_alert_keeps_its_priority(release: str, priority: Priority, severity: str | None, urgency: str) -> None:
    made = fhir_out.detected_issue(alert(priority), dialect(release))
    check(made, release)
    assert made.get("severity") == severity
    call = fhir_out.alert_communication(alert(priority), dialect(release), NOW_MS, "t", "charge nurse")
    check(call, release)
    assert (call["priority"], call["recipient"]) == (urgency, [{"display": "charge nurse"}])
    assert call["about"] == [{"reference": f"DetectedIssue/{made['id']}"}]


def test_what_the_releases_call_differently() -> None:
    seen = alert(state=AlertState.ACKNOWLEDGED)
    done = [(NOW_MS, "nurse")]
    r4 = fhir_out.detected_issue(seen, dialect("r4"), mitigations=done)
    r5 = fhir_out.detected_issue(seen, dialect("r5"), mitigations=done)
    assert (r4["status"], r5["status"]) == ("final", "mitigated")
    assert "patient" in r4 and "subject" in r5
    assert r4["mitigation"][0]["author"] == {"display": "nurse"}
    entry = AuditEntry(seq=3, t_ms=NOW_MS, kind="step", payload_digest="d" * 64, prev="0" * 64, hash="e" * 64)
    for release, made in (("r4", r4), ("r5", r5)):
        check(made, release)
        audit = fhir_out.audit_event(entry, dialect(release), patient="p", actor="nurse")
        check(audit, release)
        for said in ("given", "withheld", "unknown"):
            for purpose in ("messages", "learning"):
                check(fhir_out.consent("p", purpose, said, "p", NOW_MS, dialect(release)), release)
    assert fhir_out.consent("p", "learning", "withheld", "p", NOW_MS, dialect("r5"))["decision"] == "deny"
    # The other release's judge refuses each: they are different documents.
    with pytest.raises(ValueError):
        check(r4, "r5")


@RELEASES
def test_an_order_that_a_machine_proposes_is_nobodys_prescription(release: str) -> None:
    order = Order(
        patient="p", t_ms=NOW_MS, standing_order="f" * 64, drug="insulin", dose=2_500_000, unit="U", provenance=LIVE
    )
    made = fhir_medication.order_proposal(order, dialect(release))
    check(made, release)
    assert (made["intent"], made["status"]) == ("proposal", "draft")
    assert made["dosageInstruction"][0]["doseAndRate"][0]["doseQuantity"]["value"] == 2.5
    ask = Ask(
        patient="p", t_ms=NOW_MS, action=ActionClass.A3, question="Order 2.5 U?", confirmations=1,
        expires_ms=NOW_MS + 60_000, provenance=LIVE,
    )  # fmt: skip
    request = fhir_out.communication_request(ask, dialect(release))
    check(request, release)
    assert request["occurrencePeriod"]["end"] == "2027-01-15T08:01:00.123Z"


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(PARAMETERS),
    st.floats(-1e6, 1e6, allow_nan=False),
    st.integers(0, 4_000_000_000_000),
    st.sampled_from(["r4", "r5"]),
)
def test_a_reading_written_is_the_reading_read(parameter: Any, value: float, t_ms: int, release: str) -> None:
    record = Observation(
        id="o-1", patient="p", code=parameter.name, value=value, unit=parameter.unit, t_measured_ms=t_ms,
        t_received_ms=t_ms, device="mon-1", system=SYSTEM, provenance=LIVE,
    )  # fmt: skip
    made = json.loads(json.dumps(fhir_out.observation(record, dialect(release), "run")))
    (back,) = read_observation(made, HospitalCodes())
    assert isinstance(back, Reading)
    name = HospitalCodes().name_of(back.system, back.code)
    assert (name, back.value, back.unit, back.t_measured_ms, back.patient) == (
        record.code, value, record.unit, t_ms, "p",
    )  # fmt: skip


def test_the_code_that_circulates_for_news2_is_not_used() -> None:
    assert [code for _, code, _ in HospitalTerms().score("news2")] == ["news2", "1104051000000101"]
    assert HospitalTerms().mdc("HR") == ("147842", "MDC_ECG_HEART_RATE")
    assert HospitalTerms().mdc("SaO2") == ("150456", "MDC_PULS_OXIM_SAT_O2")


def a_journal(folder: Path) -> Path:
    """A live ward with an alarm that a nurse saw, medication, messages and a dose; then a replayed one."""
    ward = Ward(folder, Clocks())
    for code, (value, unit) in BAD.items():
        ward.put(code, value, unit)
    ward.put("HR", 1000.0)  # the gate refuses it
    ward.turn()
    ward.live.acknowledge("p", "deterioration", "nurse")
    ward.clocks.pass_seconds(3600)
    ward.turn(3)
    ward.until_decided(1)
    ward.die()
    folder.joinpath("journal.db").rename(path := folder / "kept.db")
    with Journal.open(path, key=KEY) as journal:

        def write(kind: str, patient: str, event: Any) -> None:
            journal.append(kind, canonical_json(event), patient=patient, must_checkpoint=True)

        board = MedicationBoard("p", lambda event: write("medication", "p", event))
        item = Prescription(
            id="rx-1", patient="p", drug="paracetamol", dose=500, unit="mg", route="oral", kind=Kind.SCHEDULED,
            start_ms=NOW_MS, every_ms=6 * 3_600_000, prescribers=("dr",),
        )  # fmt: skip
        board.prescribe(item)
        board.give("rx-1", "nurse", NOW_MS, slot_ms=NOW_MS)
        board.confirm("rx-1", NOW_MS, NOW_MS + 60_000)
        later = NOW_MS + 6 * 3_600_000
        board.settle("rx-1", later, SlotState.REFUSED, "nurse", later, "asleep")
        board.stop("rx-1", "dr", later, "changed")
        messages = Messages(lambda patient, event: write("message", patient, event))
        sent = messages.send("p", "nurse", "I am coming.", NOW_MS)
        messages.seen("p", sent.id, NOW_MS + 5_000)
        for number in (1, 2):
            dose = {
                "schema": "smallhold.dose/1", "id": f"d-{number}", "patient": "p", "drug": "insulin", "dose": 2_500_000,
                "unit": "U", "order": "f" * 64, "t_ms": NOW_MS, "effect": "confirm_one", "clauses": [],
                "confirmed_by": ["nurse"], "trace_id": "ab" * 16, "profile": "c" * 64, "bundle": None,
                "simulated": True,
            }  # fmt: skip
            write("dose", "p", dose)
        consents = Consents(lambda patient, event: write("consent", patient, event))
        for state in ("given", "withheld"):
            consents.say("p", "messages", state, "p", NOW_MS)
        write("dose-withheld", "p", {"id": "d-2", "patient": "p", "drug": "insulin", "reason": "stopped"})
        replay(make_plan(4, 8), make_bedside, journal)
    return path


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_journal(tmp_path_factory.mktemp("journal"))


def read(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in folder.iterdir()}


@RELEASES
def test_a_journal_becomes_valid_resources(journal: Path, tmp_path: Path, release: str) -> None:
    result = export_fhir(journal, tmp_path / "out", dialect(release), system=SYSTEM, key=KEY)
    made = read(tmp_path / "out")
    assert {kind: len(lines) for kind, lines in made.items()} == result.resources
    assert set(made) == {
        "AuditEvent", "Communication", "Consent", "Device", "DetectedIssue", "MedicationAdministration",
        "MedicationRequest", "Observation", "Provenance", "RiskAssessment",
    }  # fmt: skip
    for kind, lines in made.items():
        # Judging takes a millisecond each: of the many the first, the last and some between.
        for one in [*lines[:: max(1, len(lines) // 25)], lines[-1]]:
            check(one, release)
        assert len({one["id"] for one in lines}) == len(lines), kind
    present = {f"{kind}/{one['id']}" for kind, lines in made.items() for one in lines}
    missing = {one for one in references(list(made.values())) if one not in present}
    assert not missing
    assert result.refused > 0  # the 1000 /min of the live ward, and artefacts of the replayed one


def test_what_changes_over_time_is_one_resource_as_it_stands(journal: Path, tmp_path: Path) -> None:
    export_fhir(journal, tmp_path / "out", dialect("r5"), system=SYSTEM, key=KEY)
    made = read(tmp_path / "out")
    (request,) = made["MedicationRequest"]
    assert (request["status"], request["intent"]) == ("stopped", "order")
    states = sorted((one["status"], one["medication"]["concept"]["text"]) for one in made["MedicationAdministration"])
    assert states == [
        ("completed", "insulin"), ("completed", "paracetamol"), ("not-done", "insulin"), ("not-done", "paracetamol"),
    ]  # fmt: skip
    (said,) = made["Consent"]
    assert (said["status"], said["decision"]) == ("active", "deny")  # as it was said last
    (message,) = [one for one in made["Communication"] if one["sender"] == {"display": "nurse"}]
    assert (message["status"], message["received"]) == ("completed", "2027-01-15T08:00:05.123Z")
    (seen,) = [one for one in made["DetectedIssue"] if one.get("mitigation") and "identifiedDateTime" in one]
    assert seen["mitigation"][0]["author"] == {"display": "nurse"}
    # A replayed stay has no time of day: none is invented.
    assert any("identifiedDateTime" not in one for one in made["DetectedIssue"])
    news2 = [one for one in made["Observation"] if one["code"].get("text") == "NEWS2"]
    assert max(one["valueQuantity"]["value"] for one in news2) >= 7


def test_the_same_journal_gives_the_same_files(journal: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        export_fhir(journal, tmp_path / name, dialect("r4"), system=SYSTEM, key=KEY)
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()
    }


@RELEASES
def test_one_decision_is_a_bundle_that_holds_together(journal: Path, release: str) -> None:
    with Journal.open(journal, key=KEY) as held:
        steps = [(entry, Step.from_payload(payload or b"")) for entry, payload in held.entries(kind="step")]
    entry, step = next((entry, step) for entry, step in steps if step.risk is not None and step.changes)
    made = decision_bundle(step, dialect(release), entry.t_ms)
    check(made, release)
    inside = {one["fullUrl"] for one in made["entry"]}
    outside = {one for one in references(made) if one not in inside}
    assert all(one.startswith("Observation/") for one in outside)  # readings of earlier events


def test_what_cannot_be_exported_says_why(journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="exists"):
        export_fhir(journal, tmp_path / "out", dialect("r4"), system=SYSTEM, key=KEY)
    assert main(["journal", "export", "--journal", str(journal), "--fhir", "r4"]) == 1
    assert "--out" in capsys.readouterr().err
    assert main(["journal", "export", "--journal", str(journal)]) == 1
    home = tmp_path / "home"
    words = ["--home", str(home), "journal", "export", "--journal", str(journal), "--fhir", "r4"]
    assert main([*words[2:], "--home", str(home), "--out", str(tmp_path / "new")]) == 1
    assert "sealed" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
