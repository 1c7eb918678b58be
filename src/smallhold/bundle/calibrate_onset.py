"""Fit a specialist's field on the calibration split: rows are asked hours, and patients stay together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from smallhold.bundle.calibrate import LEAST_OF_EITHER_OUTCOME, Calibration, calibrate_field, fit_comparator, summarize
from smallhold.decide.task import Task
from smallhold.errors import DataError
from smallhold.evaluate.onset_predict import NEWS2, SPECIALIST, TREES, OnsetPredictions


def calibrate_onset(task: Task, seen: OnsetPredictions, *, max_error: float) -> Calibration:
    """Probabilities, promise and alert threshold at the task's horizons, and comparators for trees and NEWS2.

    Args:
        task: The task; its first field is fitted.
        seen: Of the calibration split alone.
        max_error: Of those to whom it happens, and of those to whom it does not, at most this share is told the other
            at any horizon, 0 < max_error < 1.

    Raises:
        DataError: fewer than ten patients of either outcome at some horizon.
    """
    patients, hours, positions = [], [], []
    for hour in task.horizons:
        patient, at = seen.rows(hour)
        label = seen.label[patient, at]
        if min(label.sum(), (~label).sum()) < LEAST_OF_EITHER_OUTCOME:
            raise DataError(
                f"task {task.name}: calibration split: expected at least {LEAST_OF_EITHER_OUTCOME} patients of either "
                f"outcome at hour {hour}, got {int(label.sum())} and {int((~label).sum())}"
            )
        patients.append(patient)
        positions.append(at)
        hours += [str(hour)] * len(patient)
    patient, at = np.concatenate(patients), np.concatenate(positions)
    label, asked = seen.label[patient, at], task.fields[0]
    positive = asked.choices.index(asked.positive)
    logits = np.zeros((len(label), 2))
    logits[:, positive] = seen.numbers[SPECIALIST][patient, at]
    truth = np.where(label, positive, 1 - positive)
    groups = np.array(hours)
    field = calibrate_field(asked, logits, truth, alpha=max_error, groups=groups, units=patient)
    comparators = {
        name: {
            hour: fit_comparator(seen.numbers[name][patient, at][groups == hour], label[groups == hour])
            for hour in map(str, task.horizons)
        }
        for name in (TREES, NEWS2)
        if name in seen.numbers
    }
    fitted = replace(task, fields=(field, *task.fields[1:]), comparators=comparators)
    return Calibration(fitted, summarize(field, logits, truth, groups=groups))
