from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from smallhold.bundle.calibrate import calibrate_margins
from smallhold.decide.local import LocalTask, open_bundle
from smallhold.decide.plan import answer_field
from smallhold.decide.signal import encode_stays
from smallhold.errors import InputError
from smallhold.evaluate import metrics
from smallhold.evaluate.device_cost import machine
from smallhold.evaluate.judged import read_by_field
from smallhold.evaluate.predict import predict_all, word_margins
from smallhold.evaluate.result import require_result
from smallhold.evaluate.run import EvaluationRequest, evaluate
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.simulator import simulate_ward
from smallhold.sectors.splits import Split


@pytest.fixture(scope="module")
def local(flow):
    return open_bundle(flow.bundle, trusted_keys=flow.home / "trust").task("icu-risk")


@pytest.fixture(scope="module")
def request_of(flow):
    def make(**changes):
        request = EvaluationRequest(
            stays=icu_risk.split(flow.stays, Split.TEST),
            split="test",
            run=None,
            seed=0,
            num_resamples=20,
            measure_device=False,
            command="smallhold evaluate",
        )
        return replace(request, **changes)

    return make


def silent(caption, done, total):
    pass


def test_the_same_request_gives_the_same_figures(local, request_of):
    first, again = (evaluate(local, request_of(), progress=silent) for _ in range(2))
    assert first["rows"] == again["rows"] and first["differences"] == again["differences"]
    other = evaluate(local, request_of(seed=1), progress=silent)
    assert [row["auroc"]["value"] for row in other["rows"]] == [row["auroc"]["value"] for row in first["rows"]]
    assert other["rows"] != first["rows"]  # other resamples, other intervals


def test_a_run_adds_its_teacher_its_unquantized_model_and_its_curve(local, request_of, flow):
    result = require_result(evaluate(local, request_of(run=flow.run), progress=silent))
    assert {row["model"] for row in result["rows"]} == {
        *("news2", "mews", "qsofa", "sirs", "trees", "shipped", "trees+shipped", "teacher", "fp32"),
    }
    assert result["training"]["parameters"] > 1000 and result["training"]["loss"][-1][0] == 55
    assert {tuple(item["models"]) for item in result["differences"]} == {
        *(("shipped", other) for other in ("trees", "news2", "mews", "qsofa", "sirs", "fp32")),
        ("trees+shipped", "trees"),
    }


def test_coverage_is_the_share_that_the_field_answers(local, request_of):
    result = evaluate(local, request_of(), progress=silent)
    shipped = [row for row in result["rows"] if row["model"] == "shipped"]
    # Slow twin: ask the task itself about each patient.
    field = local.task.fields[0]
    stays = request_of().stays
    channels = encode_stays(local.task.signal, [(s.minute, s.code, s.value) for s in stays], 48)
    for i, row in enumerate(shipped):
        answers = [
            answer_field(
                field,
                local.logits(channels[k], icu_risk.static_features(s), [row["horizon_h"]])[field.name][0],
                str(row["horizon_h"]),
            )
            for k, s in enumerate(stays)
        ]
        assert row["coverage"]["value"] == pytest.approx(sum(not a.has_abstained for a in answers) / len(stays)), i


def test_patients_of_one_outcome_have_no_auroc_but_still_a_brier_score(local, request_of, flow):
    survivors = [stay for stay in flow.stays if not stay.died][:6]
    result = evaluate(local, request_of(stays=survivors), progress=silent)
    row = next(row for row in result["rows"] if row["model"] == "shipped")
    assert row["auroc"] == {"value": None, "low": None, "high": None}
    assert row["brier"]["value"] is not None
    assert result["curves"] == {}


def test_one_patients_story_is_told(local, request_of):
    result = evaluate(local, request_of(measure_device=True), progress=silent)
    story = result["patient"]
    assert story["outcome"] == "died in hospital"
    assert [point["hour"] for point in story["risk"]] == list(range(1, 49))
    assert story["vitals"] and len(story["news2"]) == 48
    assert result["events_per_second_per_core"] > 0
    assert result["latency"]["append_decide_ms"]["p50"] <= result["latency"]["append_decide_ms"]["p99"]


def test_differences_are_those_of_the_rows_in_every_metric(local, request_of):
    result = evaluate(local, request_of(), progress=silent)
    rows = {(row["model"], row["horizon_h"]): row for row in result["rows"]}
    for item in result["differences"]:
        first, second = (rows[model, item["horizon_h"]] for model in item["models"])
        for name in ("auroc", "auprc", "event1"):
            assert item[name]["value"] == pytest.approx(first[name]["value"] - second[name]["value"])


def test_another_bundle_stands_beside_on_the_same_patients(local, request_of):
    result = evaluate(local, request_of(besides={"its twin": local}), progress=silent)
    rows = {(row["model"], row["horizon_h"]): row for row in result["rows"]}
    for hour in (6, 12, 24, 48):
        assert {**rows["its twin", hour], "model": "shipped"} == rows["shipped", hour]
    twins = [item for item in result["differences"] if item["models"] == ["shipped", "its twin"]]
    assert [item["auroc"]["high"] for item in twins] == [0.0] * 4
    assert result["besides"][0]["digest"] == result["bundle"]["digest"]
    with pytest.raises(InputError, match="this name is taken by the boosted trees"):
        evaluate(local, request_of(besides={"trees": local}), progress=silent)


def test_thresholds_of_equal_burden_come_from_the_calibration_split_or_say_so(local, request_of, flow):
    alone = evaluate(local, request_of(), progress=silent)
    assert {row["threshold_from"] for row in alone["burden"]} == {"these patients", "bundle", "published"}
    assert "optimistic" in alone["remarks"][0]
    calibration = icu_risk.split(flow.stays, Split.CALIBRATION)
    result = evaluate(local, request_of(calibration=calibration), progress=silent)
    assert {row["threshold_from"] for row in result["burden"]} == {"calibration", "bundle", "published"}
    assert result["remarks"] == []
    assert {row["model"] for row in result["burden"]} == {"shipped", "trees", "news2"}
    # Found on these very patients, the burden is never more than wanted.
    for row in alone["burden"]:
        if row["operating_point"].startswith("5 %"):
            assert row["assessment_rate"]["value"] <= 0.05
        if row["operating_point"].startswith("1 alert"):
            assert row["alerts"] <= row["patient_days"] / 35


def test_small_groups_show_no_figure(local, request_of):
    result = evaluate(local, request_of(), progress=silent)
    assert {row["attribute"] for row in result["subgroups"]} == {"sex", "age", "unit"}
    for row in result["subgroups"]:
        is_small = min(row["num_events"], row["n"] - row["num_events"]) < 10
        assert row["is_too_small"] is is_small and ("auroc" in row) is not is_small


def test_the_promise_is_counted_at_every_horizon_and_for_either_outcome(local, request_of):
    promise = evaluate(local, request_of(), progress=silent)["promise"]
    assert {(row["horizon_h"], row["choice"]) for row in promise["rows"]} == {
        (hour, choice) for hour in (6, 12, 24, 48) for choice in ("no", "yes")
    }
    assert all(0 <= row["coverage"]["low"] <= row["coverage"]["value"] <= 1 for row in promise["rows"])


def test_kinds_of_units_are_held_out_of_calibration_where_there_is_one(local, request_of, flow):
    known = icu_risk.split(flow.stays, Split.CALIBRATION)
    captions = []
    request = request_of(calibration=known, recalibrate=calibrate_margins)
    result = evaluate(local, request, progress=lambda caption, done, total: captions.append((caption, done, total)))
    shift = result["shift"]
    assert shift["alpha"] == local.task.fields[0].conformal.alpha
    assert sum(group["n"] for group in shift["groups"]) == len(request.stays)
    for group in shift["groups"]:
        others = [stay for stay in known if stay.icu_type != group["held_out"]]
        assert group["num_calibration"] == len(others)
        assert group["num_calibration_events"] == sum(bool(stay.died) for stay in others)
        assert all(row["is_too_small"] is (row["n"] < 10) for row in group["rows"])
    # Everybody is asked once.
    assert captions.count(("patients", len(known), len(known))) == 1
    assert captions.count(("patients", len(request.stays), len(request.stays))) == 1
    for changes in ({"calibration": known}, {"recalibrate": calibrate_margins}):
        assert "shift" not in evaluate(local, request_of(**changes), progress=silent)
    nameless = [replace(stay, icu_type="unknown") for stay in request.stays]
    assert "shift" not in evaluate(local, replace(request, stays=nameless), progress=silent)


@pytest.fixture(scope="module")
def spoken():
    """The committed bundle, which has learnt words, as a task with fields of its own for them; and a few patients."""
    models, now = Path(__file__).resolve().parents[2] / "models", datetime(2030, 1, 1, tzinfo=UTC)
    local = open_bundle(models / "hospital", trusted_keys=models / "trusted_keys", now=now).task("icu-risk")
    return local, simulate_ward(6, 0, 48)


def test_words_are_measured_by_their_own_field_and_as_before_without_one(spoken, request_of):
    local, stays = spoken
    own = replace(local.task.fields[0], temperature=3.0, alert_threshold=0.2)
    request = request_of(stays=stays)
    before, after = (
        evaluate(LocalTask(local.bundle, replace(local.task, word_fields=fields)), request, progress=silent)
        for fields in ((), (own,))
    )
    margins = word_margins(local, stays, local.task.horizons)
    for result, field in ((before, replace(local.task.fields[0], conformal=None)), (after, own)):
        for i, hour in enumerate(local.task.horizons):
            (row,) = [row for row in result["rows"] if (row["model"], row["horizon_h"]) == ("words", hour)]
            said = read_by_field(field, margins[:, i], hour)
            died = np.array([stay.died for stay in stays])
            assert row["ece"]["value"] == pytest.approx(metrics.expected_calibration_error(died, said.probability))
            assert row["coverage"]["value"] == pytest.approx(1 - said.has_abstained.mean())
    shipped = [[row for row in result["rows"] if row["model"] == "shipped"] for result in (before, after)]
    assert shipped[0] == shipped[1]
    assert "word_promise" not in before and before["promise"] == after["promise"]
    assert {row["horizon_h"] for row in after["word_promise"]["rows"]} == set(local.task.horizons)


def test_words_can_be_left_unasked(spoken):
    local, stays = spoken
    both = predict_all(local, stays[:2], progress=silent)
    alone = predict_all(local, stays[:2], progress=silent, has_words=False)
    assert set(both.numbers) - set(alone.numbers) == {"words"}
    np.testing.assert_array_equal(both.numbers["shipped"], alone.numbers["shipped"])


def test_the_machine_is_named():
    assert "cores" in machine() and "Python" in machine()
