"""What is a teacher worth to a smaller model, what is pruning worth, and what does training give back at few bits?

    python bench/students.py [NAME ...]     # needs the runs that `make models` leaves, SMALLHOLD_DATA, and hours

Students are measured on the test split, the trunk alone: AUROC above NEWS2's at every hour, macro-F1 above that of the
commonest label. Nothing is chosen by these figures. Results lie in `docs/figures/students-NAME.json`; runs, and what an
interrupted call left of them, in `runs/students/`.
"""

from __future__ import annotations

import inspect
import json
import shutil
import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import figures
import torch
from place import RUNS, Place, carry_out

from smallhold.bundle.onnx_graph import trunk_onnx
from smallhold.bundle.weights import read_weights
from smallhold.cli.output import ProgressBar
from smallhold.compress.pictures import draw_waterfall, measure_steps
from smallhold.compress.qat import quantization_aware
from smallhold.compress.quantize import quantize_checkpoint, twin_folder
from smallhold.compress.shipped import as_shipped, shipped_bits
from smallhold.compress.shrink import recipe_of_teacher, run_shrink
from smallhold.compress.shrink_recipe import HealingChoice, ShapeChoice, ShrinkRecipe, read_shrink_recipe
from smallhold.compress.student_quality import Gain, UnseenRows, measure_gain
from smallhold.evaluate.graph_cost import measure_content
from smallhold.evaluate.run_folder import CHECKPOINT_FOLDER
from smallhold.learn.checkpoint import load_signal_model, save_checkpoint
from smallhold.sectors.splits import Split
from smallhold.teach.joint import run_joint
from smallhold.teach.model_teacher import ModelTeacher

STUDENTS = RUNS / "students"
_SEEDS = (0, 1, 2)
#: Half of the parameters. Layers take longer than a row of logits with as many, so they go first; of the vocabulary
#: goes what the tasks' texts hardly use.
_HALF = ShapeChoice(num_hidden_layers=3, vocab_size=4976)
#: Of the teacher's passes: what is left whole needs less healing.
_HALF_EPOCHS = 0.5
_STAYS, _HOURS = 200, 48
_QAT_EPOCHS = 0.25


def main() -> int:
    """Carry out what was asked for."""
    return carry_out(__doc__, {"eighth": eighth, "texts": texts, "half": half, "rounding": rounding})


def eighth(place: Place) -> None:
    """An eighth of the parameters, pruned from the teacher: healed with its answers, or on labels alone.

    What each step cost, the first seed's, lies in `docs/images/compress-eighth.svg`.
    """
    found = _with_and_without("eighth", _recipe(), eighth, place)
    run = STUDENTS / f"eighth-with-the-teacher-{_SEEDS[0]}"
    draw_waterfall(
        measure_steps(run, _recipe(), found.unseen), figures.ROOT / "docs" / "images" / "compress-eighth.svg"
    )


def texts(place: Place) -> None:
    """An eighth of finance's parameters, with the teacher's answers or on labels alone: a thousand texts a task."""
    recipe = replace(_recipe(text_passes=1.0), teacher=str(RUNS / "finance"), name="finance-small")
    _with_and_without("texts", recipe, texts, place)


def _with_and_without(name: str, recipe: ShrinkRecipe, function: Callable[[Place], None], place: Place) -> _Found:
    healing = {"with the teacher": recipe.healing, "labels alone": replace(recipe.healing, teacher_weight=0.0)}
    found = _Found(recipe, place)
    for seed in _SEEDS:
        for variant, how in healing.items():
            run = _shrink(f"{name}-{variant.replace(' ', '-')}-{seed}", replace(recipe, seed=seed, healing=how), place)
            found.add(variant, seed, run, twin_folder(run, 8))
    _write(name, function, found.rows)
    return found


def half(place: Place) -> None:
    """Half of the parameters, 3 of 8 layers, in 8 bits: pruned and healed, or that shape from scratch as long."""
    healed = replace(_recipe(text_passes=1.0).healing, epochs=_HALF_EPOCHS)
    recipe = replace(_recipe(), shape=_HALF, name="hospital-half", healing=healed)
    healing = {"pruned": healed, "from scratch": replace(healed, from_scratch=True)}
    found = _Found(recipe, place)
    for variant, how in healing.items():
        run = _shrink(f"half-{variant.replace(' ', '-')}", replace(recipe, healing=how), place)
        found.add(variant, recipe.seed, run, twin_folder(run, 8))
    teacher = Path(recipe.teacher)
    if not twin_folder(teacher, 8).exists():
        quantize_checkpoint(teacher / CHECKPOINT_FOLDER, twin_folder(teacher, 8))
    speed = _speed(twin_folder(teacher, 8), twin_folder(STUDENTS / "half-pruned", 8))
    _write("half", half, found.rows, speed=speed)


def rounding(place: Place) -> None:
    """Finance's teacher in 4, 3 and 2 bits, rounded; in 2, where that loses something, trained on as it will be."""
    recipe = replace(_recipe(), teacher=str(RUNS / "finance"), shape=ShapeChoice(), name="finance")
    teacher = Path(recipe.teacher)
    found = _Found(recipe, place)
    widths = (4, 3, 2)
    for bits in widths:
        plain = _rounded(teacher / CHECKPOINT_FOLDER, STUDENTS / f"rounded-{bits}", bits)
        found.add(f"{bits} bits, rounded", recipe.seed, teacher, plain)
    fewest = min(widths)
    run = STUDENTS / f"trained-{fewest}"
    if not (run / "run.json").exists():
        short = replace(recipe, healing=HealingChoice(epochs=_QAT_EPOCHS, learning_rate=3e-4))
        _train_rounded(short, run, fewest, place)
    trained = _rounded(run / CHECKPOINT_FOLDER, run / "rounded", fewest)
    found.add(f"{fewest} bits, trained", recipe.seed, run, trained)
    _write("rounding", rounding, found.rows)


def _recipe(*, text_passes: float | None = None) -> ShrinkRecipe:
    """The shipped recipe with the shipped model as teacher: nothing is chosen here, so it may have seen validation.

    Args:
        text_passes: Where others than the recipe's are enough: of what is left whole, or where texts are many.
    """
    recipe = read_shrink_recipe("hospital-small")
    healing = recipe.healing if text_passes is None else replace(recipe.healing, text_passes=text_passes)
    return replace(recipe, teacher=str(RUNS / "hospital"), healing=healing)


class _Found:
    """Rows of a result: the teacher's first."""

    def __init__(self, recipe: ShrinkRecipe, place: Place) -> None:
        teacher = Path(recipe.teacher)
        self.unseen = UnseenRows.of(recipe_of_teacher(teacher)[1], place.data, Split.TEST)
        self.gain = measure_gain(teacher, self.unseen)
        self.rows = [_row("teacher", recipe.seed, teacher / CHECKPOINT_FOLDER, self.gain, 1.0)]

    def add(self, variant: str, seed: int, run: Path, checkpoint: Path) -> None:
        """Measure one student."""
        gain = measure_gain(run, self.unseen, checkpoint=checkpoint)
        self.rows.append(_row(variant, seed, checkpoint, gain, gain.share_of(self.gain)))
        print(f"{variant}, seed {seed}: {self.rows[-1]['share']:.3f} of the gain", file=sys.stderr, flush=True)


def _row(variant: str, seed: int, checkpoint: Path, gain: Gain, share: float) -> dict[str, Any]:
    parameters = sum(p.numel() for p in load_signal_model(checkpoint).parameters())
    gains = {name: interval.to_json() for name, interval in gain.of_task.items()}
    return {"variant": variant, "seed": seed, "parameters": parameters, "share": share, "gain": gains}


def _shrink(name: str, recipe: ShrinkRecipe, place: Place) -> Path:
    run = STUDENTS / name
    if not (run / "shrink.json").exists():
        with closing(ProgressBar()) as progress:
            run_shrink(recipe, place.data, run, progress=progress, threads=place.threads, answers=STUDENTS / "answers")
    return run


def _train_rounded(recipe: ShrinkRecipe, run: Path, bits: int, place: Place) -> None:
    """Train the teacher on, its own float32 answers as targets, with weights that read as they will be rounded."""
    teacher, healing = Path(recipe.teacher), recipe.healing
    taught = recipe.healed(recipe_of_teacher(teacher)[1], teacher / CHECKPOINT_FOLDER)
    for part in ("teacher", "ngrams"):  # a sector without patients has no trees
        if (teacher / part).exists():
            shutil.copytree(teacher / part, run / part, dirs_exist_ok=True)
    with closing(ProgressBar()) as progress:
        run_joint(
            taught,
            place.data,
            run,
            progress=progress,
            threads=place.threads,
            teacher=ModelTeacher(teacher, healing.teacher_weight, healing.temperature, keep=STUDENTS / "answers"),
            during=partial(quantization_aware, bits=bits),
        )


def _rounded(source: Path, target: Path, bits: int) -> Path:
    """A checkpoint of the weights that a runtime would compute with."""
    model = load_signal_model(source)
    chosen = shipped_bits(model, bits)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in chosen:
                parameter.copy_(as_shipped(parameter, chosen[name]))
    about = json.loads((source / "smallhold.json").read_text())
    save_checkpoint(model, target, about)
    return target


def _speed(large: Path, small: Path) -> dict[str, Any]:
    """How many times as long a decision takes with the large graph, both in turn in one process with one thread."""
    graphs = [trunk_onnx(read_weights(twin)) for twin in (large, small)]
    cost = measure_content(*graphs, positions=_HOURS, decisions=_STAYS * _HOURS)
    low, high = cost["p50_of_reference_low"], cost["p50_of_reference_high"]
    return {"ratio": cost["p50_of_reference"], "low": low, "high": high, "large_ms": cost["p50_ms"]}


def _write(name: str, function: Callable[[Place], None], rows: Iterable[dict[str, Any]], **more: Any) -> None:
    value = figures.without({"about": inspect.getdoc(function), "rows": list(rows), **more})
    figures.write(figures.FIGURES / f"students-{name}.json", json.dumps(value, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    sys.exit(main())
