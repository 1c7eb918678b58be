"""Read GGUF weight files: metadata, and tensors as float32 arrays.

Source: github.com/ggml-org/ggml, docs/gguf.md, version 3, little endian. Only the tensor types that this project
writes are read: F32, F16, Q8_0, Q4_0.

Names and layout are llama.cpp's, so that it reads the same file. In that layout the rows of the query and key
matrices are permuted, because llama.cpp rotates neighbouring pairs where Hugging Face rotates halves;
`unpermute_rope` undoes it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smallhold.errors import BackendError

MAGIC = b"GGUF"
VERSION = 3
#: ggml type number: (name, numbers per block, bytes per block)
TENSOR_TYPES = {0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 8: ("Q8_0", 32, 34)}
#: Types that are not read here, for the message alone.
_OTHER_TYPES = {
    3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 30: "BF16",
}  # fmt: skip
#: Integers 0 to 15 around 8: the low halves of the bytes are weights 0 to 15 of the group, the high halves 16 to 31.
Q4_0_BLOCK = np.dtype([("scale", "<f2"), ("values", "u1", (16,))])
Q8_0_BLOCK = np.dtype([("scale", "<f2"), ("values", "i1", (32,))])

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class GgufFile:
    """Contents of one GGUF file.

    Attributes:
        metadata: Keys and values, arrays as lists.
        tensors: Name to float32 array in numpy's order of dimensions: a matrix is (O, I).
        encodings: Name to the type in the file, for example `Q8_0`.
    """

    metadata: dict[str, Any]
    tensors: dict[str, NDArray[np.float32]]
    encodings: dict[str, str]


def read_gguf(data: bytes) -> GgufFile:
    """Parse a GGUF file held in memory.

    Raises:
        BackendError: not GGUF, another version, truncated, or a tensor of a type that is not read here.
    """
    try:
        return _read(memoryview(data))
    except (struct.error, IndexError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise BackendError(f"GGUF file is truncated or malformed: {error}") from error


def _read(data: memoryview) -> GgufFile:
    if bytes(data[:4]) != MAGIC:
        raise BackendError(f"not a GGUF file: expected the magic {MAGIC!r}, got {bytes(data[:4])!r}")
    version, num_tensors, num_keys = struct.unpack_from("<IQQ", data, 4)
    if version != VERSION:
        raise BackendError(f"GGUF version: expected {VERSION}, got {version}")
    at = 24
    metadata: dict[str, Any] = {}
    for _ in range(num_keys):
        key, at = _read_string(data, at)
        (kind,) = struct.unpack_from("<I", data, at)
        metadata[key], at = _read_value(data, at + 4, kind)
    infos = []
    for _ in range(num_tensors):
        name, at = _read_string(data, at)
        (rank,) = struct.unpack_from("<I", data, at)
        extents = struct.unpack_from(f"<{rank}Q", data, at + 4)
        kind, offset = struct.unpack_from("<IQ", data, at + 4 + 8 * rank)
        infos.append((name, extents[::-1], kind, offset))  # GGUF lists the fastest dimension first
        at += 16 + 8 * rank
    alignment = int(metadata.get("general.alignment", 32))
    base = -(-at // alignment) * alignment
    tensors, encodings = {}, {}
    for name, shape, kind, offset in infos:
        if kind not in TENSOR_TYPES:
            kind_name = _OTHER_TYPES.get(kind, f"number {kind}")
            raise BackendError(
                f"tensor {name}: type {kind_name} is not one of F32, F16, Q8_0, Q4_0",
                hint="write the file again in one of them: llama-quantize --allow-requantize IN.gguf OUT.gguf Q8_0",
            )
        encodings[name], block, block_bytes = TENSOR_TYPES[kind]
        size = int(np.prod(shape)) // block * block_bytes
        raw = data[base + offset : base + offset + size]
        if len(raw) != size:
            raise BackendError(f"tensor {name}: expected {size} bytes, the file ends after {len(raw)}")
        tensors[name] = _to_float32(raw, encodings[name]).reshape(shape)
    return GgufFile(metadata, tensors, encodings)


def _read_string(data: memoryview, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    if at + 8 + length > len(data):
        raise BackendError("GGUF file is truncated inside a string")
    return bytes(data[at + 8 : at + 8 + length]).decode(), at + 8 + length


def _read_value(data: memoryview, at: int, kind: int) -> tuple[Any, int]:
    if kind == _STRING:
        return _read_string(data, at)
    if kind == _ARRAY:
        item_kind, length = struct.unpack_from("<IQ", data, at)
        at += 12
        items = []
        for _ in range(length):
            item, at = _read_value(data, at, item_kind)
            items.append(item)
        return items, at
    if kind not in _SCALARS:
        raise BackendError(f"GGUF metadata: unknown value type {kind}")
    layout = _SCALARS[kind]
    return struct.unpack_from(layout, data, at)[0], at + struct.calcsize(layout)


def _to_float32(raw: memoryview, encoding: str) -> NDArray[np.float32]:
    if encoding == "Q8_0":
        blocks = np.frombuffer(raw, Q8_0_BLOCK)
        return (blocks["values"].astype(np.float32) * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)
    if encoding == "Q4_0":
        blocks = np.frombuffer(raw, Q4_0_BLOCK)
        steps = np.concatenate([blocks["values"] & 15, blocks["values"] >> 4], axis=1).astype(np.float32) - 8
        return (steps * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)
    return np.frombuffer(raw, "<f4" if encoding == "F32" else "<f2").astype(np.float32)


def unpermute_rope(weight: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """Rows of a query or key matrix from llama.cpp's order (pairs) back to Hugging Face's (halves).

    Args:
        weight: (H * head_dim, I).
        num_heads: H, query heads or key-value heads.
    """
    rows, columns = weight.shape
    return weight.reshape(num_heads, rows // num_heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
