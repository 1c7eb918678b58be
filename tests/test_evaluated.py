"""What `smallhold evaluate --json` promises, on directories laid out like the data root."""

import json

import pytest

from smallhold.decide.trees import Trees
from smallhold.sectors.hospital.simulator import write_ward

METRICS = ("auroc", "auprc", "event1", "event1_best", "ece", "brier", "coverage")
SCORES = ("news2", "mews", "qsofa", "sirs")
QUICK = ("--resamples", 20, "--json")


@pytest.fixture(scope="module")
def foreign(flow, tmp_path_factory):
    """A directory nobody has seen: simulated rows in the place and dress of the real data set, half of them zipped."""
    zstandard = pytest.importorskip("zstandard", reason="compressed rows need zstandard, the extra 'data'")
    root = tmp_path_factory.mktemp("foreign")
    folder = root / "physionet2012_icu"
    source = write_ward(flow.stays, folder)
    lines = []
    for number, line in enumerate(source.read_text().splitlines()):
        row = json.loads(line)
        del row["simulated"]
        row["saps1"] = None if number % 7 == 0 else 5 + number % 13
        lines.append(json.dumps(row) + "\n")
    source.unlink()
    (folder / "set-a.jsonl").write_text("".join(lines[::2]))
    (folder / "set-b.jsonl.zst").write_bytes(zstandard.compress("".join(lines[1::2]).encode()))
    return root


def by_model(result):
    return {(row["model"], row["horizon_h"]): row for row in result["rows"]}


def check_contract(result, *, models, num_patients):
    """Every row of the contract and no other, each figure with its interval."""
    rows = by_model(result)
    expected = {(model, hour) for model in models for hour in (6, 12, 24, 48) if model != "saps1" or hour >= 24}
    assert set(rows) == expected and len(result["rows"]) == len(expected)
    for row in rows.values():
        assert row["n"] == num_patients
        for name in METRICS:
            figure = row.get(name)
            if figure is None:
                # SAPS-I was never seen by a calibration on simulated patients: it ranks, but is no probability.
                assert row["model"] == "saps1" and name not in ("auroc", "auprc", "event1_best")
                continue
            assert set(figure) == {"value", "low", "high"}
            assert 0 <= figure["low"] <= figure["value"] <= figure["high"] <= 1 or name == "ece"
        if row["model"] not in ("shipped", "fp32", "saps1"):
            assert row["coverage"]["value"] == 1
    return rows


def test_the_contract_on_a_directory_of_simulated_patients(flow, home, smallhold):
    words = ("--task", "icu-risk", "--data", flow.data, "--split", "all", "--run", flow.run, *QUICK)
    done = smallhold("evaluate", flow.bundle, *words)
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert (result["task"], result["split"], result["is_simulated"]) == ("icu-risk", "all", True)
    models = (*SCORES, "trees", "shipped", "trees+shipped", "teacher", "fp32")
    rows = check_contract(result, models=models, num_patients=170)
    # The teacher and the trees of the bundle are the same trees, and 8 bits change little.
    assert rows["teacher", 48]["auroc"] == rows["trees", 48]["auroc"]
    assert rows["fp32", 48]["auroc"]["value"] == pytest.approx(rows["shipped", 48]["auroc"]["value"], abs=0.05)
    assert result["latency"]["append_decide_ms"]["n"] == 20 * 48
    assert 0 < result["cold_start_s"] < 60 and result["resident_bytes"] > 10**6


def test_the_contract_on_a_directory_nobody_has_seen(flow, home, smallhold, foreign):
    done = smallhold("evaluate", flow.bundle, "--data", foreign, "--split", "all", "--quality-only", *QUICK)
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert (result["data_set"], result["is_simulated"]) == ("physionet2012_icu", False)
    foreign_rows = check_contract(
        result, models=(*SCORES, "saps1", "trees", "shipped", "trees+shipped"), num_patients=170
    )
    done = smallhold("evaluate", flow.bundle, "--data", flow.data, "--split", "all", "--quality-only", *QUICK)
    rows = by_model(json.loads(done.out))
    # The same patients in another dress give the same figures; only their order in the file differs.
    for key in rows:
        assert foreign_rows[key]["auroc"]["value"] == rows[key]["auroc"]["value"]


def test_the_shipped_model_reads_no_output_of_the_trees(flow, home, smallhold, resigned):
    trees = Trees.from_bytes((flow.bundle / "baseline" / "icu-risk.trees.npz").read_bytes())
    trees.value[:] = -3 * trees.value[::-1]
    other = resigned("other", files={"baseline/icu-risk.trees.npz": trees.to_bytes()})
    before, after = (
        by_model(
            json.loads(
                smallhold("evaluate", bundle, "--data", flow.data, "--split", "all", "--quality-only", *QUICK).out
            )
        )
        for bundle in (flow.bundle, other)
    )
    for hour in (6, 12, 24, 48):
        assert before["shipped", hour] == after["shipped", hour]
        assert before["news2", hour] == after["news2", hour]
        assert before["trees", hour]["auroc"] != after["trees", hour]["auroc"]


def test_evaluate_writes_a_report_and_prints_a_table(flow, home, smallhold, tmp_path):
    pytest.importorskip("matplotlib", reason="the report's pictures need matplotlib, the extra 'report'")
    out = tmp_path / "report"
    done = smallhold("evaluate", flow.bundle, "--data", flow.data, "--out", out, "--resamples", 20)
    assert done.code == 0, done.err
    assert "shipped" in done.out and "NEWS2" in done.out
    assert json.loads((out / "result.json").read_text())["num_patients"] == 15
    page = (out / "report.html").read_text()
    assert "simulated" in page and "not a medical device" in page.lower()
    names = {"report.html", "result.json", "datasheet.md", "intended_use.md", "index.txt"}
    assert {path.name for path in out.iterdir()} == names
    assert done.err.rstrip().endswith(f"next: smallhold replay {flow.bundle} --patients 30")


def test_bundles_beside_are_named_by_options_and_by_a_file(flow, home, smallhold, tmp_path):
    listed = tmp_path / "ablation.json"
    listed.write_text(json.dumps({"no distillation": str(flow.bundle)}))
    words = ("evaluate", flow.bundle, "--data", flow.data, "--quality-only", *QUICK)
    done = smallhold(*words, "--beside", f"int4={flow.bundle}", "--ablation", listed)
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert [item["name"] for item in result["besides"]] == ["int4", "no distillation"]
    compared = {tuple(item["models"]) for item in result["differences"]}
    assert {("shipped", "int4"), ("shipped", "no distillation")} <= compared
    # The calibration split lay beside the test split.
    assert "calibration" in {row["threshold_from"] for row in result["burden"]} and result["remarks"] == []
    twice = smallhold(*words, "--beside", f"a={flow.bundle}", "--beside", f"a={flow.bundle}")
    assert (twice.code, twice.out) == (1, "") and "names given twice: a" in twice.err
    listed.write_text("[]")
    assert 'expected {"NAME": "BUNDLE", ...}' in smallhold(*words, "--ablation", listed).err


def test_patients_without_an_outcome_are_left_out_and_counted(flow, home, smallhold, tmp_path):
    source = write_ward(flow.stays, tmp_path / "simulated_ward")
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    for row in rows[:9]:
        row["died_in_hospital"] = None
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = smallhold("evaluate", flow.bundle, "--data", tmp_path, "--split", "all", "--quality-only", *QUICK)
    assert "remark: 9 patients without an outcome are left out" in done.err
    assert {row["n"] for row in json.loads(done.out)["rows"]} == {161}


@pytest.mark.parametrize("ruin", ["cut", "not json", "no member"])
def test_a_broken_data_file_is_one_clear_error(flow, home, smallhold, tmp_path, ruin):
    source = write_ward(flow.stays[:3], tmp_path / "simulated_ward")
    text = source.read_text()
    ruined, message = {
        "cut": (text[:-20], "line 3: the file is cut short"),
        "not json": ("hello\n" + text, "line 1: expected a JSON object, got something else"),
        "no member": (text.replace('"events"', '"evnts"', 1), "line 1, member 'events': missing"),
    }[ruin]
    source.write_text(ruined)
    for verb in ("evaluate", "replay"):
        done = smallhold(verb, flow.bundle, "--data", tmp_path, "--split", "all")
        assert (done.code, done.out) == (1, "")
        assert f"error: {source}, {message}" in done.err


def test_evaluate_refuses_what_it_cannot_do(flow, home, smallhold, tmp_path):
    done = smallhold("evaluate", flow.bundle, "--data", flow.data, "--resamples", 0)
    assert (done.code, done.err) == (1, "error: --resamples: expected at least 1, got 0\n")
    done = smallhold("evaluate", flow.bundle, "--data", tmp_path)
    assert (done.code, done.out) == (1, "") and "data set 'physionet2012_icu' not found" in done.err
    done = smallhold("evaluate", flow.bundle, "--data", flow.data, "--run", tmp_path, "--quality-only")
    assert (done.code, done.out) == (
        1,
        "",
    ) and "is not the one that bundle icu-risk-tiny 1.0.0 was built from" in done.err
