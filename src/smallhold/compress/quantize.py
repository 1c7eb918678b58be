"""The quantized twin of a checkpoint, by rounding to nearest (`bundle/rounding.py`).

One set of integers and scales goes into the GGUF file and into the ONNX graph, so both runtimes compute with equal
weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from smallhold.bundle.rounding import quantize_weight
from smallhold.bundle.weights import GROUP_SIZE, QUANTIZED_FILE, QuantizedWeight
from smallhold.device.durable_file import write_durably
from smallhold.errors import DataError
from smallhold.learn.checkpoint import ENCODER_FILE, Checkpoint, read_checkpoint
from smallhold.learn.hugging_face import INDEX, WEIGHTS, fuse

__all__ = ["quantize_checkpoint", "quantize_weight", "twin_folder"]
_CONFIG = "config.json"


def twin_folder(run: Path, bits: int) -> Path:
    """Where the quantized twin of a run's checkpoint lies unless the user says otherwise."""
    return run / ("quantized" if bits == 8 else f"quantized-{bits}")


def quantize_checkpoint(
    source: Path, target: Path, *, bits: int = 8, chosen: Mapping[str, QuantizedWeight] | None = None
) -> dict[str, float]:
    """Write the quantized twin of a checkpoint.

    Matrices of the trunk whose rows 32 divides take the bits asked for, embedding and output head included. The large
    matrices of the signal encoder (padded with zero columns up to a multiple of 32) take 8 in either case, because the
    raw readings pass through them. Vectors stay float32.

    Args:
        source: A float32 checkpoint.
        target: Folder to write. Its `config.json`, without which nobody reads it, goes first and comes last: what was
            written in part is not taken for whole.
        bits: 8 or 4.
        chosen: Matrices of the trunk that were rounded already, by GPTQ for example; the others are to nearest.

    Returns:
        Tensor name to relative error, ||W - W_q|| / ||W||.

    Raises:
        DataError: the checkpoint is missing or malformed, a weight is not finite or too large for a float16 scale, or
            no matrix has rows that 32 divides.
    """
    chosen = chosen or {}
    checkpoint = read_checkpoint(source)
    if not checkpoint.encoder and (source / "smallhold.json").exists():
        raise DataError(f"checkpoint {source}: {ENCODER_FILE} is missing", hint="run the training command again")
    stored: dict[str, NDArray[Any]] = {}
    errors: dict[str, float] = {}
    trunk, encoder = dict(checkpoint.trunk), dict(checkpoint.encoder)
    for part, tensors in (("trunk", trunk), ("encoder", encoder)):
        for name in _quantizable(part, tensors):
            weight = tensors[name]
            columns = weight.shape[1]
            padding = -columns % GROUP_SIZE if part == "encoder" else 0
            if part == "trunk" and name in chosen:
                quantized = chosen[name]
            else:
                try:
                    quantized = quantize_weight(np.pad(weight, ((0, 0), (0, padding))), bits if part == "trunk" else 8)
                except ValueError as error:
                    raise DataError(f"checkpoint {source}: {name}: {error}") from error
            stored[f"{part}/{name}.values"], stored[f"{part}/{name}.scale"] = quantized.values, quantized.scale
            stored[f"{part}/{name}.bits"] = np.array([quantized.bits], np.uint8)
            tensors[name] = np.ascontiguousarray(quantized.dequantize()[:, :columns])
            size = max(float(np.linalg.norm(weight)), 1e-30)
            errors[name] = float(np.linalg.norm(weight - tensors[name])) / size
    if not errors:
        raise DataError(
            f"checkpoint {source}: nothing to quantize: no matrix has rows that {GROUP_SIZE} divides",
            hint="build the bundle of the float32 checkpoint",
        )
    target.mkdir(parents=True, exist_ok=True)
    (target / _CONFIG).unlink(missing_ok=True)
    _write(target / QUANTIZED_FILE, stored)
    _write(target / WEIGHTS, fuse(checkpoint.config, trunk, np.concatenate))
    if encoder:
        _write(target / ENCODER_FILE, encoder)
    _copy_rest(checkpoint, target)
    return errors


def _quantizable(part: str, tensors: dict[str, NDArray[np.float32]]) -> list[str]:
    if part == "encoder":
        return [name for name in ("basis.weight", "up.weight", "down.weight") if name in tensors]
    return [name for name, weight in tensors.items() if weight.ndim == 2 and weight.shape[1] % GROUP_SIZE == 0]


def _copy_rest(checkpoint: Checkpoint, target: Path) -> None:
    for path in sorted(checkpoint.folder.iterdir(), key=lambda path: path.name == _CONFIG):
        if path.suffix == ".json" and path.name != INDEX:  # the twin has no shards
            write_durably(target / path.name, [path.read_bytes()], mode=0o644)


def _write(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    data = save({k: np.ascontiguousarray(v) for k, v in tensors.items()}, metadata={"format": "pt"})
    write_durably(path, [data], mode=0o644)
