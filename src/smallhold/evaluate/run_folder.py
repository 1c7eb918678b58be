"""The training run behind a bundle: its teacher, and the model before compression."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from smallhold.decide.local import LocalTask
from smallhold.decide.trees import Trees
from smallhold.device.manifest import Manifest
from smallhold.errors import DataError
from smallhold.learn.checkpoint import load_signal_model
from smallhold.records import sha256_hex

#: Whose SHA-256 a bundle's manifest carries as `base_digest`: the first of these that the run was bundled from.
WEIGHT_FILES = (
    "quantized/quantized.safetensors",
    "quantized-4/quantized.safetensors",
    "checkpoint/model.safetensors",
)
TEACHER_FILE = "teacher/trees.npz"
CHECKPOINT_FOLDER = "checkpoint"
#: What a finished run says of itself that made a language model smaller, in place of `run.json`.
LANGUAGE_FILE = "language.json"

Student = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float64]]


def require_run_of(run: Path, manifest: Manifest) -> None:
    """Refuse a training run that is not the one behind a bundle.

    Raises:
        DataError: none of its weights has the digest that the manifest names.
    """
    digests = {sha256_hex((run / name).read_bytes()) for name in WEIGHT_FILES if (run / name).exists()}
    if manifest.base_digest not in digests:
        raise DataError(
            f"run {run}: is not the one that bundle {manifest.name} {manifest.version} was built from",
            hint="give the run's folder with --run DIR, or leave --run out",
        )


def read_run_file(run: Path) -> dict[str, Any]:
    """The members of `run.json`.

    Raises:
        DataError: the run is not finished, or the file is malformed.
    """
    try:
        value: dict[str, Any] = json.loads((run / "run.json").read_text())
    except FileNotFoundError as error:
        if (run / LANGUAGE_FILE).exists():
            raise DataError(
                f"run {run}: holds a language model that was taught no task",
                hint=f"smallhold bundle build --from {run / CHECKPOINT_FOLDER} --name NAME",
            ) from error
        raise DataError(
            f"run {run}: no run.json, so the training has not finished", hint="run the training command again"
        ) from error
    except ValueError as error:
        raise DataError(f"run {run}: run.json is malformed: {error}") from error
    return value


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
