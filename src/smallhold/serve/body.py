"""Read the members of a JSON body one by one; what is left over at the end was not understood."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from smallhold.serve.request_error import RequestError


def parse_json_object(data: bytes) -> dict[str, Any]:
    """A JSON object in UTF-8.

    Raises:
        RequestError: anything else, numbers that JSON does not know and half characters included.
    """
    try:
        value = json.loads(data.decode(), parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is half a character
    except (ValueError, RecursionError) as error:
        raise RequestError(f"body: not valid JSON in UTF-8: {error}") from error
    if not isinstance(value, dict):
        raise RequestError(f"body: expected a JSON object, got {type(value).__name__}")
    return value


class Body:
    """The members of a request; null is the same as absent.

    Args:
        members: The JSON object.
        harmless: Members that change nothing about the answer here: accepted and not read.
        where: What messages put before a member's name.
    """

    def __init__(self, members: Mapping[str, Any], harmless: Collection[str] = (), where: str = "") -> None:
        self._left = {name: value for name, value in members.items() if value is not None and name not in harmless}
        self._where = where

    def take(self, name: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """A member of a type, or the default.

        Raises:
            RequestError: it has another type.
        """
        value = self._left.pop(name, None)
        if value is None:
            return default
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if type(value) not in kinds:  # exact: true is no number
            raise self.error(name, f"expected {' or '.join(_NAMES[one] for one in kinds)}, got {_shown(value)}")
        return value

    def require(self, name: str, kind: type | tuple[type, ...]) -> Any:
        """A member that must be there."""
        value = self.take(name, kind)
        if value is None:
            raise self.error(name, "is required")
        return value

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """A number within [low, high]."""
        value = self.take(name, (float, int), default)
        if not low <= value <= high:
            raise self.error(name, f"expected a number from {low:g} to {high:g}, got {_shown(value)}")
        return float(value)

    def integer(self, name: str, default: int | None, low: int, high: int) -> int | None:
        """A whole number within [low, high]."""
        value: int | None = self.take(name, int, default)
        if value is not None and not low <= value <= high:
            raise self.error(name, f"expected a whole number from {low} to {high}, got {_shown(value)}")
        return value

    def only(self, name: str, *values: Any) -> None:
        """Accept a member whose other values would change the answer in a way that is not offered."""
        value = self._left.pop(name, None)
        if value is not None and not any(type(value) is type(one) and value == one for one in values):
            raise self.error(name, f"only {' or '.join(map(_shown, values))} is supported, got {_shown(value)}")

    def finish(self) -> None:
        """Refuse members that nobody has read.

        Raises:
            RequestError: there is one; it might mean something that the answer would not respect.
        """
        if self._left:
            name = sorted(self._left)[0]
            raise RequestError(
                f"{self._where}{name[:80]}: this parameter is not known or not supported",
                param=name[:80],
                code="unsupported_parameter",
            )

    def error(self, name: str, problem: str) -> RequestError:
        """An error about a member."""
        return RequestError(f"{self._where}{name}: {problem}", param=f"{self._where}{name}")


_NAMES: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "an object",
}


def _shown(value: Any) -> str:
    """A value in a message; texts, which may be private, by their length alone."""
    if isinstance(value, str) and len(value) > 32:
        return f"a text of {len(value)} characters"
    if isinstance(value, list | dict):
        return _NAMES[type(value)]
    shown = json.dumps(value)
    return shown if len(shown) <= 40 else shown[:40] + "…"


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
