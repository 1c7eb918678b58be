"""Low-rank adapters: what a site trains, and all that it sends.

Source: Hu et al. 2021, arXiv:2106.09685, section 4.1. A matrix W of the frozen model becomes W + (alpha / r) B A with
A (r, I) drawn and B (O, r) zero, so that an adapted model begins as the model it adapts.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from smallhold.errors import RecipeError, ShapeError


class LoraLinear(nn.Module):
    """A frozen linear map with an adapter beside it."""

    def __init__(self, frozen: nn.Linear, *, rank: int, alpha: float) -> None:
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        self.scale = alpha / rank
        self.lora_a = nn.Parameter(torch.empty(rank, frozen.in_features))
        self.lora_b = nn.Parameter(torch.zeros(frozen.out_features, rank))
        nn.init.normal_(self.lora_a, std=frozen.in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(..., O) of (..., I)."""
        out: Tensor = self.frozen(x) + self.scale * ((x @ self.lora_a.T.to(x.dtype)) @ self.lora_b.T.to(x.dtype))
        return out

    def merged(self) -> nn.Linear:
        """A plain linear map with the adapter added in."""
        with torch.no_grad():
            self.frozen.weight += self.scale * (self.lora_b @ self.lora_a)
        return self.frozen


def add_lora(model: nn.Module, *, rank: int, alpha: float | None = None, seed: int) -> dict[str, nn.Parameter]:
    """Freeze a model and put adapters beside all of its linear maps, tied heads and embeddings apart.

    Args:
        model: Changed in place.
        rank: r, at least 1.
        alpha: Scale of the adapters times r; twice the rank when None.
        seed: Of the drawn halves.

    Returns:
        The adapters by their names in `model.named_parameters()`.

    Raises:
        RecipeError: the rank is below 1.
    """
    if rank < 1:
        raise RecipeError(f"LoRA: expected a rank of at least 1, got {rank}")
    model.requires_grad_(False)
    torch.manual_seed(seed)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            # A head that shares the embedding's matrix must stay what the embedding is.
            if type(child) is nn.Linear:
                setattr(module, name, LoraLinear(child, rank=rank, alpha=alpha if alpha is not None else 2.0 * rank))
    return {name: p for name, p in model.named_parameters() if name.endswith((".lora_a", ".lora_b"))}


def merge_lora(model: nn.Module) -> None:
    """Make an adapted model plain again, in place, with the adapters added in."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, LoraLinear):
                setattr(module, name, child.merged())


def set_parameters(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Copy values into parameters.

    Raises:
        ShapeError: names or shapes differ.
    """
    if set(parameters) != set(values):
        raise ShapeError(f"adapters: expected {sorted(parameters)}, got {sorted(values)}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.shape != values[name].shape:
                raise ShapeError(f"{name}: expected {tuple(parameter.shape)}, got {tuple(values[name].shape)}")
            parameter.copy_(values[name])
