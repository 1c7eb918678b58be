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
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from smallhold.bundle.calibrate import LEAST_OF_EITHER_OUTCOME
from smallhold.decide.plan import plan_field
from smallhold.device.durable_file import write_durably
from smallhold.errors import DataError, RecipeError
from smallhold.evaluate.run_folder import CHECKPOINT_FOLDER, read_run_file
from smallhold.learn.checkpoint import save_checkpoint
from smallhold.learn.loop import LoopConfig, LoopResult, train
from smallhold.learn.model import SignalModel, TrunkConfig
from smallhold.records import canonical_json, sha256_hex
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.stays import Stay
from smallhold.sectors.splits import Split
from smallhold.teach.recipe import Recipe
from smallhold.teach.signal_task import fit_signal_spec, make_task, signal_data, signal_inputs, teach_by_trees
from smallhold.teach.signal_training import SignalLoss
from smallhold.teach.vocabulary import byte_tokenizer
from smallhold.version import __version__

Progress = Callable[[str, int, int], None]
Summary = TypeVar("Summary")
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
    identity = {"recipe": recipe.digest, "data": data_digest, "threads": threads, "versions": library_versions()}
    claim_folder(run, identity)

    progress("reading the hours", 0, 1)
    spec = fit_signal_spec(training)
    channels, static = signal_inputs(training, spec)
    died = np.array([bool(stay.died) for stay in training])
    progress("reading the hours", 1, 1)

    soft, trees, teacher_seconds = teach_by_trees(recipe.teacher, recipe.seed, channels, static, died, run, progress)
    data = signal_data(recipe.student, recipe.teacher.hours, recipe.seed, training, channels, static, died, soft, trees)

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
        versions=library_versions(),
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
    return read_record(RunSummary, run)


def read_record(cls: Callable[..., Summary], run: Path) -> Summary:
    """Read `run.json` as the record of one kind of run.

    Raises:
        DataError: the run is not finished, of another kind, or the file is malformed.
    """
    value = read_run_file(run)
    try:
        value["loss"] = [(int(step), float(loss)) for step, loss in value["loss"]]
        return cls(**value)
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"run {run}: run.json is malformed: {error}") from error


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


def library_versions() -> dict[str, str]:
    """The versions of what shapes the result, this package's included."""
    return {
        "smallhold": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scikit-learn": version("scikit-learn"),
    }


def claim_folder(run: Path, identity: dict[str, Any]) -> None:
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
