"""A secret in a file of its own: on a command line every process of the machine could read it."""

from __future__ import annotations

import os
from pathlib import Path

from smallhold.errors import InputError

_LARGEST_BYTES = 4096


def read_secret(path: Path, what: str) -> str:
    """The one line of a file that only its owner may read.

    Args:
        path: The file.
        what: Names the secret in messages; its text is never in them.

    Raises:
        InputError: the file is missing, is not one line of text, or group or others may read it.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{what}: cannot read {path}: {error.strerror}") from error
    if os.name == "posix" and mode & 0o077:
        raise InputError(f"{what}: {path} may be read by others", hint=f"chmod 600 {path}")
    try:
        text = raw.decode().strip()
    except UnicodeDecodeError as error:
        raise InputError(f"{what}: {path} is not text in UTF-8") from error
    if not text or len(raw) > _LARGEST_BYTES or len(text.splitlines()) != 1:
        raise InputError(f"{what}: {path}: expected one line of at most {_LARGEST_BYTES} bytes")
    return text
