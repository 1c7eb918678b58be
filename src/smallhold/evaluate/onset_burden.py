"""Alerts of a question about what begins next, at equal burden: how many are right, and how long before.

An alert is a rise: an asked hour at or above the threshold whose hour before was not. It is right when the onset comes
within the question's window; its lead time is from the alert to the onset, which unlike the hour of a death is on
record. Hours that are not asked raise no alert and are no patient time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smallhold.evaluate import metrics
from smallhold.evaluate.bootstrap import resample
from smallhold.evaluate.burden import ASSESSMENT_RATE, BY_ALERTS, BY_ASSESSMENTS, PATIENT_DAYS_PER_ALERT
from smallhold.evaluate.onset_predict import Floats, OnsetPredictions

Bools = NDArray[np.bool_]
POINTS = (BY_ALERTS, BY_ASSESSMENTS)


@dataclass(frozen=True, slots=True)
class _Counted:
    alerts: Bools  # (N, T)
    is_above: Bools  # (N, T)


def _count(scores: Floats, is_asked: Bools, threshold: float) -> _Counted:
    is_above = is_asked & (scores >= threshold)
    before = np.column_stack([np.zeros(len(scores), dtype=bool), is_above[:, :-1]])
    return _Counted(is_above & ~before, is_above)


def find_threshold(scores: Floats, is_asked: Bools, point: str) -> float:
    """The lowest of the scores at which, as at every higher one, the burden is no larger than wanted.

    Args:
        scores: (N, T).
        is_asked: (N, T) hours that count.
        point: One of `POINTS`.

    Returns:
        Infinity when even the highest score is too much.
    """
    hours = int(is_asked.sum())
    found = float("inf")
    for candidate in np.unique(scores[is_asked])[::-1]:
        counted = _count(scores, is_asked, float(candidate))
        if point == BY_ALERTS:
            is_too_much = counted.alerts.sum() * PATIENT_DAYS_PER_ALERT > hours / 24
        else:
            is_too_much = counted.is_above.sum() > ASSESSMENT_RATE * hours
        if is_too_much:
            break
        found = float(candidate)
    return found


def onset_burden(
    asked: OnsetPredictions, model: str, threshold: float, *, point: str, num_resamples: int, seed: int
) -> dict[str, Any]:
    """What a threshold costs and catches; intervals are over patients.

    Returns:
        Alerts, patient days, `ppv` (of alerts), `sensitivity` (of patients to whom it happened, by a right alert),
        `alerts_per_patient_day`, `assessment_rate`, and the quartiles of `lead_time_h` of first right alerts.
    """
    counted = _count(asked.numbers[model], asked.is_asked, threshold)
    alerts, right = counted.alerts.sum(axis=1), (counted.alerts & asked.label).sum(axis=1)
    happened: Bools = np.any(asked.label & asked.is_asked, axis=1)
    is_caught: Bools = right > 0

    def ratio(part: NDArray[Any], whole: NDArray[Any]) -> dict[str, float | None]:
        return resample(metrics.share, part, whole, num_resamples=num_resamples, seed=seed).interval().to_json()

    lead = []
    for row in np.flatnonzero(is_caught):
        first = int(np.flatnonzero(counted.alerts[row] & asked.label[row])[0])
        lead.append(asked.event_minute[row, first] / 60 - (first + 1))
    quartiles = np.percentile(lead, (25, 50, 75)).tolist() if lead else None
    hours = asked.is_asked.sum(axis=1)
    return {
        "model": model,
        "operating_point": point,
        "threshold": threshold if np.isfinite(threshold) else None,
        "alerts": int(alerts.sum()),
        "patient_days": float(hours.sum() / 24),
        "ppv": ratio(right, alerts),
        "sensitivity": ratio(np.logical_and(is_caught, happened), happened),
        "alerts_per_patient_day": ratio(alerts, hours / 24),
        "assessment_rate": ratio(counted.is_above.sum(axis=1), hours),
        "lead_time_h": None if quartiles is None else dict(zip(("low", "median", "high"), quartiles, strict=True)),
    }
