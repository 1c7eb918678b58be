import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallhold.evaluate.burden import BY_ALERTS, BY_ASSESSMENTS, threshold_for_alerts, threshold_for_assessments
from smallhold.evaluate.onset_burden import POINTS, find_threshold, onset_burden
from smallhold.evaluate.onset_predict import OnsetPredictions
from smallhold.sectors.hospital.onsets import NO_EVENT


def seen(scores: list[list[float]], events: list[list[int]], asked: list[list[bool]] | None = None) -> OnsetPredictions:
    event = np.array(events, dtype=np.int32)
    is_asked = np.ones(event.shape, bool) if asked is None else np.array(asked)
    return OnsetPredictions(
        {"specialist": np.array(scores)}, is_asked, (event != NO_EVENT) & is_asked, event, ("medical",) * len(scores)
    )


def test_alerts_are_rises_and_right_when_the_onset_comes_in_the_window() -> None:
    # Patient 0: a rise at hour 2 (onset at 5 h), still high at hour 3. Patient 1: a rise at hour 1, nothing comes.
    found = seen(
        [[0.1, 0.9, 0.9, 0.1], [0.8, 0.1, 0.1, 0.1]], [[300, 300, 300, NO_EVENT], [NO_EVENT] * 4]
    )  # fmt: skip
    row = onset_burden(found, "specialist", 0.5, point=BY_ALERTS, num_resamples=10, seed=0)
    assert row["alerts"] == 2 and row["patient_days"] == pytest.approx(8 / 24)
    assert row["ppv"]["value"] == 0.5 and row["sensitivity"]["value"] == 1.0
    assert row["lead_time_h"]["median"] == 3.0  # from hour 2 to hour 5
    assert row["assessment_rate"]["value"] == pytest.approx(3 / 8)


def test_hours_that_are_not_asked_raise_no_alert_and_are_no_patient_time() -> None:
    found = seen([[0.9, 0.9, 0.9]], [[120, 120, NO_EVENT]], [[False, True, False]])
    row = onset_burden(found, "specialist", 0.5, point=BY_ALERTS, num_resamples=10, seed=0)
    assert row["alerts"] == 1 and row["patient_days"] == pytest.approx(1 / 24)


def test_a_model_that_never_alerts_has_no_lead_time() -> None:
    found = seen([[0.1, 0.2]], [[90, NO_EVENT]])
    row = onset_burden(found, "specialist", float("inf"), point=BY_ALERTS, num_resamples=10, seed=0)
    assert row["alerts"] == 0 and row["lead_time_h"] is None and row["threshold"] is None
    assert row["ppv"]["value"] is None and row["sensitivity"]["value"] == 0.0


def _rows(hours: int) -> st.SearchStrategy[list[float]]:
    return st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.9]), min_size=hours, max_size=hours)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12).flatmap(
        lambda hours: st.lists(
            st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.9]), min_size=hours, max_size=hours),
            min_size=1,
            max_size=40,
        )
    )
)
def test_where_everything_is_asked_the_thresholds_are_those_of_the_other_tasks(scores: list[list[float]]) -> None:
    numbers = np.array(scores)
    everything = np.ones(numbers.shape, dtype=bool)
    assert find_threshold(numbers, everything, BY_ALERTS) == threshold_for_alerts(numbers)
    assert find_threshold(numbers, everything, BY_ASSESSMENTS) == threshold_for_assessments(numbers)


@pytest.mark.parametrize("point", POINTS)
def test_a_threshold_keeps_to_its_burden(point: str) -> None:
    rng = np.random.default_rng(0)
    numbers, asked = rng.normal(size=(200, 24)), rng.random((200, 24)) < 0.5
    threshold = find_threshold(numbers, asked, point)
    above = asked & (numbers >= threshold)
    rises = above & ~np.column_stack([np.zeros(200, bool), above[:, :-1]])
    if point == BY_ALERTS:
        assert 0 < rises.sum() * 35 <= asked.sum() / 24
    else:
        assert 0.04 < above.sum() / asked.sum() <= 0.05
