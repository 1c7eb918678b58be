"""A picture of a pretraining run that stands alone: light background, own colours, the same bytes again."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from smallhold.device.durable_file import write_durably
from smallhold.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which the colour-blind tell apart; each curve also has its own dash.
_INK, _GRID = "#222222", "#dddddd"
_LOOKS = (("#0072b2", "-"), ("#d55e00", "--"), ("#009e73", "-."), ("#cc79a7", ":"))
_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": _INK,
    "axes.facecolor": "white",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "white",
    "font.size": 9,
    "grid.color": _GRID,
    "lines.linewidth": 1.4,
    "savefig.dpi": 160,
    "svg.fonttype": "path",  # looks alike on machines without the font
    "svg.hashsalt": "smallhold",
    "text.color": _INK,
    "text.parse_math": False,
}


def loss_curve(
    training: Sequence[tuple[float, float]],
    path: Path,
    *,
    validation: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    title: str = "Pretraining",
) -> None:
    """Draw training loss above, validation bits per byte below, both over the tokens trained on.

    Args:
        training: (tokens, nats for each token), in order.
        path: A file ending in `.svg` or `.png`; replaced whole.
        validation: Name of the text, such as a language -> (tokens, bits per byte), in order.
        title: Above the picture.

    Raises:
        InputError: another ending, or nothing to draw.
        MissingExtraError: matplotlib is not installed.
    """
    kind = path.suffix.removeprefix(".")
    if kind not in ("svg", "png"):
        raise InputError(f"{path}: a loss curve is written as .svg or .png, got {path.suffix or 'no ending'}")
    curves = validation or {}
    if not training or not all(curves.values()):
        raise InputError("loss curve: expected at least one point for each curve")
    try:
        import matplotlib.style
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report", "Drawing the loss curve") from error
    panels = 2 if curves else 1
    buffer = io.BytesIO()
    # "default" first: a user's own matplotlibrc must not change the drawing.
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=(6.4, 1.1 + 2.2 * panels), layout="constrained")
        figure.suptitle(title, fontsize=10)
        axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
        upper, lower = axes[0], axes[-1]
        _draw(upper, training, _LOOKS[0], "training")
        upper.set_ylabel("loss, nats per token")
        for i, (name, points) in enumerate(curves.items()):
            _draw(lower, points, _LOOKS[i % len(_LOOKS)], name, marker="o")
        if curves:
            lower.set_ylabel("validation, bits per byte")
        lower.set_xlabel("tokens trained on, millions")
        figure.savefig(buffer, format=kind, metadata={"Date": None, "Creator": None} if kind == "svg" else {})
    write_durably(path, [buffer.getvalue()], mode=0o644)


def _draw(
    axes: Axes, points: Sequence[tuple[float, float]], look: tuple[str, str], name: str, *, marker: str | None = None
) -> None:
    """One curve; the legend says its last value. Curves fall, so that the upper right corner is free."""
    millions, values = zip(*((tokens / 1e6, value) for tokens, value in points), strict=True)
    label = f"{name}: {values[-1]:.3f} at the end"
    axes.plot(millions, values, color=look[0], linestyle=look[1], marker=marker, markersize=3, label=label)
    axes.set_xlim(left=0)
    axes.legend(loc="upper right", fontsize=8, handlelength=3, framealpha=0.9, edgecolor="none")
