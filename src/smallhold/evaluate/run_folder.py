"""The training run behind a bundle: its teacher, and the model before compression."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from smallhold.decide.local import LocalTask
from smallhold.decide.trees import Trees
from smallhold.errors import DataError
from smallhold.learn.checkpoint import load_signal_model

TEACHER_FILE = "teacher/trees.npz"
CHECKPOINT_FOLDER = "checkpoint"

Student = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float64]]


def open_teacher(run: Path) -> Trees:
    """The trees that taught the model.

    Raises:
        DataError: the run has none.
    """
    path = run / TEACHER_FILE
    if not path.exists():
        raise DataError(f"run {run}: {TEACHER_FILE} is missing", hint="smallhold teach train RECIPE --out DIR")
    return Trees.from_bytes(path.read_bytes())


def open_student(run: Path, local: LocalTask) -> Student:
    """The float32 model in torch: (channels (B, T, C), static (B, S)) to log-odds (B, H) at the task's horizons."""
    model = load_signal_model(run / CHECKPOINT_FOLDER)
    field = local.task.fields[0]
    deciding = local.plans[field.name].deciding
    positive = field.choices.index(field.positive)
    choices = torch.tensor([deciding[1 - positive], deciding[positive]])

    def margins(channels: NDArray[np.float32], static: NDArray[np.float32]) -> NDArray[np.float64]:
        with torch.no_grad():
            logits = model.choice_logits(torch.from_numpy(channels), torch.from_numpy(static), choices)
        at = [hour - 1 for hour in local.task.horizons]
        return (logits[:, at, 1] - logits[:, at, 0]).double().numpy()

    return margins
