import json
from dataclasses import replace

import numpy as np
import pytest

from smallhold.assist.drift import DriftMonitor
from smallhold.assist.drift_reference import (
    ANSWER_KINDS,
    INPUT_KINDS,
    LEAST_PATIENTS,
    LEAST_SHIFT,
    DriftReference,
    WardRecord,
    fit_drift_reference,
    window_statistics,
)
from smallhold.assist.drift_ward import ward_records
from smallhold.errors import DataError, RecipeError, ShapeError

from .drifting_ward import HOURS, WINDOW, small_reference, small_signal, ward


def record(minutes: list[int], values: list[float], refused: list[int] | None = None, **answers: object) -> WardRecord:
    size, gone = len(minutes), refused or []
    return WardRecord(
        np.array(minutes, np.int32),
        np.zeros(size, np.int16),
        np.array(values, np.float32),
        np.array(gone, np.int32),
        np.zeros(len(gone), np.int16),
        **answers,  # type: ignore[arg-type]
    )


def test_the_numbers_of_a_window_by_hand() -> None:
    found = window_statistics(
        small_signal("HR"),
        [
            record(
                [0, 60, 61, 500],
                [0.0, 2.0, 0.0, 0.0],
                refused=[130],
                risks=np.array([0.1, 0.3, 0.5, 0.7]),
                abstained=np.array([False, True, False, False]),
            )
        ],
        window_bins=2,
        num_windows=2,
        alert_threshold=0.5,
    )
    top = 0.9772499  # the rank of a normal score of 2, among the outermost 2.5 %
    np.testing.assert_allclose(found[0, 0], [(0.5 + top + 0.5) / 3, 1 / 3, 1, 0, 0.2, 0, 0.5], atol=1e-6)
    assert np.isnan(found[0, 1, :2]).all()
    np.testing.assert_allclose(found[0, 1, 2:], [0, 1, 0.6, 1, 0])


def test_the_batch_agrees_with_the_bed_reading_by_reading() -> None:
    signal, _, stays = ward()
    rng = np.random.default_rng(0)
    records = [
        replace(item, risks=rng.random(HOURS), abstained=rng.random(HOURS) < 0.3) for item in ward_records(stays[:60])
    ]
    fast = window_statistics(signal, records, window_bins=WINDOW, num_windows=HOURS // WINDOW, alert_threshold=0.8)
    reference = fit_drift_reference(
        signal, records, task="t", data_set="s", num_bins=HOURS, alert_threshold=0.8, window_bins=WINDOW
    )
    slow: list[np.ndarray] = []

    class Listening(DriftMonitor):
        def add_window(self, window: int, numbers: np.ndarray) -> None:
            assert window == len(slow) % (HOURS // WINDOW)
            slow.append(numbers)

    monitor = Listening(reference, signal)
    for item in records:
        follower = monitor.follow()
        assert item.risks is not None and item.abstained is not None
        readings = list(zip(item.minute.tolist(), item.code.tolist(), item.value.tolist(), strict=True))
        refused = list(zip(item.refused_minute.tolist(), item.refused_code.tolist(), strict=True))
        for hour in range(HOURS):
            low, high = hour * 60 - (hour == 0), (hour + 1) * 60
            for _, code, value in (r for r in readings if low < r[0] <= high):
                follower.observe(signal.parameters[code], value)
            for _, code in (r for r in refused if low < r[0] <= high):
                follower.refuse(signal.parameters[code])
            p = float(item.risks[hour])
            follower.answer(p, is_alert=p >= 0.8, has_abstained=bool(item.abstained[hour]))
            follower.close_bin()
    np.testing.assert_allclose(np.array(slow).reshape(fast.shape), fast, atol=1e-9)
    assert any(len(item.refused_minute) for item in records)


def test_a_fitted_mean_is_the_mean_and_its_tolerance_shrinks_with_the_patients() -> None:
    signal = small_signal("HR")
    few, many = (
        fit_drift_reference(
            signal,
            [record([1] if n % 4 else [], [0.0] if n % 4 else []) for n in range(size)],
            task="t",
            data_set="s",
            num_bins=2,
            alert_threshold=1.0,
            window_bins=1,
        )
        for size in (100, 10_000)
    )
    value, tail, measured, refused = few.streams
    assert [stream.kind for stream in few.streams] == list(INPUT_KINDS)
    assert value.means == (0.5, None) and tail.means == (0.0, None)  # nobody was measured in the second bin
    assert measured.means == (0.75, 0.0) and refused.means == (0.0, 0.0)
    error = (0.75 * 0.25 / 100) ** 0.5
    assert measured.tolerances[0] == pytest.approx(LEAST_SHIFT["measured"] + 3 * error, abs=1e-6)
    assert many.streams[2].tolerances[0] == pytest.approx(LEAST_SHIFT["measured"] + 3 * error / 10, abs=1e-6)


def test_answers_are_watched_only_where_a_model_was_asked() -> None:
    answers = {"risks": np.full(2, 0.2), "abstained": np.zeros(2, bool)}
    kinds = []
    for given in ({}, answers):
        fitted = fit_drift_reference(
            small_signal("HR"),
            [record([1], [0.0], **given)] * LEAST_PATIENTS,
            task="t",
            data_set="s",
            num_bins=2,
            alert_threshold=0.5,
            window_bins=2,
        )
        kinds.append([stream.kind for stream in fitted.streams])
    assert kinds == [list(INPUT_KINDS), [*INPUT_KINDS, *ANSWER_KINDS]]


def test_a_reference_comes_back_as_it_was() -> None:
    _, reference, _ = ward()
    again = DriftReference.from_bytes(reference.to_bytes())
    assert again == reference and again.digest == reference.digest
    assert len(reference.to_bytes()) < 40_000  # it travels in a bundle of 3 MB
    assert again.num_windows == HOURS // WINDOW


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "smallhold.drift/2"}, "expected format smallhold.drift/1"),
        ({"window_bins": 0}, "windows of 0 bins"),
        ({"streams": []}, "got 0 streams"),
        (
            {"streams": [{"kind": "mood", "name": "HR", "means": [0], "tolerances": [0]}]},
            "unknown kind of stream 'mood'",
        ),
        ({"streams": [{"kind": "value", "name": "HR", "means": [2], "tolerances": [0]}]}, "numbers in \\[0, 1\\]"),
        ({"streams": [{"kind": "value", "name": "HR", "means": [0]}]}, "malformed: KeyError"),
        ({"surplus": 1}, "malformed: TypeError"),
    ],
)
def test_a_damaged_reference_is_refused(change: dict[str, object], message: str) -> None:
    value = json.loads(small_reference("HR", means=(0.5, 0.1, 0.9, 0.0)).to_bytes())
    with pytest.raises(RecipeError, match=message):
        DriftReference.from_bytes(json.dumps({**value, **change}).encode())


def test_too_few_patients_are_no_reference() -> None:
    words = {"task": "t", "data_set": "s", "num_bins": 4, "alert_threshold": 1.0}
    with pytest.raises(DataError, match="expected at least 50 patients and a window_bins that divides 4, got 49"):
        fit_drift_reference(small_signal("HR"), [record([], [])] * 49, window_bins=2, **words)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="got 50 patients and 3"):
        fit_drift_reference(small_signal("HR"), [record([], [])] * 50, window_bins=3, **words)  # type: ignore[arg-type]


def test_answers_for_too_few_bins_are_refused() -> None:
    short = record([1], [0.0], risks=np.zeros(3), abstained=np.zeros(3, bool))
    with pytest.raises(ShapeError, match="expected 4 bins, got 3"):
        window_statistics(small_signal("HR"), [short], window_bins=2, num_windows=2, alert_threshold=1.0)
