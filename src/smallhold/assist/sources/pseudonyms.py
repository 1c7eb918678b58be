"""Patients' identifiers replaced by keyed digests, so that no name of the hospital enters a record or a journal."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from smallhold.assist.sources.secret_file import read_secret
from smallhold.errors import InputError

_SHORTEST_KEY = 16


class Pseudonyms:
    """HMAC-SHA-256 of the identifier under a secret key, the first 80 bits in hexadecimal behind `p-`.

    The same identifier gives the same pseudonym under one key, whichever source it comes through; without the key
    nobody can try identifiers out. Two of a million patients share one with a probability below 1e-12.

    Args:
        key: At least 16 bytes.

    Raises:
        InputError: the key is shorter.

    >>> Pseudonyms(bytes(16))("12345")
    'p-ae23c8f573d36c7a1d6c'
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < _SHORTEST_KEY:
            raise InputError(f"key of the pseudonyms: expected at least {_SHORTEST_KEY} bytes, got {len(key)}")
        self._key = key

    @classmethod
    def from_file(cls, path: Path) -> Pseudonyms:
        """The key is the file's one line.

        Raises:
            InputError: the file is missing, empty or too short, or others may read it.
        """
        return cls(read_secret(path, "key of the pseudonyms").encode())

    def __call__(self, identifier: str) -> str:
        """The pseudonym of one identifier."""
        return "p-" + hmac.new(self._key, identifier.encode(), hashlib.sha256).hexdigest()[:20]
