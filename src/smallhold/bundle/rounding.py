"""Round-to-nearest quantization in groups of 32: the encodings Q8_0 (8 bits) and Q4_0 (4 bits).

Source: the block formats of ggml (docs/gguf.md, ggml-quants.c).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smallhold.bundle.weights import GROUP_SIZE, RANGES, QuantizedWeight, Weight
from smallhold.errors import InputError, ShapeError

#: Steps of 4 bits to try, as the integer that the largest weight of a group would get. With -8, 7 and -7 among them,
#: what was rounded once is rounded to the same integers again.
_REACHES = (-8.0, -7.5, -8.5, -9.0, -10.0, 7.0, 7.5, 8.0, 9.0, -7.0)


def quantize_weight(weight: NDArray[np.float32], bits: int = 8) -> QuantizedWeight:
    """Quantize a matrix by rounding to the nearest step.

    Args:
        weight: (O, I) with I a multiple of 32.
        bits: 8 or 4.

    Returns:
        Integers and scales. In 8 bits every weight is off by at most half a step of its group, plus what rounding the
        scale to float16 costs: 127 times 2^-11 of the step, or 127 times 2^-25 where the step is below float16's
        smallest normal number. In 4 bits the step is the one of a few candidates with the least squared error.

    Raises:
        ShapeError: I is not a multiple of 32, or other bits.
        ValueError: a weight is not finite, or too large for a float16 scale.
    """
    if weight.ndim != 2 or weight.shape[1] % GROUP_SIZE:
        raise ShapeError(f"weight: expected (O, I) with I a multiple of {GROUP_SIZE}, got {weight.shape}")
    if bits not in RANGES:
        raise ShapeError(f"bits: expected 8 or 4, got {bits}")
    if not np.isfinite(weight).all():
        raise ValueError("weight: holds NaN or infinity; the training run has diverged")
    groups = weight.reshape(weight.shape[0], -1, GROUP_SIZE)
    if bits == 8:
        scale = _stored(np.abs(groups).max(axis=2) / 127)
    else:
        # The integers reach from -8 to 7: ggml gives the longer side to the largest weight of a group. The other side
        # and smaller steps, which clip that weight, are tried as well: often the other 31 gain more than it loses.
        largest = np.take_along_axis(groups, np.abs(groups).argmax(axis=2)[:, :, None], axis=2)[:, :, 0]
        candidates = np.stack([_stored(largest / reach) for reach in _REACHES])
        errors = [_squared_error(groups, scale, bits) for scale in candidates]
        scale = np.take_along_axis(candidates, np.argmin(errors, axis=0)[None], axis=0)[0]
    return QuantizedWeight(_round(groups, scale, bits).reshape(weight.shape), scale, bits)


def _stored(step: NDArray[np.float32]) -> NDArray[np.float16]:
    """Steps as float16."""
    if step.size and np.abs(step).max() > np.finfo(np.float16).max:
        raise ValueError(f"weight: largest step {np.abs(step).max():.3g} does not fit a float16 scale")
    return step.astype(np.float16)


def _squared_error(groups: NDArray[np.float32], scale: NDArray[np.float16], bits: int) -> NDArray[np.float32]:
    """What rounding costs each group, (O, I / 32); products in float32, as runtimes compute them."""
    error: NDArray[np.float32] = groups - _round(groups, scale, bits) * scale.astype(np.float32)[:, :, None]
    squared: NDArray[np.float32] = np.sum(error**2, axis=2)
    return squared


def _round(groups: NDArray[np.float32], scale: NDArray[np.float16], bits: int) -> NDArray[np.int8]:
    """Integers (O, I / 32, 32); divided by the scale as stored, so that its rounding does not add to the error."""
    divisor = np.where(scale != 0, scale.astype(np.float32), np.float32(1))
    return np.clip(np.rint(groups / divisor[:, :, None]), *RANGES[bits]).astype(np.int8)


def encode_weight(name: str, weight: NDArray[np.float32], bits: int) -> Weight:
    """A parameter of a trunk as it ships.

    Args:
        name: Of the parameter.
        weight: Matrix or vector; a vector stays as it is.
        bits: 4, 8, 16 (float16) or 32 (float32).

    Raises:
        InputError: the rows of a matrix cannot be quantized in groups, or a weight has no float16.
        ValueError: a weight is not finite.
    """
    if weight.ndim != 2 or bits == 32:
        return weight
    if bits == 16:
        if not np.abs(weight).max(initial=0) <= np.finfo(np.float16).max:
            raise InputError(f"{name}: a weight is too large for float16, or not finite", hint="use --bits 32 or 8")
        return weight.astype(np.float16)
    if weight.shape[1] % GROUP_SIZE:
        raise InputError(
            f"{name}: rows of {weight.shape[1]} weights do not split into groups of {GROUP_SIZE}",
            hint="use --bits 16 or 32",
        )
    return quantize_weight(weight, bits)
