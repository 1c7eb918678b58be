"""Readings from a CSV file."""

from __future__ import annotations

import csv
from pathlib import Path

from smallhold.assist.sources.intake import Intake, Reading
from smallhold.assist.sources.line_file import LineFile, ReadLine
from smallhold.assist.sources.plain_text import parse_iso_ms, parse_number, parse_whole
from smallhold.assist.sources.strict_json import MalformedError

NEEDED = ("id", "patient", "code", "value", "unit", "t")
OPTIONAL = ("quality", "device", "system")
MAX_LINE_BYTES = 16 * 1024


def read_header(line: bytes) -> tuple[str, ...]:
    """The names of the columns.

    Raises:
        MalformedError: a needed column is missing, or one occurs twice or is not known.
    """
    names = tuple(_cells(line.removeprefix(b"\xef\xbb\xbf")))
    if set(NEEDED) - set(names) or len(set(names)) != len(names) or set(names) - set(NEEDED) - set(OPTIONAL):
        raise MalformedError(f"header: expected {','.join(NEEDED)} and any of {','.join(OPTIONAL)}, each once")
    return names


def read_row(line: bytes, names: tuple[str, ...]) -> Reading:
    """One line as a reading; `t` is milliseconds UTC, or ISO 8601 with a zone.

    Raises:
        MalformedError: it has another number of cells, or a number or time is none.
    """
    cells = _cells(line)
    if len(cells) != len(names):
        raise MalformedError(f"expected {len(names)} cells, got {len(cells)}")
    row = dict(zip(names, cells, strict=True))
    value = parse_number(row["value"])
    if value is None:
        raise MalformedError("value: expected a decimal number")
    measured_ms = parse_whole(row["t"])
    if measured_ms is None:
        measured_ms = parse_iso_ms(row["t"])
    if measured_ms is None:
        raise MalformedError("t: expected milliseconds UTC or ISO 8601 with a zone")
    return Reading(
        id=row["id"],
        patient=row["patient"],
        system=row.get("system", ""),
        code=row["code"],
        value=value,
        unit=row["unit"],
        t_measured_ms=measured_ms,
        quality=row.get("quality") or "good",
        device=row.get("device", ""),
    )


def _cells(line: bytes) -> list[str]:
    try:
        rows = list(csv.reader([line.decode()], strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise MalformedError("not a line of CSV in UTF-8") from error
    return rows[0] if rows else []


class CsvSource(LineFile):
    """Readings of a CSV file.

    Args:
        path: The file.
        intake: Where readings go.
        follow: Wait for more at the end.
    """

    def __init__(self, path: Path, intake: Intake, *, follow: bool = False) -> None:
        super().__init__(path, intake, _rows, follow=follow, max_line_bytes=MAX_LINE_BYTES, has_header=True)


def _rows() -> ReadLine:
    names: tuple[str, ...] = ()

    def read_line(line: bytes) -> list[Reading]:
        nonlocal names
        if not names:
            names = read_header(line)
            return []
        return [read_row(line, names)]

    return read_line
