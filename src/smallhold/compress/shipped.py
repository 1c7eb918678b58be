"""The weights that a runtime will compute with: which parameters ship quantized, in how many bits, and their values.

One place says what `quantize_checkpoint` does to a model, for methods that have to foresee it (GPTQ, training with fake
quantization). 3 and 2 bits are experiments: no file format of ours holds them yet.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smallhold.bundle.rounding import quantize_weight
from smallhold.bundle.weights import GROUP_SIZE, RANGES
from smallhold.errors import ShapeError
from smallhold.learn.model import SignalModel, Trunk

BITS = (8, 4, 3, 2)
_ENCODER = ("encoder.basis.weight", "encoder.up.weight", "encoder.down.weight")
#: Shares of a group's largest weight that a step may be chosen for; below 1 clips.
_SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)


def shipped_bits(model: Trunk | SignalModel, bits: int) -> dict[str, int]:
    """Name of every parameter that ships quantized to its bits, where `bits` were asked for.

    A tied head is not named: it is the embedding.

    Raises:
        ShapeError: other bits than 8, 4, 3 or 2.
    """
    if bits not in BITS:
        raise ShapeError(f"bits: expected one of {BITS}, got {bits}")
    found = {}
    for name, parameter in model.named_parameters():
        if name in _ENCODER and isinstance(model, SignalModel):
            found[name] = 8
        elif not name.startswith("encoder.") and parameter.ndim == 2 and parameter.shape[1] % GROUP_SIZE == 0:
            found[name] = bits
    return found


def as_shipped(weight: Tensor, bits: int) -> Tensor:
    """The values (O, I) float32 that a runtime reads for a weight (O, I), bit for bit.

    Rows that 32 does not divide are padded with zeros, as those of the signal encoder are.

    Raises:
        ValueError: a weight is not finite or too large.
    """
    array = weight.detach().to(torch.float32).cpu().numpy()
    padded = np.pad(array, ((0, 0), (0, -array.shape[1] % GROUP_SIZE)))
    rounded = quantize_weight(padded, bits).dequantize() if bits in RANGES else round_low_bits(padded, bits)
    return torch.from_numpy(np.ascontiguousarray(rounded[:, : array.shape[1]])).to(weight.device)


def round_low_bits(weight: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """Round to 3 or 2 bits in groups of 32: integers from -2^(bits-1) to 2^(bits-1) - 1, a float16 step of either sign.

    The step of a group is the one of a few candidates with the least squared error.

    Args:
        weight: (O, I), I a multiple of 32.
        bits: 3 or 2.
    """
    groups = weight.reshape(weight.shape[0], -1, GROUP_SIZE)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    largest = np.take_along_axis(groups, np.abs(groups).argmax(axis=2)[:, :, None], axis=2)
    best = np.zeros_like(groups)
    least = (groups**2).sum(axis=2, keepdims=True)
    for reach in (low, high):
        for share in _SHARES:
            step = (largest * np.float32(share / reach)).astype(np.float16).astype(np.float32)
            divisor = np.where(step != 0, step, np.float32(1))
            rounded = np.clip(np.rint(groups / divisor), low, high) * step
            error = ((groups - rounded) ** 2).sum(axis=2, keepdims=True)
            best, least = np.where(error < least, rounded, best), np.minimum(error, least)
    return best.reshape(weight.shape)
