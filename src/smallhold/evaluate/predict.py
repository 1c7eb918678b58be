"""What each model and each score says of each patient at each horizon, as one number a patient.

Numbers are log-odds where a model makes them and points where a score does. `shipped` reads no output of the trees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smallhold.decide.local import LocalTask
from smallhold.decide.signal import encode_stays
from smallhold.decide.task import Task
from smallhold.decide.trees import Trees
from smallhold.errors import DataError
from smallhold.records import Provenance
from smallhold.sectors.hospital.floor import FloorState
from smallhold.sectors.hospital.icu_risk import STATIC_FEATURES, static_features
from smallhold.sectors.hospital.parameters import PARAMETERS
from smallhold.sectors.hospital.stays import Stay

Progress = Callable[[str, int, int], None]
_SAPS1_FROM_H = 24  # the score describes the first 24 hours


@dataclass(frozen=True, slots=True)
class Predictions:
    """One number for each model, patient and horizon.

    Attributes:
        died: (N,) bool.
        horizons: (H,) hours.
        numbers: Model name to (N, H) float64; NaN in a whole column where a model does not apply.
    """

    died: NDArray[np.bool_]
    horizons: tuple[int, ...]
    numbers: dict[str, NDArray[np.float64]]


def predict_all(local: LocalTask, stays: Sequence[Stay], *, progress: Progress, run: Path | None = None) -> Predictions:
    """Ask the shipped model, the trees of the bundle, and the scores.

    Args:
        local: The task of an opened bundle.
        stays: Patients with a known outcome.
        progress: Called with a caption, patients done and patients in all.
        run: Folder of the training run; adds `teacher` and `fp32`.

    Raises:
        DataError: no patient, or one without a known outcome.
    """
    if not stays:
        raise DataError("no patients to evaluate: the split is empty")
    unknown = [stay.record_id for stay in stays if stay.died is None]
    if unknown:
        raise DataError(f"{len(unknown)} of {len(stays)} patients have no died_in_hospital, the first is {unknown[0]}")
    task = local.task
    _require_same_inputs(task)
    trees, teacher, student = local.trees(), None, None
    if run is not None:
        from smallhold.evaluate.run_folder import open_student, open_teacher, require_run_of

        require_run_of(run, local.bundle.manifest)
        teacher, student = open_teacher(run), open_student(run, local)
    horizons = task.horizons
    names = ["news2", "saps1", "shipped"]
    names += ["trees", "trees+shipped"] if trees else []
    names += ["teacher", "fp32"] if run is not None else []
    numbers = {name: np.full((len(stays), len(horizons)), np.nan) for name in names}
    field = task.fields[0]
    positive = field.choices.index(field.positive)
    block = 256
    for start in range(0, len(stays), block):
        part = stays[start : start + block]
        rows = slice(start, start + len(part))
        channels = encode_stays(task.signal, [(s.minute, s.code, s.value) for s in part], max(horizons))
        static = np.stack([static_features(stay) for stay in part])
        for i in range(len(part)):
            logits = local.logits(channels[i], static[i], horizons)[field.name].astype(np.float64)
            numbers["shipped"][start + i] = logits[:, positive] - logits[:, 1 - positive]
        for source, name in ((trees, "trees"), (teacher, "teacher")):
            if source is not None:
                numbers[name][rows] = _tree_logits(source, channels, static, horizons)
        if student is not None:
            numbers["fp32"][rows] = student(channels, static)
        numbers["news2"][rows] = [news2_at(stay, horizons) for stay in part]
        progress("patients", rows.stop, len(stays))
    late = [i for i, hour in enumerate(horizons) if hour >= _SAPS1_FROM_H]
    saps1 = _saps1(stays)
    if saps1 is not None:
        numbers["saps1"][:, late] = saps1[:, None]
    if trees:
        numbers["trees+shipped"] = (numbers["trees"] + numbers["shipped"]) / 2
    return Predictions(np.array([bool(stay.died) for stay in stays]), horizons, numbers)


def _require_same_inputs(task: Task) -> None:
    """Refuse a bundle whose parameters or static features are not those that stays are held in.

    Raises:
        DataError: the message names what differs.
    """
    ours = tuple(parameter.name for parameter in PARAMETERS)
    for name, theirs, expected in (
        ("parameters", task.signal.parameters, ours),
        ("static features", task.signal.static, STATIC_FEATURES),
    ):
        if theirs != expected:
            differing = sorted(set(theirs) ^ set(expected)) or "their order"
            raise DataError(f"task {task.name}: its {name} are not those of this version: {differing}")


def news2_at(stay: Stay, horizons: Sequence[int]) -> list[int]:
    """NEWS2 of a stay at each horizon, from the readings up to then."""
    floor = FloorState(stay.record_id)
    provenance = Provenance(trace_id="0" * 32, clock="stay", simulated=stay.is_simulated)
    minute, code, value = stay.minute.tolist(), stay.code.tolist(), stay.value.tolist()
    totals, at = [], 0
    for hour in horizons:
        while at < len(minute) and minute[at] <= 60 * hour:
            floor.observe(PARAMETERS[code[at]].name, value[at], minute[at] * 60_000)
            at += 1
        totals.append(floor.scores(hour * 3_600_000, provenance).scores[0].total)
    return totals


def _tree_logits(
    trees: Trees, channels: NDArray[np.float32], static: NDArray[np.float32], horizons: Sequence[int]
) -> NDArray[np.float64]:
    columns = [trees.logit(np.concatenate([channels[:, h - 1], static], axis=1), h) for h in horizons]
    return np.stack(columns, axis=1)


def _saps1(stays: Sequence[Stay]) -> NDArray[np.float64] | None:
    """(N,) SAPS-I; a missing one is the median of the others, None when all are missing."""
    values = np.array([np.nan if stay.saps1 is None else stay.saps1 for stay in stays])
    if np.isnan(values).all():
        return None
    return np.where(np.isnan(values), np.nanmedian(values), values)
