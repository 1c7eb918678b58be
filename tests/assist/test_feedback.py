"""What people made of alerts: written once, linked to the outcome, exported on site only, gone with the patient."""

import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smallhold.assist.feedback import Outcome, find_alert, read_feedback, record_answer, record_outcome
from smallhold.assist.feedback_export import ANSWERS, STAYS, check_local, export_rows
from smallhold.assist.replay import ReplayPlan, replay
from smallhold.assist.step import Step
from smallhold.cli.main import main
from smallhold.device.journal import Journal
from smallhold.errors import InputError, JournalError
from smallhold.records import Alert, canonical_json, to_json
from smallhold.sectors.hospital.icu_risk import static_features, static_features_from
from smallhold.sectors.hospital.parameters import PARAMETERS
from smallhold.sectors.hospital.stays import read_physionet2012

from .small_ward import EU, make_bedside, stream

STATIC = static_features_from(71.0, "F", 164.0, "surgical")


@pytest.fixture
def journal(tmp_path):
    """Three patients replayed, sealed."""
    plan = ReplayPlan(
        bundle="b" * 64,
        profile=EU.digest,
        data_set="small-ward",
        streams={f"p{n}": stream(f"p{n}", n, 6) for n in range(3)},
        num_bins=6,
        static={f"p{n}": STATIC.tolist() for n in range(3)},
    )
    with Journal.open(tmp_path / "journal.db", key=Ed25519PrivateKey.generate()) as opened:
        opened.alerts = {}
        replay(plan, make_bedside, opened, on_alert=lambda alert: opened.alerts.setdefault(alert.id, alert))
        yield opened


def outcome(patient, has_happened=True, t_ms=10):
    return Outcome(patient=patient, task="icu-risk", has_happened=has_happened, actor="Dr. Roe", t_ms=t_ms)


def alert(journal):
    return next(iter(journal.alerts.values()))


def answer(journal, response="accept", reason="", after_ms=60_000, about=None):
    about = about or alert(journal)
    return record_answer(journal, about, response=response, reason=reason, actor="Dr. Roe", t_ms=about.t_ms + after_ms)


def test_an_answer_is_on_record_with_its_alert_and_its_time(journal):
    feedback = answer(journal, "override", "artefact", 90_000)
    found = read_feedback(journal).answers
    assert [item.feedback for item in found] == [feedback]
    about = alert(journal)
    assert (found[0].condition, found[0].patient) == (about.condition, about.patient)
    assert feedback.subject == about.id and feedback.response_time_ms == 90_000
    assert find_alert(journal, about.id) == about


def test_override_rates_count_answers_by_condition_and_leave_snoozes_out(journal):
    for response, reason in (("accept", ""), ("override", "artefact"), ("override", "artefact"), ("snooze", "")):
        answer(journal, response, reason)
    other = replace(alert(journal), id="p0/medication:1/1", condition="medication:1")
    answer(journal, "snooze", about=other)
    rates = read_feedback(journal).override_rates()
    assert rates["deterioration"] == {
        "answers": 3,
        "overrides": 2,
        "override_rate": pytest.approx(2 / 3),
        "reasons": {"artefact": 2},
    }
    assert rates["medication:1"]["override_rate"] is None


@pytest.mark.parametrize(
    ("response", "reason", "after_ms", "message"),
    [
        ("ignore", "", 0, "response: expected one of accept, override, snooze, got 'ignore'"),
        ("override", "", 0, "reason of an override: expected one of already-known, "),
        ("accept", "because", 0, "reason of an accept: expected one of"),
        ("accept", "", -1, "cannot be to an alert of"),
    ],
)
def test_an_answer_that_says_nothing_is_refused_and_not_written(journal, response, reason, after_ms, message):
    with pytest.raises(InputError, match=message):
        answer(journal, response, reason, after_ms)
    assert read_feedback(journal).answers == ()


def test_nobody_and_an_unknown_alert_are_refused(journal):
    with pytest.raises(InputError, match="expected the name of a person"):
        record_outcome(journal, replace(outcome("p0"), actor=" "))
    with pytest.raises(InputError, match="no alert 'nothing' is on record"):
        find_alert(journal, "nothing")


def test_a_later_outcome_corrects_and_an_unreadable_entry_is_named(journal):
    record_outcome(journal, outcome("p0", has_happened=True))
    record_outcome(journal, outcome("p0", has_happened=False, t_ms=20))
    assert read_feedback(journal).outcomes["p0", "icu-risk"].has_happened is False
    entry = journal.append("feedback", b'{"event":"guess"}', patient="p0")
    with pytest.raises(JournalError, match=f"entry {entry.seq}: feedback cannot be read: unknown record schema None"):
        read_feedback(journal)


def test_an_answer_of_another_screen_is_joined_by_the_trace_of_its_step(journal):
    steps = [Step.from_payload(payload) for _, payload in journal.entries(kind="step")]
    step = next(step for step in steps if step.proposals)
    elsewhere = replace(answer(journal), subject="proposal-7", provenance=step.provenance)
    journal.append("feedback", canonical_json(to_json(elsewhere)), patient=step.patient)
    lost = replace(elsewhere, provenance=replace(step.provenance, trace_id="f" * 32))
    journal.append("feedback", canonical_json(to_json(lost)), patient=step.patient)
    _, joined, unknown = read_feedback(journal).answers
    assert (joined.patient, joined.condition) == (step.patient, step.proposals[0].condition)
    assert unknown.condition == "unknown"


def test_the_export_is_what_training_reads(journal, tmp_path):
    about = alert(journal)
    answer(journal, "override", "already-treated")
    record_outcome(journal, outcome(about.patient, has_happened=True))
    done = export_rows(journal, tmp_path / "rows")
    assert (done.patients, done.answers, done.withdrawn, done.without_outcome) == (1, 1, 0, 2)
    (stay,) = read_physionet2012((tmp_path / "rows" / STAYS).parent)
    assert (stay.record_id, stay.died, stay.icu_type, stay.sex) == (about.patient, True, "surgical", "F")
    assert static_features(stay) == pytest.approx(STATIC, abs=1e-6)
    # Exactly the readings that the gate accepted, with their minutes.
    exported = {
        (PARAMETERS[c].name, m, round(v, 3))
        for c, m, v in zip(stay.code.tolist(), stay.minute.tolist(), stay.value.tolist(), strict=True)
    }
    steps = [Step.from_payload(payload) for _, payload in journal.entries(kind="step")]
    accepted = {
        (step.observation.code, step.observation.t_measured_ms // 60_000, round(step.observation.value, 3))
        for step in steps
        if step.patient == about.patient and step.observation is not None and step.gate.is_accepted
    }
    assert exported == accepted and len(accepted) > 50 and not stay.refused
    (line,) = (tmp_path / "rows" / ANSWERS).read_text().splitlines()
    told = json.loads(line)
    assert (told["reason"], told["died_in_hospital"], told["response_time_ms"]) == ("already-treated", 1, 60_000)
    assert "Roe" not in line and "actor" not in told
    assert (tmp_path / "rows" / STAYS).stat().st_mode & 0o077 == 0


def test_who_withdrew_who_has_no_outcome_and_who_was_erased_are_not_learnt_from(journal, tmp_path):
    for patient in ("p0", "p1"):
        record_outcome(journal, outcome(patient))
    done = export_rows(journal, tmp_path / "a", is_withdrawn=lambda patient: patient == "p0")
    assert (done.patients, done.withdrawn, done.without_outcome) == (1, 1, 1)
    journal.erase_patient("p1", "asked for it")
    done = export_rows(journal, tmp_path / "b")
    assert [stay.record_id for stay in read_physionet2012((tmp_path / "b" / STAYS).parent)] == ["p0"]
    assert done.patients == 1


def test_rows_do_not_leave_the_machine(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"/dev/sda1 / ext4 rw 0 0\nfiler:/x {tmp_path}/net nfs4 rw 0 0\nme@h: {tmp_path}/my\\040far fuse.sshfs rw 0 0\n"
        f"overlay {tmp_path}/over fuse.fuse-overlayfs rw 0 0\n/dev/sdb1 {tmp_path}/net/usb ext4 rw 0 0\n"
    )
    for bad in ("net", "net/deep/er", "my far/rows"):
        with pytest.raises(InputError, match=r"lies on another machine: .* is mounted by"):
            check_local(tmp_path / bad, mounts)
    for good in ("here", "over/rows", "net/usb/rows", "network"):
        check_local(tmp_path / good, mounts)
    for address in ("s3://bucket/rows", "//server/share", "\\\\server\\share", "https:/x"):
        with pytest.raises(InputError, match="is an address, expected a folder"):
            check_local(address, mounts)


def test_a_folder_with_something_in_it_is_left_alone(journal, tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "x").write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        export_rows(journal, tmp_path / "rows")
    assert [path.name for path in (tmp_path / "rows").iterdir()] == ["x"]


def test_a_patient_in_two_runs_needs_a_choice(journal, tmp_path):
    record_outcome(journal, outcome("p0"))
    plan = ReplayPlan(
        bundle="b" * 64, profile=EU.digest, data_set="again", streams={"p0": stream("p0", 0, 2)}, num_bins=2
    )
    replay(plan, make_bedside, journal)
    with pytest.raises(InputError, match="patient 'p0' occurs in the runs"):
        export_rows(journal, tmp_path / "rows")
    assert export_rows(journal, tmp_path / "rows", run_id=plan.run_id()).patients == 1


def test_the_command_answers_counts_and_exports(tmp_path, capsys):
    home = ["--home", str(tmp_path / "home")]
    assert main(["device", "init", *home]) == 0
    from smallhold.device.home import Home

    with Journal.open(Home(tmp_path / "home").journal, key=Home(tmp_path / "home").device_key()) as journal:
        plan = ReplayPlan(
            bundle="b" * 64, profile=EU.digest, data_set="w", streams={"p1": stream("p1", 1, 6)}, num_bins=6
        )
        alerts: list[Alert] = []
        replay(plan, make_bedside, journal, on_alert=alerts.append)
    said = ["feedback", "answer", "--alert", alerts[0].id, "--actor", "Dr. Roe", *home]
    assert main([*said, "--response", "override", "--reason", "artefact"]) == 1  # dated by no wall clock
    assert "say --after SECONDS" in capsys.readouterr().err
    assert main([*said, "--response", "override", "--after", "30"]) == 1
    assert "reason of an override: expected one of" in capsys.readouterr().err
    assert main([*said, "--response", "override", "--reason", "artefact", "--after", "30"]) == 0
    assert main(["feedback", "outcome", "--patient", "p1", "--happened", "yes", "--actor", "Dr. Roe", *home]) == 0
    capsys.readouterr()
    assert main(["feedback", "rate", "--json", *home]) == 0
    assert json.loads(capsys.readouterr().out)["deterioration"]["override_rate"] == 1.0
    assert main(["feedback", "export", "--out", "s3://bucket", *home]) == 1
    assert "is an address" in capsys.readouterr().err
    (tmp_path / "home" / "withdrawals.jsonl").write_text('{"group":"p1","t_ms":1}\n')
    assert main(["feedback", "export", "--out", str(tmp_path / "rows"), "--json", *home]) == 0
    assert json.loads(capsys.readouterr().out)["withdrawn"] == 1
    assert main(["feedback", "export", "--out", str(tmp_path / "r2"), "--withdrawals", "gone.jsonl", *home]) == 1
