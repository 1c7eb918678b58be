"""Round-to-nearest quantization in groups of 32: the encodings Q8_0 (8 bits) and Q4_0 (4 bits).

Source: the block formats of ggml (docs/gguf.md, ggml-quants.c). One set of integers and scales goes into the GGUF file
and into the ONNX graph, so both runtimes compute with equal weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from smallhold.bundle.weights import GROUP_SIZE, QUANTIZED_FILE, RANGES, QuantizedWeight
from smallhold.device.durable_file import write_durably
from smallhold.errors import DataError, ShapeError
from smallhold.learn.checkpoint import ENCODER_FILE, Checkpoint, read_checkpoint

#: Steps of 4 bits to try, as the integer that the largest weight of a group would get.
_REACHES = (-8.0, -7.5, -8.5, -9.0, -10.0, 7.0, 7.5, 8.0, 9.0)


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
        errors = [((groups - _round(groups, scale, bits) * scale[:, :, None]) ** 2).sum(axis=2) for scale in candidates]
        scale = np.take_along_axis(candidates, np.argmin(errors, axis=0)[None], axis=0)[0]
    return QuantizedWeight(_round(groups, scale, bits).reshape(weight.shape), scale, bits)


def _stored(step: NDArray[np.float32]) -> NDArray[np.float16]:
    """Steps as float16."""
    if step.size and np.abs(step).max() > np.finfo(np.float16).max:
        raise ValueError(f"weight: largest step {np.abs(step).max():.3g} does not fit a float16 scale")
    return step.astype(np.float16)


def _round(groups: NDArray[np.float32], scale: NDArray[np.float16], bits: int) -> NDArray[np.int8]:
    """Integers (O, I / 32, 32); divided by the scale as stored, so that its rounding does not add to the error."""
    divisor = np.where(scale != 0, scale.astype(np.float32), np.float32(1))
    return np.clip(np.rint(groups / divisor[:, :, None]), *RANGES[bits]).astype(np.int8)


def twin_folder(run: Path, bits: int) -> Path:
    """Where the quantized twin of a run's checkpoint lies unless the user says otherwise."""
    return run / ("quantized" if bits == 8 else f"quantized-{bits}")


def quantize_checkpoint(source: Path, target: Path, *, bits: int = 8) -> dict[str, float]:
    """Write the quantized twin of a checkpoint.

    Linear layers of the trunk whose rows 32 divides take the bits asked for. Embeddings and output head take 8 in
    either case, because every token passes through them, and so do the large matrices of the signal encoder (padded
    with zero columns up to a multiple of 32), which holds the raw readings. Vectors stay float32.

    Args:
        source: A float32 checkpoint.
        target: Folder to write.
        bits: 8 or 4.

    Returns:
        Tensor name to relative error, ||W - W_q|| / ||W||.
    """
    checkpoint = read_checkpoint(source)
    if not checkpoint.encoder and (source / "smallhold.json").exists():
        raise DataError(f"checkpoint {source}: {ENCODER_FILE} is missing", hint="run the training command again")
    target.mkdir(parents=True, exist_ok=True)
    stored: dict[str, NDArray[Any]] = {}
    errors: dict[str, float] = {}
    trunk, encoder = dict(checkpoint.trunk), dict(checkpoint.encoder)
    for part, tensors in (("trunk", trunk), ("encoder", encoder)):
        for name in _quantizable(part, tensors):
            weight = tensors[name]
            columns = weight.shape[1]
            padding = -columns % GROUP_SIZE if part == "encoder" else 0
            quantized = quantize_weight(np.pad(weight, ((0, 0), (0, padding))), bits if _is_linear(part, name) else 8)
            stored[f"{part}/{name}.values"], stored[f"{part}/{name}.scale"] = quantized.values, quantized.scale
            stored[f"{part}/{name}.bits"] = np.array([quantized.bits], np.uint8)
            tensors[name] = np.ascontiguousarray(quantized.dequantize()[:, :columns])
            size = max(float(np.linalg.norm(weight)), 1e-30)
            errors[name] = float(np.linalg.norm(weight - tensors[name])) / size
    _write(target / QUANTIZED_FILE, stored)
    _write(target / "model.safetensors", trunk)
    if encoder:
        _write(target / ENCODER_FILE, encoder)
    _copy_rest(checkpoint, target)
    return errors


def _quantizable(part: str, tensors: dict[str, NDArray[np.float32]]) -> list[str]:
    if part == "encoder":
        return [name for name in ("basis.weight", "up.weight", "down.weight") if name in tensors]
    return [name for name, weight in tensors.items() if weight.ndim == 2 and weight.shape[1] % GROUP_SIZE == 0]


def _is_linear(part: str, name: str) -> bool:
    """Whether a matrix is one of the trunk's layers."""
    return part == "trunk" and not name.startswith(("model.embed_tokens", "lm_head"))


def _copy_rest(checkpoint: Checkpoint, target: Path) -> None:
    for path in checkpoint.folder.iterdir():
        if path.suffix == ".json":
            write_durably(target / path.name, [path.read_bytes()], mode=0o644)


def _write(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    data = save({k: np.ascontiguousarray(v) for k, v in tensors.items()}, metadata={"format": "pt"})
    write_durably(path, [data], mode=0o644)
