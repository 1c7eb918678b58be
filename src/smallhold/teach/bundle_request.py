"""What goes into the bundle of a finished run: its tasks with the calibration split of their data, card, licences."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from smallhold.bundle.assemble import BundleRequest, SignalPart, TextPart
from smallhold.decide.ngrams import NGramClassifier
from smallhold.decide.task import Task
from smallhold.errors import DataError
from smallhold.evaluate.run_folder import TEACHER_FILE, read_run_file
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.simulator import SimulatedWard, simulate_ward
from smallhold.sectors.hospital.stays import Stay
from smallhold.sectors.splits import Split
from smallhold.sectors.tasks import find_task
from smallhold.sectors.text_task import load_examples, split
from smallhold.teach.card import licence_texts, write_card
from smallhold.teach.joint import digest_examples, read_joint_summary
from smallhold.teach.joint_card import write_joint_card
from smallhold.teach.recipe import BundleChoice, recipe_of_run
from smallhold.teach.recipe_file import build_config
from smallhold.teach.train import digest_stays, read_summary


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleSource:
    """A run as a bundle is to be made of it.

    Attributes:
        run: Folder of the run.
        checkpoint: Folder of the checkpoint that ships: float32, or quantized.
        encoding: Of its weights, for the card.
        data_dir: What the user gave as `--data`, or None.
        version: Instead of the recipe's, or None.
        is_without_expiry: Whatever the recipe says.
        created: Moment to count the expiry from.
    """

    run: Path
    checkpoint: Path
    encoding: str
    data_dir: Path | None
    version: str | None
    is_without_expiry: bool
    created: datetime


@dataclass(frozen=True, slots=True)
class _TrainedOn:
    data_set: str
    digest: str


def is_joint_run(run: Path) -> bool:
    """Whether a run taught several tasks.

    Raises:
        DataError: the run is not finished.
    """
    return "tasks" in read_run_file(run)


def request_of_run(source: BundleSource) -> tuple[BundleRequest, bool]:
    """The request, and whether any training data were simulated.

    Raises:
        DataError: the run is not finished, or what was found of its data differs from what it was trained on.
    """
    return _of_joint(source) if is_joint_run(source.run) else _of_single(source)


def _of_single(source: BundleSource) -> tuple[BundleRequest, bool]:
    summary = read_summary(source.run)
    recipe = recipe_of_run(summary.recipe)
    if summary.is_simulated and source.data_dir is None:
        ward = SimulatedWard(recipe.data.simulated_stays, recipe.data.simulated_seed)
        stays = simulate_ward(ward.num_stays, ward.seed, ward.hours)
    else:
        stays = icu_risk.load_stays(source.data_dir)
    trained_on = _TrainedOn(summary.data_set, summary.data_digest)
    part = _signal_part(source, Path("task.json"), stays, (Split.TRAIN.value,), trained_on)
    card = write_card(summary, encoding=source.encoding)
    return _request(source, recipe.bundle, (part,), (summary.data_set,), card), summary.is_simulated


def _of_joint(source: BundleSource) -> tuple[BundleRequest, bool]:
    summary = read_joint_summary(source.run)
    sector, splits = summary.recipe["sector"], tuple(summary.recipe["splits"])
    parts: list[SignalPart | TextPart] = []
    for name in summary.tasks:
        place = Path("tasks") / f"{name}.json"
        trained_on = _TrainedOn(summary.data[name]["data_set"], summary.data[name]["digest"])
        if Task.from_bytes((source.run / place).read_bytes()).text is None:
            stays = icu_risk.load_stays(source.data_dir)
            parts.append(_signal_part(source, place, stays, splits, trained_on))
        else:
            parts.append(_text_part(source, place, sector, splits, trained_on))
    bundle = build_config(BundleChoice, summary.recipe["bundle"], "run.json, recipe, bundle")
    data_sets = tuple(sorted({item["data_set"] for item in summary.data.values()} | set(summary.base_data)))
    card = write_joint_card(summary, sector=sector, encoding=source.encoding)
    return _request(source, bundle, tuple(parts), data_sets, card), summary.is_simulated


def _signal_part(
    source: BundleSource, task: Path, stays: list[Stay], splits: tuple[str, ...], trained_on: _TrainedOn
) -> SignalPart:
    known = [stay for stay in stays if stay.died is not None]
    found = digest_stays([stay for part in splits for stay in icu_risk.split(known, Split(part))])
    _require_same(found, trained_on.digest, icu_risk.NAME, trained_on.data_set)
    return SignalPart(
        task=Task.from_bytes((source.run / task).read_bytes()),
        trees=source.run / TEACHER_FILE,
        stays=icu_risk.split(known, Split.CALIBRATION),
    )


def _text_part(
    source: BundleSource, place: Path, sector: str, splits: tuple[str, ...], trained_on: _TrainedOn
) -> TextPart:
    task = Task.from_bytes((source.run / place).read_bytes())
    examples = load_examples(find_task(task.name, sector), source.data_dir)
    trained = [example for part in splits for example in split(examples, Split(part))]
    found = digest_examples(trained)
    _require_same(found, trained_on.digest, task.name, trained_on.data_set)
    return TextPart(
        task=task,
        ngrams=NGramClassifier.from_bytes((source.run / "ngrams" / f"{task.name}.npz").read_bytes()),
        examples=split(examples, Split.CALIBRATION),
    )


def _require_same(found: str, expected: str, task: str, data_set: str) -> None:
    if found != expected:
        raise DataError(
            f"task {task}: calibration needs the very data of the run, {data_set}; what was found differs from it",
            hint="give the folder of the data with --data DIR",
        )


def _request(
    source: BundleSource,
    bundle: BundleChoice,
    parts: tuple[SignalPart | TextPart, ...],
    data_sets: tuple[str, ...],
    card: str,
) -> BundleRequest:
    days = 0 if source.is_without_expiry else bundle.expires_days
    return BundleRequest(
        checkpoint=source.checkpoint,
        parts=parts,
        name=bundle.name,
        version=source.version or bundle.version,
        expires=source.created + timedelta(days=days) if days else None,
        training_data=data_sets,
        licences=licence_texts(data_sets),
        card=card,
        max_error=bundle.max_error,
    )
