"""From a sector's model to a smaller one: trim the vocabulary, prune, heal with the large one as teacher, round.

A run is a folder in the layout of `teach/joint.py`, so that `bundle build` and `evaluate --run` read it as they read
the teacher's; beside it lie::

    pruned/              the smaller shape before healing
    shrink.json          what was done, and what every step left of the model
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from smallhold.compress.bundle_size import Door, count_parameters, model_bytes, rest_bytes
from smallhold.compress.calibration import CalibrationSet
from smallhold.compress.gptq import gptq_layers
from smallhold.compress.prune_shape import prune_shape
from smallhold.compress.qat import quantization_aware
from smallhold.compress.quantize import quantize_checkpoint, twin_folder
from smallhold.compress.shrink_recipe import ShrinkRecipe
from smallhold.compress.trim_vocabulary import count_tokens, trim_model, trim_tokenizer
from smallhold.decide.task import BOS
from smallhold.decide.words import WordSpec
from smallhold.device.durable_file import write_durably
from smallhold.errors import DataError
from smallhold.evaluate.run_folder import CHECKPOINT_FOLDER
from smallhold.learn.checkpoint import load_signal_model, save_checkpoint
from smallhold.learn.model import SignalModel
from smallhold.records import canonical_json, sha256_hex
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.stays import Stay
from smallhold.sectors.splits import Split
from smallhold.sectors.tasks import find_task
from smallhold.sectors.text_task import load_examples, split
from smallhold.teach.joint import JointSummary, read_joint_summary, run_joint
from smallhold.teach.joint_recipe import JointRecipe
from smallhold.teach.model_teacher import ModelTeacher, digest_of_run
from smallhold.teach.pretrain_recipe import CONTEXT_LENGTH
from smallhold.teach.recipe_file import build_config
from smallhold.teach.signal_task import signal_inputs
from smallhold.teach.train import claim_folder, digest_stays, library_versions
from smallhold.teach.vocabulary import save_tokenizer, token_id

Progress = Callable[[str, int, int], None]
_WINDOW = 64


@dataclass(frozen=True, slots=True)
class ShrinkSummary:
    """What a finished run says of itself; the contents of `shrink.json`.

    Attributes:
        recipe: The whole recipe.
        teacher_digest: Of the teacher's weights, vocabulary and tasks.
        teacher_parameters: Of the teacher's trunk and signal encoder.
        parameters: Of the smaller model's.
        kept_layers: Indices of the teacher's layers that stayed.
        vocab_size: Entries of the vocabulary that stayed.
        seconds: Wall time of the healing.
    """

    recipe: dict[str, Any]
    teacher_digest: str
    teacher_parameters: int
    parameters: int
    kept_layers: list[int]
    vocab_size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ShrinkPlan:
    """What a recipe would do.

    Attributes:
        teacher_parameters: Of the teacher's trunk and signal encoder.
        parameters: Of the smaller model's; the vocabulary may come out smaller than asked for.
        bundle_bytes: Of its bundle, foretold.
        steps: Of the healing.
        seconds: Estimated from what the teacher's training took, by parameters and steps.
        memory_bytes: Estimated: both models, gradients and the optimizer's state.
    """

    teacher_parameters: int
    parameters: int
    bundle_bytes: int
    steps: int
    seconds: float
    memory_bytes: int

    def lines(self) -> list[str]:
        """In words."""
        time = "time unknown: the teacher's was not taken"
        if self.seconds:
            time = f"about {self.seconds / 60:.0f} minutes on a machine like the teacher's"
        return [
            f"{self.teacher_parameters:,} parameters to {self.parameters:,}",
            f"a bundle of about {self.bundle_bytes / 1e6:.2f} MB",
            f"{self.steps:,} steps, {time}",
            f"about {self.memory_bytes / 1e6:,.0f} MB for weights, gradients and optimizer, beside the data",
        ]


def plan_shrink(recipe: ShrinkRecipe) -> ShrinkPlan:
    """Refuse what cannot be done, and say what the rest would take; no data are read.

    Raises:
        DataError: the teacher's run is missing or not finished.
        RecipeError: a size is above the teacher's, or no runtime could run the shape.
    """
    taught, teacher_recipe = recipe_of_teacher(Path(recipe.teacher))
    model = load_signal_model(Path(recipe.teacher) / CHECKPOINT_FOLDER)
    config, door = recipe.shape.of(model.trunk.config), Door.of(model)
    if recipe.shape.vocab_size:  # refuses what has no room for bytes, marks and words of the tasks
        trim_tokenizer(ModelTeacher(Path(recipe.teacher)).tokenizer, {}, vocab_size=recipe.shape.vocab_size)
    parameters = count_parameters(config, door)
    steps = healing_steps(recipe, taught, teacher_recipe)
    share = parameters / taught.parameters * steps / sum(taught.steps.values())
    return ShrinkPlan(
        teacher_parameters=taught.parameters,
        parameters=parameters,
        bundle_bytes=rest_bytes(Path(recipe.teacher)) + model_bytes(config, door, recipe.rounding.bits),
        steps=round(steps),
        seconds=taught.training_seconds * share,
        memory_bytes=4 * (taught.parameters + 4 * parameters),
    )


def run_shrink(
    recipe: ShrinkRecipe,
    data_dir: Path | None,
    run: Path,
    *,
    progress: Progress,
    threads: int = 2,
    answers: Path | None = None,
) -> ShrinkSummary:
    """Carry out a recipe; continues what an earlier call left.

    Args:
        recipe: What to do.
        data_dir: What the user gave as `--data`, or None.
        run: Folder of the run.
        progress: Called with a caption, steps done and steps in all.
        threads: Threads of torch.
        answers: Folder that keeps what the teacher says; default `answers/` of the run.

    Raises:
        DataError: the teacher's run or a data set is missing, or the folder holds another run.
        RecipeError: a size is above the teacher's, or no runtime could run the shape.
        InterruptedRun: stopped on request.
    """
    torch.set_num_threads(threads)
    teacher = Path(recipe.teacher)
    taught, teacher_recipe = recipe_of_teacher(teacher)
    digest = digest_of_run(teacher)
    model = load_signal_model(teacher / CHECKPOINT_FOLDER)
    recipe.shape.of(model.trunk.config)  # refuses an impossible shape before anything is written
    if (run / "identity.json").exists() and not (run / "pruned" / "identity.json").exists():
        raise DataError(f"{run}: holds a run that was not made by `smallhold compress`", hint="choose another --out")
    rows = _TrainingRows.of(teacher_recipe, data_dir)
    claim = {"recipe": recipe.digest, "teacher": digest, "data": rows.digest, "versions": library_versions()}
    claim_folder(run / "pruned", claim)
    if not (run / "pruned" / "kept.json").exists():
        _prune(recipe, taught, model, rows, run, progress)
    for part in ("teacher", "ngrams"):  # trees and n-grams are small, and stay as they are
        _take_over(teacher / part, run / part)
    summary = run_joint(
        recipe.healed(teacher_recipe, run / "pruned"),
        data_dir,
        run,
        progress=progress,
        threads=threads,
        teacher=_teacher(recipe, teacher, answers or run / "answers"),
        during=partial(quantization_aware, bits=recipe.rounding.bits) if recipe.rounding.method == "qat" else None,
    )
    _round(recipe, rows, run, progress)
    kept = json.loads((run / "pruned" / "kept.json").read_text())
    done = ShrinkSummary(
        recipe=asdict(recipe),
        teacher_digest=digest,
        teacher_parameters=taught.parameters,
        parameters=summary.parameters,
        kept_layers=kept["layers"],
        vocab_size=kept["vocab_size"],
        seconds=summary.training_seconds,
    )
    write_durably(run / "shrink.json", [json.dumps(asdict(done), indent=1).encode()], mode=0o644)
    return done


def recipe_of_teacher(run: Path) -> tuple[JointSummary, JointRecipe]:
    """What a finished run says of itself, and how it was taught.

    Raises:
        DataError: the run is missing or not finished.
        RecipeError: it was written by another version and no longer fits.
    """
    summary = read_joint_summary(run)
    return summary, build_config(JointRecipe, summary.recipe, f"{run / 'run.json'}, recipe")


def healing_steps(recipe: ShrinkRecipe, taught: JointSummary, teacher_recipe: JointRecipe) -> float:
    """Steps of a healing, from those that the teacher took."""
    texts = {lesson.task for lesson in teacher_recipe.text}
    passes = {lesson: recipe.healing.text_passes if lesson in texts else 1.0 for lesson in taught.steps}
    return recipe.healing.epochs * sum(number * passes[lesson] for lesson, number in taught.steps.items())


def training_texts(recipe: JointRecipe, data_dir: Path | None) -> list[str]:
    """Texts of the training split of all that a recipe teaches; their tokens say which of a vocabulary stay.

    Raises:
        DataError: a data set is missing.
    """
    texts = []
    for lesson in recipe.text:
        examples = load_examples(find_task(lesson.task, recipe.sector), data_dir)
        texts += [example.text for example in split(examples, Split.TRAIN)]
    return texts


def _teacher(recipe: ShrinkRecipe, run: Path, answers: Path) -> ModelTeacher | None:
    healing = recipe.healing
    if not healing.teacher_weight:
        return None
    return ModelTeacher(run, healing.teacher_weight, healing.temperature, keep=answers)


def _take_over(source: Path, target: Path) -> None:
    """Copy a folder that may be absent; the copy appears whole or not at all."""
    if target.exists() or not source.is_dir():
        return
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        shutil.copytree(source, partial)
        partial.replace(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@dataclass(frozen=True, slots=True, eq=False)
class _TrainingRows:
    """Training split of all that the teacher learned: it says what may go."""

    texts: list[str]
    stays: list[Stay]
    digest: str

    @classmethod
    def of(cls, recipe: JointRecipe, data_dir: Path | None) -> _TrainingRows:
        texts = training_texts(recipe, data_dir)
        stays = []
        if recipe.signal:
            known = [stay for stay in icu_risk.load_stays(data_dir) if stay.died is not None]
            stays = icu_risk.split(known, Split.TRAIN)
        return cls(texts, stays, sha256_hex(canonical_json([texts, digest_stays(stays)])))


def _prune(
    recipe: ShrinkRecipe, taught: JointSummary, model: SignalModel, rows: _TrainingRows, run: Path, progress: Progress
) -> None:
    """Write `pruned/`: vocabulary first, then depth, then width, each measured on what the step before left."""
    shape, folder = recipe.shape, run / "pruned"
    tokenizer = ModelTeacher(Path(recipe.teacher)).tokenizer
    progress("pruning, vocabulary", 0, 3)
    if shape.vocab_size:
        trimmed = trim_tokenizer(tokenizer, count_tokens(tokenizer, rows.texts), vocab_size=shape.vocab_size)
        model, tokenizer = trim_model(model, trimmed), trimmed.tokenizer
    calibration, about = _calibration(recipe, tokenizer, rows)
    about |= {"kind": "pruned", "recipe_digest": recipe.digest, "data_sets": taught.base_data}
    model, layers, _ = prune_shape(model, calibration, shape, progress=progress)
    save_checkpoint(model, folder, about)
    save_tokenizer(tokenizer, folder, context_length=CONTEXT_LENGTH)
    kept = {"layers": layers, "vocab_size": tokenizer.get_vocab_size()}
    write_durably(folder / "kept.json", [json.dumps(kept).encode()], mode=0o644)


def _round(recipe: ShrinkRecipe, rows: _TrainingRows, run: Path, progress: Progress) -> None:
    """Write the quantized twin of the healed checkpoint."""
    source, bits = run / CHECKPOINT_FOLDER, recipe.rounding.bits
    target = twin_folder(run, bits)
    if recipe.rounding.method != "gptq":
        quantize_checkpoint(source, target, bits=bits)
        return
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    calibration, _ = _calibration(recipe, tokenizer, rows)
    chosen = gptq_layers(
        load_signal_model(source),
        calibration,
        bits=bits,
        progress=lambda done, total: progress("rounding layers", done, total),
    )
    quantize_checkpoint(source, target, bits=bits, chosen=chosen)


def _calibration(
    recipe: ShrinkRecipe, tokenizer: Tokenizer, rows: _TrainingRows
) -> tuple[CalibrationSet, dict[str, Any]]:
    """Training texts and patients, evenly spaced, and what a checkpoint says of its signal door."""
    tokenizer.encode_special_tokens = True
    tokens = _windows(tokenizer, rows.texts, recipe.calibration_windows)
    if not rows.stays:
        return CalibrationSet(tokens=tokens), {}
    signal = ModelTeacher(Path(recipe.teacher)).task(icu_risk.NAME).signal
    chosen = [rows.stays[i] for i in _evenly(len(rows.stays), recipe.calibration_windows)]
    channels, static = signal_inputs(chosen, signal)
    calibration = CalibrationSet(
        tokens=tokens, channels=torch.from_numpy(channels.astype(np.float32)), static=torch.from_numpy(static)
    )
    words = WordSpec(signal.parameters, signal.static)
    return calibration, {"signal": signal.to_json(), "words": words.to_json()}


def _windows(tokenizer: Tokenizer, texts: list[str], count: int) -> torch.Tensor | None:
    """(N, T) windows cut from training texts, laid end to end, evenly spaced; None where there is too little text."""
    bos = token_id(tokenizer, BOS)
    chosen = [texts[i] for i in _evenly(len(texts), 8 * count)]
    stream = [i for encoding in tokenizer.encode_batch(chosen) for i in (bos, *encoding.ids)]
    rows = [stream[start : start + _WINDOW] for start in range(0, len(stream) - _WINDOW + 1, _WINDOW)]
    return torch.tensor([rows[i] for i in _evenly(len(rows), count)]) if rows else None


def _evenly(size: int, count: int) -> list[int]:
    """At most `count` indices below `size`, evenly spaced."""
    return np.unique(np.linspace(0, size - 1, min(size, count)).astype(int)).tolist() if size else []
