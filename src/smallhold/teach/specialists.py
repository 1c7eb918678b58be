"""Specialists over one trunk: every task learns an encoder of its own, and the trunk of a bundle stays as it ships.

What is trained is the map from a patient's hours into the trunk; the answers are spelled `no` and `yes`, with rows that
the vocabulary has. So a bundle with n specialists holds one trunk and n small files, in every runtime
(docs/decisions/0008-specialists-are-encoders.md).

A run is a folder; each stage writes its own part and can be repeated or read alone::

    run.json               what was run on what, and how it went
    TASK/teacher/          trees.npz, and the soft labels of each hour
    TASK/training/         the slice that an interrupted training continues from
    TASK/encoder.safetensors
    tasks/TASK.json        the tasks as trained, not calibrated yet
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from smallhold.decide.local import TRUNK_FILES, LocalBundle, LocalTask
from smallhold.decide.signal import SignalSpec
from smallhold.decide.task import Task
from smallhold.decide.trees import Trees
from smallhold.device.durable_file import write_durably
from smallhold.errors import DataError, RecipeError
from smallhold.learn.checkpoint import save_tensors
from smallhold.learn.loop import train
from smallhold.learn.model import SignalModel
from smallhold.records import canonical_json, sha256_hex
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.onsets import Asked, OnsetQuestion, question
from smallhold.sectors.hospital.stays import Stay
from smallhold.sectors.splits import Split
from smallhold.teach.shipped_model import shipped_encoder, shipped_trunk
from smallhold.teach.signal_task import load_part, save_part, signal_inputs
from smallhold.teach.signal_training import SignalData, SignalLoss, hour_weights
from smallhold.teach.specialist_recipe import SpecialistChoice, SpecialistRecipe
from smallhold.teach.train import claim_folder, digest_stays, library_versions, read_record, supports_bf16
from smallhold.teach.trees import fit_asked_trees, interpolate_hours, out_of_fold_asked_logits

Progress = Callable[[str, int, int], None]
ENCODER = "encoder.safetensors"
TREES = "teacher/trees.npz"


@dataclass(frozen=True, slots=True)
class SpecialistSummary:
    """What a finished run says of itself; the contents of `run.json`.

    Attributes:
        recipe: The whole recipe.
        recipe_digest: Its digest.
        bundle: Name and version of the bundle whose trunk it is.
        trunk_digest: SHA-256 of the trunk's GGUF file.
        data_set: Where the patients came from.
        data_digest: Digest of every training reading.
        is_simulated: True when the patients were simulated.
        specialists: Task to patients asked, patients to whom it happened, parameters, steps and seconds.
        left_out: Task to why it was not trained.
        loss: Of the last task trained: (step, loss) pairs; each task's are in `specialists`.
        versions: Versions of the libraries that shape the result.
    """

    recipe: dict[str, Any]
    recipe_digest: str
    bundle: str
    trunk_digest: str
    data_set: str
    data_digest: str
    is_simulated: bool
    specialists: dict[str, dict[str, Any]]
    left_out: dict[str, str]
    loss: list[tuple[int, float]]
    versions: dict[str, str]


def run_specialists(
    recipe: SpecialistRecipe,
    bundle: LocalBundle,
    stays: Sequence[Stay],
    run: Path,
    *,
    progress: Progress,
    threads: int = 1,
) -> SpecialistSummary:
    """Carry out a recipe on the training split; continues what an earlier call left.

    Args:
        recipe: What to do.
        bundle: The opened bundle whose trunk is kept.
        stays: All patients of the data set; only the training split is read.
        run: Folder of the run.
        progress: Called with a caption, steps done and steps in all.
        threads: Threads of torch.

    Raises:
        DataError: no training patients, the bundle has no GGUF trunk, or the folder holds another run.
        RecipeError: no task has enough onsets, or the bundle lacks the task to begin with.
        InterruptedRun: stopped on request.
    """
    torch.set_num_threads(threads)
    training = icu_risk.split(list(stays), Split.TRAIN)
    if len(training) < 100 or len({stay.data_set for stay in training}) != 1:
        raise DataError(f"training split: expected at least 100 patients of one data set, got {len(training)}")
    begin = bundle.signal_task(recipe.begin)
    trunk = bundle.read(TRUNK_FILES["reference"])
    data_digest = digest_stays(training)
    identity = {
        "recipe": recipe.digest,
        "trunk": sha256_hex(trunk),
        "begin": sha256_hex(bundle.read(begin.task.encoder)),
        "data": data_digest,
        "versions": library_versions(),
    }
    claim_folder(run, identity)
    progress("reading the hours", 0, 1)
    channels, static = signal_inputs(training, begin.task.signal)
    progress("reading the hours", 1, 1)
    trained: dict[str, dict[str, Any]] = {}
    left_out: dict[str, str] = {}
    loss: list[tuple[int, float]] = []
    for choice in recipe.specialist:
        asked_of = question(choice.task)
        asked = [asked_of.asked_at(stay) for stay in training]
        onsets = sum(bool((item.is_asked & item.label).any()) for item in asked)
        if onsets < recipe.least_onsets:
            left_out[choice.task] = f"{onsets} training patients to whom it happened, fewer than {recipe.least_onsets}"
            continue
        lesson = _Lesson(recipe, choice, asked_of, channels[:, : asked_of.num_bins], static, asked)
        model = frozen_model(bundle, begin)
        trained[choice.task] = lesson.train(model, begin, run, sha256_hex(canonical_json(identity)), progress)
        loss = trained[choice.task]["loss"]
    if not trained:
        raise RecipeError(f"recipe: no specialist can be trained: {left_out}")
    summary = SpecialistSummary(
        recipe=asdict(recipe),
        recipe_digest=recipe.digest,
        bundle=f"{bundle.manifest.name} {bundle.manifest.version}",
        trunk_digest=sha256_hex(trunk),
        data_set=training[0].data_set,
        data_digest=data_digest,
        is_simulated=any(stay.is_simulated for stay in training),
        specialists=trained,
        left_out=left_out,
        loss=loss,
        versions=library_versions(),
    )
    write_durably(run / "run.json", [json.dumps(asdict(summary), indent=1).encode()], mode=0o644)
    return summary


def read_specialist_summary(run: Path) -> SpecialistSummary:
    """Read `run.json`.

    Raises:
        DataError: the run is not finished, or the file is malformed.
    """
    return read_record(SpecialistSummary, run)


def make_specialist_task(asked_of: OnsetQuestion, spec: SignalSpec) -> Task:
    """The task before anything was calibrated."""
    return Task(
        name=asked_of.name,
        sector="hospital",
        question=asked_of.question,
        fields=asked_of.schema,
        condition=asked_of.condition,
        signal=spec,
        num_bins=asked_of.num_bins,
        horizons=asked_of.horizons,
        encoder=f"gguf/{asked_of.name}.encoder.gguf",
        baseline=f"baseline/{asked_of.name}.trees.npz",
    )


def frozen_model(bundle: LocalBundle, begin: LocalTask) -> SignalModel:
    """The trunk of a bundle as it ships, frozen, with a task's signal encoder, which is not.

    Raises:
        DataError: the trunk's file is missing or is no plain Llama.
    """
    config, state = shipped_trunk(bundle)
    spec = begin.task.signal
    model = SignalModel(config, spec.num_channels, len(spec.static))
    model.trunk.load_state_dict(state)
    model.encoder.load_state_dict(shipped_encoder(bundle, begin.task.encoder, model.encoder.state_dict()))
    model.trunk.requires_grad_(False)
    return model


@dataclass(frozen=True, slots=True)
class _Lesson:
    recipe: SpecialistRecipe
    choice: SpecialistChoice
    asked_of: OnsetQuestion
    channels: NDArray[np.float16]
    static: NDArray[np.float32]
    asked: list[Asked]

    def train(self, model: SignalModel, begin: LocalTask, run: Path, digest: str, progress: Progress) -> dict[str, Any]:
        """Teach one task; gives its entry in `SpecialistSummary.specialists`."""
        name, folder = self.choice.task, run / self.choice.task
        is_asked = np.array([item.is_asked for item in self.asked])
        label = np.array([item.label for item in self.asked]) & is_asked
        soft, seconds = self._teach(label, is_asked, folder, progress)
        rows = np.flatnonzero(is_asked.any(axis=1))
        probability = 1 / (1 + np.exp(-soft[rows].astype(np.float64)))
        share = self.choice.training.distill
        data = SignalData(
            channels=self.channels[rows],
            static=self.static[rows],
            target=((1 - share) * label[rows] + share * probability).astype(np.float32),
            synthetic=(),
            hour_weight=hour_weights(self.asked_of.num_bins, self.asked_of.horizons),
            is_asked=is_asked[rows],
        )
        task = make_specialist_task(self.asked_of, begin.task.signal)
        plan = begin.bundle.plan(task, task.fields[0])
        if not plan.is_direct:
            raise RecipeError(f"specialist {name}: the vocabulary spells `no` and `yes` with a common beginning")
        steps = self.choice.training.num_steps(len(rows))
        result = train(
            model,
            SignalLoss(data, self.choice.training, (plan.deciding[0], plan.deciding[1]), self.recipe.seed),
            self.recipe.loop(steps, use_bf16=supports_bf16()),
            folder / "training" / "state.safetensors",
            inputs_digest=sha256_hex(canonical_json([digest, name])),
            progress=lambda done, total, loss: progress(f"{name}, loss {loss:.4f}", done, total),
            slice_seconds=30.0,
        )
        save_tensors(folder / ENCODER, dict(model.encoder.state_dict()))
        (run / "tasks").mkdir(exist_ok=True)
        write_durably(run / "tasks" / f"{name}.json", [task.to_bytes()], mode=0o644)
        return {
            "patients": len(rows),
            "onsets": int(label.any(axis=1).sum()),
            "asked_hours": int(is_asked.sum()),
            "parameters": sum(p.numel() for p in model.encoder.parameters()),
            "steps": steps,
            "loss": result.losses,
            "teacher_seconds": seconds,
            "training_seconds": result.seconds,
        }

    def _teach(
        self, label: NDArray[np.bool_], is_asked: NDArray[np.bool_], folder: Path, progress: Progress
    ) -> tuple[NDArray[np.float32], float]:
        """Soft log-odds (N, T) out of fold; trees on everybody go to disk. Each hour is kept as soon as it is done."""
        config, name = self.choice.teacher, self.choice.task
        (folder / "teacher").mkdir(parents=True, exist_ok=True)
        fold = np.random.default_rng([self.recipe.seed, 1]).permutation(len(label)) % config.folds
        columns, seconds = [], 0.0
        for i, hour in enumerate(config.hours):
            path = folder / "teacher" / f"out_of_fold_{hour:02d}h.npz"
            if not path.exists():
                progress(f"{name}: teacher, out of fold", i, len(config.hours))
                begun = time.monotonic()
                column = out_of_fold_asked_logits(
                    self.channels, self.static, label, is_asked, fold, config, hour, self.recipe.seed, _quiet
                )
                save_part(path, logits=column, seconds=np.array(time.monotonic() - begun))
            part = load_part(path)
            columns.append(part["logits"])
            seconds += float(part["seconds"])
        if not (folder / TREES).exists():
            progress(f"{name}: teacher, all", 0, 1)
            begun = time.monotonic()
            trees: Trees = fit_asked_trees(
                self.channels, self.static, label, is_asked, config, self.recipe.seed, _quiet
            )
            write_durably(folder / TREES, [trees.to_bytes()], mode=0o644)
            seconds += time.monotonic() - begun
        soft = interpolate_hours(np.stack(columns, axis=1), config.hours, self.asked_of.num_bins)
        return soft, seconds


def _quiet(done: int, total: int) -> None:
    """Folds are not shown one by one."""
