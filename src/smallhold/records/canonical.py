"""One byte string for one value: canonical JSON and its digest.

Source: the rules of RFC 8785 (JSON Canonicalization Scheme) as far as our records need them: keys sorted, no
white space, UTF-8, shortest round-trip numbers, NaN and infinity refused. Keys are sorted by code point, which
equals RFC 8785's order for the characters that our keys use.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from smallhold.errors import InputError


def canonical_json(value: Any) -> bytes:
    r"""Serialise a JSON value to its one canonical form.

    Args:
        value: dict, list, tuple, str, int, float, bool or None, nested as JSON allows.

    Returns:
        UTF-8 bytes; equal values give equal bytes on every machine.

    Raises:
        InputError: the value holds NaN, an infinity or something that JSON cannot express.

    >>> canonical_json({"b": 1.0, "a": ["é", None]})
    b'{"a":["\xc3\xa9",null],"b":1.0}'
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"value has no canonical JSON form: {error}") from error


def sha256_hex(data: bytes) -> str:
    """SHA-256 of `data` as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
