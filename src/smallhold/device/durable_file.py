"""Files that are whole or absent: written beside their place, fsynced, then moved there."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path


def write_durably(path: Path, chunks: Iterable[bytes], *, mode: int = 0o600, removes_leftovers: bool = True) -> None:
    """Replace `path` by a file holding `chunks`; a reader sees the old file or the whole new one, never a part.

    Args:
        path: Where the file goes; its folder exists.
        chunks: The content, in order.
        mode: Permission bits of the new file.
        removes_leftovers: What a process that was killed over the same file left beside it goes as well. That looks
            through the folder: of one with thousands of files, call `remove_leftovers` once instead.

    Raises:
        OSError: the disk is full, read-only or gone; `path` is then as it was and nothing is left beside it.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write_new_file(partial, chunks, mode=mode)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if removes_leftovers:
        remove_leftovers(path.parent, path.name)
    fsync_directory(path.parent)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left of the file `name` in a folder, or of any file when None."""
    for leftover in folder.glob(f".{'*' if name is None else glob.escape(name)}.*.partial"):
        if not _is_running(leftover.name.split(".")[-2]):
            leftover.unlink(missing_ok=True)


def write_new_file(path: Path, chunks: Iterable[bytes], *, mode: int = 0o600) -> None:
    """Create a file that must not exist yet, write it and fsync it.

    Raises:
        FileExistsError: something is already there; it is left alone.
        OSError: it could not be written; the partial file is removed.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _is_running(process: str) -> bool:
    try:
        os.kill(int(process), 0)  # signal 0 is not sent, only checked (POSIX, kill)
    except ProcessLookupError:
        return False
    except (ValueError, PermissionError):  # not a name of ours; someone else's process
        return True
    return True


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable: without it a power cut may undo a rename."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
