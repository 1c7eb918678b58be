"""Wanda: unstructured pruning by |weight| times input norm, as a baseline to measure structured pruning against.

A mask buys nothing on our runtimes: they store and multiply every weight, zero or not, so the bundle is as large and a
decision takes as long as before. Use it to learn how much of a model is idle, not to ship.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from smallhold.compress.calibration import CalibrationSet, observe
from smallhold.compress.selection import Model, Selection, take
from smallhold.errors import ShapeError


def wanda_mask(weight: Tensor, input_norm: Tensor, *, sparsity: float) -> Tensor:
    """Choose which weights to remove, row by row.

    Source: Sun et al. 2023, arXiv:2306.11695, equation 1.

    Args:
        weight: (O, I).
        input_norm: (I,) L2 norm of each input feature over the calibration tokens.
        sparsity: Fraction of every row to remove, 0 <= sparsity < 1.

    Returns:
        (O, I) bool, True = removed. Every row has exactly floor(sparsity * I) True values; ties go to the lower column.

    Raises:
        ShapeError: `input_norm` does not have I entries.
        ValueError: sparsity is outside [0, 1).
    """
    if weight.ndim != 2 or input_norm.shape != weight.shape[1:]:
        raise ShapeError(
            f"wanda: expected weight (O, I) and input_norm (I,), got {tuple(weight.shape)} and "
            f"{tuple(input_norm.shape)}"
        )
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity: expected a fraction in [0, 1), got {sparsity}")
    order = torch.sort(weight.abs() * input_norm, dim=1, stable=True).indices
    mask = torch.zeros(weight.shape, dtype=torch.bool, device=weight.device)
    return mask.scatter(1, order[:, : int(sparsity * weight.shape[1])], True)


def prune_wanda(model: Model, calibration: CalibrationSet, *, sparsity: float) -> Model:
    """A copy whose layer matrices have that share of zeros; embeddings, head and signal encoder are left whole."""
    new = take(model, Selection())
    layers = {
        name: module
        for name, module in new.named_modules()
        if isinstance(module, nn.Linear) and ".layers." in f".{name}"
    }
    square = {name: torch.zeros(module.in_features, dtype=torch.float64) for name, module in layers.items()}

    def see(name: str, x: Tensor) -> None:
        square[name] += (x.double() ** 2).sum(dim=(0, 1))

    observe(new, calibration, inputs={name: partial(see, name) for name in layers})
    with torch.no_grad():
        for name, module in layers.items():
            norm = square[name].sqrt().to(module.weight.dtype)
            module.weight.masked_fill_(wanda_mask(module.weight, norm, sparsity=sparsity), 0)
    return new
