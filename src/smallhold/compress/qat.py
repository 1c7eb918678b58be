"""Quantization-aware training: forward with the weights that will ship, gradients straight through the rounding.

Source: straight-through estimator, Bengio et al. 2013, arXiv:1308.3432; weights alone are rounded, activations are not.
Rounding is not restated here: it is the exporter's own function, so that the forward pass and the runtime's dequantized
weights are equal bit for bit. 3 and 2 bits are experiments (`shipped.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from smallhold.compress.shipped import as_shipped, shipped_bits
from smallhold.learn.model import SignalModel, Trunk


@contextmanager
def quantization_aware(model: Trunk | SignalModel, *, bits: int = 4) -> Iterator[None]:
    """Inside, every parameter that ships quantized reads as it will ship; training moves the float32 weights behind it.

    On leaving, the float32 weights are back under their own names. Save them and call `quantize_checkpoint` with the
    same bits: the twin holds exactly what the last forward pass computed with. Rounding is done again only after a
    weight has changed, once a step however often the weight is read.

    Args:
        model: Changed in place while inside; its parameters have other names there.
        bits: Of the layers: 8 or 4, or 3 or 2 as an experiment; the rest as `quantize_checkpoint`.

    Raises:
        ShapeError: other bits.
    """
    chosen = shipped_bits(model, bits)
    shared: dict[int, nn.Module] = {}
    touched = []
    modules = dict(model.named_modules())
    parameters = dict(model.named_parameters(remove_duplicate=False))
    bits_by_identity = {id(parameters[name]): count for name, count in chosen.items()}
    for name, parameter in parameters.items():
        if (count := bits_by_identity.get(id(parameter))) is None:
            continue
        module_name, _, leaf = name.rpartition(".")
        rounding = shared.setdefault(id(parameter), _Rounding(count))  # tied weights are rounded once
        parametrize.register_parametrization(modules[module_name], leaf, rounding, unsafe=True)
        touched.append((modules[module_name], leaf))
    try:
        yield
    finally:
        for module, leaf in touched:
            parametrize.remove_parametrizations(module, leaf, leave_parametrized=False)


class _Rounding(nn.Module):
    """A weight as it ships, remembered until the weight changes."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self._seen: tuple[int, int] | None = None
        self._rounded: Tensor | None = None

    def forward(self, weight: Tensor) -> Tensor:
        version = (weight.data_ptr(), weight._version)
        if self._rounded is None or version != self._seen:
            self._seen, self._rounded = version, as_shipped(weight, self.bits).to(weight.dtype)
        return _StraightThrough.apply(weight, self._rounded)  # type: ignore[no-any-return, no-untyped-call]


class _StraightThrough(torch.autograd.Function):
    """The rounded values forward, the gradient unchanged backward."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rounded: Tensor) -> Tensor:  # noqa: ARG004 - torch's signature
        return rounded.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return gradient, None
