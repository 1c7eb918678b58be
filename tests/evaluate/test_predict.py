import shutil
from dataclasses import replace

import numpy as np
import pytest

from smallhold.decide.local import open_bundle
from smallhold.errors import DataError
from smallhold.evaluate.bedside_scores import news2_at
from smallhold.evaluate.predict import predict_all
from smallhold.records import Provenance
from smallhold.sectors.hospital.floor import FloorState
from smallhold.sectors.hospital.icu_risk import static_features
from smallhold.sectors.hospital.parameters import PARAMETERS


def silent(caption, done, total):
    pass


@pytest.fixture(scope="module")
def local(flow):
    return open_bundle(flow.bundle, trusted_keys=flow.home / "trust").task("icu-risk")


@pytest.fixture(scope="module")
def predictions(flow, local):
    return predict_all(local, flow.stays[:12], progress=silent, run=flow.run)


def test_the_shipped_numbers_are_what_a_session_says_hour_by_hour(flow, local, predictions):
    # Slow twin: the device's way, one reading at a time.
    field = local.task.fields[0]
    for i, stay in enumerate(flow.stays[:3]):
        session, said = local.session(static_features(stay)), {}
        for hour in range(1, 49):
            now = (stay.minute > 60 * (hour - 1)) & (stay.minute <= 60 * hour) | (stay.minute == 0) & (hour == 1)
            for at in np.flatnonzero(now):
                session.observe(PARAMETERS[stay.code[at]].name, float(stay.value[at]))
            session.close_bin()
            p = session.decide().answers[field.name].probabilities
            said[hour] = field.temperature * (np.log(p["yes"]) - np.log(p["no"]))
        expected = [said[hour] for hour in predictions.horizons]
        np.testing.assert_allclose(predictions.numbers["shipped"][i], expected, atol=2e-3)


def test_eight_bits_stay_close_to_the_model_before_compression(predictions):
    np.testing.assert_allclose(predictions.numbers["fp32"], predictions.numbers["shipped"], atol=0.1)


def test_the_teacher_of_the_run_is_the_baseline_of_the_bundle(predictions):
    np.testing.assert_array_equal(predictions.numbers["teacher"], predictions.numbers["trees"])
    together = (predictions.numbers["trees"] + predictions.numbers["shipped"]) / 2
    np.testing.assert_array_equal(predictions.numbers["trees+shipped"], together)


def test_news2_at_a_horizon_uses_the_readings_up_to_then_and_no_others(flow):
    for stay in flow.stays[:5]:
        slow = []
        for hour in (6, 12, 24, 48):
            floor = FloorState("p")
            for minute, code, value in zip(stay.minute, stay.code, stay.value, strict=True):
                if minute <= 60 * hour:
                    floor.observe(PARAMETERS[code].name, float(value), int(minute) * 60_000)
            scores = floor.scores(hour * 3_600_000, Provenance(trace_id="0" * 32, clock="stay"))
            slow.append(scores.scores[0].total)
        assert news2_at(stay, (6, 12, 24, 48)) == slow


def test_nothing_after_a_horizon_changes_what_is_said_at_it(flow, local):
    stay = flow.stays[0]
    early = stay.minute <= 12 * 60
    cut = replace(stay, minute=stay.minute[early], code=stay.code[early], value=stay.value[early])
    both = predict_all(local, [stay, cut], progress=silent)
    at = [i for i, hour in enumerate(both.horizons) if hour <= 12]
    for name in ("news2", "trees", "shipped", "trees+shipped"):
        np.testing.assert_allclose(both.numbers[name][0, at], both.numbers[name][1, at], atol=1e-5)


def test_saps1_applies_from_24_hours_and_a_missing_one_is_the_median(flow, local):
    stays = [replace(stay, saps1=value) for stay, value in zip(flow.stays, (4.0, None, 10.0, 6.0), strict=False)]
    saps1 = predict_all(local, stays, progress=silent).numbers["saps1"]
    np.testing.assert_array_equal(saps1, [[np.nan, np.nan, s, s] for s in (4, 6, 10, 6)])
    assert np.isnan(predict_all(local, flow.stays[:2], progress=silent).numbers["saps1"]).all()


def test_the_outcome_is_never_an_input(flow, local):
    stays = flow.stays[:4]
    told = predict_all(local, [replace(stay, died=True, saps1=30.0) for stay in stays], progress=silent)
    other = predict_all(local, [replace(stay, died=False) for stay in stays], progress=silent)
    for name in ("news2", "trees", "shipped", "trees+shipped"):
        np.testing.assert_array_equal(told.numbers[name], other.numbers[name])


def test_patients_that_cannot_be_judged_are_refused(flow, local, tmp_path):
    with pytest.raises(DataError, match="no patients to evaluate: the split is empty"):
        predict_all(local, [], progress=silent)
    with pytest.raises(
        DataError, match=f"1 of 2 patients have no died_in_hospital, the first is {flow.stays[1].record_id}"
    ):
        predict_all(local, [flow.stays[0], replace(flow.stays[1], died=None)], progress=silent)
    with pytest.raises(DataError, match=r"is not the one that bundle icu-risk-tiny 1\.0\.0 was built from"):
        predict_all(local, flow.stays[:1], progress=silent, run=tmp_path)
    beheaded = shutil.copytree(flow.run, tmp_path / "run")
    (beheaded / "teacher" / "trees.npz").unlink()
    with pytest.raises(DataError, match=r"teacher/trees\.npz is missing"):
        predict_all(local, flow.stays[:1], progress=silent, run=beheaded)
