"""How much of its teacher's gain over the simple thing a student keeps, on rows that neither has seen.

Gain: AUROC over NEWS2's at every horizon for a signal task, macro-F1 over that of the commonest label for a text task,
both read from the trunk alone, with the weights as they will ship. A share of 1 is the teacher's own gain.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smallhold.errors import DataError
from smallhold.evaluate.bedside_scores import scores_at
from smallhold.evaluate.bootstrap import Interval, paired_difference
from smallhold.evaluate.metrics import auroc, macro_f1
from smallhold.records import canonical_json, sha256_hex
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.stays import Stay
from smallhold.sectors.splits import Split
from smallhold.sectors.tasks import find_task
from smallhold.sectors.text_task import TextExample, load_examples, split
from smallhold.teach.joint import digest_examples
from smallhold.teach.joint_recipe import JointRecipe
from smallhold.teach.model_teacher import ModelTeacher
from smallhold.teach.signal_task import signal_inputs
from smallhold.teach.train import digest_stays


@dataclass(frozen=True, slots=True, eq=False)
class UnseenRows:
    """What students are measured on.

    Attributes:
        stays: Patients with a known outcome; empty without a signal task.
        texts: Task to its examples and choices.
        data_digest: Of these rows and of those that students learn from: what was measured on others says nothing.
    """

    stays: list[Stay]
    texts: dict[str, tuple[list[TextExample], tuple[str, ...]]]
    data_digest: str

    @classmethod
    def of(cls, recipe: JointRecipe, data_dir: Path | None, part: Split = Split.VALIDATION) -> UnseenRows:
        """One split of every task that the trunk learns: validation to choose by, test to report.

        Raises:
            DataError: a data set is missing, its split has one outcome alone, or the recipe has trained on it.
        """
        if part.value in recipe.splits:
            raise DataError(
                f"the teacher was trained on the {part.value} split, so no student can be measured on it",
                hint="smallhold teach train RECIPE --splits train",
            )
        stays, texts, digests = [], {}, []
        if recipe.signal:
            known = [stay for stay in icu_risk.load_stays(data_dir) if stay.died is not None]
            stays = icu_risk.split(known, part)
            digests += [digest_stays(icu_risk.split(known, Split.TRAIN)), digest_stays(stays)]
            _require_two({stay.died for stay in stays}, icu_risk.NAME)
        for lesson in recipe.text:
            task = find_task(lesson.task, recipe.sector)
            everything = load_examples(task, data_dir)
            digests += [digest_examples(split(everything, one)) for one in (Split.TRAIN, part)]
            if lesson.epochs:
                examples = split(everything, part)
                texts[task.name] = (examples, task.choices)
                _require_two({example.label for example in examples}, task.name)
        return cls(stays, texts, sha256_hex(canonical_json(digests)))


def _require_two(outcomes: Collection[object], task: str) -> None:
    if len(outcomes) < 2:
        raise DataError(f"task {task}: expected unseen rows with at least two outcomes, got {len(outcomes)}")


@dataclass(frozen=True, slots=True)
class Gain:
    """What a model is worth beyond the simple thing.

    Attributes:
        of_task: Task, at a horizon where it has some, to the model's metric minus the simple thing's, with its 95 %
            interval over unseen rows.
    """

    of_task: dict[str, Interval]

    def share_of(self, teacher: Gain) -> float:
        """Mean over tasks and horizons of the share of the teacher's gain, where the teacher has one.

        A gain that these rows tell from nothing weighs 1; one whose interval reaches below zero weighs less, by the
        square of its distance from there, for the share of an unsure gain is noise.

        Raises:
            DataError: the teacher is nowhere better than the simple thing: there is nothing to keep.
        """
        gains = {name: gain for name, gain in teacher.of_task.items() if gain.value > 0}
        if not gains:
            raise DataError("the teacher is not better than the simple thing in any task: teach it first")
        shares = [self.of_task[name].value / gain.value for name, gain in gains.items()]
        weights = [min(1.0, gain.value / max(gain.value - gain.low, 1e-9)) ** 2 for gain in gains.values()]
        return float(np.average(shares, weights=weights))


def measure_gain(run: Path, rows: UnseenRows, *, checkpoint: Path | None = None) -> Gain:
    """Ask a run every unseen row.

    Args:
        run: A finished run.
        rows: What to ask.
        checkpoint: Other weights of the run, for example its quantized twin.
    """
    model = ModelTeacher(run, temperature=1.0, checkpoint=checkpoint)
    found = {}
    if rows.stays:
        died = np.array([bool(stay.died) for stay in rows.stays])
        said = model.mortality(*signal_inputs(rows.stays, model.task(icu_risk.NAME).signal))
        news2 = _news2(rows.stays)
        for i, hour in enumerate(icu_risk.HORIZONS_H):
            found[f"{icu_risk.NAME}, {hour} h"] = paired_difference(
                auroc, (died, said[:, hour - 1]), (died, news2[:, i]), seed=0
            )
    for name, (examples, choices) in rows.texts.items():
        labels = [choices.index(example.label) for example in examples]
        answers = model.texts(name, [example.text for example in examples], choices).argmax(axis=1)
        commonest = np.full(len(labels), np.bincount(labels).argmax())
        found[name] = paired_difference(macro_f1, (labels, answers), (labels, commonest), seed=0)
    return Gain(found)


def _news2(stays: Sequence[Stay]) -> NDArray[np.float64]:
    hours = icu_risk.HORIZONS_H
    return np.array([scores_at(stay, hours, older_at=())["news2"] for stay in stays], dtype=np.float64)
