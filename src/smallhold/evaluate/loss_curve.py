"""A picture of a pretraining run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from smallhold.errors import InputError
from smallhold.evaluate.picture import LOOKS, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
    curves = validation or {}
    if not training or not all(curves.values()):
        raise InputError("loss curve: expected at least one point for each curve")
    panels = 2 if curves else 1

    def paint(figure: Figure) -> None:
        figure.suptitle(title, fontsize=10)
        axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
        upper, lower = axes[0], axes[-1]
        _draw(upper, training, LOOKS[0], "training")
        upper.set_ylabel("loss, nats per token")
        for i, (name, points) in enumerate(curves.items()):
            _draw(lower, points, LOOKS[i % len(LOOKS)], name, marker="o")
        if curves:
            lower.set_ylabel("validation, bits per byte")
        lower.set_xlabel("tokens trained on, millions")

    draw(path, (6.4, 1.1 + 2.2 * panels), paint)


def _draw(
    axes: Axes, points: Sequence[tuple[float, float]], look: tuple[str, str], name: str, *, marker: str | None = None
) -> None:
    """One curve; the legend says its last value. Curves fall, so that the upper right corner is free."""
    millions, values = zip(*((tokens / 1e6, value) for tokens, value in points), strict=True)
    label = f"{name}: {values[-1]:.3f} at the end"
    axes.plot(millions, values, color=look[0], linestyle=look[1], marker=marker, markersize=3, label=label)
    axes.set_xlim(left=0)
    axes.legend(loc="upper right", fontsize=8, handlelength=3, framealpha=0.9, edgecolor="none")
