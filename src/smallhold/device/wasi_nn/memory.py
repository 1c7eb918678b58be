"""A guest's memory, seen from the host: every address and length in it is the guest's word, and is checked.

Views are kept between calls. That is safe because the host forbids the memory to move (`host.py`): growing makes it
longer in its place, so that an old view is too short at worst, and is renewed before an address is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from struct import pack_into, unpack_from

import numpy as np
from numpy.typing import NDArray

from smallhold.device.wasi_nn.errno import Errno, Refusal

#: Tensor types by their number in the ABI, f16, f32, f64, u8, i32, i64.
DTYPES: tuple[np.dtype[np.generic], ...] = tuple(np.dtype(name) for name in ("<f2", "<f4", "<f8", "u1", "<i4", "<i8"))
_RECORD_WORDS = 5  # dimensions: address and count; type; data: address and bytes
_MOST_DIMENSIONS = 8


class GuestMemory:
    """Bounds-checked reads and writes.

    Args:
        renew: Gives the memory as it is now, writable bytes, or None when the guest exports none.
    """

    def __init__(self, renew: Callable[[], memoryview | None]) -> None:
        self._renew = renew
        self._bytes = memoryview(b"")

    def bytes(self, address: int, count: int) -> memoryview:
        """A view of so many bytes, valid until the guest runs again.

        Raises:
            Refusal: not all of it lies in the guest's memory.
        """
        end = address + count
        if end > len(self._bytes):
            self._look_again(end)
        return self._bytes[address:end]

    def words(self, address: int, count: int) -> tuple[int, ...]:
        """Unsigned 32-bit numbers at an aligned address.

        Raises:
            Refusal: not aligned, or not all of it lies in the guest's memory.
        """
        if address & 3:
            raise Refusal(Errno.INVALID_ARGUMENT, f"address {address}: expected a multiple of 4")
        if address + 4 * count > len(self._bytes):
            self._look_again(address + 4 * count)
        return unpack_from(f"<{count}I", self._bytes, address)

    def set_word(self, address: int, value: int) -> None:
        """Write one unsigned 32-bit number.

        Raises:
            Refusal: as for `words`.
        """
        if address & 3:
            raise Refusal(Errno.INVALID_ARGUMENT, f"address {address}: expected a multiple of 4")
        if address + 4 > len(self._bytes):
            self._look_again(address + 4)
        pack_into("<I", self._bytes, address, value)

    def tensor(self, address: int, most_bytes: int) -> NDArray[np.generic]:
        """A copy of the tensor whose record lies at an address.

        Raises:
            Refusal: a part lies outside the memory, the type does not exist, or the sizes contradict each other.
        """
        where, rank, kind, data, size = self.words(address, _RECORD_WORDS)
        kind &= 0xFF  # the type is one byte; what pads it is undefined
        if kind >= len(DTYPES):
            raise Refusal(Errno.INVALID_ARGUMENT, f"tensor type: expected 0 to {len(DTYPES) - 1}, got {kind}")
        if rank > _MOST_DIMENSIONS:
            raise Refusal(Errno.INVALID_ARGUMENT, f"tensor: expected at most {_MOST_DIMENSIONS} dimensions, got {rank}")
        if size > most_bytes:
            raise Refusal(Errno.TOO_LARGE, f"tensor: expected at most {most_bytes} bytes, got {size}")
        dtype, shape = DTYPES[kind], self.words(where, rank)
        if prod(shape) * dtype.itemsize != size:
            raise Refusal(Errno.INVALID_ARGUMENT, f"tensor: {list(shape)} of {dtype.name} in {size} bytes")
        return np.frombuffer(bytes(self.bytes(data, size)), dtype).reshape(shape)

    def _look_again(self, end: int) -> None:
        found = self._renew()
        if found is None:
            raise Refusal(Errno.MISSING_MEMORY, "the guest exports no memory named 'memory'")
        self._bytes = found
        if end > len(found):
            raise Refusal(Errno.INVALID_ARGUMENT, f"address: ends at {end}, the memory at {len(found)}")
