"""Files that a user names, read whole up to a bound."""

from __future__ import annotations

from pathlib import Path

from smallhold.errors import InputError


def read_bounded(path: Path, most: int, *, what: str) -> bytes:
    """The file's bytes; of one that is larger than the bound no more than that is read.

    Args:
        path: The file.
        most: Greatest size in bytes.
        what: Names the file's kind in messages.

    Raises:
        InputError: it cannot be read, or is larger.
    """
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error.strerror}") from error
    if len(data) > most:
        raise InputError(f"{what} {path}: expected at most {most:,} bytes")
    return data
