"""The weights that go into a bundle: float32, or 8 or 4 bits in groups of 32 where a checkpoint was quantized.

A quantized checkpoint is an ordinary one whose `model.safetensors` holds the *dequantized* weights, so that every
tool still reads it, beside `quantized.safetensors` with the integers and scales of the quantized matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from smallhold.errors import DataError, ShapeError
from smallhold.learn.checkpoint import Checkpoint, read_checkpoint

GROUP_SIZE = 32
QUANTIZED_FILE = "quantized.safetensors"
#: Bits to the smallest and largest integer.
RANGES = {8: (-127, 127), 4: (-8, 7)}


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A matrix in ggml's Q8_0 or Q4_0 encoding: symmetric, one float16 scale for 32 weights of a row.

    Attributes:
        values: (O, I) int8, in [-127, 127] for 8 bits and [-8, 7] for 4; I a multiple of 32.
        scale: (O, I / 32) float16; weight = values * scale of its group. A scale of 4 bits may be negative.
        bits: 8 or 4.
    """

    values: NDArray[np.int8]
    scale: NDArray[np.float16]
    bits: int = 8

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        rows, columns = self.values.shape
        if columns % GROUP_SIZE or self.scale.shape != (rows, columns // GROUP_SIZE):
            raise ShapeError(
                f"quantized weight: values {self.values.shape} need scales {(rows, columns // GROUP_SIZE)} and a row "
                f"length that {GROUP_SIZE} divides, got {self.scale.shape}"
            )
        if self.bits not in RANGES:
            raise ShapeError(f"quantized weight: expected 8 or 4 bits, got {self.bits}")
        lowest, highest = RANGES[self.bits]
        if self.values.size and not lowest <= self.values.min() <= self.values.max() <= highest:
            raise ShapeError(f"quantized weight: {self.bits} bits hold {lowest} to {highest}, the values go beyond")

    def dequantize(self) -> NDArray[np.float32]:
        """The weights that a runtime computes with, (O, I) float32."""
        return self.values.astype(np.float32) * np.repeat(self.scale.astype(np.float32), GROUP_SIZE, axis=1)


#: A matrix or vector as it ships; float16 is stored so and computed with as float32.
Weight = NDArray[np.float32] | NDArray[np.float16] | QuantizedWeight


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """All weights of one model by Hugging Face's names; encoder matrices may have zero columns added at the end."""

    checkpoint: Checkpoint
    trunk: dict[str, Weight]
    encoder: dict[str, Weight]


def stack_rows(weights: Sequence[Weight]) -> Weight:
    """Matrices that read the same input as one, one below the other; groups lie within rows, so nothing is rounded.

    Raises:
        ShapeError: some are quantized and some are not, or with other bits.
    """
    quantized = [weight for weight in weights if isinstance(weight, QuantizedWeight)]
    if not quantized:
        return np.concatenate([weight for weight in weights if not isinstance(weight, QuantizedWeight)])
    if len(quantized) < len(weights) or len({weight.bits for weight in quantized}) > 1:
        raise ShapeError("weights of one input: expected all in float32 or all in the same encoding")
    return QuantizedWeight(
        np.concatenate([weight.values for weight in quantized]),
        np.concatenate([weight.scale for weight in quantized]),
        quantized[0].bits,
    )


def vector(trunk: dict[str, Weight], name: str) -> NDArray[np.float32]:
    """A norm's weight or a bias, which is never quantized.

    Raises:
        ShapeError: it is.
    """
    weight = trunk[name]
    if isinstance(weight, QuantizedWeight):
        raise ShapeError(f"{name}: expected float32, got {weight.bits} bits")
    return np.asarray(weight, np.float32)


def weight_bytes(weight: Weight) -> int:
    """Bytes that a weight takes in a file."""
    if isinstance(weight, QuantizedWeight):
        return weight.values.size * weight.bits // 8 + weight.scale.size * 4
    return weight.nbytes


def read_weights(folder: Path) -> ModelWeights:
    """Read a checkpoint with whatever part of it is quantized.

    Raises:
        DataError: a file is missing, truncated or malformed.
    """
    checkpoint = read_checkpoint(folder)
    quantized = read_quantized(folder)
    trunk: dict[str, Weight] = {**checkpoint.trunk, **quantized["trunk"]}
    encoder: dict[str, Weight] = {**checkpoint.encoder, **quantized["encoder"]}
    return ModelWeights(checkpoint, trunk, encoder)


def read_quantized(folder: Path) -> dict[str, dict[str, QuantizedWeight]]:
    """The quantized matrices of a checkpoint: `trunk` and `encoder` to name to weight; none where none is quantized.

    Raises:
        DataError: truncated or malformed.
    """
    found: dict[str, dict[str, QuantizedWeight]] = {"trunk": {}, "encoder": {}}
    path = folder / QUANTIZED_FILE
    if not path.exists():
        return found
    try:
        stored = load_file(path)
        for key in (name.removesuffix(".values") for name in stored if name.endswith(".values")):
            part, name = key.split("/")
            bits = int(stored[f"{key}.bits"][0]) if f"{key}.bits" in stored else 8
            found[part][name] = QuantizedWeight(stored[f"{key}.values"], stored[f"{key}.scale"], bits)
    except (SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"checkpoint {folder}: {QUANTIZED_FILE} is truncated or malformed: {error}") from error
    return found
