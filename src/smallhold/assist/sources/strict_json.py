"""JSON from strangers: UTF-8, no NaN, no repeated member, no half character, no nesting without end."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


class MalformedError(ValueError):
    """A message that cannot be understood; the reason is short, plain and without what was sent."""


def parse_json(data: bytes, *, max_bytes: int) -> Any:
    """One JSON value.

    Raises:
        MalformedError: it is longer than `max_bytes`, or not the JSON of RFC 8259, or repeats a member.
    """
    if len(data) > max_bytes:
        raise MalformedError(f"expected at most {max_bytes} bytes, got {len(data)}")
    try:
        value = json.loads(
            data.decode(), parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_no_repetition
        )
        if b"\\u" in data:  # may be half of a character, which no later stage can write down
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except RecursionError as error:
        raise MalformedError("nested too deeply") from error
    except MalformedError:
        raise
    except ValueError as error:  # also text that is not UTF-8, and whole numbers of thousands of digits
        raise MalformedError("not JSON in UTF-8") from error


def _no_constant(_name: str) -> NoReturn:
    raise MalformedError("NaN and Infinity are no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise MalformedError("a number is too large")
    return number


def _no_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise MalformedError("a member occurs twice")
    return members
