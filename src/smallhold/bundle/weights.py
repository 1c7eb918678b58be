"""The weights that go into a bundle: float32, or 8 bits in groups of 32 where a checkpoint was quantized.

A quantized checkpoint is an ordinary one whose `model.safetensors` holds the *dequantized* weights, so that every
tool still reads it, beside `quantized.safetensors` with the integers and scales of the quantized matrices.
"""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A matrix in ggml's Q8_0 encoding: symmetric, one float16 scale for 32 weights of a row.

    Attributes:
        values: (O, I) int8 in [-127, 127], I a multiple of 32.
        scale: (O, I / 32) float16; weight = values * scale of its group.
    """

    values: NDArray[np.int8]
    scale: NDArray[np.float16]

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        rows, columns = self.values.shape
        if columns % GROUP_SIZE or self.scale.shape != (rows, columns // GROUP_SIZE):
            raise ShapeError(
                f"quantized weight: values {self.values.shape} need scales {(rows, columns // GROUP_SIZE)} and a row "
                f"length that {GROUP_SIZE} divides, got {self.scale.shape}"
            )

    def dequantize(self) -> NDArray[np.float32]:
        """The weights that a runtime computes with, (O, I) float32."""
        return self.values.astype(np.float32) * np.repeat(self.scale.astype(np.float32), GROUP_SIZE, axis=1)


Weight = NDArray[np.float32] | QuantizedWeight


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """All weights of one model by Hugging Face's names; encoder matrices may have zero columns added at the end."""

    checkpoint: Checkpoint
    trunk: dict[str, Weight]
    encoder: dict[str, Weight]


def read_weights(folder: Path) -> ModelWeights:
    """Read a checkpoint with whatever part of it is quantized.

    Raises:
        DataError: a file is missing, truncated or malformed.
    """
    checkpoint = read_checkpoint(folder)
    trunk: dict[str, Weight] = dict(checkpoint.trunk)
    encoder: dict[str, Weight] = dict(checkpoint.encoder)
    path = folder / QUANTIZED_FILE
    if path.exists():
        try:
            stored = load_file(path)
            for key in (name.removesuffix(".values") for name in stored if name.endswith(".values")):
                part, name = key.split("/")
                target = {"trunk": trunk, "encoder": encoder}[part]
                target[name] = QuantizedWeight(stored[f"{key}.values"], stored[f"{key}.scale"])
        except (SafetensorError, KeyError, ValueError) as error:
            raise DataError(f"checkpoint {folder}: {QUANTIZED_FILE} is truncated or malformed: {error}") from error
    return ModelWeights(checkpoint, trunk, encoder)
