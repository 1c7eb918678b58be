"""Matplotlib drawings as inline SVG whose colours, and only those, are left to the page.

Everything is drawn in sentinel colours. Afterwards each sentinel becomes a CSS variable, so that one drawing serves
light, dark and print. Styles become attributes, so that a page may forbid inline styles. Nothing random, dated or
external stays: the same drawing gives the same bytes with the same matplotlib.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smallhold.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Sentinel -> CSS variable of report.css. The page chooses the shade.
INK, MUTED, GRID, PAPER = "#010203", "#010204", "#010205", "#010206"
SERIES = ("#020101", "#020102", "#020103", "#020104", "#020105", "#020106", "#020107")
HIGH, MEDIUM, LOW = "#030101", "#030102", "#030103"
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    PAPER: "--paper",
    **{colour: f"--s{i}" for i, colour in enumerate(SERIES, 1)},
    HIGH: "--high",
    MEDIUM: "--medium",
    LOW: "--low",
}
_STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.edgecolor": "none",
    "legend.facecolor": PAPER,
    "legend.fontsize": 8,
    "legend.framealpha": 0.85,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "path.simplify": False,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "smallhold",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 8,
}


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawing with its words.

    Attributes:
        svg: One `<svg>` element with role img, title and description; safe to place in a page.
        title: Short, says *simulated* when the data are.
        description: What the drawing shows, with its figures: the text alternative.
    """

    svg: str
    title: str
    description: str


def draw(
    name: str,
    title: str,
    description: str,
    *,
    size_inches: tuple[float, float],
    is_simulated: bool,
    paint: Callable[[Figure], None],
) -> Picture:
    """Paint a figure and turn it into a picture.

    Args:
        name: Unique on the page; letters, digits and `-`. It prefixes every id within the drawing.
        title: Without the word simulated; it is added here, and written into the drawing itself too.
        description: The text alternative.
        size_inches: Width and height; one inch is 72 CSS pixels at natural size.
        is_simulated: Whether the data come from the simulator.
        paint: Draws on an empty figure.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib.style
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report", "Drawing the report's figures") from error
    if is_simulated:
        title = f"{title} (simulated)"
    buffer = io.StringIO()
    # "default" first: a user's own matplotlibrc must not change the drawing.
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=size_inches, layout="constrained")
        paint(figure)
        if is_simulated:
            figure.supxlabel("simulated data", x=0.995, ha="right", fontsize=7.5, color=MUTED, style="italic")
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Picture(_inline(buffer.getvalue(), name, title, description), title, description)


def clipped(text: str, most: int = 28) -> str:
    """A label that cannot crowd out its drawing; the description keeps the whole."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _inline(document: str, name: str, title: str, description: str) -> str:
    """Matplotlib's SVG document as one element of a page."""
    # (1) Keep what the drawing shows: no prolog, no metadata, no style sheet that would leak into the page.
    drawing = document[document.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", drawing, flags=re.DOTALL)
    # (2) Styles to attributes, before anything of ours is added.
    drawing = re.sub(r' style="([^"]*)"', lambda match: _attributes(match[1]), drawing)
    # (3) One page holds many drawings: make ids unique, then drop those that nothing refers to.
    drawing = drawing.replace("xlink:href", "href")
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', drawing))
    referred = {one or other for one, other in used}
    drawing = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in referred else "", drawing)
    drawing = re.sub(r'href="#', f'href="#{name}-', drawing)
    drawing = re.sub(r"url\(#", f"url(#{name}-", drawing)
    # (4) Sentinels to variables.
    for colour, variable in _VARIABLES.items():
        drawing = drawing.replace(f'"{colour}"', f'"var({variable})"')
    # (5) Words for those who cannot see it.
    box = re.search(r'viewBox="([^"]+)"', drawing)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box[1] if box else "0 0 100 100"}" role="img" '
        f'aria-label="{html.escape(title)}" aria-describedby="{name}-words">'
        f'<title>{html.escape(title)}</title><desc id="{name}-words">{html.escape(description)}</desc>'
    )
    return head + re.sub(r"\n\s*", "\n", drawing[drawing.index(">") + 1 :]).strip()


def _attributes(style: str) -> str:
    """`fill: none; font: 9px 'DejaVu Sans'` -> ` fill="none" font-size="9px"`."""
    attributes = []
    for declaration in style.split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        # The page chooses the family.
        if key == "font":
            size = re.search(r"[\d.]+px", value)
            key, value = "font-size", size[0] if size else "9px"
        if key and key != "font-family":
            attributes.append(f' {key}="{value}"')
    return "".join(attributes)
