"""What each model and each score says of each patient at each horizon, as one number a patient.

Numbers are log-odds where a model makes them and points where a score does. `shipped` reads no output of the trees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smallhold.decide.local import LocalTask
from smallhold.decide.signal import encode_stays
from smallhold.decide.task import Task
from smallhold.decide.trees import Trees
from smallhold.errors import DataError
from smallhold.evaluate.bedside_scores import OLDER, scores_at
from smallhold.sectors.hospital.icu_risk import STATIC_FEATURES, static_features
from smallhold.sectors.hospital.parameters import PARAMETERS
from smallhold.sectors.hospital.stays import Stay

Progress = Callable[[str, int, int], None]
_BLOCK = 64  # patients encoded at once; in words they take some seconds, and progress is shown after each block
_SAPS1_FROM_H = 24  # the score describes the first 24 hours


@dataclass(frozen=True, slots=True)
class Predictions:
    """One number for each model, patient and horizon.

    Attributes:
        died: (N,) bool.
        horizons: (H,) hours.
        numbers: Model name to (N, H) float64; NaN in a whole column where a model does not apply.
        hourly: The same at every hour from 1 to the last bin, (N, T), for `shipped`, `trees` and `news2`; empty
            unless asked for. Between their hours the trees answer with the ensemble of the nearest one.
    """

    died: NDArray[np.bool_]
    horizons: tuple[int, ...]
    numbers: dict[str, NDArray[np.float64]]
    hourly: dict[str, NDArray[np.float64]] = field(default_factory=dict)


def predict_all(
    local: LocalTask,
    stays: Sequence[Stay],
    *,
    progress: Progress,
    run: Path | None = None,
    is_hourly: bool = False,
    has_words: bool = True,
) -> Predictions:
    """Ask the shipped model, the trees of the bundle, and the scores.

    Args:
        local: The task of an opened bundle.
        stays: Patients with a known outcome.
        progress: Called with a caption, patients done and patients in all.
        run: Folder of the training run; adds `teacher` and `fp32`.
        is_hourly: Also fill `hourly`.
        has_words: Also ask in observation words, where the trunk has learnt them: most of the time that this takes.

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
    names = ["news2", *OLDER, "saps1", "shipped"]
    names += ["trees", "trees+shipped"] if trees else []
    names += ["words"] if task.words and has_words else []
    names += ["teacher", "fp32"] if run is not None else []
    numbers = {name: np.full((len(stays), len(horizons)), np.nan) for name in names}
    hours = range(1, task.num_bins + 1) if is_hourly else horizons
    at = [hours.index(hour) for hour in horizons]
    hourly = {name: np.empty((len(stays), len(hours))) for name in ("shipped", "news2", *(["trees"] if trees else []))}
    for start in range(0, len(stays), _BLOCK):
        part = stays[start : start + _BLOCK]
        rows = slice(start, start + len(part))
        channels = encode_stays(task.signal, [(s.minute, s.code, s.value) for s in part], max(hours))
        static = np.stack([static_features(stay) for stay in part])
        hourly["shipped"][rows] = shipped_margins(local, channels, static, hours)
        if trees:
            hourly["trees"][rows] = tree_logits(trees, channels, static, hours)
        if teacher:
            numbers["teacher"][rows] = tree_logits(teacher, channels, static, horizons)
        if student is not None:
            numbers["fp32"][rows] = student(channels, static)
        if "words" in numbers:
            numbers["words"][rows] = word_margins(local, part, horizons)
        for i, stay in enumerate(part, start):
            totals = scores_at(stay, hours, older_at=horizons)
            hourly["news2"][i] = totals["news2"]
            for name in OLDER:
                numbers[name][i] = totals[name]
        progress("patients", rows.stop, len(stays))
    for name, said in hourly.items():
        numbers[name] = said[:, at]
    late = [i for i, hour in enumerate(horizons) if hour >= _SAPS1_FROM_H]
    saps1 = _saps1(stays)
    if saps1 is not None:
        numbers["saps1"][:, late] = saps1[:, None]
    if trees:
        numbers["trees+shipped"] = (numbers["trees"] + numbers["shipped"]) / 2
    died = np.array([bool(stay.died) for stay in stays])
    return Predictions(died, horizons, numbers, hourly if is_hourly else {})


def shipped_margins(
    local: LocalTask, channels: NDArray[np.float32], static: NDArray[np.float32], hours: Sequence[int]
) -> NDArray[np.float64]:
    """Log-odds of the positive choice that the model of a bundle gives.

    Args:
        local: The task of an opened bundle; its first field has two choices.
        channels: (B, T, C).
        static: (B, S).
        hours: Bins closed, 1 to T.

    Returns:
        (B, len(hours)).
    """
    asked = local.task.fields[0]
    positive = asked.choices.index(asked.positive)
    margins = np.empty((len(channels), len(hours)))
    for i in range(len(channels)):
        logits = local.logits(channels[i], static[i], hours)[asked.name].astype(np.float64)
        margins[i] = logits[:, positive] - logits[:, 1 - positive]
    return margins


def word_margins(local: LocalTask, stays: Sequence[Stay], hours: Sequence[int]) -> NDArray[np.float64]:
    """(B, len(hours)) log-odds of the positive choice, asked in observation words; the hours are ends of cards."""
    asked, door = local.task.fields[0], local.word_door()
    positive = asked.choices.index(asked.positive)
    margins = np.empty((len(stays), len(hours)))
    for i, stay in enumerate(stays):
        session = local.bundle.backend.session()
        read = door.logits(session, stay.minute, stay.code, stay.value, static_features(stay), hours)
        logits = read[asked.name].astype(np.float64)
        margins[i] = logits[:, positive] - logits[:, 1 - positive]
    return margins


def margins_of(local: LocalTask, stays: Sequence[Stay], *, progress: Progress) -> NDArray[np.float64]:
    """(N, H) log-odds of another bundle's model for the same patients, at the task's horizons.

    Raises:
        DataError: the bundle reads other parameters or other static features.
    """
    _require_same_inputs(local.task)
    parts = []
    for start in range(0, len(stays), _BLOCK):
        part = stays[start : start + _BLOCK]
        readings = [(s.minute, s.code, s.value) for s in part]
        channels = encode_stays(local.task.signal, readings, max(local.task.horizons))
        static = np.stack([static_features(stay) for stay in part])
        parts.append(shipped_margins(local, channels, static, local.task.horizons))
        progress(f"patients, {local.bundle.manifest.name}", start + len(part), len(stays))
    return np.concatenate(parts)


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


def nearest_hour(hours: Sequence[int], hour: int) -> int:
    """The one of `hours` that lies nearest; of two equally near, the earlier."""
    return min(hours, key=lambda candidate: (abs(candidate - hour), candidate))


def tree_logits(
    trees: Trees, channels: NDArray[np.float32], static: NDArray[np.float32], hours: Sequence[int]
) -> NDArray[np.float64]:
    """(B, len(hours)) log-odds of channels (B, T, C); between its hours an ensemble answers for the hours around it."""
    columns = [
        trees.logit(np.concatenate([channels[:, h - 1], static], axis=1), nearest_hour(trees.hours.tolist(), h))
        for h in hours
    ]
    return np.stack(columns, axis=1)


def _saps1(stays: Sequence[Stay]) -> NDArray[np.float64] | None:
    """(N,) SAPS-I; a missing one is the median of the others, None when all are missing."""
    values = np.array([np.nan if stay.saps1 is None else stay.saps1 for stay in stays])
    if np.isnan(values).all():
        return None
    return np.where(np.isnan(values), np.nanmedian(values), values)
