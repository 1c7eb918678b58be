"""Pictures of a compression: the Pareto front of a search, and what each step of a run cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallhold.compress.bundle_size import Door, model_bytes, rest_bytes
from smallhold.compress.quantize import twin_folder
from smallhold.compress.shrink_recipe import ShrinkRecipe
from smallhold.compress.student_quality import UnseenRows, measure_gain
from smallhold.device.durable_file import write_durably
from smallhold.errors import DataError
from smallhold.evaluate.picture import INK, LOOKS, draw
from smallhold.evaluate.run_folder import CHECKPOINT_FOLDER
from smallhold.learn.checkpoint import load_signal_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Step:
    """What one step left.

    Attributes:
        name: Of the step.
        quality: Share of the teacher's gain over the simple thing, on validation rows.
        bundle_bytes: Of a bundle of this model, foretold.
    """

    name: str
    quality: float
    bundle_bytes: int


def draw_steps(run: Path, recipe: ShrinkRecipe, rows: UnseenRows) -> list[Step]:
    """Measure what each step of a run left; write `steps.json` and `waterfall.png` beside it.

    Raises:
        DataError: the run is not finished.
        MissingExtraError: matplotlib is not installed.
    """
    steps = measure_steps(run, recipe, rows)
    content = json.dumps([asdict(step) for step in steps], indent=1).encode()
    write_durably(run / "steps.json", [content], mode=0o644)
    draw_waterfall(steps, run / "waterfall.png")
    return steps


def measure_steps(run: Path, recipe: ShrinkRecipe, rows: UnseenRows) -> list[Step]:
    """The teacher, the pruned model before healing, the healed one, and what ships.

    Raises:
        DataError: the run is not finished.
    """
    teacher, bits = Path(recipe.teacher), recipe.rounding.bits
    gain = measure_gain(teacher, rows)
    stages = [
        ("teacher", teacher, teacher / CHECKPOINT_FOLDER, 32),
        ("pruned", run, run / "pruned", 32),
        ("healed", run, run / CHECKPOINT_FOLDER, 32),
        (f"{bits} bits", run, twin_folder(run, bits), bits),
    ]
    found = []
    for name, place, checkpoint, stored in stages:
        model = load_signal_model(checkpoint)
        size = rest_bytes(teacher) + model_bytes(model.trunk.config, Door.of(model), stored)
        quality = measure_gain(place, rows, checkpoint=checkpoint).share_of(gain)
        found.append(Step(name, quality, size))
    return found


def draw_waterfall(steps: Sequence[Step], path: Path) -> None:
    """What each step cost in quality, and what it saved in bytes."""

    def paint(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True)
        names = [step.name for step in steps]
        for axes, values, unit in (
            (upper, [100 * step.quality for step in steps], "%"),
            (lower, [step.bundle_bytes / 1e6 for step in steps], " MB"),
        ):
            for i, value in enumerate(values):
                before = values[i - 1] if i else 0.0
                axes.bar(i, value - before, bottom=before, width=0.6, color=LOOKS[0 if value >= before else 1][0])
                axes.annotate(
                    f"{value:.1f}{unit}", (i, max(value, before)), ha="center", va="bottom", fontsize=8, color=INK
                )
                if i:
                    axes.plot([i - 0.7, i + 0.3], [before, before], color=INK, linewidth=0.8)
            axes.margins(y=0.15)
        upper.set_ylabel("share of the teacher's gain, %")
        lower.set_ylabel("bundle, MB")
        lower.set_xticks(range(len(names)), names)

    draw(path, (6.4, 4.6), paint)


def draw_pareto(trials: Sequence[dict[str, Any]], path: Path, *, found: str) -> None:
    """Quality over bytes of every candidate that was trained; fully trained ones are filled.

    Args:
        trials: As in `search.SearchResult`.
        path: A file ending in `.svg` or `.png`.
        found: Label of the model that was found.

    Raises:
        DataError: nothing was trained.
    """
    best: dict[str, dict[str, Any]] = {}
    for trial in sorted(trials, key=lambda trial: trial["effort"]):
        best[trial["label"]] = trial
    points = [trial for trial in best.values() if trial["cost"]]
    if not points:
        raise DataError("Pareto front: nothing was trained")
    front = pareto_front([(trial["cost"]["bytes"], trial["quality"]) for trial in points])

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for trial in points:
            size, share = trial["cost"]["bytes"] / 1e6, 100 * trial["quality"]
            color = LOOKS[1 if trial["label"] == found else 0][0]
            axes.plot(size, share, "o", color=color, fillstyle="full" if trial["effort"] >= 1 else "none")
            axes.annotate(trial["label"], (size, share), fontsize=7, xytext=(4, 4), textcoords="offset points")
        axes.step([x / 1e6 for x, _ in front], [100 * y for _, y in front], where="post", color=LOOKS[2][0])
        axes.set_xlabel("bundle, MB")
        axes.set_ylabel("share of the teacher's gain, %")
        axes.margins(0.12)

    draw(path, (6.4, 3.8), paint)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (cost, quality) points that no cheaper one equals or beats, by cost.

    >>> pareto_front([(1, 0.5), (2, 0.4), (3, 0.9), (3, 0.8)])
    [(1, 0.5), (3, 0.9)]
    """
    front: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or quality > front[-1][1]:
            front.append((cost, quality))
    return front
