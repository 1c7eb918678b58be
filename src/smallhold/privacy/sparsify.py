"""The largest entries of an update, and a memory of what was left out so that it comes later instead of never.

Source: Stich, Cordonnier, Jaggi 2018, "Sparsified SGD with Memory", arXiv:1809.07599, algorithm 1 (top-k with error
feedback).

The positions are data: which parameters moved says something about the records. Under masks or encryption every site
would need the same positions; `plan` refuses the combination.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from smallhold.errors import InputError, PrivacyError, ShapeError
from smallhold.privacy.checks import check_count, check_vector
from smallhold.privacy.quantize_update import QuantizedUpdate, encoded_size, quantize_update
from smallhold.privacy.randomness import Random
from smallhold.privacy.sorted_indices import decode_indices, encode_indices, indices_size

_HEADER = struct.Struct("<4sBxxxQQ")  # magic, bits of a value, three bytes to align, P, k
_MAGIC = b"SHS2"
_FULL_BITS = 32
_MAX_PARAMETERS = 2**40


@dataclass(frozen=True, slots=True)
class SparseUpdate:
    """Some entries of a vector of P; the others are zero.

    Attributes:
        indices: (k,) int64, strictly increasing.
        values: (k,) float32.
        size: P.
    """

    indices: npt.NDArray[np.int64]
    values: npt.NDArray[np.float32]
    size: int

    def to_dense(self) -> npt.NDArray[np.float32]:
        """(P,) float32."""
        dense = np.zeros(self.size, dtype=np.float32)
        dense[self.indices] = self.values
        return dense


def keep_largest(
    update: npt.NDArray[np.floating], residual: npt.NDArray[np.float32] | None, *, count: int
) -> tuple[SparseUpdate, npt.NDArray[np.float32]]:
    """The `count` entries of update + residual that are largest in absolute value; ties go to the lower position.

    Args:
        update: (P,) finite floats.
        residual: (P,) float32 that earlier calls left out; None at the first.
        count: k, 1 to P.

    Returns:
        The sparse update, and the residual for the next call. Guaranteed: dense(sparse) + residual is the float32 sum
        of update and the former residual, exactly. The residual stays on the site; it is as private as the records.

    Raises:
        ShapeError: the residual has another shape.
        PrivacyError: NaN or an infinity inside.
        InputError: `count` is out of range.
    """
    check_vector(update, "update")
    check_count(count, "count", at_most=update.size)
    total = update.astype(np.float32)
    if residual is not None:
        if residual.shape != update.shape:
            raise ShapeError(f"residual: expected {update.shape} like the update, got {residual.shape}")
        total = total + residual.astype(np.float32)
        check_vector(total, "update + residual")
    size = np.abs(total)
    bound = np.partition(size, total.size - count)[total.size - count]
    above = np.flatnonzero(size > bound)
    level = np.flatnonzero(size == bound)[: count - above.size]
    indices = np.sort(np.concatenate([above, level])).astype(np.int64)
    rest = total.copy()
    rest[indices] = 0
    return SparseUpdate(indices, total[indices], total.size), rest


def sparse_to_bytes(
    update: SparseUpdate, *, bits: int = _FULL_BITS, group_size: int = 256, random: Random | None = None
) -> tuple[bytes, npt.NDArray[np.float32]]:
    """The compact form of a sparse update.

    Args:
        update: What to send.
        bits: 4 or 8 for stochastic rounding by group, 32 for the values as they are.
        group_size: See `quantize_update`.
        random: See `quantize_update`.

    Returns:
        `sparse_size` bytes, and (k,) float32: what the receiver will not see of the values. Add it to the residual at
        `update.indices`, so that error feedback covers the rounding as well.
    """
    header = _HEADER.pack(_MAGIC, bits, update.size, update.indices.size)
    places = encode_indices(update.indices, update.size)
    if bits == _FULL_BITS:
        return header + places + update.values.astype("<f4").tobytes(), np.zeros_like(update.values)
    coded = quantize_update(update.values, bits=bits, group_size=group_size, random=random)
    return header + places + coded.to_bytes(), update.values - coded.to_floats()


def sparse_from_bytes(data: bytes) -> SparseUpdate:
    """Read what `sparse_to_bytes` wrote.

    Raises:
        PrivacyError: malformed.
    """
    try:
        if len(data) < _HEADER.size:
            raise InputError(f"{len(data)} bytes are less than a header")
        magic, bits, size, count = _HEADER.unpack_from(data)
        if magic != _MAGIC:
            raise InputError("it does not begin as one")
        check_count(size, "number of parameters", at_most=_MAX_PARAMETERS)
        check_count(count, "number of values", at_most=min(size, 8 * len(data)))
        start = _HEADER.size + indices_size(count, size)
        if len(data) < start:
            raise InputError(f"{len(data)} bytes end within the positions")
        indices = decode_indices(data[_HEADER.size : start], count, size)
        if bits == _FULL_BITS:
            if len(data) != start + 4 * count:
                raise InputError(f"{len(data)} bytes, expected {start + 4 * count}")
            values = np.frombuffer(data, dtype="<f4", offset=start).astype(np.float32)
        else:
            coded = QuantizedUpdate.from_bytes(data[start:])
            if coded.codes.size != count or coded.bits != bits:
                raise InputError(f"{coded.codes.size} values of {coded.bits} bits, expected {count} of {bits}")
            values = coded.to_floats()
        if not np.isfinite(values).all():
            raise InputError("a value is NaN or infinite")
    except (InputError, PrivacyError) as error:
        raise PrivacyError(f"not a sparse update: {error}") from error
    return SparseUpdate(indices, values, size)


def sparse_size(size: int, count: int, *, bits: int = _FULL_BITS, group_size: int = 256) -> int:
    """Bytes of k values out of P in this form."""
    values = 4 * count if bits == _FULL_BITS else encoded_size(count, bits=bits, group_size=group_size)
    return _HEADER.size + indices_size(count, size) + values
