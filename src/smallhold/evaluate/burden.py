"""What a model's alerts would cost a ward, and what they would be worth, when it is asked every hour.

Two ways of holding the burden equal between models: one alert for every 35 patient-days, and 5 % of all hourly
assessments at or above the threshold. An alert is a rise: an hour at or above the threshold after an hour below it,
as the bed raises it. Each threshold is found on the calibration split and then applied; where that split was not at
hand it is found on the very patients that are measured, which is optimistic, and the result says so.

Lead time is counted from the first alert to the end of the observed record, hour 48: the data say that a patient died
in hospital, not when.

Source of the first operating point: Escobar et al. 2020, doi:10.1056/NEJMsa2001090 (one new alert a day for a ward of
35).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from smallhold.evaluate import metrics
from smallhold.evaluate.bootstrap import resample
from smallhold.evaluate.result import Burden

PATIENT_DAYS_PER_ALERT = 35.0
ASSESSMENT_RATE = 0.05

#: In words, as the report shows them.
BY_ALERTS = f"1 alert per {PATIENT_DAYS_PER_ALERT:g} patient-days"
BY_ASSESSMENTS = f"{100 * ASSESSMENT_RATE:g} % of hourly assessments"

Floats = NDArray[np.float64]


def threshold_for_alerts(scores: Floats, patient_days_per_alert: float = PATIENT_DAYS_PER_ALERT) -> float:
    """The lowest threshold at which, as at every higher one, alerts are no more frequent than wanted.

    Args:
        scores: (N, T) what was said of each patient at each hour.
        patient_days_per_alert: At least so many patient-days go by for each alert.

    Returns:
        One of the scores, or infinity when even the highest one is too many.
    """
    before = np.column_stack([np.full(len(scores), -np.inf), scores[:, :-1]])
    candidates = np.unique(scores)[::-1]
    # A rise to t needs now >= t > before: hours at or above, less those whose hour before was there already.
    at_or_above = scores.size - np.searchsorted(np.sort(scores, axis=None), candidates)
    stayed = scores.size - np.searchsorted(np.sort(np.minimum(scores, before), axis=None), candidates)
    is_too_many = (at_or_above - stayed) * patient_days_per_alert > scores.size / 24
    # Not monotone: below some threshold everybody alerts once and for ever. The first excess ends the search.
    allowed = int(np.argmax(is_too_many)) if is_too_many.any() else len(candidates)
    return float(candidates[allowed - 1]) if allowed else float("inf")


def threshold_for_assessments(scores: Floats, rate: float = ASSESSMENT_RATE) -> float:
    """The lowest of the scores (N, T) that at most a share `rate` of them reaches; infinity when none is."""
    candidates, counts = np.unique(scores, return_counts=True)
    reached = np.cumsum(counts[::-1])[::-1]
    allowed = np.flatnonzero(reached <= rate * scores.size)
    return float(candidates[allowed[0]]) if len(allowed) else float("inf")


#: Operating point -> how its threshold is found from hourly scores.
OPERATING_POINTS: dict[str, Callable[[Floats], float]] = {
    BY_ALERTS: threshold_for_alerts,
    BY_ASSESSMENTS: threshold_for_assessments,
}


def alert_burden(
    died: NDArray[np.bool_],
    scores: Floats,
    threshold: float,
    *,
    model: str,
    operating_point: str,
    threshold_from: str,
    num_resamples: int,
    seed: int,
) -> Burden:
    """Count alerts at a threshold.

    Args:
        died: (N,).
        scores: (N, T) what the model says of each patient at hours 1 to T.
        threshold: An assessment alerts at this or more.
        model: For the record, as are the next two.
        operating_point: In words.
        threshold_from: Where the threshold was found.
        num_resamples: Of the bootstrap over patients.
        seed: Of the bootstrap.
    """
    is_above = scores >= threshold
    was_above = np.column_stack([np.zeros(len(scores), dtype=bool), is_above[:, :-1]])
    alerts = (is_above & ~was_above).sum(axis=1)
    is_alerted = alerts > 0
    num_hours = scores.shape[1]
    days = np.full(len(scores), num_hours / 24)

    def ratio(part: NDArray[np.generic], whole: NDArray[np.generic]) -> dict[str, float | None]:
        return resample(metrics.share, part, whole, num_resamples=num_resamples, seed=seed).interval().to_json()

    first_hour = is_above.argmax(axis=1) + 1
    lead = (num_hours - first_hour)[is_alerted & died]
    row: Burden = {
        "model": model,
        "operating_point": operating_point,
        "threshold": threshold if np.isfinite(threshold) else None,
        "threshold_from": threshold_from,
        "patient_days": float(days.sum()),
        "alerts": int(alerts.sum()),
        "lead_time_h": None,
    }
    figures = {
        "alerts_per_patient_day": ratio(alerts, days),
        "false_alerts_per_patient_day": ratio(alerts * ~died, days),
        "assessment_rate": ratio(is_above.sum(axis=1), np.full(len(scores), num_hours)),
        "ppv": ratio(is_alerted & died, is_alerted),
        "sensitivity": ratio(is_alerted & died, died),
    }
    if len(lead):
        low, median, high = np.percentile(lead, (25, 50, 75))
        row["lead_time_h"] = {"median": float(median), "low": float(low), "high": float(high)}
    row.update(figures)  # type: ignore[typeddict-item]
    return row
