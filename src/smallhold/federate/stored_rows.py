"""Vectors on the disk that are read in blocks: what compares thousands of updates must not hold them all."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from smallhold.errors import JournalError
from smallhold.federate.layout import Vector

_WIDTH = 4  # bytes of float32


class StoredRows:
    """An (N, P) matrix of float32 in a file without a name: it is gone when the process is, however it ends.

    Read with `rows[a:b]` and `rows[:, a:b]`, like an array. Not a memory map: its pages would count as the process's
    own, and a server that is watched for its memory would be ended for them.

    Args:
        folder: On whose disk; 4 N P bytes.
        size: P.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self._file = TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
        self._count, self._size = 0, size

    @property
    def shape(self) -> tuple[int, int]:
        """(N, P)."""
        return self._count, self._size

    def append(self, row: Vector) -> None:
        """Add a row (P,).

        Raises:
            OSError: the disk is full.
        """
        self._file.write(np.ascontiguousarray(row, np.float32).tobytes())
        self._count += 1

    def __getitem__(self, index: slice | tuple[slice, slice]) -> NDArray[np.float32]:
        """A block as an array of its own."""
        rows, columns = index if isinstance(index, tuple) else (index, slice(None))
        (first, last, _), (start, stop, _) = rows.indices(self._count), columns.indices(self._size)
        self._file.flush()
        if stop - start == self._size:
            data = self._read((last - first) * self._size, first * self._size)
            return data.reshape(last - first, self._size)
        found = np.empty((last - first, stop - start), np.float32)
        for place, row in enumerate(range(first, last)):
            found[place] = self._read(stop - start, row * self._size + start)
        return found

    def _read(self, count: int, at: int) -> NDArray[np.float32]:
        found = bytearray()
        while len(found) < count * _WIDTH:  # a call gives 2 GiB at the most
            part = os.pread(self._file.fileno(), count * _WIDTH - len(found), at * _WIDTH + len(found))
            if not part:
                raise JournalError("updates that were put on the disk are no longer there")
            found += part
        return np.frombuffer(found, np.float32)

    def __enter__(self) -> StoredRows:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the disk back."""
        self._file.close()
