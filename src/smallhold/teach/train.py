"""From patients to a trained checkpoint: teacher, soft labels, student.

A run is a folder; each stage writes its own part and can be repeated, replaced or read alone::

    run.json             what was run on what, and how it went
    teacher/             trees.npz, and the soft labels of each hour
    training/            the slice that an interrupted training continues from
    checkpoint/          the trained model in Hugging Face's layout, with tokenizer.json
    task.json            the task as trained, not calibrated yet
"""

from __future__ import annotations

import hashlib
import io
import json
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from smallhold.bundle.calibrate import LEAST_OF_EITHER_OUTCOME
from smallhold.decide.plan import Field, plan_field
from smallhold.decide.signal import SignalSpec, encode_stays, fit_rank_gauss
from smallhold.decide.task import Task
from smallhold.decide.trees import Trees
from smallhold.device.durable_file import write_durably
from smallhold.errors import DataError, RecipeError
from smallhold.evaluate.run_folder import CHECKPOINT_FOLDER, TEACHER_FILE, read_run_file
from smallhold.learn.checkpoint import save_checkpoint
from smallhold.learn.loop import LoopConfig, LoopResult, train
from smallhold.learn.model import SignalModel, TrunkConfig
from smallhold.records import canonical_json, sha256_hex
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.parameters import PARAMETERS
from smallhold.sectors.hospital.stays import Stay
from smallhold.sectors.splits import Split
from smallhold.teach.recipe import Recipe
from smallhold.teach.signal_training import (
    SignalData,
    SignalLoss,
    SyntheticSet,
    draw_donors,
    hour_weights,
    recombine,
)
from smallhold.teach.trees import fit_trees, interpolate_hours, out_of_fold_logits
from smallhold.teach.vocabulary import byte_tokenizer
from smallhold.version import __version__

Progress = Callable[[str, int, int], None]
#: Positions of the context: the prefix, 48 hours, and room for forced tokens.
CONTEXT_LENGTH = 64


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a finished run says of itself; the contents of `run.json`.

    Attributes:
        recipe: The whole recipe.
        recipe_digest: Its digest.
        data_set: Where the patients came from.
        data_digest: Digest of every training reading.
        is_simulated: True when the patients were simulated.
        num_stays: Training patients.
        death_rate: Share of them who died.
        parameters: Parameters of trunk and signal encoder.
        loss: (step, loss) pairs.
        teacher_seconds: Wall time of the teacher.
        training_seconds: Wall time of the student, over all slices.
        versions: Versions of the libraries that shape the result.
    """

    recipe: dict[str, Any]
    recipe_digest: str
    data_set: str
    data_digest: str
    is_simulated: bool
    num_stays: int
    death_rate: float
    parameters: int
    loss: list[tuple[int, float]]
    teacher_seconds: float
    training_seconds: float
    versions: dict[str, str]


def run_training(recipe: Recipe, stays: list[Stay], run: Path, *, progress: Progress, threads: int = 2) -> RunSummary:
    """Carry out a recipe on the training split of the given patients; continues what an earlier call left.

    Args:
        recipe: What to do.
        stays: All patients of the data set; only the training split is read.
        run: Folder of the run.
        progress: Called with a caption, steps done and steps in all.
        threads: Threads of torch; another number gives slightly different weights.

    Raises:
        RecipeError: the recipe names a task that is not there.
        DataError: no training patients, a mix of data sets, or the folder holds another run.
        InterruptedRun: stopped on request.
    """
    if (recipe.task.sector, recipe.task.name) != ("hospital", icu_risk.NAME):
        raise RecipeError(
            f"recipe: no task {recipe.task.name!r} in sector {recipe.task.sector!r}: expected 'icu-risk' in 'hospital'"
        )
    if max(recipe.teacher.hours) > icu_risk.NUM_BINS or not set(icu_risk.HORIZONS_H) <= set(recipe.teacher.hours):
        raise RecipeError(
            f"recipe: teacher.hours must hold {list(icu_risk.HORIZONS_H)} and none above {icu_risk.NUM_BINS}, got "
            f"{list(recipe.teacher.hours)}"
        )
    training = icu_risk.split([stay for stay in stays if stay.died is not None], Split.TRAIN)
    if len(training) < 100 or len({stay.data_set for stay in training}) != 1:
        raise DataError(
            f"training split: expected at least 100 patients of one data set, got {len(training)} of "
            f"{sorted({stay.data_set for stay in training})}"
        )
    later = icu_risk.split([stay for stay in stays if stay.died is not None], Split.CALIBRATION)
    deaths = sum(bool(stay.died) for stay in later)
    if min(deaths, len(later) - deaths) < LEAST_OF_EITHER_OUTCOME:
        raise DataError(
            f"calibration split: expected at least {LEAST_OF_EITHER_OUTCOME} patients of either outcome, got {deaths} "
            f"who died and {len(later) - deaths} who lived",
            hint="train on more patients: no bundle could be made of this run",
        )
    torch.set_num_threads(threads)
    data_digest = digest_stays(training)
    identity = {"recipe": recipe.digest, "data": data_digest, "threads": threads, "versions": _versions()}
    _claim(run, identity)

    progress("reading the hours", 0, 1)
    spec = fit_signal_spec(training)
    events = [(stay.minute, stay.code, stay.value) for stay in training]
    channels = encode_stays(spec, events, icu_risk.NUM_BINS).astype(np.float16)
    static = np.stack([icu_risk.static_features(stay) for stay in training])
    died = np.array([bool(stay.died) for stay in training])
    progress("reading the hours", 1, 1)

    soft, trees, teacher_seconds = _teach(recipe, channels, static, died, run, progress)
    data = _signal_data(recipe, training, channels, static, died, soft, trees)

    task = make_task(spec)
    tokenizer = byte_tokenizer()
    plan = plan_field(task.fields[0], lambda text: tokenizer.encode(text).ids)
    torch.manual_seed(recipe.seed)
    model = SignalModel(
        TrunkConfig(
            vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=CONTEXT_LENGTH, **asdict(recipe.model)
        ),
        spec.num_channels,
        len(spec.static),
    )
    steps = recipe.student.num_steps(len(training))
    loop = LoopConfig(
        steps=steps,
        seed=recipe.seed,
        use_bf16=supports_bf16(),
        **asdict(recipe.optimizer),
    )
    result: LoopResult = train(
        model,
        SignalLoss(data, recipe.student, (plan.deciding[0], plan.deciding[1]), recipe.seed),
        loop,
        run / "training" / "state.safetensors",
        inputs_digest=sha256_hex(canonical_json(identity)),
        progress=lambda done, total, loss: progress(f"student, loss {loss:.4f}", done, total),
    )
    summary = RunSummary(
        recipe=asdict(recipe),
        recipe_digest=recipe.digest,
        data_set=training[0].data_set,
        data_digest=data_digest,
        is_simulated=any(stay.is_simulated for stay in training),
        num_stays=len(training),
        death_rate=float(died.mean()),
        parameters=sum(p.numel() for p in model.parameters()),
        loss=result.losses,
        teacher_seconds=teacher_seconds,
        training_seconds=result.seconds,
        versions=_versions(),
    )
    save_checkpoint(model, run / CHECKPOINT_FOLDER, {"recipe_digest": recipe.digest, "data_digest": data_digest})
    write_durably(run / CHECKPOINT_FOLDER / "tokenizer.json", [tokenizer.to_str().encode()], mode=0o644)
    write_durably(run / "task.json", [task.to_bytes()], mode=0o644)
    write_durably(run / "run.json", [json.dumps(asdict(summary), indent=1).encode()], mode=0o644)
    return summary


def read_summary(run: Path) -> RunSummary:
    """Read `run.json`.

    Raises:
        DataError: the run is not finished, or the file is malformed.
    """
    value = read_run_file(run)
    try:
        value["loss"] = [(int(step), float(loss)) for step, loss in value["loss"]]
        return RunSummary(**value)
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"run {run}: run.json is malformed: {error}") from error


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


def make_task(spec: SignalSpec) -> Task:
    """The task `icu-risk` before anything was calibrated."""
    return Task(
        name=icu_risk.NAME,
        sector="hospital",
        question=icu_risk.QUESTION,
        fields=tuple(Field(name=f.name, choices=f.choices, positive=f.positive) for f in icu_risk.SCHEMA),
        signal=spec,
        num_bins=icu_risk.NUM_BINS,
        horizons=icu_risk.HORIZONS_H,
        encoder=f"gguf/{icu_risk.NAME}.encoder.gguf",
        baseline=f"baseline/{icu_risk.NAME}.trees.npz",
        comparators={},
        condition=icu_risk.CONDITION,
    )


def digest_stays(stays: list[Stay]) -> str:
    """One digest of who the patients are, what was measured and what became of them."""
    state = hashlib.sha256()
    for stay in stays:
        about = [stay.data_set, stay.record_id, stay.age, stay.sex, stay.height_cm, stay.icu_type, stay.died]
        state.update(canonical_json(about))
        for array in (stay.minute, stay.code, stay.value):
            state.update(array.tobytes())
    return state.hexdigest()


def supports_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; elsewhere torch falls back to a path many times slower."""
    # torch names these with an underscore, and offers nothing public.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _versions() -> dict[str, str]:
    """The versions of what shapes the result, this package's included."""
    return {
        "smallhold": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scikit-learn": version("scikit-learn"),
    }


def _claim(run: Path, identity: dict[str, Any]) -> None:
    """Refuse to mix two runs in one folder."""
    path = run / "identity.json"
    run.mkdir(parents=True, exist_ok=True)
    wanted = canonical_json(identity)
    if path.exists() and path.read_bytes() != wanted:
        raise DataError(
            f"{run}: holds a run with another recipe, other data, another number of threads or other library versions",
            hint=f"choose another --out, or delete {run}",
        )
    write_durably(path, [wanted], mode=0o644)


def _teach(
    recipe: Recipe,
    channels: NDArray[np.float16],
    static: NDArray[np.float32],
    died: NDArray[np.bool_],
    run: Path,
    progress: Progress,
) -> tuple[NDArray[np.float32], Trees, float]:
    """Out-of-fold log-odds (N, E), trees, and the seconds spent; each hour is kept on disk as soon as it is done."""
    config = recipe.teacher
    folder = run / "teacher"
    folder.mkdir(exist_ok=True)
    fold = np.random.default_rng([recipe.seed, 1]).permutation(len(died)) % config.folds
    columns, seconds = [], 0.0
    for i, hour in enumerate(config.hours):
        path = folder / f"out_of_fold_{hour:02d}h.npz"
        if not path.exists():
            begun = time.monotonic()

            def forward(done: int, _: int, before: int = i) -> None:
                progress("teacher, out of fold", before * config.folds + done, config.folds * len(config.hours))

            column = out_of_fold_logits(channels, static, died, fold, config, hour, recipe.seed, forward)
            _save_part(path, logits=column, seconds=np.array(time.monotonic() - begun))
        part = _load_part(path)
        columns.append(part["logits"])
        seconds += float(part["seconds"])
    progress("teacher, out of fold", config.folds * len(config.hours), config.folds * len(config.hours))
    path, time_path = run / TEACHER_FILE, folder / "trees_seconds.npz"
    if not (path.exists() and time_path.exists()):
        begun = time.monotonic()
        trees = fit_trees(
            channels, static, died, config, recipe.seed, lambda done, total: progress("teacher, all", done, total)
        )
        write_durably(path, [trees.to_bytes()], mode=0o644)
        _save_part(time_path, seconds=np.array(time.monotonic() - begun))
    seconds += float(_load_part(time_path)["seconds"])
    return np.stack(columns, axis=1), Trees.from_bytes(path.read_bytes()), seconds


def _save_part(path: Path, **arrays: NDArray[Any]) -> None:
    data = io.BytesIO()
    np.savez(data, allow_pickle=False, **arrays)
    write_durably(path, [data.getvalue()], mode=0o644)


def _load_part(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: truncated or malformed: {error}", hint=f"delete {path} to make it again") from error


def _signal_data(
    recipe: Recipe,
    stays: list[Stay],
    channels: NDArray[np.float16],
    static: NDArray[np.float32],
    died: NDArray[np.bool_],
    soft: NDArray[np.float32],
    trees: Trees,
) -> SignalData:
    student, hours = recipe.student, recipe.teacher.hours
    teacher = _probability(interpolate_hours(soft, hours, icu_risk.NUM_BINS))
    target = (1 - student.distill) * died[:, None] + student.distill * teacher
    unit = np.unique([stay.icu_type for stay in stays], return_inverse=True)[1]
    synthetic = []
    rows = np.arange(len(stays))
    for turn, swap in enumerate(student.swap if student.synthetic_share else ()):
        rng = np.random.default_rng([recipe.seed, 2, turn])
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
