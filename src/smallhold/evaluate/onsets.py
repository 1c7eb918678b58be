"""Measure specialists: quality with intervals over patients, beside trees, NEWS2, the general model, always and never.

The gate: a specialist speaks when it ranks asked hours better than NEWS2 (the whole interval of the difference in AUROC
above 0) and is not worse than trees on the same inputs (its interval not below 0). It is judged on the validation
split when the bundle is built; what fails is left out of the bundle, and nobody is called by it. A report on the test
split says in its first line what holds there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from smallhold.decide.local import LocalTask
from smallhold.decide.task import Task
from smallhold.evaluate import metrics
from smallhold.evaluate.bootstrap import Resampled, resample
from smallhold.evaluate.judged import read_by_comparator, read_by_field
from smallhold.evaluate.onset_burden import POINTS, find_threshold, onset_burden
from smallhold.evaluate.onset_predict import (
    GENERAL,
    NEWS2,
    SPECIALIST,
    TREES,
    OnsetPredictions,
    Progress,
    predict_onsets,
)
from smallhold.evaluate.verdict import Outcome, judge
from smallhold.sectors.hospital.conditions import condition_groups
from smallhold.sectors.hospital.onsets import question
from smallhold.sectors.hospital.stays import Stay

#: Fewer patients to whom it happened, and a group is not measured by itself.
LEAST_ONSETS = 10
_METRICS = {"auroc": metrics.auroc, "auprc": metrics.auprc}


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether a specialist may speak, and why."""

    speaks: bool
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OnsetRequest:
    """What to measure.

    Attributes:
        stays: Patients of the split.
        calibration: Patients that thresholds of equal burden are found on.
        split: Name of the split, for the record.
        num_resamples: Of the bootstrap.
        seed: Of the bootstrap.
    """

    stays: Sequence[Stay]
    calibration: Sequence[Stay]
    split: str
    num_resamples: int
    seed: int


def evaluate_specialist(
    local: LocalTask, general: LocalTask | None, request: OnsetRequest, *, progress: Progress
) -> dict[str, Any]:
    """Everything about one specialist, as JSON.

    Raises:
        DataError: nobody is ever asked.
    """
    asked_of = question(local.task.name)
    test = predict_onsets(local, general, asked_of, request.stays, progress=progress)
    found_on = predict_onsets(local, None, asked_of, request.calibration, progress=progress)
    rows, pooled = _rows(local.task, test, request)
    differences = {
        f"{SPECIALIST} minus {other}": pooled[SPECIALIST].minus(pooled[other]).interval().to_json()
        for other in (TREES, NEWS2, GENERAL)
        if other in pooled
    }
    gate = _gate(asked_of.name, differences)
    bootstrap = {"num_resamples": request.num_resamples, "seed": request.seed}
    burden = [
        onset_burden(
            test, model, find_threshold(found_on.numbers[model], found_on.is_asked, point), point=point, **bootstrap
        )
        for point in POINTS
        for model in (SPECIALIST, TREES, NEWS2)
        if model in found_on.numbers
    ]
    return {
        "task": asked_of.name,
        "group": [group.name for group in condition_groups() if group.task == asked_of.name],
        "question": asked_of.question,
        "split": request.split,
        "data_set": ", ".join(sorted({stay.data_set for stay in request.stays})),
        "bundle": f"{local.bundle.manifest.name} {local.bundle.manifest.version}",
        "patients": len(test.is_asked),
        "patients_with_onset": int(test.label.any(axis=1).sum()),
        "asked_hours": int(test.is_asked.sum()),
        "speaks": gate.speaks,
        "verdict": gate.sentence,
        "rows": rows,
        "differences_auroc": differences,
        "burden": burden,
        "always": _always(test, request),
        "known_limits": asked_of.known_limits,
        "seed": request.seed,
    }


def gate_on(local: LocalTask, stays: Sequence[Stay], *, seed: int, progress: Progress) -> Gate:
    """Judge a specialist on patients of the validation split."""
    asked_of = question(local.task.name)
    seen = predict_onsets(local, None, asked_of, stays, progress=progress)
    pooled = {name: _pooled(seen, name, "auroc", 500, seed) for name in seen.numbers}
    differences = {
        f"{SPECIALIST} minus {other}": pooled[SPECIALIST].minus(pooled[other]).interval().to_json()
        for other in (TREES, NEWS2)
        if other in pooled
    }
    return _gate(asked_of.name, differences)


def _gate(name: str, differences: Mapping[str, Any]) -> Gate:
    floor = judge(differences.get(f"{SPECIALIST} minus {NEWS2}"))
    trees = judge(differences.get(f"{SPECIALIST} minus {TREES}"))
    speaks = floor is Outcome.BEATS and trees in (Outcome.BEATS, Outcome.MATCHES)
    words = {
        Outcome.BEATS: "beats {}",
        Outcome.MATCHES: "matches {} within noise",
        Outcome.WORSE: "is worse than {}",
        Outcome.UNKNOWN: "could not be compared with {}",
    }
    said = (
        f"{words[floor].format('NEWS2')}{_told(differences.get(f'{SPECIALIST} minus {NEWS2}'))} and "
        f"{words[trees].format('the boosted trees')}{_told(differences.get(f'{SPECIALIST} minus {TREES}'))}"
    )
    return Gate(speaks, f"{name} {'speaks' if speaks else 'does not speak'}: it {said}.")


def _told(difference: Mapping[str, float | None] | None) -> str:
    """A difference in AUROC in brackets, where there is one."""
    if difference is None or None in difference.values():
        return ""
    return f" (AUROC {difference['value']:+.3f}, {difference['low']:+.3f} to {difference['high']:+.3f})"


def _rows(
    task: Task, test: OnsetPredictions, request: OnsetRequest
) -> tuple[list[dict[str, Any]], dict[str, Resampled]]:
    """A row for each model at each horizon and over all asked hours, then for members of the group by themselves."""
    rows: list[dict[str, Any]] = []
    pooled: dict[str, Resampled] = {}
    icu_types = {name for group in condition_groups() if group.task == task.name for name in group.icu_types}
    member = np.array([name in icu_types for name in test.icu_types], dtype=bool)
    parts = {"all": test}
    if member.any() and not member.all():
        parts["units of the group"] = test.part(member)
    for whom, part in parts.items():
        for hour in (*task.horizons, None) if whom == "all" else (None,):
            patient, at = part.rows(hour)
            label = part.label[patient, at]
            happened = len(np.unique(patient[label]))
            if min(happened, len(np.unique(patient[~label]))) < LEAST_ONSETS:
                continue
            for model, numbers in part.numbers.items():
                row: dict[str, Any] = {"whom": whom, "hour": hour, "model": model, "asked": len(label)}
                row["patients"], row["onsets"] = len(np.unique(patient)), happened
                for name in _METRICS:
                    found = _pooled(part, model, name, request.num_resamples, request.seed, hour)
                    row[name] = found.interval().to_json()
                    if hour is None and whom == "all" and name == "auroc":
                        pooled[model] = found
                row |= _calibrated(task, model, numbers[patient, at], label, hour)
                rows.append(row)
    return rows, pooled


def _pooled(
    part: OnsetPredictions, model: str, metric: str, num_resamples: int, seed: int, hour: int | None = None
) -> Resampled:
    """A metric over asked hours; patients are drawn whole."""
    patient, at = part.rows(hour)
    label, number = part.label[patient, at], part.numbers[model][patient, at]
    return resample(_METRICS[metric], label, number, num_resamples=num_resamples, seed=seed, groups=patient)


def _calibrated(task: Task, model: str, number: Any, label: Any, hour: int | None) -> dict[str, Any]:
    """Brier score and calibration error of what has a probability, and how often the specialist answers."""
    if model == SPECIALIST:
        said = read_by_field(task.fields[0], number, hour)
    elif hour is not None and model in task.comparators:
        said = read_by_comparator(task.comparators[model].get(str(hour)), number)
    else:
        return {}
    if said.probability is None:
        return {}
    found = {
        "brier": metrics.brier(label, said.probability),
        "ece": metrics.expected_calibration_error(label, said.probability),
    }
    if model == SPECIALIST and said.has_abstained is not None:
        found["coverage"] = metrics.coverage(said.has_abstained)
    return found


def _always(test: OnsetPredictions, request: OnsetRequest) -> dict[str, Any]:
    """What an alert at every asked hour would be worth; never alerting has no alert and catches nobody."""
    patient, at = test.rows()
    label = test.label[patient, at]
    share = resample(
        metrics.share,
        label.astype(float),
        np.ones(len(label)),
        num_resamples=request.num_resamples,
        seed=request.seed,
        groups=patient,
    )
    return {"ppv": share.interval().to_json(), "sensitivity": 1.0, "alerts_per_patient_day": 24.0}
