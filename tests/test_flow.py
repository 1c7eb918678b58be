"""The whole way, through the command line: teach, compress, bundle, install, decide, replay."""

import json
import shutil
from pathlib import Path

import pytest

import smallhold as package
from smallhold.device.home import Home
from smallhold.device.journal import read_entries
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.parameters import PARAMETERS
from smallhold.sectors.hospital.simulator import write_ward
from smallhold.sectors.hospital.stays import readings
from smallhold.sectors.splits import Split

TRUE_PATIENT = {
    "age": 71,
    "sex": "F",
    "height_cm": 160,
    "icu_type": "medical",
    "events": [[10, "HR", 118], [10, "Temp", 101.3, "[degF]"], [25, "RespRate", 24], [50, "SysABP", 95]],
}


def asked(stay, hours):
    """The JSON that `smallhold decide` reads, of a stay up to an hour."""
    return {
        "age": stay.age,
        "sex": stay.sex,
        "height_cm": stay.height_cm,
        "icu_type": stay.icu_type,
        "events": [
            [int(minute), PARAMETERS[code].name, float(value)]
            for minute, code, value in zip(stay.minute, stay.code, stay.value, strict=True)
            if minute <= 60 * hours
        ],
    }


def test_a_run_leaves_what_its_page_promises(flow):
    for name in ("run.json", "task.json", "teacher/trees.npz", "checkpoint/model.safetensors", "quantized/config.json"):
        assert (flow.run / name).is_file(), name
    summary = json.loads((flow.run / "run.json").read_text())
    assert (summary["num_stays"], summary["is_simulated"], summary["data_set"]) == (110, True, "simulated_ward")
    assert summary["loss"][-1][0] == 55  # 4 epochs of 110 patients, 16 a step, half of the steps synthetic


def test_verify_inspect_and_sign(flow, home, smallhold, tmp_path):
    done = smallhold("bundle", "verify", flow.bundle)
    assert (done.code, done.out) == (0, "icu-risk-tiny 1.0.0: genuine, 9 files match\n")
    assert json.loads(smallhold("bundle", "verify", flow.bundle, "--json").out)["is_genuine"] is True
    shown = smallhold("bundle", "inspect", flow.bundle)
    assert "trained on simulated_ward (simulated)" in shown.out
    assert "remark: nothing was verified" in shown.err
    assert json.loads(smallhold("bundle", "inspect", flow.bundle, "--json").out)["tasks"] == ["icu-risk"]
    copy = tmp_path / "copy"
    shutil.copytree(flow.bundle, copy)
    (copy / "manifest.dsse.json").unlink()
    assert smallhold("bundle", "verify", copy).code == 1
    assert smallhold("bundle", "sign", copy).code == 0
    assert smallhold("bundle", "verify", copy).code == 0


def test_a_bundle_may_be_one_file(flow, home, smallhold, tmp_path):
    single = tmp_path / "icu-risk.zip"
    done = smallhold(
        "bundle", "build", flow.run, "--out", single, "--data", flow.data, "--fp32", "--no-expiry", "--json"
    )
    assert done.code == 0, done.err
    assert json.loads(done.out)["is_signed"] is True
    assert smallhold("bundle", "verify", single).code == 0
    assert json.loads(smallhold("bundle", "inspect", single, "--json").out)["expires"] is None
    assert smallhold("device", "install", single).code == 0


def test_build_refuses_to_replace_what_is_no_bundle(flow, home, smallhold, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years")
    done = smallhold("bundle", "build", flow.run, "--out", tmp_path / "precious", "--data", flow.data)
    assert done.code == 1
    assert "precious: exists and is no bundle, so it is not replaced" in done.err
    assert [path.name for path in (tmp_path / "precious").iterdir()] == ["thesis.txt"]


def test_build_needs_the_data_set_of_the_run(flow, home, smallhold, tmp_path):
    done = smallhold("bundle", "build", flow.run, "--out", tmp_path / "b", "--data", tmp_path)
    assert done.code == 1 and not (tmp_path / "b").exists()
    assert "data set 'physionet2012_icu' not found" in done.err
    write_ward(flow.stays[1:], tmp_path / "simulated_ward")
    done = smallhold("bundle", "build", flow.run, "--out", tmp_path / "b", "--data", tmp_path)
    assert done.code == 1 and not (tmp_path / "b").exists()
    assert "calibration needs the very data of the run, simulated_ward" in done.err
    done = smallhold("bundle", "build", tmp_path, "--out", tmp_path / "b")
    assert "no run.json, so the training has not finished" in done.err


def test_install_status_rollback(flow, home, smallhold, resigned):
    assert smallhold("device", "install", flow.bundle).code == 0
    assert smallhold("device", "install", resigned("next", version="1.1.0")).code == 0
    status = json.loads(smallhold("device", "status", "--json").out)
    assert (status["active"], status["highest_version"]) == ("b", "1.1.0")
    back = json.loads(smallhold("device", "rollback", "--json").out)
    assert back["version"] == "1.0.0"
    assert json.loads(smallhold("device", "status", "--json").out)["highest_version"] == "1.1.0"


def test_decide_answers_abstains_and_says_so_by_its_exit_code(flow, home, smallhold):
    codes = {}
    for stay in icu_risk.split(flow.stays, Split.TEST):
        done = smallhold("decide", flow.bundle, "--hours", 12, "--json", stdin=json.dumps(asked(stay, 12)))
        answer = json.loads(done.out)
        assert done.code == (3 if answer["risk"]["has_abstained"] else 0)
        assert (answer["risk"]["choice"] is None) == (done.code == 3)
        assert sum(answer["risk"]["probabilities"].values()) == pytest.approx(1)
        codes[done.code] = stay
        plain = smallhold("decide", flow.bundle, "--hours", 12, stdin=json.dumps(asked(stay, 12)))
        assert plain.code == done.code
        assert ("answer: abstained (after 12 h" in plain.out) == (done.code == 3)
        assert plain.err == "not a medical device\n"
        if len(codes) == 2:
            break
    assert set(codes) == {0, 3}  # about half of the answers are withheld by so small a model


def test_decide_converts_units_and_reads_a_file(flow, home, smallhold, tmp_path):
    (tmp_path / "p.json").write_text(json.dumps(TRUE_PATIENT))
    fahrenheit = json.loads(smallhold("decide", flow.bundle, "--input", tmp_path / "p.json", "--json").out)
    celsius = {**TRUE_PATIENT, "events": [[10, "HR", 118], [10, "Temp", 38.5], *TRUE_PATIENT["events"][2:]]}
    same = json.loads(smallhold("decide", flow.bundle, "--json", stdin=json.dumps(celsius)).out)
    assert fahrenheit["risk"]["probabilities"] == same["risk"]["probabilities"]
    assert fahrenheit["accepted"] == 4
    assert fahrenheit["scores"]["scores"][0]["total"] >= 5


def test_decide_agrees_with_the_reference_runtime(flow, home, smallhold):
    both = [
        json.loads(smallhold("decide", flow.bundle, "--backend", name, "--json", stdin=json.dumps(TRUE_PATIENT)).out)
        for name in ("onnx_runtime", "reference")
    ]
    # One of the two rounds activations to 8 bits, in front of the output head too.
    assert both[0]["risk"]["probabilities"] == pytest.approx(both[1]["risk"]["probabilities"], abs=2e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"events": [[10, "HR", 118, "mm[Hg]"]]},
            r"events[0] refused: unit: HR: unit 'mm[Hg]' is not a unit of heart rate",
        ),
        ({"events": [[20, "HR", 80], [10, "Temp", 480]]}, r"events[1] refused: range: Temp 480 Cel"),
        ({"events": [[10, "Potion", 1]]}, "events[0] refused: unknown_code: 'Potion'"),
        ({"events": [[10, "HR"]]}, "events[0]: expected [minute, parameter, value] or"),
        ({"events": [[10, "HR", True]]}, "events[0]: expected [minute, parameter, value] or"),
        ({"events": [[-1, "HR", 80]]}, "events[0]: expected [minute, parameter, value] or"),
        ({"events": []}, "expected an object with a non-empty list 'events'"),
        ({"age": "old"}, "member 'age': got 'old'"),
        ({"age": 710}, "member 'age': expected years from 0 to 130, got 710"),
        ({"sex": "female"}, "member 'sex': expected one of F, M, got 'female'"),
        ({"icu_type": "medcal"}, "member 'icu_type': expected one of medical, surgical"),
        ({"events": [[60 * 49, "HR", 80]]}, "task icu-risk answers for 48 bins of 60 minutes"),
    ],
)
def test_decide_refuses_a_wrong_patient_with_one_clear_line(flow, home, smallhold, change, message):
    done = smallhold("decide", flow.bundle, stdin=json.dumps({**TRUE_PATIENT, **change}))
    assert (done.code, done.out) == (1, "")
    errors = [line for line in done.err.splitlines() if not line.startswith("hint: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: ") and message in errors[0]


@pytest.mark.parametrize("text", ["{", '{"events": [[1, "HR", 80]', "", "[1, 2]"])
def test_decide_refuses_what_is_not_json(flow, home, smallhold, text):
    done = smallhold("decide", flow.bundle, stdin=text)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: standard input: ") and done.err.count("\n") == 1


def test_decide_needs_an_hour_a_task_and_a_file(flow, home, smallhold, tmp_path):
    patient = json.dumps(TRUE_PATIENT)
    done = smallhold("decide", flow.bundle, "--hours", 0, stdin=patient)
    assert (done.code, done.err) == (1, "error: --hours: expected at least 1, got 0\n")
    done = smallhold("decide", flow.bundle, "--task", "sepsis", stdin=patient)
    assert "no task 'sepsis', only icu-risk" in done.err
    done = smallhold("decide", flow.bundle, "--input", tmp_path / "absent.json")
    assert (done.code, done.err) == (1, f"error: {tmp_path / 'absent.json'}: No such file or directory\n")


def test_the_python_api_works_as_its_docstring_shows(flow):
    bundle = package.open(flow.bundle, trusted_keys=flow.home / "trust")
    local = bundle.task("icu-risk")
    session = local.session(icu_risk.static_features(flow.stays[0]))
    session.observe("HR", 118)
    session.close_bin()
    answer = session.decide().answers["in_hospital_death"]
    assert set(answer.probabilities) == {"no", "yes"}
    assert session.decide().answers["in_hospital_death"] == answer  # asking changes nothing
    by_name = local.session(dict(zip(icu_risk.STATIC_FEATURES, icu_risk.static_features(flow.stays[0]), strict=True)))
    by_name.observe("HR", 118)
    by_name.close_bin()
    assert by_name.decide().answers["in_hospital_death"] == answer


def test_replay_journals_every_reading_and_the_journal_verifies(flow, home, smallhold):
    patients = sorted(icu_risk.split(flow.stays, Split.TEST), key=lambda stay: stay.record_id)[:3]
    done = smallhold("replay", flow.bundle, "--data", flow.data, "--patients", 3, "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    expected = sum(1 for stay in patients for minute, _, _ in readings(stay) if minute <= 48 * 60)
    assert (result["patients"], result["observations"], result["decisions"]) == (3, expected, 3 * 48)
    assert result["steps"] == expected + 3 * 48
    assert (result["is_simulated"], result["is_degraded"], result["bundle_error"]) == (True, False, None)
    steps = [
        json.loads(payload) for _, payload in read_entries(home / "journal.db", 0, "step", key=Home(home).device_key())
    ]
    assert len(steps) == result["steps"]
    assert sum("observation" in step for step in steps) == expected
    assert all(step["provenance"]["simulated"] is True for step in steps)
    verified = smallhold("journal", "verify", "--json")
    assert verified.code == 0 and json.loads(verified.out)["is_intact"] is True
    # What the model said is computed again, bit for bit.
    done = smallhold("journal", "replay", "--last", 60, "--bundle", flow.bundle, "--json")
    assert done.code == 0, done.err
    again = json.loads(done.out)
    assert again["is_bit_exact"] and again["compared"] == 60 and again["risks"] > 0
    done = smallhold("journal", "replay", "--bundle", flow.bundle, "--backend", "reference")
    assert done.code == 1 and "backend: recorded 'onnx_runtime', here 'reference'" in done.err
    # The same words again are a new run, and what the journal says of both is the same.
    again = json.loads(smallhold("replay", flow.bundle, "--data", flow.data, "--patients", 3, "--quiet", "--json").out)
    assert again["run_id"] != result["run_id"] and again["resumed_steps"] == 0
    assert again["alerts"] == result["alerts"]


def test_replay_prints_alerts_on_stderr_and_a_table_on_stdout(flow, home, smallhold):
    done = smallhold("replay", flow.bundle, "--data", flow.data, "--patients", 5, "--profile", "eu")
    assert done.code == 0
    assert "simulated patient sim-t-" in done.err
    assert done.out.splitlines()[0].startswith("patients     5 of simulated_ward (simulated)")
    assert "patient sim-t-" not in done.out
    assert done.err.splitlines()[-2:] == ["next: smallhold journal verify", "next: smallhold journal show --last 5"]


def test_a_folder_that_the_user_named_is_never_replaced_by_a_simulation(flow, home, smallhold, monkeypatch, tmp_path):
    monkeypatch.setenv("SMALLHOLD_DATA", str(tmp_path / "nowhere"))
    for words in (["replay", flow.bundle], ["evaluate", flow.bundle], ["demo"], ["demo", "--data", tmp_path]):
        done = smallhold(*words)
        assert (done.code, done.out) == (1, ""), words
        assert "data set 'physionet2012_icu' not found" in done.err


def test_the_demo_uses_the_simulated_ward_of_a_folder_that_the_user_named(flow, home, smallhold, tmp_path):
    done = smallhold("demo", "--recipe", flow.recipe, "--data", flow.data, "--out", tmp_path / "run", "--patients", 1)
    assert done.code == 0 and f"the SIMULATED ward in {flow.data}" in done.err
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert told["data_digest"] == json.loads((flow.run / "run.json").read_text())["data_digest"]


def test_a_model_that_never_answers_in_time_leaves_the_floor_alone(flow, home, smallhold):
    words = ("--data", flow.data, "--patients", 2, "--quiet", "--json", "--deadline-ms", 0.001)
    done = smallhold("replay", flow.bundle, *words)
    result = json.loads(done.out)
    assert done.code == 3 and result["decisions"] == 0 and result["is_degraded"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--patients", "0"], "--patients must be positive and --deadline-ms in (0, 60000], got 0 and 250"),
        (["--deadline-ms", "nan"], "in (0, 60000], got 30 and nan"),
        (["--deadline-ms", "inf"], "in (0, 60000], got 30 and inf"),
        (["--profile", "mars"], "mars"),
        (["--split", "train", "--data", "/nowhere"], "data set 'physionet2012_icu' not found"),
    ],
)
def test_replay_refuses_wrong_options(flow, home, smallhold, words, message):
    done = smallhold("replay", flow.bundle, *(["--data", flow.data] if "--data" not in words else []), *words)
    assert (done.code, done.out) == (1, "")
    assert message in done.err
    assert not Path(home / "journal.db").exists()
