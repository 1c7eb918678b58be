"""GPTQ: quantize a matrix column by column and let the columns that are left make up for each rounding error.

Source: Frantar et al. 2022, arXiv:2210.17323, algorithm 1, on our own groups: 32 weights of a row share a float16 scale
(Q8_0 and Q4_0). The scale of a group is chosen when its first column is reached, from weights that have already been
corrected; inside a group corrections stop at its edge, and what lies beyond is corrected once, when the group is done.
The result is integers and scales of `bundle.weights.QuantizedWeight`: every exporter writes them as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from smallhold.bundle.rounding import quantize_weight
from smallhold.bundle.weights import GROUP_SIZE, RANGES, QuantizedWeight
from smallhold.compress.calibration import CalibrationSet, trunk_of
from smallhold.compress.shipped import as_shipped, shipped_bits
from smallhold.errors import DataError, ShapeError
from smallhold.learn.model import SignalModel, Trunk


def quantize_gptq(
    weight: NDArray[np.float32], gram: NDArray[np.float64], *, bits: int = 4, damping: float = 0.01
) -> QuantizedWeight:
    """Quantize one matrix for the inputs that it was seen to have.

    Args:
        weight: (O, I), I a multiple of 32.
        gram: (I, I), sum of x x^T over inputs x (I,).
        bits: 8 or 4.
        damping: Share of the mean of the diagonal that is added to it; an input that calibration never used is
            decoupled from the others and rounded to nearest.

    Raises:
        ShapeError: shapes that do not fit, or other bits.
        ValueError: weights or inputs that are not finite.
    """
    if weight.ndim != 2 or weight.shape[1] % GROUP_SIZE or gram.shape != (weight.shape[1],) * 2:
        raise ShapeError(
            f"gptq: expected weight (O, I) with I a multiple of {GROUP_SIZE} and gram (I, I), got {weight.shape} and "
            f"{gram.shape}"
        )
    if bits not in RANGES:
        raise ShapeError(f"bits: expected 8 or 4, got {bits}")
    if not np.isfinite(gram).all():
        raise ValueError("gptq: the calibration inputs hold NaN or infinity")
    update = _update_factors(gram, damping)
    left = weight.astype(np.float64)
    values = np.zeros(weight.shape, np.int8)
    scale = np.zeros((weight.shape[0], weight.shape[1] // GROUP_SIZE), np.float16)
    for start in range(0, weight.shape[1], GROUP_SIZE):
        end = start + GROUP_SIZE
        scale[:, start // GROUP_SIZE] = quantize_weight(left[:, start:end].astype(np.float32), bits).scale[:, 0]
        step = scale[:, start // GROUP_SIZE].astype(np.float64)
        error = np.zeros((len(weight), GROUP_SIZE))
        for i in range(start, end):
            whole = np.rint(np.divide(left[:, i], step, out=np.zeros_like(step), where=step != 0))
            values[:, i] = np.clip(whole, *RANGES[bits])
            error[:, i - start] = (left[:, i] - values[:, i] * step) / update[i, i]
            left[:, i:end] -= error[:, i - start, None] * update[i, i:end]
        left[:, end:] -= error @ update[start:end, end:]
    return QuantizedWeight(values, scale, bits)


def _update_factors(gram: NDArray[np.float64], damping: float) -> NDArray[np.float64]:
    """Upper Cholesky factor of the inverse Hessian: row i says how column i's error moves the columns after it."""
    hessian = gram.copy()
    diagonal = np.einsum("ii->i", hessian)  # a view
    is_dead = diagonal == 0
    diagonal[is_dead] = diagonal[~is_dead].mean() if (~is_dead).any() else 1.0
    diagonal += damping * diagonal.mean()
    factor: NDArray[np.float64] = np.linalg.cholesky(np.linalg.inv(hessian)).T
    return factor


def gptq_layers(
    model: Trunk | SignalModel, calibration: CalibrationSet, *, bits: int = 4, progress: Callable[[int, int], None]
) -> dict[str, QuantizedWeight]:
    """Quantize the matrices of all layers, each for the inputs that quantized layers before it give.

    Embeddings and signal encoder are rounded first, as they ship.

    Args:
        model: Left alone.
        calibration: What it reads.
        bits: 8 or 4.
        progress: Called with layers done and in all.

    Returns:
        Parameter name, as in the trunk's state dictionary, to integers and scales; matrices whose rows 32 does not
        divide stay out.
    """
    work = copy.deepcopy(model).eval()
    chosen_bits = shipped_bits(work, bits)
    _round_doors(work, chosen_bits)
    prefix = "" if work is trunk_of(work) else "trunk."
    calls = _record_calls(work, calibration)
    states = [args[0] for args, _ in calls[0]]
    chosen: dict[str, QuantizedWeight] = {}
    for layer, block in enumerate(trunk_of(work).blocks):
        place = f"model.layers.{layer}."
        linears = {
            name: module
            for name, module in block.named_modules()
            if isinstance(module, nn.Linear) and f"{prefix}{place}{name}.weight" in chosen_bits
        }
        with _grams(linears) as grams:
            _run(block, states, calls[layer])
        for name, module in linears.items():
            try:
                weight = quantize_gptq(module.weight.detach().float().numpy(), grams[name], bits=bits)
            except ValueError as error:
                raise DataError(f"gptq: {place}{name}: {error}") from error
            chosen[f"{place}{name}.weight"] = weight
            module.weight.data.copy_(torch.from_numpy(weight.dequantize()))
        states = _run(block, states, calls[layer])
        progress(layer + 1, len(calls))
    return chosen


def _round_doors(model: Trunk | SignalModel, chosen_bits: Mapping[str, int]) -> None:
    with torch.no_grad():
        for name, bits in chosen_bits.items():
            if ".layers." not in f".{name}":
                parameter = model.get_parameter(name)
                parameter.copy_(as_shipped(parameter, bits))


Call = tuple[tuple[Any, ...], dict[str, Any]]


def _record_calls(model: Trunk | SignalModel, calibration: CalibrationSet) -> list[list[Call]]:
    """Arguments with which each layer is called, batch by batch: masks and angles stay the same when weights change."""
    calls: list[list[Call]] = [[] for _ in trunk_of(model).blocks]
    handles = [
        block.register_forward_pre_hook(
            lambda _module, args, kwargs, i=i: calls[i].append((args if i == 0 else (None, *args[1:]), kwargs)),
            with_kwargs=True,
        )
        for i, block in enumerate(trunk_of(model).blocks)
    ]
    try:
        with torch.no_grad():
            for embeddings in calibration.embeddings(model):
                trunk_of(model).hidden(embeddings)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _run(block: nn.Module, states: list[Tensor], calls: list[Call]) -> list[Tensor]:
    with torch.no_grad():
        return [block(x, *args[1:], **kwargs) for x, (args, kwargs) in zip(states, calls, strict=True)]


@contextmanager
def _grams(linears: Mapping[str, nn.Linear]) -> Iterator[dict[str, NDArray[np.float64]]]:
    """Sums of x x^T of the inputs of some linear layers, over all passes inside."""
    sums = {name: np.zeros((module.in_features, module.in_features)) for name, module in linears.items()}

    def add_to(name: str) -> Callable[..., None]:
        def add(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0].detach().flatten(0, -2).double().numpy()
            sums[name] += x.T @ x

        return add

    handles = [module.register_forward_pre_hook(add_to(name)) for name, module in linears.items()]
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()
