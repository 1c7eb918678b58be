"""The gradient of each example of a batch, for what is trained: adapters and plain linear maps.

Source: Abadi et al. 2016, arXiv:1607.00133, algorithm 1 (clip each example's gradient, add noise to the sum); the
per-example outer products are those of Goodfellow 2015, arXiv:1510.01799, for maps of low rank: beside one backward
pass they cost two small products a map.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from smallhold.errors import InputError, ShapeError
from smallhold.learn.lora import LoraLinear

#: A float32 sum of squares is within this share of the exact one for as many entries as an adapter has.
_NORM_SLACK = 1e-5


class PerSampleGradients:
    """Watches a forward pass while it is open; `of` then gives the gradients of its losses.

    The examples are the first axis of every map's input, and no example may reach another's loss (no batch norm).

    ::

        with PerSampleGradients({"head": head, **maps}) as watched:
            losses = loss_of(batch)           # (N,)
        gradients = watched.of(losses)        # {"head.weight": (N, O, I), ...}

    Args:
        maps: Name of a module to `LoraLinear` or `nn.Linear`; names of gradients begin with it.

    Raises:
        InputError: a module is neither.
    """

    def __init__(self, maps: Mapping[str, nn.Module]) -> None:
        for name, module in maps.items():
            if not isinstance(module, LoraLinear | nn.Linear):
                raise InputError(f"{name}: expected a linear map or one with an adapter, got {type(module).__name__}")
        self._maps = maps
        self._passes: list[tuple[str, nn.Module, Tensor, Tensor]] = []
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        self._handles = [
            module.register_forward_hook(partial(self._watch, name)) for name, module in self._maps.items()
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _watch(self, name: str, module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        if out.requires_grad:
            self._passes.append((name, module, inputs[0].detach(), out))

    def of(self, losses: Tensor) -> dict[str, Tensor]:
        """Name of a parameter to its gradient for each example, (N, ...); parameters without influence are left out.

        Args:
            losses: (N,) of the pass that was watched; its graph is used up.
        """
        found: dict[str, Tensor] = {}
        # Towards the maps' outputs alone: the sums over examples, which nobody wants, are never formed.
        outputs = [out for _, _, _, out in self._passes]
        gradients = torch.autograd.grad(losses.sum(), outputs, allow_unused=True) if outputs else ()
        with torch.no_grad():
            for (name, module, x, _), gradient in zip(self._passes, gradients, strict=True):
                if gradient is None:
                    continue
                for part, value in _of_map(module, _as_sequence(x), _as_sequence(gradient)):
                    whole = f"{name}.{part}"
                    found[whole] = found[whole] + value if whole in found else value
        self._passes = []
        return found


def _of_map(module: nn.Module, x: Tensor, gradient: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Each parameter's gradients of inputs (N, T, I) and output gradients (N, T, O)."""
    if isinstance(module, LoraLinear):
        below = module.scale * (gradient @ module.lora_b)  # (N, T, R)
        above = module.scale * (x @ module.lora_a.T)  # (N, T, R)
        yield "lora_a", below.transpose(1, 2) @ x  # (N, R, I)
        yield "lora_b", gradient.transpose(1, 2) @ above  # (N, O, R)
        return
    yield "weight", gradient.transpose(1, 2) @ x  # (N, O, I)
    if module.bias is not None:
        yield "bias", gradient.sum(1)  # (N, O)


def clipped_sum(gradients: Mapping[str, Tensor], *, clip_norm: float) -> tuple[dict[str, Tensor], Tensor]:
    """Sum of gradients of which none is longer than the norm; the length is over all parameters together.

    Args:
        gradients: Name to (N, ...).
        clip_norm: Most L2 norm of one example's gradient, above 0.

    Returns:
        Name to (...), and the norms (N,) before clipping. One example changes the sum by `clip_norm` at most.

    Raises:
        ShapeError: no gradients, or of different numbers of examples.
        InputError: the norm is not above 0.
    """
    if not clip_norm > 0:
        raise InputError(f"clip_norm: expected a number above 0, got {clip_norm}")
    sizes = {len(value) for value in gradients.values()}
    if len(sizes) != 1:
        raise ShapeError(f"gradients: expected one number of examples, got {sorted(sizes)}")
    squares = [value.flatten(1).square().sum(1) for value in gradients.values()]
    norms = torch.stack(squares).sum(0).sqrt()  # (N,)
    # A gradient that is not finite would take all with it; it counts as none.
    factor = (clip_norm / (norms * (1 + _NORM_SLACK)).clamp(min=1e-30)).clamp(max=1.0)
    factor = torch.where(norms.isfinite(), factor, 0.0)
    total = {}
    for name, value in gradients.items():
        clean = torch.where(factor.view(-1, *[1] * (value.dim() - 1)) > 0, value, 0.0)
        total[name] = torch.tensordot(factor, clean, dims=1)
    return total, norms


def _as_sequence(x: Tensor) -> Tensor:
    """(N, T, C) of (N, C) or (N, ..., C)."""
    return x[:, None] if x.dim() == 2 else x.flatten(1, -2)
