"""Whole numbers of k bits laid side by side without gaps, as a sum in a field travels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from smallhold.errors import InputError, ShapeError
from smallhold.privacy.checks import check_count

UInt = npt.NDArray[np.unsignedinteger]
_GROUP = 8  # eight numbers of k bits are k whole bytes


def packed_size(count: int, bits: int) -> int:
    """Bytes that `pack_bits` makes of `count` numbers: the bits, rounded up to whole bytes."""
    return (count * bits + 7) // 8


def word_type(bits: int) -> np.dtype[np.unsignedinteger]:
    """The smallest unsigned type of numpy that holds numbers of `bits` bits: uint8, 16, 32 or 64."""
    check_count(bits, "bits", at_most=64)
    return np.dtype(
        next(kind for kind in (np.uint8, np.uint16, np.uint32, np.uint64) if np.dtype(kind).itemsize * 8 >= bits)
    )


def pack_bits(values: UInt, bits: int) -> npt.NDArray[np.uint8]:
    """Pack unsigned whole numbers of `bits` bits, lowest bit first.

    Args:
        values: (n,) unsigned, each below 2^bits.
        bits: 1 to 64.

    Returns:
        (packed_size(n, bits),) bytes; unused bits of the last byte are zero.

    Raises:
        InputError: a number needs more bits.
    """
    dtype = word_type(bits)
    if values.ndim != 1 or values.dtype.kind != "u":
        raise ShapeError(f"values: expected a flat array of unsigned whole numbers, got {values.dtype} {values.shape}")
    if values.size and int(values.max()) >> bits:
        raise InputError(f"values: expected numbers of {bits} bits, the largest is {int(values.max())}")
    if bits == dtype.itemsize * 8:
        return values.astype(dtype.newbyteorder("<")).view(np.uint8)
    groups = -(-values.size // _GROUP)
    columns = np.zeros(
        (_GROUP, groups), dtype=dtype
    )  # column j of every group lies together: each line below is one pass
    padded = np.zeros(groups * _GROUP, dtype=dtype)
    padded[: values.size] = values
    columns[:] = padded.reshape(groups, _GROUP).T
    out = np.zeros((bits, groups), dtype=np.uint8)
    for j in range(_GROUP):
        for byte in range(j * bits // 8, ((j + 1) * bits - 1) // 8 + 1):
            shift = byte * 8 - j * bits  # of the byte's lowest bit within the number
            part = columns[j] >> dtype.type(shift) if shift >= 0 else columns[j] << dtype.type(-shift)
            out[byte] |= part.astype(np.uint8)
    return np.ascontiguousarray(out.T).reshape(-1)[: packed_size(values.size, bits)]


def unpack_bits(packed: npt.NDArray[np.uint8], count: int, bits: int) -> UInt:
    """The numbers that `pack_bits` packed, in the smallest unsigned type that holds them.

    Raises:
        ShapeError: `packed` has not exactly the bytes that `count` numbers take, or its unused bits are not zero.
    """
    dtype = word_type(bits)
    expected = packed_size(count, bits)
    if packed.dtype != np.uint8 or packed.shape != (expected,):
        raise ShapeError(
            f"packed: expected {expected} bytes for {count} numbers of {bits} bits, got {packed.dtype} {packed.shape}"
        )
    if (unused := expected * 8 - count * bits) and int(packed[-1]) >> (8 - unused):
        raise ShapeError("packed: the unused bits of the last byte are not zero")
    if bits == dtype.itemsize * 8:
        return packed.view(dtype.newbyteorder("<")).astype(dtype)
    groups = -(-count // _GROUP)
    padded = np.zeros(groups * bits, dtype=np.uint8)
    padded[:expected] = packed
    rows = np.ascontiguousarray(padded.reshape(groups, bits).T).astype(dtype)
    columns = np.zeros((_GROUP, groups), dtype=dtype)
    for j in range(_GROUP):
        for byte in range(j * bits // 8, ((j + 1) * bits - 1) // 8 + 1):
            shift = byte * 8 - j * bits
            columns[j] |= rows[byte] << dtype.type(shift) if shift >= 0 else rows[byte] >> dtype.type(-shift)
    columns &= dtype.type(2**bits - 1)
    return np.ascontiguousarray(columns.T).reshape(-1)[:count]
