"""A guest's memory, seen from the host: every address and length in it is the guest's word, and is checked.

Views are kept between calls. That is safe because the host forbids the memory to move (`host.py`): growing makes it
longer in its place, so that an old view is too short at worst, and is renewed before an address is refused.
"""

from __future__ import annotations

from collections.abc import Callable

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
        renew: Gives the memory as it is now, (bytes,) uint8, or None when the guest exports none.
    """

    def __init__(self, renew: Callable[[], NDArray[np.uint8] | None]) -> None:
        self._renew = renew
        self._bytes = np.zeros(0, np.uint8)
        self._words = self._bytes.view(np.uint32)

    def bytes(self, address: int, count: int) -> NDArray[np.uint8]:
        """A view, (count,) uint8, valid until the guest runs again.

        Raises:
            Refusal: not all of it lies in the guest's memory.
        """
        end = address + count
        if end > len(self._bytes):
            self._look_again(end)
        return self._bytes[address:end]

    def words(self, address: int, count: int) -> list[int]:
        """Unsigned 32-bit numbers at an aligned address.

        Raises:
            Refusal: not aligned, or not all of it lies in the guest's memory.
        """
        if address & 3:
            raise Refusal(Errno.INVALID_ARGUMENT, f"address {address}: expected a multiple of 4")
        end = address + 4 * count
        if end > len(self._bytes):
            self._look_again(end)
        numbers: list[int] = self._words[address >> 2 : end >> 2].tolist()
        return numbers

    def set_word(self, address: int, value: int) -> None:
        """Write one unsigned 32-bit number.

        Raises:
            Refusal: as for `words`.
        """
        if address & 3:
            raise Refusal(Errno.INVALID_ARGUMENT, f"address {address}: expected a multiple of 4")
        if address + 4 > len(self._bytes):
            self._look_again(address + 4)
        self._words[address >> 2] = value

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
        dtype, shape, expected = DTYPES[kind], self.words(where, rank), 1
        for length in shape:
            expected *= length
        if expected * dtype.itemsize != size:
            raise Refusal(Errno.INVALID_ARGUMENT, f"tensor: {shape} of {dtype.name} in {size} bytes")
        return self.bytes(data, size).copy().view(dtype).reshape(shape)

    def _look_again(self, end: int) -> None:
        found = self._renew()
        if found is None:
            raise Refusal(Errno.MISSING_MEMORY, "the guest exports no memory named 'memory'")
        self._bytes, self._words = found, found.view(np.uint32)
        if end > len(found):
            raise Refusal(Errno.INVALID_ARGUMENT, f"address: ends at {end}, the memory at {len(found)}")
