"""Depth, then width, down to a chosen shape, each measured on what the step before left."""

from __future__ import annotations

from collections.abc import Callable

from smallhold.compress.calibration import CalibrationSet, trunk_of
from smallhold.compress.prune_depth import prune_depth
from smallhold.compress.prune_width import prune_width
from smallhold.compress.selection import Model, Selection
from smallhold.compress.shrink_recipe import ShapeChoice

Progress = Callable[[str, int, int], None]


def prune_shape(
    model: Model, calibration: CalibrationSet, shape: ShapeChoice, *, progress: Progress
) -> tuple[Model, list[int], Selection]:
    """Cut a model whose vocabulary is as it shall be.

    Args:
        model: Left alone.
        calibration: What it reads while it is measured.
        shape: What stays; a size of 0 stays as it is.
        progress: Called with a caption, steps done and steps in all.

    Returns:
        The smaller model, the indices of the layers that stayed, and what stayed within them.

    Raises:
        RecipeError: the shape is impossible.
    """
    progress("pruning, depth", 1, 3)
    layers = list(range(trunk_of(model).config.num_hidden_layers))
    if shape.num_hidden_layers:
        model, layers = prune_depth(model, calibration, num_layers=shape.num_hidden_layers)
    progress("pruning, width", 2, 3)
    model, selection = prune_width(
        model,
        calibration,
        hidden_size=shape.hidden_size or None,
        intermediate_size=shape.intermediate_size or None,
        num_attention_heads=shape.num_attention_heads or None,
        num_key_value_heads=shape.num_key_value_heads or None,
    )
    progress("pruning, width", 3, 3)
    return model, layers, selection
