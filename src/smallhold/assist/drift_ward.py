"""Recorded stays as what drift is measured on, and the reference that a ward's own calibration split gives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from smallhold.assist.drift_reference import DriftReference, WardRecord, fit_drift_reference
from smallhold.decide.local import LocalTask
from smallhold.decide.plan import answer_field
from smallhold.decide.signal import encode_stays
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.stays import Stay


def ward_records(stays: Sequence[Stay], local: LocalTask | None = None) -> list[WardRecord]:
    """Stays as drift sees them, with the answers of a model when one is given; about 5 ms a stay then.

    Args:
        stays: Recorded or simulated stays.
        local: The task that is asked at the end of every bin, or None.
    """
    return [_record(stay, local) for stay in stays]


def fit_ward_reference(local: LocalTask, stays: Sequence[Stay]) -> DriftReference:
    """Fit what is expected of a ward, inputs and answers.

    Args:
        local: The task that will be watched.
        stays: The calibration split.

    Raises:
        DataError: too few stays.
    """
    field = local.task.fields[0]
    return fit_drift_reference(
        local.task.signal,
        ward_records(stays, local),
        task=local.task.name,
        data_set=stays[0].data_set if stays else "",
        num_bins=local.task.num_bins,
        alert_threshold=max(field.alert_threshold, 1e-6),  # as `recorded_ward` asks
    )


def _record(stay: Stay, local: LocalTask | None) -> WardRecord:
    refused_minute = np.array([item.minute for item in stay.refused], dtype=np.int32)
    refused_code = np.array([item.code for item in stay.refused], dtype=np.int16)
    risks, abstained = None, None
    if local is not None:
        task, field = local.task, local.task.fields[0]
        channels = encode_stays(task.signal, [(stay.minute, stay.code, stay.value)], task.num_bins)[0]
        logits = local.logits(channels, icu_risk.static_features(stay), range(1, task.num_bins + 1))[field.name]
        answers = [answer_field(field, row) for row in logits]
        risks = np.array([answer.probabilities[field.positive] for answer in answers])
        abstained = np.array([answer.has_abstained for answer in answers])
    return WardRecord(stay.minute, stay.code, stay.value, refused_minute, refused_code, risks, abstained)
