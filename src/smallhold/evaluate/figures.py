"""The report's pictures, each from plain numbers to one `Picture`.

A series is told apart by colour, dash and marker at once; the colours are chosen for colour-blind readers.
Every function takes `is_simulated`, and every description holds the figures that the drawing shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from smallhold.evaluate.result import (
    BundleFile,
    Curves,
    Difference,
    Histogram,
    LatencySummary,
    horizon_name,
    model_name,
)
from smallhold.evaluate.svg import GRID, INK, MUTED, SERIES, Picture, clipped, draw
from smallhold.evaluate.tables import format_bytes, format_count, format_difference, format_milliseconds, format_share
from smallhold.evaluate.verdict import SHIPPED, difference_interval, judge

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Model -> (colour, dash, marker). The models of one report keep their look in every picture.
_LOOK: dict[str, tuple[str, Any, str]] = {
    "shipped": (SERIES[0], "-", "o"),
    "trees": (SERIES[1], "--", "s"),
    "trees+shipped": (SERIES[2], "-.", "D"),
    "news2": (SERIES[3], ":", "^"),
    "saps1": (SERIES[4], (0, (1, 1)), "v"),
    "teacher": (SERIES[5], (0, (5, 1)), "P"),
    "fp32": (SERIES[6], (0, (3, 1, 1, 1)), "X"),
}
_OTHER_LOOKS = list(_LOOK.values())[::-1]
_SQUARE = (3.8, 3.5)
_WIDE = (3.8, 2.5)
_MOST_FILES = 7
_MOST_RELIABILITY = 3


def look(model: str, position: int) -> tuple[str, Any, str]:
    """Colour, dash and marker of a model; `position` chooses for models without a fixed look."""
    return _LOOK.get(model, _OTHER_LOOKS[position % len(_OTHER_LOOKS)])


def difference_label(item: Difference) -> str:
    """`vs boosted trees, 48 h`; the first model is named only when it is not the shipped one."""
    first, second = item["models"]
    pair = f"vs {model_name(second)}" if first == SHIPPED else f"{model_name(first)} − {model_name(second)}"
    horizon_h = item.get("horizon_h")
    return pair if horizon_h is None else f"{pair}, {horizon_name(horizon_h)}"


def roc_picture(
    name: str, curves: Mapping[str, Curves], aurocs: Mapping[str, float | None], *, is_simulated: bool
) -> Picture:
    """Receiver operating characteristic of several models.

    Args:
        name: Unique on the page.
        curves: Model -> curves with `roc`.
        aurocs: Model -> area, for the legend.
        is_simulated: Whether the data come from the simulator.
    """
    drawn = {model: item["roc"] for model, item in curves.items() if item.get("roc")}

    def paint(figure: Figure) -> None:
        axes = _unit_square(figure, "false-positive rate (1 − specificity)", "sensitivity")
        axes.plot([0, 1], [0, 1], color=GRID, linewidth=1)
        for position, (model, points) in enumerate(drawn.items()):
            colour, dash, _ = look(model, position)
            label = f"{clipped(model_name(model))} {format_share(aurocs.get(model))}"
            axes.plot(*zip(*points, strict=True), color=colour, linestyle=dash, label=label, zorder=_depth(model))
        _legend(axes, "lower right")

    words = [
        f"{model_name(model)} AUROC {format_share(aurocs.get(model))}, "
        f"sensitivity {format_share(_sensitivity_at(points, 0.1))} at a specificity of 0.9"
        for model, points in drawn.items()
    ]
    text = "Sensitivity against false-positive rate. " + _sentences(words)
    return draw(name, "ROC curve", text, size_inches=_SQUARE, is_simulated=is_simulated, paint=paint)


def precision_recall_picture(
    name: str,
    curves: Mapping[str, Curves],
    auprcs: Mapping[str, float | None],
    *,
    prevalence: float | None,
    is_simulated: bool,
) -> Picture:
    """Precision against recall of several models.

    Args:
        name: Unique on the page.
        curves: Model -> curves with `pr`.
        auprcs: Model -> average precision, for the legend.
        prevalence: Share of positives: the precision of a blind guess; None hides its line.
        is_simulated: Whether the data come from the simulator.
    """
    drawn = {model: item["pr"] for model, item in curves.items() if item.get("pr")}

    def paint(figure: Figure) -> None:
        axes = _unit_square(figure, "recall (sensitivity)", "precision (positive predictive value)")
        if prevalence is not None:
            axes.axhline(prevalence, color=MUTED, linewidth=0.8)
            axes.annotate("everybody called positive", (0.01, prevalence), (0, -3), **_NOTE, va="top")
        for position, (model, points) in enumerate(drawn.items()):
            colour, dash, _ = look(model, position)
            recall, precision = zip(*points, strict=True)
            label = f"{clipped(model_name(model))} {format_share(auprcs.get(model))}"
            axes.step(recall, precision, color=colour, linestyle=dash, label=label, zorder=_depth(model))
        _legend(axes, "best")

    words = [f"{model_name(model)} AUPRC {format_share(auprcs.get(model))}" for model in drawn]
    text = "Share of true alarms against share of positives found. " + _sentences(words)
    if prevalence is not None:
        text += f" Calling everybody positive would have a precision of {format_share(prevalence)}."
    return draw(name, "Precision and recall", text, size_inches=_SQUARE, is_simulated=is_simulated, paint=paint)


def reliability_picture(
    name: str, curves: Mapping[str, Curves], *, is_simulated: bool, noun: str = "patients"
) -> Picture:
    """Predicted against observed share, with the number of patients in each bin below.

    Args:
        name: Unique on the page.
        curves: Model -> curves with `reliability`; the first three are drawn, the counts are the first one's.
        is_simulated: Whether the data come from the simulator.
        noun: What is counted.
    """
    all_models = {model: item["reliability"] for model, item in curves.items() if item.get("reliability")}
    drawn = dict(list(all_models.items())[:_MOST_RELIABILITY])
    counted = next(iter(drawn), "")

    def paint(figure: Figure) -> None:
        axes, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [4, 1]})
        axes.plot([0, 1], [0, 1], color=GRID, linewidth=1)
        for position, (model, points) in enumerate(drawn.items()):
            colour, dash, marker = look(model, position)
            predicted, observed, _ = zip(*points, strict=True)
            axes.plot(
                predicted, observed, color=colour, linestyle=dash, marker=marker, label=clipped(model_name(model)),
                zorder=_depth(model),
            )  # fmt: skip
        axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="observed share")
        _legend(axes, "upper left")
        if drawn:
            predicted, _, count = zip(*drawn[counted], strict=True)
            below.bar(predicted, count, width=0.03, color=look(counted, 0)[0])
            below.set_yscale("log")
            below.set_ylim(0.8, max(count) * 2)
            below.minorticks_off()
            below.yaxis.set_major_formatter("{x:g}")
        below.set(xlabel="predicted probability", ylabel=noun)

    words = [
        f"{model_name(model)}: "
        + ", ".join(
            f"{predicted:.2f} predicted, {observed:.2f} observed ({count:.0f})" for predicted, observed, count in points
        )
        for model, points in drawn.items()
    ]
    text = f"Observed against predicted share by bin, number of {noun} in brackets. " + _sentences(words)
    return draw(name, "Reliability", text, size_inches=_SQUARE, is_simulated=is_simulated, paint=paint)


def risk_coverage_picture(name: str, curves: Mapping[str, Curves], *, is_simulated: bool) -> Picture:
    """Share of wrong answers when only the most confident are given.

    Args:
        name: Unique on the page.
        curves: Model -> curves with `risk_coverage` and `aurc`; the first three are drawn.
        is_simulated: Whether the data come from the simulator.
    """
    all_models = {model: item for model, item in curves.items() if item.get("risk_coverage")}
    drawn = dict(list(all_models.items())[:_MOST_RELIABILITY])

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for position, (model, item) in enumerate(drawn.items()):
            colour, dash, _ = look(model, position)
            covered, risk = zip(*item["risk_coverage"], strict=True)
            label = f"{clipped(model_name(model))} {format_share(item.get('aurc'))}"
            axes.plot(covered, risk, color=colour, linestyle=dash, label=label, zorder=_depth(model))
        axes.set(xlim=(0, 1), xlabel="coverage: share answered, most confident first", ylabel="share wrong of those")
        axes.set_ylim(bottom=0)
        _legend(axes, "upper left")

    words = [
        f"{model_name(model)}: area {format_share(item.get('aurc'))}, "
        + ", ".join(f"{format_share(_risk_at(item['risk_coverage'], at))} wrong of {at:.0%}" for at in (0.5, 0.8, 1.0))
        for model, item in drawn.items()
    ]
    text = "Share wrong against share answered; the area under the curve in the legend, lower is better. "
    return draw(
        name, "Risk and coverage", text + _sentences(words), size_inches=_SQUARE, is_simulated=is_simulated, paint=paint
    )


def difference_picture(name: str, differences: Sequence[Difference], metric: str, *, is_simulated: bool) -> Picture:
    """Paired differences with their intervals around zero: what the verdict is computed from.

    Args:
        name: Unique on the page.
        differences: In the order of drawing, from the top; those without an interval are left out.
        metric: Name of the metric in words.
        is_simulated: Whether the data come from the simulator.
    """
    rows = [(item, interval) for item in differences if (interval := difference_interval(item)) is not None]
    rows = [(item, interval) for item, interval in rows if None not in interval.values()]
    labels = [difference_label(item) for item, _ in rows]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axvline(0, color=MUTED, linewidth=1)
        for position, (item, interval) in enumerate(rows):
            colour, _, marker = look(item["models"][1], position)
            value, low, high = (interval[key] or 0.0 for key in ("value", "low", "high"))
            axes.plot([low, high], [position, position], color=colour, linewidth=2.2)
            axes.plot(value, position, color=colour, marker=marker, markersize=6)
        axes.set_yticks(range(len(rows)), [clipped(label) for label in labels])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(f"← worse  ·  difference in {metric}  ·  better →")

    words = [
        f"{label}: {format_difference(interval['value'])}, from {format_difference(interval['low'])} "
        f"to {format_difference(interval['high'])}, {judge(interval)}"
        for label, (_, interval) in zip(labels, rows, strict=True)
    ]
    text = f"First model minus second in {metric}, with intervals. " + _sentences(words)
    height = 1.1 + 0.26 * max(len(rows), 2)
    title = f"Paired differences in {metric}"
    return draw(name, title, text, size_inches=(4.8, height), is_simulated=is_simulated, paint=paint)


def sizes_picture(name: str, files: Sequence[BundleFile], *, is_simulated: bool) -> Picture:
    """Bytes of each file of the bundle, largest first; small ones are drawn together."""
    ranked = sorted(files, key=lambda item: (-item["bytes"], item["path"]))
    # One bar for all that are left only saves room when there are at least two.
    num_bars = len(ranked) if len(ranked) <= _MOST_FILES + 1 else _MOST_FILES
    bars, rest = [(item["path"], item["bytes"]) for item in ranked[:num_bars]], ranked[num_bars:]
    if rest:
        bars.append((f"{len(rest)} smaller files", sum(item["bytes"] for item in rest)))
    total = sum(item["bytes"] for item in ranked)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.barh(range(len(bars)), [size for _, size in bars], color=SERIES[0], height=0.6)
        for position, (_, size) in enumerate(bars):
            axes.annotate(format_bytes(size), (size, position), (3, 0), **_NOTE, va="center")
        axes.set_yticks(range(len(bars)), [_shortened(path) for path, _ in bars])
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.set_xlim(0, max((size for _, size in bars), default=1) * 1.22 or 1)
        _bars_only(axes)

    text = f"{format_bytes(total)} in {len(ranked)} files. " + _sentences(
        [f"{path} {format_bytes(size)}" for path, size in bars]
    )
    height = 0.6 + 0.24 * max(len(bars), 2)
    return draw(name, "Bytes in the bundle", text, size_inches=(3.8, height), is_simulated=is_simulated, paint=paint)


def latency_picture(name: str, histogram: Histogram, summary: LatencySummary, *, is_simulated: bool) -> Picture:
    """Distribution of the time of one append-and-decide, with median and 99th percentile.

    Args:
        name: Unique on the page.
        histogram: Edges in milliseconds, and counts.
        summary: Percentiles in milliseconds.
        is_simulated: Whether the data come from the simulator.
    """
    edges, counts = histogram["edges"], histogram["counts"]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.stairs(counts, edges, fill=True, color=SERIES[0], alpha=0.8)
        top = max(counts, default=1) or 1
        # One label above the other: the two lines often stand side by side.
        for key, dash, height in (("p50", "-", 1.13), ("p99", "--", 1.01)):
            at = summary[key]  # type: ignore[literal-required]
            axes.axvline(at, color=INK, linewidth=0.9, linestyle=dash)
            axes.annotate(f"{key} {format_milliseconds(at)}", (at, top * height), (3, 0), **_NOTE, va="center")
        axes.set(xlabel="milliseconds per decision", ylabel="decisions", ylim=(0, top * 1.22))
        axes.set_xlim(0, max(edges[-1], summary["p99"] * 1.3))

    text = (
        f"{format_count(summary['n'])} decisions: median {format_milliseconds(summary['p50'])}, 99 % within "
        f"{format_milliseconds(summary['p99'])}, slowest {format_milliseconds(summary['max'])}."
    )
    return draw(name, "Time per decision", text, size_inches=_WIDE, is_simulated=is_simulated, paint=paint)


def loss_picture(name: str, loss: Sequence[Sequence[float]], *, is_simulated: bool) -> Picture:
    """Training loss by step; `loss` holds [step, loss]."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot(*zip(*loss, strict=True), color=SERIES[0])
        axes.set(xlabel="optimiser step", ylabel="training loss")
        axes.set_xlim(left=0)

    first, last = loss[0], loss[-1]
    text = f"Loss {first[1]:.3f} at step {first[0]:.0f}, {last[1]:.3f} at step {last[0]:.0f}."
    return draw(name, "Training loss", text, size_inches=_WIDE, is_simulated=is_simulated, paint=paint)


_NOTE: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8, "color": INK}


def _unit_square(figure: Figure, xlabel: str, ylabel: str) -> Axes:
    axes = figure.subplots()
    axes.set(xlim=(0, 1), ylim=(0, 1.005), xlabel=xlabel, ylabel=ylabel)
    return axes


def _legend(axes: Axes, place: Any) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=place, handlelength=2.6)


def _bars_only(axes: Axes) -> None:
    axes.grid(visible=False)
    axes.tick_params(axis="both", length=0)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)


def _depth(model: str) -> float:
    return 3.0 if model == "shipped" else 2.0


def _sensitivity_at(points: Sequence[Sequence[float]], false_positive_rate: float) -> float | None:
    """The best sensitivity that stays within a false-positive rate."""
    return max((tpr for fpr, tpr in points if fpr <= false_positive_rate), default=None)


def _risk_at(points: Sequence[Sequence[float]], coverage: float) -> float | None:
    """Share wrong at the smallest coverage drawn that is at least this."""
    return next((risk for covered, risk in points if covered >= coverage - 1e-9), None)


def _shortened(path: str, most: int = 24) -> str:
    return path if len(path) <= most else "…" + path[-(most - 1) :]


def _sentences(words: Sequence[str]) -> str:
    return "; ".join(words) + "." if words else "No data."
