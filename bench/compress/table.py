"""The result as rows, as Markdown and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from bench.compress.methods import METHODS, Method
from bench.compress.quality import LOG_LOSS

from smallhold.evaluate.bootstrap import Resampled
from smallhold.evaluate.picture import LOOKS, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Figure to the head of its column; those drawn are the first four.
COLUMNS = {
    "icu-risk AUROC 48 h": "icu 48 h",
    "icu-risk, words AUROC 48 h": "words 48 h",
    "note-specialty macro-F1": "notes F1",
    "triage macro-F1": "triage F1",
    "icu-risk AUROC 12 h": "icu 12 h",
    "icu-risk, words AUROC 12 h": "words 12 h",
    "note-specialty accuracy": "notes acc.",
    "triage accuracy": "triage acc.",
    LOG_LOSS: "log-loss",
}
_DRAWN = tuple(COLUMNS)[:4]
_CONTROL, _OURS = "float32", "ours int4 GPTQ"


def quality_of(found: Mapping[str, Resampled], beside: Mapping[str, Mapping[str, Resampled]]) -> dict[str, Any]:
    """Figures of one method as JSON, each with the paired difference to some others.

    Args:
        found: Figure to its resamples.
        beside: Other method to the same.
    """
    return {
        name: {
            **figure.interval().to_json(),
            "minus": {
                other: figure.minus(theirs[name]).interval().to_json()
                for other, theirs in beside.items()
                if name in theirs
            },
        }
        for name, figure in found.items()
    }


def with_quality(rows: Sequence[dict[str, Any]], found: Mapping[str, Mapping[str, Resampled]]) -> None:
    """Give every row that was measured its `quality`, beside float32 and beside ours in 4 bits."""
    beside = {name: found[name] for name in (_CONTROL, _OURS) if name in found}
    for row in rows:
        if (name := row["method"]) in found:
            row["quality"] = quality_of(found[name], {k: v for k, v in beside.items() if k != name})


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line a method: bytes, figures, and in brackets the difference to float32 with its interval."""
    heads = ["method", "MB", "prefill ms", "decode ms", *COLUMNS.values()]
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['method']} | failed: {row['error']} |" + " |" * (len(heads) - 2))
            continue
        cells = [
            row["method"],
            f"{row['size_bytes'] / 1e6:.2f}",
            *(_time(row, kind) for kind in ("prefill_ms", "decode_ms")),
        ]
        cells += [_cell(row["quality"].get(name)) for name in COLUMNS]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _time(row: Mapping[str, Any], kind: str) -> str:
    speed = row.get("speed")
    return f"{speed[kind]['median']:.2f} ({speed[kind]['low']:.2f} to {speed[kind]['high']:.2f})" if speed else ""


def _cell(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return ""
    difference = figure["minus"].get(_CONTROL)
    if difference is None or difference["low"] is None:
        return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"
    return f"{figure['value']:.3f} ({difference['low']:+.3f} to {difference['high']:+.3f})"


def picture(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Bytes against what is lost to float32, one panel a figure; bars are 95 % intervals of the paired difference."""
    shown = [row for row in rows if "quality" in row and row["method"] != _CONTROL]
    by_name = {method.name: method for method in METHODS}

    def paint(figure: Figure) -> None:
        panels = figure.subplots(2, 2, sharex=True).ravel()
        for panel, name in zip(panels, _DRAWN, strict=True):
            _panel(panel, name, shown, by_name)
        for panel in panels[2:]:
            panel.set_xlabel("bytes of the trunk, MB")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=7)

    draw(path, (9.0, 7.0), paint)


def _panel(panel: Axes, name: str, rows: Sequence[Mapping[str, Any]], by_name: Mapping[str, Method]) -> None:
    markers = "osD^v<>PX*hdp"
    for number, row in enumerate(rows):
        method, figure = by_name[row["method"]], row["quality"].get(name)
        size = row["size_bytes"] / 1e6
        colour = LOOKS[0][0] if method.is_ours else LOOKS[1][0]
        look: dict[str, Any] = {
            "color": colour,
            "marker": markers[number % len(markers)],
            "markersize": 5,
            "linestyle": "none",
        }
        if figure is None or (lost := figure["minus"].get(_CONTROL)) is None:
            panel.errorbar([np.nan], [np.nan], label=row["method"], **look)
            continue
        reach = [[lost["value"] - lost["low"]], [lost["high"] - lost["value"]]]
        panel.errorbar([size], [lost["value"]], yerr=np.maximum(reach, 0), elinewidth=0.8, label=row["method"], **look)
    panel.axhline(0, color="#222222", linewidth=0.8)
    panel.set_title(f"{name}, minus float32", fontsize=9)
