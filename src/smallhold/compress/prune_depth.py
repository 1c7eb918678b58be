"""Depth pruning: drop the layers that change the residual stream least."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from smallhold.compress.calibration import CalibrationSet, observe, trunk_of
from smallhold.compress.selection import Model, Selection, take
from smallhold.errors import RecipeError
from smallhold.learn.model import SignalModel, Trunk


def block_influence(model: Trunk | SignalModel, calibration: CalibrationSet) -> Tensor:
    """How much each layer turns the residual stream.

    Source: ShortGPT, Men et al. 2024, arXiv:2403.03853, equation 1.

    Args:
        model: Read only.
        calibration: What it reads.

    Returns:
        (L,) float64 in [0, 2]: one minus the mean cosine between a layer's input and output, over all tokens.
    """
    trunk = trunk_of(model)
    prefix = next(name for name, module in model.named_modules() if module is trunk.model.layers)
    cosine = torch.zeros(trunk.config.num_hidden_layers, dtype=torch.float64)
    count = torch.zeros_like(cosine)
    before: dict[int, Tensor] = {}

    def compare(layer: int, output: Tensor) -> None:
        cosine[layer] += F.cosine_similarity(before.pop(layer).double(), output.double(), dim=-1).sum()
        count[layer] += output.shape[0] * output.shape[1]

    layers = range(trunk.config.num_hidden_layers)
    observe(
        model,
        calibration,
        inputs={f"{prefix}.{i}": partial(before.__setitem__, i) for i in layers},
        outputs={f"{prefix}.{i}": partial(compare, i) for i in layers},
    )
    return 1 - cosine / count


def prune_depth(model: Model, calibration: CalibrationSet, *, num_layers: int) -> tuple[Model, list[int]]:
    """Drop layers one at a time, the least influential first, measuring again after each.

    Measuring again costs one reading of the calibration set a layer; it matters where two neighbours do the same work,
    both look idle while the other is there, and only one may go.

    Args:
        model: Left alone.
        calibration: What it reads.
        num_layers: Layers that stay.

    Returns:
        The new model and the old indices of its layers.

    Raises:
        RecipeError: fewer than one or more layers than there are.
    """
    kept = list(range(trunk_of(model).config.num_hidden_layers))
    if not 1 <= num_layers <= len(kept):
        raise RecipeError(f"depth: expected 1 to {len(kept)} layers, got {num_layers}")
    current = take(model, Selection())
    while len(kept) > num_layers:
        weakest = int(block_influence(current, calibration).argmin())
        del kept[weakest]
        stays = [i for i in range(len(kept) + 1) if i != weakest]
        current = take(current, Selection(layers=torch.tensor(stays)))
    return current, kept
