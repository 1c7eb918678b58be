"""A standing order as a person writes it: a TOML or JSON file with times and amounts that people read.

::

    format = 1
    name = "insulin-night"
    drug = "insulin-regular"
    unit = "U"                     # of every amount; nothing is ever converted
    dose_max = "1.5"               # one dose, in quotation marks: a bare 1.5 would be a float, which is not exact
    rate_max = "6"                 # within any rate_window_seconds
    rate_window_seconds = 3600
    total_max = "40"               # for one patient, while the order is valid
    count_max = 300
    interval_seconds = 240
    not_before = "2026-11-29T20:00:00Z"
    expires = "2026-11-30T08:00:00Z"
    patient = "p-17"               # or: ward = "3-north"
    required_signatures = 2
    allergies = ["insulin"]        # forbid it, beside what the interaction table says
    interacting_drugs = []
    [[bound]]                      # must be known, fresh and within, or nothing is given
    code = "Glucose"
    unit = "mg/dL"
    min = "110"
    max_age_seconds = 600
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smallhold.assist.orders.amount import parse_amount, parse_unit
from smallhold.assist.orders.standing_order import Bound, StandingOrder
from smallhold.device.manifest import parse_time
from smallhold.errors import IntegrityError, OrderError

MAX_BYTES = 64 * 1024


def read_order(path: Path) -> StandingOrder:
    """Read a standing order as a person writes it, in TOML or JSON with the same members.

    Raises:
        OrderError: absent, too large, or an entry is unknown, missing or impossible.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise OrderError(f"{path}: a standing order has at most {MAX_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
        data = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:  # both decoders' errors are ValueErrors
        raise OrderError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise OrderError(f"{path}: expected a table, got {type(data).__name__}")
    return _from_table(path.name, data)


_REQUIRED = (
    *("format", "name", "drug", "unit", "dose_max", "rate_max", "rate_window_seconds", "total_max"),
    *("count_max", "interval_seconds", "not_before", "expires", "required_signatures"),
)
_OPTIONAL = ("patient", "ward", "allergies", "interacting_drugs", "bound", "note")


def _from_table(where: str, data: Mapping[str, Any]) -> StandingOrder:
    _members(where, data, _REQUIRED, _OPTIONAL)
    bounds = data.get("bound", [])
    if not isinstance(bounds, list):
        raise OrderError(f"{where}: write [[bound]] with double brackets")
    return StandingOrder(
        format=data["format"],
        name=_text(where, data, "name"),
        drug=_text(where, data, "drug"),
        unit=parse_unit(data["unit"], f"{where}: unit"),
        dose_max=parse_amount(data["dose_max"], f"{where}: dose_max"),
        rate_max=parse_amount(data["rate_max"], f"{where}: rate_max"),
        rate_window_ms=_seconds(where, data, "rate_window_seconds"),
        total_max=parse_amount(data["total_max"], f"{where}: total_max"),
        count_max=_whole(where, data, "count_max"),
        interval_ms=_seconds(where, data, "interval_seconds"),
        not_before_ms=_time(where, data, "not_before"),
        expires_ms=_time(where, data, "expires"),
        patient=_text(where, data, "patient") if "patient" in data else None,
        ward=_text(where, data, "ward") if "ward" in data else None,
        required_signatures=_whole(where, data, "required_signatures"),
        allergies=_words(where, data, "allergies"),
        interacting_drugs=_words(where, data, "interacting_drugs"),
        bounds=tuple(_read_bound(f"{where}: bound[{number}]", item) for number, item in enumerate(bounds)),
        note=_text(where, data, "note") if "note" in data else "",
    )


def _read_bound(where: str, data: Any) -> Bound:
    if not isinstance(data, dict):
        raise OrderError(f"{where}: expected a table, got {data!r}")
    _members(where, data, ("code", "unit", "max_age_seconds"), ("min", "max"))
    limits = [_signed(data[key], f"{where}.{key}") if key in data else None for key in ("min", "max")]
    return Bound(
        code=_text(where, data, "code"),
        unit=_text(where, data, "unit"),
        minimum=limits[0],
        maximum=limits[1],
        max_age_ms=_seconds(where, data, "max_age_seconds"),
    )


def _signed(value: Any, where: str) -> int:
    is_negative = isinstance(value, str) and value.startswith("-")
    amount = parse_amount(value[1:] if is_negative else value, where)
    return -amount if is_negative else amount


def _members(where: str, data: Mapping[str, Any], required: tuple[str, ...], optional: tuple[str, ...]) -> None:
    for key in data:
        if key not in required and key not in optional:
            raise OrderError(f"{where}: unknown key {key!r}", hint=f"expected {', '.join((*required, *optional))}")
    for key in required:
        if key not in data:
            raise OrderError(f"{where}: key {key!r} is missing")


def _text(where: str, data: Mapping[str, Any], key: str) -> str:
    value = data[key]
    if not isinstance(value, str) or not value.strip():
        raise OrderError(f"{where}: {key}: expected a text that is not empty, got {value!r}")
    return value


def _words(where: str, data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = data.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise OrderError(f"{where}: {key}: expected a list of texts, got {value!r}")
    return tuple(value)


def _whole(where: str, data: Mapping[str, Any], key: str) -> int:
    value = data[key]
    if not isinstance(value, int) or isinstance(value, bool):
        raise OrderError(f"{where}: {key}: expected a whole number, got {value!r}")
    return value


def _seconds(where: str, data: Mapping[str, Any], key: str) -> int:
    return _whole(where, data, key) * 1000


def _time(where: str, data: Mapping[str, Any], key: str) -> int:
    try:
        return int(parse_time(_text(where, data, key), member=key).timestamp()) * 1000
    except IntegrityError as error:
        raise OrderError(
            f"{where}: {key}: expected a UTC time such as 2026-11-29T08:00:00Z, got {data[key]!r}"
        ) from error
