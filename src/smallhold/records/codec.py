"""Records to versioned canonical JSON and back.

A record becomes an object whose `schema` member names its type and version, for example
`smallhold.observation/1`. A reader refuses a schema it does not know and any member that is missing, extra or of
the wrong type: a journal that is read years later must not be misread. A member that was added to a version later
(`model.ADDED`) is written only where it says something, and may be absent: what an older program wrote reads as before,
and what says nothing new has the bytes, and so the digest, that it always had.
"""

from __future__ import annotations

import re
import types
import typing
from dataclasses import Field, fields, is_dataclass
from enum import StrEnum
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from smallhold.errors import InputError
from smallhold.records import model

_VERSION = 1


def schema_name(cls: type) -> str:
    """`smallhold.score-set/1` for `ScoreSet`."""
    words = re.sub(r"(?<!^)(?=[A-Z])", "-", cls.__name__).lower()
    return f"smallhold.{words}/{_VERSION}"


_BY_SCHEMA: dict[str, type] = {schema_name(cls): cls for cls in get_args(model.Record)}


def to_json(record: model.Record) -> dict[str, Any]:
    """Turn a record into a JSON object that names its own schema."""
    return {"schema": schema_name(type(record)), **_plain_members(record)}


def from_json(value: dict[str, Any]) -> model.Record:
    """Read back what `to_json` wrote.

    Raises:
        InputError: unknown schema, or a member is missing, extra or of the wrong type; the message names it.
    """
    schema = value.get("schema")
    cls = _BY_SCHEMA.get(str(schema))
    if cls is None:
        raise InputError(f"unknown record schema {schema!r}: expected one of {', '.join(sorted(_BY_SCHEMA))}")
    members = {name: member for name, member in value.items() if name != "schema"}
    return typing.cast(model.Record, _build(cls, members, str(schema)))


def _plain_members(record: Any) -> dict[str, Any]:
    cls = record.__class__
    members = {name: _plain(getattr(record, name)) for name in _member_names(cls)}
    for name, default in _added(cls).items():
        if getattr(record, name) == default:
            del members[name]
    return members


@cache
def _member_names(cls: Any) -> tuple[str, ...]:
    return tuple(item.name for item in fields(cls))


@cache
def _added(cls: Any) -> dict[str, Any]:
    """Members that may be absent, and what they are then."""
    listed: tuple[Field[Any], ...] = fields(cls)
    return {item.name: item.default for item in listed if item.metadata.get(model.ADDED)}


def _plain(value: Any) -> Any:
    # The exact types come first: this runs for every member of every journalled record.
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, StrEnum):
        return value.value
    if is_dataclass(value):
        return _plain_members(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()}


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


def _build(cls: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected an object, got {type(value).__name__}")
    hints = _hints(cls)
    value = {**_added(cls), **value}
    if value.keys() != hints.keys():
        missing, extra = sorted(hints.keys() - value.keys()), sorted(value.keys() - hints.keys())
        raise InputError(f"{where}: missing members {missing}, unknown members {extra}")
    return cls(**{name: _typed(hint, value[name], f"{where}.{name}") for name, hint in hints.items()})


def _typed(hint: Any, value: Any, where: str) -> Any:
    origin = get_origin(hint)
    if origin is types.UnionType:  # only `X | None` occurs in the records
        return None if value is None else _typed(get_args(hint)[0], value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_typed(get_args(hint)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: _typed(get_args(hint)[1], item, f"{where}[{key!r}]") for key, item in value.items()}
    if is_dataclass(hint):
        return _build(hint, value, where)
    if isinstance(hint, type) and issubclass(hint, StrEnum) and value in [item.value for item in hint]:
        return hint(value)
    if hint is float and type(value) in (int, float):
        return float(value)
    if type(value) is hint:
        return value
    raise InputError(f"{where}: expected {hint}, got {value!r}")
