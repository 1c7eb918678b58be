"""What a signal task is taught from: channels, soft labels by trees, recombined patients."""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smallhold.decide.plan import Field
from smallhold.decide.signal import SignalSpec, encode_stays, fit_rank_gauss
from smallhold.decide.task import Task
from smallhold.decide.trees import Trees
from smallhold.decide.words import WordSpec
from smallhold.device.durable_file import write_durably
from smallhold.errors import DataError
from smallhold.evaluate.run_folder import TEACHER_FILE
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.parameters import PARAMETERS
from smallhold.sectors.hospital.stays import Stay
from smallhold.teach.signal_training import (
    SignalData,
    SignalTrainingConfig,
    SyntheticSet,
    draw_donors,
    hour_weights,
    recombine,
)
from smallhold.teach.trees import TreeConfig, fit_trees, interpolate_hours, out_of_fold_logits

Progress = Callable[[str, int, int], None]


def fit_signal_spec(stays: list[Stay]) -> SignalSpec:
    """Fit the rank-Gauss transform of every parameter on training patients."""
    code = np.concatenate([stay.code for stay in stays])
    value = np.concatenate([stay.value for stay in stays])
    return SignalSpec(
        parameters=tuple(parameter.name for parameter in PARAMETERS),
        grids=tuple(fit_rank_gauss(value[code == i]) for i in range(len(PARAMETERS))),
        bin_minutes=icu_risk.BIN_MINUTES,
        static=icu_risk.STATIC_FEATURES,
    )


def signal_inputs(stays: Sequence[Stay], spec: SignalSpec) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """Channels (N, T, C) of every bin that the task answers for, and static features (N, S)."""
    events = [(stay.minute, stay.code, stay.value) for stay in stays]
    channels = encode_stays(spec, events, icu_risk.NUM_BINS).astype(np.float16)
    return channels, np.stack([icu_risk.static_features(stay) for stay in stays])


def make_task(spec: SignalSpec, words: WordSpec | None = None) -> Task:
    """The task `icu-risk` before anything was calibrated."""
    return Task(
        name=icu_risk.NAME,
        sector="hospital",
        question=icu_risk.QUESTION,
        fields=tuple(Field(name=f.name, choices=f.choices, positive=f.positive) for f in icu_risk.SCHEMA),
        signal=spec,
        num_bins=icu_risk.NUM_BINS,
        horizons=icu_risk.HORIZONS_H,
        words=words,
        encoder=f"gguf/{icu_risk.NAME}.encoder.gguf",
        baseline=f"baseline/{icu_risk.NAME}.trees.npz",
        comparators={},
        condition=icu_risk.CONDITION,
    )


def teach_by_trees(
    config: TreeConfig,
    seed: int,
    channels: NDArray[np.float16],
    static: NDArray[np.float32],
    died: NDArray[np.bool_],
    run: Path,
    progress: Progress,
) -> tuple[NDArray[np.float32], Trees, float]:
    """Out-of-fold log-odds (N, E), trees, and the seconds spent; each hour is kept on disk as soon as it is done."""
    folder = run / "teacher"
    folder.mkdir(parents=True, exist_ok=True)
    fold = np.random.default_rng([seed, 1]).permutation(len(died)) % config.folds
    columns, seconds = [], 0.0
    for i, hour in enumerate(config.hours):
        path = folder / f"out_of_fold_{hour:02d}h.npz"
        if not path.exists():
            begun = time.monotonic()

            def forward(done: int, _: int, before: int = i) -> None:
                progress("teacher, out of fold", before * config.folds + done, config.folds * len(config.hours))

            column = out_of_fold_logits(channels, static, died, fold, config, hour, seed, forward)
            save_part(path, logits=column, seconds=np.array(time.monotonic() - begun))
        part = load_part(path)
        columns.append(part["logits"])
        seconds += float(part["seconds"])
    progress("teacher, out of fold", config.folds * len(config.hours), config.folds * len(config.hours))
    path, time_path = run / TEACHER_FILE, folder / "trees_seconds.npz"
    if not (path.exists() and time_path.exists()):
        begun = time.monotonic()
        trees = fit_trees(
            channels, static, died, config, seed, lambda done, total: progress("teacher, all", done, total)
        )
        write_durably(path, [trees.to_bytes()], mode=0o644)
        save_part(time_path, seconds=np.array(time.monotonic() - begun))
    seconds += float(load_part(time_path)["seconds"])
    return np.stack(columns, axis=1), Trees.from_bytes(path.read_bytes()), seconds


def save_part(path: Path, **arrays: NDArray[Any]) -> None:
    """Write arrays as one file; it appears whole or not at all."""
    data = io.BytesIO()
    np.savez(data, allow_pickle=False, **arrays)
    write_durably(path, [data.getvalue()], mode=0o644)


def load_part(path: Path) -> dict[str, NDArray[Any]]:
    """Read what `save_part` wrote.

    Raises:
        DataError: truncated or malformed.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: truncated or malformed: {error}", hint=f"delete {path} to make it again") from error


def signal_data(
    student: SignalTrainingConfig,
    hours: tuple[int, ...],
    seed: int,
    stays: list[Stay],
    channels: NDArray[np.float16],
    static: NDArray[np.float32],
    died: NDArray[np.bool_],
    soft: NDArray[np.float32],
    trees: Trees,
) -> SignalData:
    """Targets of real patients, and the sets of recombined ones with what the trees say of them."""
    teacher = _probability(interpolate_hours(soft, hours, icu_risk.NUM_BINS))
    target = (1 - student.distill) * died[:, None] + student.distill * teacher
    unit = np.unique([stay.icu_type for stay in stays], return_inverse=True)[1]
    synthetic = []
    rows = np.arange(len(stays))
    for turn, swap in enumerate(student.swap if student.synthetic_share else ()):
        rng = np.random.default_rng([seed, 2, turn])
        donor, is_swapped = draw_donors(unit, len(PARAMETERS), swap, rng)
        logits = np.stack(
            [
                trees.logit(
                    np.concatenate(
                        [
                            recombine(channels[:, hour - 1 : hour], donor, is_swapped, rows)[:, 0].astype(np.float32),
                            static,
                        ],
                        axis=1,
                    ),
                    hour,
                )
                for hour in hours
            ],
            axis=1,
        )
        labelled = _probability(interpolate_hours(logits.astype(np.float32), hours, icu_risk.NUM_BINS))
        synthetic.append(SyntheticSet(donor, is_swapped, labelled))
    weights = hour_weights(icu_risk.NUM_BINS, icu_risk.HORIZONS_H)
    return SignalData(channels, static, target.astype(np.float32), tuple(synthetic), weights)


def _probability(logit: NDArray[np.float32]) -> NDArray[np.float32]:
    return (1 / (1 + np.exp(-logit.astype(np.float64)))).astype(np.float32)
