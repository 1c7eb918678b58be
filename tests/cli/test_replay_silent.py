import json
import signal
from pathlib import Path

import pytest

from smallhold.device.durable_file import write_durably
from smallhold.records import canonical_json
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.splits import Split


@pytest.fixture
def referenced(flow, resigned):
    """The flow's bundle, whose own calibration split is too small, with a drift reference of its own."""
    from dataclasses import replace

    from smallhold.assist.drift_ward import fit_ward_reference
    from smallhold.decide.local import open_bundle
    from smallhold.device.home import Home
    from smallhold.device.manifest import FileEntry, Manifest
    from smallhold.device.trust import sign_manifest
    from smallhold.records import sha256_hex

    local = open_bundle(flow.bundle, unsafe_skip_verification=True).task("icu-risk")
    data = fit_ward_reference(local, flow.stays).to_bytes()
    folder = resigned("referenced")
    (folder / "drift").mkdir()
    (folder / "drift" / "icu-risk.json").write_bytes(data)
    manifest = Manifest.from_bytes((folder / "manifest.json").read_bytes())
    entry = FileEntry(sha256_hex(data), len(data), manifest.files["tasks/icu-risk.json"].role, None)
    manifest = replace(manifest, files={**manifest.files, "drift/icu-risk.json": entry})
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    (folder / "manifest.dsse.json").write_bytes(sign_manifest(manifest.to_bytes(), Home(flow.home).publisher_key()))
    return folder


def test_silent_weeks_end_with_a_report(flow, home, smallhold, tmp_path, referenced):
    out = tmp_path / "weeks"
    words = ("--data", flow.data, "--silent", "--days", 4, "--beds", 8, "--quiet")
    done = smallhold("replay", referenced, *words, "--out", out, "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert json.loads((out / "silent.json").read_text()) == report
    test = len(icu_risk.split(flow.stays, Split.TEST))
    # Two groups of eight, 48 hours each; fifteen patients are there, so the first comes again.
    assert (
        (report["patients"], report["distinct_patients"], report["patient_days"]) == (16, test, 32.0) == (16, 15, 32.0)
    )
    assert report["is_complete"] and report["is_simulated"] and report["answers"]["decisions"] == 16 * 48
    assert sum(group["patients"] for group in report["agreement"].values()) == 16
    assert report["drift"]["now"]["inputs"]["counted"] == 16 * 8
    assert report["drift"]["now"]["calibration"]["counted"] == report["outcomes_known"] == 16
    table = smallhold("replay", referenced, *words)
    assert table.out.splitlines()[0].startswith(
        "patients     16, 15 different ones of simulated_ward (simulated), 32.0"
    )
    assert "alerts withheld" in table.out and "inputs       drift " in table.out


def test_people_hear_the_floor_and_never_the_model(flow, home, smallhold):
    words = ("--data", flow.data, "--patients", 6)
    silent = smallhold("replay", flow.bundle, *words, "--silent")
    assert silent.code == 0 and " floor: " in silent.err and " model: " not in silent.err
    assert "DEGRADED" not in silent.err
    # Forty calibration patients are too few to say what is expected, and the report says so.
    assert "drift is not watched: drift reference: expected at least 50 patients" in silent.err
    assert "drift        not watched" in silent.out


def test_stopped_weeks_leave_a_valid_partial_report_and_go_on(flow, home, smallhold, tmp_path, monkeypatch):
    from smallhold.assist.silent import SilentTally

    words = (
        "replay",
        flow.bundle,
        "--data",
        flow.data,
        "--patients",
        4,
        "--silent",
        "--quiet",
        "--json",
        "--out",
        tmp_path,
    )
    add, left = SilentTally.add, [500]

    def stop(self, step):
        add(self, step)
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(signal.SIGINT)  # what Ctrl-C sends

    monkeypatch.setattr(SilentTally, "add", stop)
    done = smallhold(*words)
    assert done.code == 130 and "run the same command again to resume" in done.err
    partial = json.loads((tmp_path / "silent.json").read_text())
    assert partial["is_complete"] is False and partial["answers"]["decisions"] < 4 * 48
    assert json.loads(done.out) == partial
    whole = json.loads(smallhold(*words).out)
    assert whole["is_complete"] is True and whole["answers"]["decisions"] == 4 * 48


def test_a_drifted_ward_demotes_the_model_aloud(flow, home, smallhold, referenced, tmp_path):
    """The same patients, whose heart rate and blood pressure stopped coming."""
    folder = tmp_path / "changed" / "simulated_ward"
    folder.mkdir(parents=True)
    lines = []
    for line in (flow.data / "simulated_ward" / "ward.jsonl").read_text().splitlines():
        row = json.loads(line)
        row["events"] = [event for event in row["events"] if event[1] not in ("HR", "RespRate", "GCS", "Temp")]
        lines.append(canonical_json(row) + b"\n")
    write_durably(folder / "ward.jsonl", lines)
    done = smallhold("replay", referenced, "--data", folder.parent, "--patients", 15, "--drift", "--json")
    result = json.loads(done.out)
    assert result["drift"]["inputs"]["state"] == "drifted"
    assert done.err.count("The ward is not what the model was fitted on") == 1
    assert 0 < result["degraded_steps"] < result["steps"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--days", "2", "--patients", "3"], "--patients and --days both say how long the ward runs"),
        (["--silent", "--beds", "0"], "--beds and --days must be positive, got 0 and None"),
        (["--days", "0"], "--beds and --days must be positive, got 100 and 0"),
        (["--out", "x"], "--out is for the report of --silent"),
        (["--drift"], "drift reference: expected at least 50 patients"),
    ],
)
def test_wrong_options_are_refused(flow, home, smallhold, words, message):
    done = smallhold("replay", flow.bundle, "--data", flow.data, *words)
    assert (done.code, done.out) == (1, "") and message in done.err
    assert not Path(home / "journal.db").exists()


def test_a_model_that_cannot_be_opened_is_not_tried_silently(home, smallhold, tmp_path):
    done = smallhold("replay", tmp_path / "nowhere", "--silent", "--simulated")
    assert (done.code, done.out) == (1, "")
