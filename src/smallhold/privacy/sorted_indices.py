"""Sorted positions in a long vector, in about 2 + log2(P / k) bits each.

Source: Elias 1974, "Efficient Storage and Retrieval by Content and Address of Static Files"; Fano 1971 (Elias-Fano
coding): the low bits of each position as they are, the high bits as the differences between neighbours, in unary.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from smallhold.errors import PrivacyError
from smallhold.privacy.packing import pack_bits, packed_size, unpack_bits

Indices = npt.NDArray[np.int64]


def encode_indices(indices: Indices, universe: int) -> bytes:
    """Encode k strictly increasing positions from [0, universe); `indices_size(k, universe)` bytes."""
    low_bits = _low_bits(indices.size, universe)
    values = indices.astype(np.uint64)
    low = b""
    if low_bits:
        low = pack_bits(values & np.uint64(2**low_bits - 1), low_bits).tobytes()
    unary = np.zeros(_unary_bits(indices.size, universe), dtype=np.uint8)
    unary[(values >> np.uint64(low_bits)).astype(np.int64) + np.arange(indices.size)] = 1
    return low + np.packbits(unary, bitorder="little").tobytes()


def decode_indices(data: bytes, count: int, universe: int) -> Indices:
    """The positions that `encode_indices` encoded.

    Raises:
        PrivacyError: of another size, or positions that are not strictly increasing below `universe`.
    """
    low_bits = _low_bits(count, universe)
    if len(data) != indices_size(count, universe):
        raise PrivacyError(
            f"positions: expected {indices_size(count, universe)} bytes for {count} of {universe}, got {len(data)}"
        )
    raw = np.frombuffer(data, dtype=np.uint8)
    low_size = packed_size(count, low_bits) if low_bits else 0
    ones = np.flatnonzero(np.unpackbits(raw[low_size:], bitorder="little"))
    if ones.size != count:
        raise PrivacyError(f"positions: expected {count}, found {ones.size}")
    indices = (ones - np.arange(count)) << low_bits
    if low_bits:
        indices |= unpack_bits(raw[:low_size], count, low_bits).astype(np.int64)
    if count and (indices[-1] >= universe or (np.diff(indices) <= 0).any()):
        raise PrivacyError(f"positions: not strictly increasing below {universe}")
    return indices


def indices_size(count: int, universe: int) -> int:
    """Bytes of k positions out of P."""
    low_bits = _low_bits(count, universe)
    low = packed_size(count, low_bits) if low_bits else 0
    return low + (_unary_bits(count, universe) + 7) // 8


def _low_bits(count: int, universe: int) -> int:
    return max(0, (universe // max(count, 1)).bit_length() - 1)


def _unary_bits(count: int, universe: int) -> int:
    return count + ((universe - 1) >> _low_bits(count, universe)) + 1
