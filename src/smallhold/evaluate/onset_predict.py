"""What a specialist, the trees, NEWS2 and the general model say of every patient at every hour that is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smallhold.decide.local import LocalTask
from smallhold.decide.signal import encode_stays
from smallhold.errors import DataError
from smallhold.evaluate.bedside_scores import news2_at
from smallhold.evaluate.predict import shipped_margins, tree_logits
from smallhold.sectors.hospital.icu_risk import static_features
from smallhold.sectors.hospital.onsets import OnsetQuestion
from smallhold.sectors.hospital.stays import Stay

Progress = Callable[[str, int, int], None]
Floats = NDArray[np.float64]
_BLOCK = 64

SPECIALIST, TREES, NEWS2, GENERAL = "specialist", "trees", "news2", "icu-risk"


@dataclass(frozen=True, slots=True, eq=False)
class OnsetPredictions:
    """Every model at every hour.

    Attributes:
        numbers: Model to (N, T): log-odds of models, points of NEWS2; also where nobody is asked.
        is_asked: (N, T) hours that count.
        label: (N, T) whether it begins within the window; False where not asked.
        event_minute: (N, T) when it begins; `onsets.NO_EVENT` where it does not.
        icu_types: (N,) kind of unit.
    """

    numbers: dict[str, Floats]
    is_asked: NDArray[np.bool_]
    label: NDArray[np.bool_]
    event_minute: NDArray[np.int32]
    icu_types: tuple[str, ...]

    def part(self, member: NDArray[np.bool_]) -> OnsetPredictions:
        """The patients (N,) of a group."""
        return OnsetPredictions(
            {name: numbers[member] for name, numbers in self.numbers.items()},
            self.is_asked[member],
            self.label[member],
            self.event_minute[member],
            tuple(name for name, is_in in zip(self.icu_types, member.tolist(), strict=True) if is_in),
        )

    def rows(self, hour: int | None = None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Patient and position of the hour of every asked hour, or of those at one hour."""
        asked = self.is_asked
        if hour is not None:
            asked = np.zeros_like(asked)
            asked[:, hour - 1] = self.is_asked[:, hour - 1]
        patient, at = np.nonzero(asked)
        return patient, at


def predict_onsets(
    local: LocalTask,
    general: LocalTask | None,
    asked_of: OnsetQuestion,
    stays: Sequence[Stay],
    *,
    progress: Progress,
) -> OnsetPredictions:
    """Ask everybody at every hour.

    Args:
        local: The specialist.
        general: The task that watches all patients, for comparison; None leaves it out.
        asked_of: What is asked.
        stays: Patients; those who are never asked are left out.
        progress: Called with a caption, patients done and patients in all.

    Raises:
        DataError: nobody is ever asked.
    """
    everybody = [(stay, asked_of.asked_at(stay)) for stay in stays]
    kept = [(stay, asked) for stay, asked in everybody if asked.is_asked.any()]
    if not kept:
        raise DataError(f"{asked_of.name}: none of {len(stays)} patients is ever asked")
    hours = range(1, asked_of.num_bins + 1)
    trees = local.trees()
    names = [SPECIALIST, *([TREES] if trees else []), NEWS2, *([GENERAL] if general else [])]
    numbers = {name: np.empty((len(kept), len(hours))) for name in names}
    for start in range(0, len(kept), _BLOCK):
        part = [stay for stay, _ in kept[start : start + _BLOCK]]
        rows = slice(start, start + len(part))
        events = [(stay.minute, stay.code, stay.value) for stay in part]
        static = np.stack([static_features(stay) for stay in part])
        channels = encode_stays(local.task.signal, events, len(hours))
        numbers[SPECIALIST][rows] = shipped_margins(local, channels, static, hours)
        if trees:
            numbers[TREES][rows] = tree_logits(trees, channels, static, hours)
        if general:
            theirs = channels
            if general.task.signal != local.task.signal:
                theirs = encode_stays(general.task.signal, events, len(hours))
            numbers[GENERAL][rows] = shipped_margins(general, theirs, static, hours)
        for i, stay in enumerate(part, start):
            numbers[NEWS2][i] = news2_at(stay, hours)
        progress(f"patients, {asked_of.name}", start + len(part), len(kept))
    is_asked = np.array([asked.is_asked for _, asked in kept])
    return OnsetPredictions(
        numbers,
        is_asked,
        np.array([asked.label for _, asked in kept]) & is_asked,
        np.array([asked.event_minute for _, asked in kept]),
        tuple(stay.icu_type for stay, _ in kept),
    )
