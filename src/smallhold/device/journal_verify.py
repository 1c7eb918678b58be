"""Verifying a journal from outside, and its export: JSON lines that can be verified without SQLite."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import IO, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from smallhold.device.durable_file import write_durably
from smallhold.device.journal_chain import Checkpoint
from smallhold.device.journal_check import Mark, Problem, ProblemKind, Row, VerifyReport, check_chain
from smallhold.device.journal_store import count_by_traces, read_data_keys, read_last_seq, read_rows, snapshot
from smallhold.errors import InputError, JournalError
from smallhold.records import AuditEntry, canonical_json

__all__ = ["Problem", "ProblemKind", "VerifyReport", "export", "verify", "verify_export"]

_EXPORT_SCHEMA = "smallhold.journal-export/1"
_MAX_LINE_BYTES = 2**30


def verify(
    path: Path,
    public_key: Ed25519PublicKey,
    outside: Checkpoint | None = None,
    *,
    since: Checkpoint | None = None,
    marks: Sequence[Mark] = (),
) -> VerifyReport:
    """Recompute every hash, digest and signature of a journal, also while somebody writes to it.

    Args:
        path: The database file.
        public_key: The key of the device that wrote it.
        outside: A checkpoint that was kept elsewhere. Without one, a tail that was cut together with its
            checkpoints cannot be told from a journal that is shorter.
        since: A checkpoint up to which it was verified before and which was kept outside: verify what came after.
        marks: What witnesses stated (`journal_witness.marks_of`).

    Returns:
        The report, with the first problem.

    Raises:
        JournalError: no journal, a damaged database file, or `outside` is not of this key.
    """
    with snapshot(path) as connection:
        expected = count_by_traces(connection)
        keys = {item.id for item in read_data_keys(connection)}
        return check_chain(
            read_rows(connection, 0 if since is None else since.seq),
            public_key=public_key,
            outside=outside,
            expected_entries=expected,
            keys=keys,
            since=since,
            marks=marks,
        )


def export(path: Path, out: Path) -> int:
    """Write entries, payloads and checkpoints as JSON lines; `out` appears whole or not at all.

    Returns:
        The number of entries.

    Raises:
        JournalError: no journal, a damaged one, or `out` cannot be written.
    """
    with snapshot(path) as connection:
        count = read_last_seq(connection) + 1
        try:
            write_durably(out, rows_to_lines(connection, read_rows(connection)))
        except OSError as error:
            raise JournalError(f"journal export {out} could not be written: {error}") from error
    return count


def rows_to_lines(connection: sqlite3.Connection, rows: Iterable[Row]) -> Iterator[bytes]:
    """An export as lines: the head, then one for each row."""
    head = {"schema": _EXPORT_SCHEMA, "entries": read_last_seq(connection) + 1}
    return (canonical_json(value) + b"\n" for value in chain([head], map(_row_to_json, rows)))


def read_export(path: Path) -> Iterator[Row]:
    """The rows of an export; nothing is verified.

    Raises:
        JournalError: a line is not what `export` writes.
    """
    try:
        with path.open("rb") as file:
            yield from _read_lines(file, _read_head(file, path), path)
    except OSError as error:
        raise JournalError(f"journal export {path} cannot be read: {error}") from error


def verify_export(
    path: Path, public_key: Ed25519PublicKey, outside: Checkpoint | None = None, *, marks: Sequence[Mark] = ()
) -> VerifyReport:
    """Verify what `export` wrote by the same rules as the journal itself; see `verify`.

    Raises:
        JournalError: a line is not what `export` writes, or `outside` is not of this key.
    """
    try:
        with path.open("rb") as file:
            expected = _read_head(file, path)
            return check_chain(
                _read_lines(file, expected, path),
                public_key=public_key,
                outside=outside,
                expected_entries=expected,
                marks=marks,
            )
    except OSError as error:
        raise JournalError(f"journal export {path} cannot be read: {error}") from error


def _read_head(file: IO[bytes], path: Path) -> int:
    head = _parse_line(file, 1, path)
    if head is None or head.keys() != {"schema", "entries"} or head["schema"] != _EXPORT_SCHEMA:
        raise JournalError(f"{path} is not a journal export: expected the schema {_EXPORT_SCHEMA} in line 1")
    expected = head["entries"]
    if type(expected) is not int:
        raise JournalError(f"{path} line 1: expected a number of entries, got {expected!r}")
    return expected


def _row_to_json(row: Row) -> dict[str, Any]:
    return {
        **({"withheld": True} if row.is_withheld else {}),
        "entry": {name: getattr(row.entry, name) for name in AuditEntry.__slots__},
        "nonce": None if row.nonce is None else _bytes(row.nonce, row).hex(),
        "payload": None if row.payload is None else base64.b64encode(_bytes(row.payload, row)).decode(),
        "checkpoint": None if row.checkpoint is None else asdict(row.checkpoint),
    }


def _bytes(value: bytes, row: Row) -> bytes:
    if type(value) is not bytes:  # SQLite stores any type in any column
        raise JournalError(f"the payload of entry {row.entry.seq} was altered", hint="smallhold journal verify")
    return value


def _read_lines(file: IO[bytes], expected: int, path: Path) -> Iterator[Row]:
    number = 1
    while (value := _parse_line(file, number + 1, path)) is not None:
        number += 1
        if number - 1 > expected:
            raise JournalError(f"{path} line {number}: the export says it has {expected} entries, but it goes on")
        try:
            yield _row_from_json(value)
        except (ValueError, TypeError, KeyError) as error:
            raise JournalError(f"{path} line {number} is not an entry of a journal export: {error}") from error


def _parse_line(file: IO[bytes], number: int, path: Path) -> dict[str, Any] | None:
    line = file.readline(_MAX_LINE_BYTES)
    if not line:
        return None
    try:
        value = json.loads(line)
        if not isinstance(value, dict) or canonical_json(value) + b"\n" != line:
            raise ValueError("not an object in canonical form")
    except (ValueError, RecursionError, InputError) as error:
        raise JournalError(f"{path} line {number} is damaged: {error}") from error
    return value


def _row_from_json(value: dict[str, Any]) -> Row:
    if value.keys() - {"withheld"} != {"entry", "nonce", "payload", "checkpoint"}:
        raise ValueError(f"unknown or missing members in {sorted(value)}")
    nonce, payload = value["nonce"], value["payload"]
    row = Row(
        entry=AuditEntry(**value["entry"]),
        nonce=None if nonce is None else bytes.fromhex(nonce),
        payload=None if payload is None else base64.b64decode(payload, validate=True),
        checkpoint=None if value["checkpoint"] is None else Checkpoint(**value["checkpoint"]),
        is_withheld=value.get("withheld") is True,
    )
    if _row_to_json(row) != value:  # base64 and hexadecimal have spellings that decode alike
        raise ValueError("nonce or payload is not in its one canonical form")
    return row
