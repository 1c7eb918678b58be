"""Round-to-nearest quantization to 8 bits in groups of 32: the Q8_0 encoding.

Source: the block format Q8_0 of ggml (docs/gguf.md). One set of integers and scales goes into the GGUF file and
into the ONNX graph, so both runtimes compute with equal weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from smallhold.bundle.weights import GROUP_SIZE, QUANTIZED_FILE, QuantizedWeight
from smallhold.device.durable_file import write_durably
from smallhold.errors import DataError, ShapeError
from smallhold.learn.checkpoint import ENCODER_FILE, Checkpoint, read_checkpoint


def quantize_weight(weight: NDArray[np.float32]) -> QuantizedWeight:
    """Quantize a matrix by rounding to the nearest step.

    Args:
        weight: (O, I) with I a multiple of 32.

    Returns:
        Integers and scales. Every weight is off by at most half a step of its group, plus what rounding the scale
        to float16 costs: 127 times 2^-11 of the step, or 127 times 2^-25 where the step is below float16's
        smallest normal number.

    Raises:
        ShapeError: I is not a multiple of 32.
        ValueError: a weight is not finite, or too large for a float16 scale.
    """
    if weight.ndim != 2 or weight.shape[1] % GROUP_SIZE:
        raise ShapeError(f"weight: expected (O, I) with I a multiple of {GROUP_SIZE}, got {weight.shape}")
    if not np.isfinite(weight).all():
        raise ValueError("weight: holds NaN or infinity; the training run has diverged")
    groups = weight.reshape(weight.shape[0], -1, GROUP_SIZE)
    step = np.abs(groups).max(axis=2) / 127
    if step.size and step.max() > np.finfo(np.float16).max:
        raise ValueError(f"weight: largest step {step.max():.3g} does not fit a float16 scale")
    scale = step.astype(np.float16)
    # Divide by the scale as stored, not as computed, so that its rounding does not add to the error.
    divisor = np.where(scale > 0, scale.astype(np.float32), 1.0)
    values = np.clip(np.rint(groups / divisor[:, :, None]), -127, 127).astype(np.int8)
    return QuantizedWeight(values.reshape(weight.shape), scale)


def quantize_checkpoint(source: Path, target: Path) -> dict[str, float]:
    """Write the quantized twin of a checkpoint.

    Linear layers of the trunk whose rows 32 divides, and the large matrices of the signal encoder (padded with zero
    columns up to a multiple of 32), become 8 bits. Vectors, embeddings and the output head stay float32.

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
            quantized = quantize_weight(np.pad(weight, ((0, 0), (0, padding))))
            stored[f"{part}/{name}.values"], stored[f"{part}/{name}.scale"] = quantized.values, quantized.scale
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
    return [
        name
        for name, weight in tensors.items()
        if weight.ndim == 2
        and weight.shape[1] % GROUP_SIZE == 0
        and not name.startswith(("model.embed_tokens", "lm_head"))
    ]


def _copy_rest(checkpoint: Checkpoint, target: Path) -> None:
    for path in checkpoint.folder.iterdir():
        if path.suffix == ".json":
            write_durably(target / path.name, [path.read_bytes()], mode=0o644)


def _write(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    data = save({k: np.ascontiguousarray(v) for k, v in tensors.items()}, metadata={"format": "pt"})
    write_durably(path, [data], mode=0o644)
