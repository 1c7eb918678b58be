"""Alerts are counted as a bed raises them, and thresholds hold the burden where they were found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallhold.evaluate.burden import alert_burden, threshold_for_alerts, threshold_for_assessments


def rises(scores: np.ndarray, threshold: float) -> int:
    return sum(
        now >= threshold and not (hour and row[hour - 1] >= threshold)
        for row in scores.tolist()
        for hour, now in enumerate(row)
    )


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 8), st.integers(1, 12), st.integers(0, 10**6), st.sampled_from([0.3, 1.0, 4.0]))
def test_the_threshold_is_the_lowest_above_which_alerts_stay_rare(n: int, hours: int, seed: int, days: float) -> None:
    scores = np.round(np.random.default_rng(seed).random((n, hours)), 1)  # ties
    found = threshold_for_alerts(scores, days)
    allowed = scores.size / 24 / days
    candidates = sorted(set(scores.ravel().tolist()), reverse=True)
    slow = float("inf")
    for candidate in candidates:
        if rises(scores, candidate) > allowed + 1e-9:
            break
        slow = candidate
    assert found == slow


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 8), st.integers(1, 12), st.integers(0, 10**6), st.sampled_from([0.05, 0.2, 1.0]))
def test_no_more_than_the_wanted_share_is_at_or_above(n: int, hours: int, seed: int, rate: float) -> None:
    scores = np.round(np.random.default_rng(seed).random((n, hours)), 1)
    found = threshold_for_assessments(scores, rate)
    assert (scores >= found).mean() <= rate + 1e-12
    lower = scores[scores < found]
    assert not lower.size or (scores >= lower.max()).mean() > rate


def test_alerts_of_three_patients_by_hand() -> None:
    scores = np.zeros((3, 24))
    scores[0, [2, 3, 9]] = 0.8  # dies; two rises, the first in hour 3
    scores[1, 5] = 0.8  # lives; one rise
    row = alert_burden(
        np.array([True, False, True]), scores, 0.5,
        model="shipped", operating_point="p", threshold_from="bundle", num_resamples=10, seed=0,
    )  # fmt: skip
    assert (row["alerts"], row["patient_days"]) == (3, 3.0)
    assert row["alerts_per_patient_day"]["value"] == 1.0
    assert row["false_alerts_per_patient_day"]["value"] == pytest.approx(1 / 3)
    assert row["assessment_rate"]["value"] == pytest.approx(4 / 72)
    assert (row["ppv"]["value"], row["sensitivity"]["value"]) == (0.5, 0.5)
    assert row["lead_time_h"] == {"median": 21.0, "low": 21.0, "high": 21.0}  # from hour 3 to hour 24


def test_without_an_alert_there_is_no_ppv_and_no_lead_time() -> None:
    row = alert_burden(
        np.array([True, False]), np.zeros((2, 4)), float("inf"),
        model="news2", operating_point="p", threshold_from="calibration", num_resamples=10, seed=0,
    )  # fmt: skip
    assert row["threshold"] is None and row["alerts"] == 0 and row["lead_time_h"] is None
    assert row["ppv"] == {"value": None, "low": None, "high": None}
    assert row["sensitivity"]["value"] == 0.0
