"""The one ZIP layout of a single-file bundle: members stored, sorted by name, nothing between, before or after.

A general ZIP has bytes that no digest of a member covers: times, comments, attributes, gaps, a second index. Here
every byte outside the members' content follows from their names, sizes and checksums, so it is computed and
compared: an altered byte anywhere is refused. Any unzip tool reads the result.

Source: PKWARE APPNOTE 6.3, sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.16 (end record).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from smallhold.errors import BundleError, IntegrityError

_VERSION = 20  # 2.0: folders in names, nothing newer
_UTF8 = 0x800
_EPOCH = (1 << 5) | 1  # 1980-01-01, the first day that the format knows
_UNIX = 3
_PLAIN_FILE = 0o100644 << 16
_MAX_BYTES = 2**32 - 1  # beyond this the format needs its 64-bit extension
_MAX_MEMBERS = 2**16 - 1


def encode_zip(sizes: Mapping[str, int], content: Callable[[str], Iterable[bytes]]) -> Iterator[bytes]:
    """The archive in pieces; `content` is called twice for each name: a header precedes what it sums up.

    Raises:
        BundleError: more than a ZIP without extensions can hold, or a file changed meanwhile.
    """
    sums: dict[str, tuple[int, int]] = {}
    if sum(sizes.values()) + 1024 * len(sizes) > _MAX_BYTES or len(sizes) > _MAX_MEMBERS:
        raise BundleError("bundle is too large for one file: keep it as a directory")
    for name in sorted(sizes):
        checksum, size = _checksum(content(name))
        sums[name] = (size, checksum)
        yield _local_header(name, size, checksum)
        again = 0
        for chunk in content(name):
            again = zlib.crc32(chunk, again)
            yield chunk
        if again != checksum or size != sizes[name]:
            raise BundleError(f"bundle file {name!r} changed while it was packed")
    yield _index(sums)


def check_zip(file: BinaryIO, members: Mapping[str, tuple[int, int]], path: Path) -> None:
    """Compare every byte of an archive that is not content with what the layout prescribes.

    Args:
        file: The archive, open for reading.
        members: Name to (size in bytes, CRC-32), in the order of the archive's index.
        path: For messages.

    Raises:
        IntegrityError: any byte differs, or bytes are missing or left over.
    """
    wrong = IntegrityError(
        f"bundle {path} is not laid out as a single-file bundle: expected stored, sorted members and nothing else",
        hint="write single-file bundles with `smallhold bundle build`",
    )
    if list(members) != sorted(members):
        raise wrong
    for name, (size, checksum) in members.items():
        header = _local_header(name, size, checksum)
        if file.read(len(header)) != header:
            raise wrong
        file.seek(size, 1)
    index = _index(members)
    if file.read(len(index) + 1) != index:
        raise wrong


def _checksum(chunks: Iterable[bytes]) -> tuple[int, int]:
    checksum = size = 0
    for chunk in chunks:
        checksum = zlib.crc32(chunk, checksum)
        size += len(chunk)
    return checksum, size


def _shared_fields(name: str, size: int, checksum: int) -> bytes:
    # flags, method (stored), time, date, CRC, stored size, size, length of the name, length of the extra field
    flags = 0 if name.isascii() else _UTF8
    return struct.pack("<HHHHIIIHH", flags, 0, 0, _EPOCH, checksum, size, size, len(name.encode()), 0)


def _local_header(name: str, size: int, checksum: int) -> bytes:
    return b"PK\x03\x04" + struct.pack("<H", _VERSION) + _shared_fields(name, size, checksum) + name.encode()


def _index(members: Mapping[str, tuple[int, int]]) -> bytes:
    entries: list[bytes] = []
    offset = 0
    for name, (size, checksum) in members.items():
        made_by = struct.pack("<BBH", _VERSION, _UNIX, _VERSION)
        # length of the comment, disk, internal attributes, external attributes, offset of the local header
        place = struct.pack("<HHHII", 0, 0, 0, _PLAIN_FILE, offset)
        entries.append(b"PK\x01\x02" + made_by + _shared_fields(name, size, checksum) + place + name.encode())
        offset += len(_local_header(name, size, checksum)) + size
    directory = b"".join(entries)
    end = struct.pack("<HHHHIIH", 0, 0, len(members), len(members), len(directory), offset, 0)
    return directory + b"PK\x05\x06" + end
