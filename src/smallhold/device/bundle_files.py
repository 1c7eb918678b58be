"""The files of a bundle, whether it lies in a directory or in one uncompressed ZIP.

Nothing here believes the bundle: links, special files, paths that lead outside, compressed members and sizes
beyond the limit are refused before a byte of content is used. The ZIP has one layout (`zip_layout.py`), so that no
byte of it is beyond the reach of the manifest's digests.
"""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from smallhold.device.durable_file import write_durably
from smallhold.device.manifest import MANIFEST_NAME, check_path
from smallhold.device.zip_layout import check_zip, encode_zip
from smallhold.errors import BundleError, IntegrityError

DEFAULT_MAX_BYTES = 2**32
MAX_FILES = 10_000
_CHUNK_BYTES = 2**20


class BundleFiles(Protocol):
    """What a bundle holds, by name; both forms behave alike."""

    @property
    def path(self) -> Path:
        """The directory or the ZIP file."""

    def names(self) -> frozenset[str]:
        """Every file inside, as relative paths with `/`."""

    def chunks(self, name: str, *, limit: int | None = None) -> Iterator[bytes]:
        """The content of one file, piece by piece, at most `limit` bytes of it (default: all).

        Raises:
            IntegrityError: there is no such file, or it cannot be read.
        """

    def read(self, name: str, *, limit: int | None = None) -> bytes:
        """The content of one file, at most `limit` bytes of it (default: all)."""


def open_bundle_files(path: Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> BundleFiles:
    """List the files of a bundle and refuse one whose shape alone is dangerous.

    Args:
        path: A directory, or an uncompressed ZIP that holds the same tree.
        max_bytes: The largest total size that is accepted.

    Raises:
        IntegrityError: not a bundle, or it holds links, special files, unsafe paths, duplicates, compressed or
            encrypted members, more than 10,000 files or more than `max_bytes` bytes.
    """
    try:
        if path.is_dir():
            files: BundleFiles = _DirectoryFiles(path.resolve(), _walk(path.resolve(), max_bytes))
        elif path.is_file():
            files = _ZipFiles(path.resolve(), _zip_members(path, max_bytes))
        else:
            raise IntegrityError(f"no bundle at {path}: expected a directory or a ZIP file, found neither")
    except OSError as error:
        raise IntegrityError(f"bundle {path} cannot be read: {error}") from error
    if MANIFEST_NAME not in files.names():
        raise IntegrityError(
            f"not a bundle: {path} has no {MANIFEST_NAME}",
            hint="give the directory or the file that `smallhold bundle build` wrote",
        )
    return files


def write_bundle_zip(source: Path, target: Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
    """Write the directory `source` as one file in the only ZIP layout that `open_bundle_files` accepts.

    The same files give the same bytes on every machine; `target` appears whole or not at all.

    Raises:
        BundleError: `source` is not acceptable as a bundle, or the file could not be written.
    """
    files = open_bundle_files(source, max_bytes=max_bytes)
    sizes = {name: sum(len(chunk) for chunk in files.chunks(name)) for name in sorted(files.names())}
    try:
        write_durably(target, encode_zip(sizes, lambda name: files.chunks(name)), mode=0o644)
    except OSError as error:
        raise BundleError(f"bundle could not be written to {target}: {error}") from error


@dataclass(frozen=True, slots=True)
class _DirectoryFiles:
    path: Path
    sizes: Mapping[str, int]

    def names(self) -> frozenset[str]:
        return frozenset(self.sizes)

    def chunks(self, name: str, *, limit: int | None = None) -> Iterator[bytes]:
        _check_name(self.sizes, name, self.path)
        try:
            # Not through a link that took the file's place after the listing.
            descriptor = os.open(self.path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                left = self.sizes[name] + 1 if limit is None else limit  # a growing file shows, and is not followed
                while left > 0 and (chunk := file.read(min(left, _CHUNK_BYTES))):
                    left -= len(chunk)
                    yield chunk
        except OSError as error:
            raise IntegrityError(f"bundle file {name!r} cannot be read: {error}") from error

    def read(self, name: str, *, limit: int | None = None) -> bytes:
        return b"".join(self.chunks(name, limit=limit))


@dataclass(frozen=True, slots=True)
class _ZipFiles:
    path: Path
    sizes: Mapping[str, int]

    def names(self) -> frozenset[str]:
        return frozenset(self.sizes)

    def chunks(self, name: str, *, limit: int | None = None) -> Iterator[bytes]:
        _check_name(self.sizes, name, self.path)
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(name) as file:
                left = self.sizes[name] if limit is None else limit
                while left > 0 and (chunk := file.read(min(left, _CHUNK_BYTES))):
                    left -= len(chunk)
                    yield chunk
        except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile) as error:
            raise IntegrityError(f"bundle file {name!r} in {self.path} cannot be read: {error}") from error

    def read(self, name: str, *, limit: int | None = None) -> bytes:
        return b"".join(self.chunks(name, limit=limit))


def _check_name(sizes: Mapping[str, int], name: str, path: Path) -> None:
    if name not in sizes:
        raise IntegrityError(f"bundle {path} has no file {name!r}")


def _check_amount(count: int, total_bytes: int, max_bytes: int, path: Path) -> None:
    if count > MAX_FILES:
        raise IntegrityError(f"bundle {path}: expected at most {MAX_FILES} files, got more")
    if total_bytes > max_bytes:
        raise IntegrityError(f"bundle {path} is too large: expected at most {max_bytes} bytes, got {total_bytes}")


def _walk(root: Path, max_bytes: int) -> dict[str, int]:
    sizes: dict[str, int] = {}
    folders = [""]
    total = visited = 0
    while folders:
        prefix = folders.pop()
        with os.scandir(root / prefix) as entries:
            for entry in entries:
                name = prefix + entry.name
                check_path(name)
                status = entry.stat(follow_symlinks=False)
                visited += 1
                if stat.S_ISDIR(status.st_mode):
                    folders.append(name + "/")
                elif stat.S_ISREG(status.st_mode):
                    sizes[name] = status.st_size
                    total += status.st_size
                else:
                    kind = "symbolic link" if stat.S_ISLNK(status.st_mode) else "special file"
                    raise IntegrityError(f"bundle {root}: expected plain files, {name!r} is a {kind}")
                _check_amount(visited, total, max_bytes, root)
    return sizes


def _zip_members(path: Path, max_bytes: int) -> dict[str, int]:
    # The archive's own size bounds its index too; the margin is room for 10,000 long names.
    _check_amount(0, path.stat().st_size - MAX_FILES * 1024, max_bytes, path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile) as error:
        raise IntegrityError(f"not a bundle: {path} is neither a directory nor a readable ZIP ({error})") from error
    _check_amount(len(members), sum(member.file_size for member in members), max_bytes, path)
    sizes: dict[str, int] = {}
    for member in members:
        name = member.orig_filename  # `filename` ends at the first NUL
        check_path(name)
        if member.flag_bits & 0x1:
            raise IntegrityError(f"bundle {path}: member {name!r} is encrypted, expected it plain")
        if member.compress_type != zipfile.ZIP_STORED:
            raise IntegrityError(
                f"bundle {path}: member {name!r} is compressed, expected it stored",
                hint="write single-file bundles with `smallhold bundle build`",
            )
        if stat.S_ISLNK(member.external_attr >> 16):
            raise IntegrityError(f"bundle {path}: expected plain files, {name!r} is a symbolic link")
        if name in sizes:
            raise IntegrityError(f"bundle {path}: member {name!r} occurs twice")
        sizes[name] = member.file_size
    with path.open("rb") as file:
        check_zip(file, {member.orig_filename: (member.file_size, member.CRC) for member in members}, path)
    return sizes
