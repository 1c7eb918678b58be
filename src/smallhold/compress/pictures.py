"""Pictures of a compression: the Pareto front of a search, and what each step of a run cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from smallhold.bundle.onnx_graph import trunk_onnx
from smallhold.bundle.weights import read_weights
from smallhold.compress.bundle_size import Door, model_bytes, rest_bytes
from smallhold.compress.quantize import twin_folder
from smallhold.compress.shrink_recipe import ShrinkRecipe
from smallhold.compress.student_quality import UnseenRows, measure_gain
from smallhold.device.durable_file import write_durably
from smallhold.errors import DataError
from smallhold.evaluate.graph_cost import measure_content
from smallhold.evaluate.picture import INK, LOOKS, draw
from smallhold.evaluate.run_folder import CHECKPOINT_FOLDER
from smallhold.learn.checkpoint import load_signal_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Of a stay, and decisions that are timed.
_POSITIONS, _DECISIONS = 48, 960
#: Of the axis's height, for a number below a bar.
_LEAST_ROOM = 0.12
#: Quantity of a trial, what the axis says, and its scale.
_COSTS = (("bytes", "bundle, MB", 1e-6), ("p95_ms", "decision, 95th percentile, ms", 1.0))


@dataclass(frozen=True, slots=True)
class Step:
    """What one step left.

    Attributes:
        name: Of the step.
        quality: Share of the teacher's gain over the simple thing, on validation rows.
        bundle_bytes: Of a bundle of this model, foretold.
        decision_ms: Processor time of one decision on ONNX Runtime, one thread, median; in turn with the teacher, and
            told at the teacher's speed, so that what else the machine does hits all steps alike.
    """

    name: str
    quality: float
    bundle_bytes: int
    decision_ms: float


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
        BackendError: a graph could not be run.
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
    reference = trunk_onnx(read_weights(teacher / CHECKPOINT_FOLDER))
    found: list[Step] = []
    for name, place, checkpoint, stored in stages:
        model = load_signal_model(checkpoint)
        size = rest_bytes(teacher) + model_bytes(model.trunk.config, Door.of(model), stored)
        quality = measure_gain(place, rows, checkpoint=checkpoint).share_of(gain)
        graph = trunk_onnx(read_weights(checkpoint))
        cost = measure_content(graph, reference, positions=_POSITIONS, decisions=_DECISIONS)
        first_ms = found[0].decision_ms if found else cost["p50_ms"]
        found.append(Step(name, quality, size, cost["p50_of_reference"] * first_ms))
    return found


def draw_waterfall(steps: Sequence[Step], path: Path) -> None:
    """What each step cost in quality, and what it saved in bytes and time."""

    def paint(figure: Figure) -> None:
        upper, middle, lower = figure.subplots(3, 1, sharex=True)
        names = [step.name for step in steps]
        for axes, values, form in (
            (upper, [100 * step.quality for step in steps], "{:.1f}%"),
            (middle, [step.bundle_bytes / 1e6 for step in steps], "{:.1f} MB"),
            (lower, [step.decision_ms for step in steps], "{:.2f} ms"),
        ):
            for i, value in enumerate(values):
                before = values[i - 1] if i else 0.0
                axes.bar(i, value - before, bottom=before, width=0.6, color=LOOKS[0 if value >= before else 1][0])
                is_below = value < before and value > _LEAST_ROOM * max(values)  # at the end of the bar
                y, side, gap = (value, "top", -2) if is_below else (max(value, before), "bottom", 2)
                axes.annotate(
                    form.format(value), (i, y), (0, gap), textcoords="offset points", va=side, ha="center", fontsize=8
                )
                if i:
                    axes.plot([i - 0.7, i + 0.3], [before, before], color=INK, linewidth=0.8)
            axes.set_ylim(0, 1.2 * max(values))
        upper.set_ylabel("of the gain, %")
        middle.set_ylabel("bundle, MB")
        lower.set_ylabel("decision, ms")
        lower.set_xticks(range(len(names)), names)

    draw(path, (6.4, 6.0), paint)


def draw_pareto(trials: Sequence[dict[str, Any]], path: Path, *, found: str) -> None:
    """Quality over bytes and over time of every candidate that was trained; fully trained ones are filled.

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

    def paint(figure: Figure) -> None:
        panels = figure.subplots(1, len(_COSTS), sharey=True)
        for axes, (name, label, scale) in zip(panels, _COSTS, strict=True):
            middle = fmean(pick(trial["cost"][name] for trial in points) for pick in (min, max)) * scale
            for trial in points:
                cost, share = trial["cost"][name] * scale, 100 * trial["quality"]
                color = LOOKS[1 if trial["label"] == found else 0][0]
                axes.plot(cost, share, "o", color=color, fillstyle="full" if trial["effort"] >= 1 else "none")
                side = {"xytext": (-4, 4), "ha": "right"} if cost > middle else {"xytext": (4, 4), "ha": "left"}
                axes.annotate(trial["label"], (cost, share), fontsize=6, textcoords="offset points", **side)
            front = pareto_front([(trial["cost"][name] * scale, 100 * trial["quality"]) for trial in points])
            axes.step([x for x, _ in front], [y for _, y in front], where="post", color=LOOKS[2][0])
            axes.set_xlabel(label)
            axes.margins(0.12)
        panels[0].set_ylabel("share of the teacher's gain, %")

    draw(path, (9.6, 3.8), paint)


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
