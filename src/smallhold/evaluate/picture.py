"""Pictures that stand alone: light background, own colours, the same bytes again."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from smallhold.device.durable_file import write_durably
from smallhold.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind tell apart; each curve also has its own dash.
INK, _GRID = "#222222", "#dddddd"
LOOKS = (("#0072b2", "-"), ("#d55e00", "--"), ("#009e73", "-."), ("#cc79a7", ":"))
_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
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
    "text.color": INK,
    "text.parse_math": False,
}


def draw(path: Path, size: tuple[float, float], paint: Callable[[Figure], None]) -> None:
    """Draw a figure into a file.

    Args:
        path: A file ending in `.svg` or `.png`; replaced whole.
        size: Width and height in inches.
        paint: Fills the figure.

    Raises:
        InputError: another ending.
        MissingExtraError: matplotlib is not installed.
    """
    kind = path.suffix.removeprefix(".")
    if kind not in ("svg", "png"):
        raise InputError(f"{path}: a picture is written as .svg or .png, got {path.suffix or 'no ending'}")
    try:
        import matplotlib.style
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report", "Drawing a picture") from error
    buffer = io.BytesIO()
    # "default" first: a user's own matplotlibrc must not change the drawing.
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        figure.savefig(buffer, format=kind, metadata={"Date": None, "Creator": None} if kind == "svg" else {})
    write_durably(path, [buffer.getvalue()], mode=0o644)
