"""The journal's SQLite file: its tables, how it is opened, and reading without taking part in writing."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from smallhold.device.journal_chain import Checkpoint
from smallhold.device.journal_check import Row
from smallhold.errors import JournalError
from smallhold.records import AuditEntry

_APPLICATION_ID = 0x534D484A  # "SMHJ", in the file's header, so that no other database is taken for a journal
_USER_VERSION = 1
_BUSY_SECONDS = 5.0

_TABLES = """
CREATE TABLE entries (
  seq INTEGER PRIMARY KEY, t_ms INTEGER NOT NULL, kind TEXT NOT NULL,
  payload_digest TEXT NOT NULL, prev TEXT NOT NULL, hash TEXT NOT NULL);
CREATE TABLE payloads (seq INTEGER PRIMARY KEY, nonce BLOB NOT NULL, payload BLOB NOT NULL);
CREATE TABLE checkpoints (
  seq INTEGER PRIMARY KEY, hash TEXT NOT NULL, t_ms INTEGER NOT NULL,
  key_id TEXT NOT NULL, signature TEXT NOT NULL);
"""
_ROWS = """
SELECT e.seq, e.t_ms, e.kind, e.payload_digest, e.prev, e.hash, p.nonce, p.payload,
       c.seq, c.hash, c.t_ms, c.key_id, c.signature
FROM entries e LEFT JOIN payloads p ON p.seq = e.seq LEFT JOIN checkpoints c ON c.seq = e.seq
WHERE e.seq >= ? ORDER BY e.seq
"""


@contextmanager
def storage_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn what SQLite and the file system raise into a JournalError that names the file."""
    try:
        yield
    except (sqlite3.Error, OSError, UnicodeDecodeError) as error:  # the last: SQLite quotes bytes of a damaged file
        hint = None
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            hint = "the file is damaged: keep it as evidence, and start a new journal in another home"
        raise JournalError(f"journal {path} could not be {doing}: {error}", hint=hint) from error


def open_for_writing(path: Path) -> sqlite3.Connection:
    """Open the database, made new with mode 0600 when absent; commits reach the operating system, not yet the disk."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
    connection = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_SECONDS, check_same_thread=False)
    try:
        is_new = path.stat().st_size == 0
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA fullfsync = ON")  # macOS: fsync alone stops at the drive's cache
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        if is_new or connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,):
            connection.executescript(
                f"BEGIN; PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {_USER_VERSION};"
                f"{_TABLES} COMMIT;"
            )
        _check_is_journal(connection, path)
        # What an erasure left in the log while a reader held it goes now.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def snapshot(path: Path) -> Iterator[sqlite3.Connection]:
    """One consistent view of the journal, also while somebody writes.

    Raises:
        JournalError: there is no journal, the file is something else, or it is damaged.
    """
    if not path.is_file():
        raise JournalError(f"no journal at {path}", hint="smallhold device init, then run something that journals")
    options = "mode=ro"
    if not os.access(path.parent, os.W_OK) and not path.with_name(path.name + "-wal").exists():
        options += "&immutable=1"  # on a read-only medium there is no place for SQLite's shared memory
    with storage_errors(path, "read"):
        uri = f"{path.resolve().as_uri()}?{options}"
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_SECONDS)) as connection:
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("BEGIN")
            _check_is_journal(connection, path)
            yield connection


def read_rows(connection: sqlite3.Connection, start: int = 0) -> Iterator[Row]:
    """Every entry from `start` on, with payload and checkpoint, in the order of seq; nothing is checked."""
    for values in connection.execute(_ROWS, (start,)):
        seq, t_ms, kind, digest, prev, own, nonce, payload, signed_seq, *signed = values
        entry = AuditEntry(seq=seq, t_ms=t_ms, kind=kind, payload_digest=digest, prev=prev, hash=own)
        checkpoint = None if signed_seq is None else _checkpoint(signed_seq, *signed)
        yield Row(entry, nonce, payload, checkpoint)


def read_last_checkpoint(connection: sqlite3.Connection) -> Checkpoint | None:
    """The checkpoint with the highest seq; its signature is not checked."""
    columns = "seq, hash, t_ms, key_id, signature"
    values = connection.execute(f"SELECT {columns} FROM checkpoints ORDER BY seq DESC LIMIT 1").fetchone()  # noqa: S608
    return None if values is None else _checkpoint(*values)


def read_last_seq(connection: sqlite3.Connection) -> int:
    """The highest seq of an entry, -1 when there is none."""
    (seq,) = connection.execute("SELECT coalesce(max(seq), -1) FROM entries").fetchone()
    return int(seq)


def count_by_traces(connection: sqlite3.Connection) -> int:
    """How many entries there must be, to judge by the payloads and checkpoints that are left."""
    (seq,) = connection.execute(
        "SELECT max(coalesce((SELECT max(seq) FROM payloads), -1), coalesce((SELECT max(seq) FROM checkpoints), -1))"
    ).fetchone()
    return int(seq) + 1


def read_entries(path: Path, start: int = 0, kind: str | None = None) -> Iterator[tuple[AuditEntry, bytes | None]]:
    """Entries from `start` on, of one kind or all, with their payloads (None: erased); nothing is verified.

    One consistent view of the moment when the first is taken, also while somebody writes.

    Raises:
        JournalError: there is no journal, or the file is damaged.
    """
    with snapshot(path) as connection:
        for row in read_rows(connection, start):
            if kind is None or row.entry.kind == kind:
                yield row.entry, row.payload


def last_seq(path: Path) -> int:
    """The number of the last entry, -1 when there is none.

    Raises:
        JournalError: there is no journal, or the file is damaged.
    """
    with snapshot(path) as connection:
        return read_last_seq(connection)


def _checkpoint(seq: int, own: str, t_ms: int, signer: str, signature: str) -> Checkpoint:
    return Checkpoint(seq=seq, hash=own, t_ms=t_ms, key_id=signer, signature=signature)


def _check_is_journal(connection: sqlite3.Connection, path: Path) -> None:
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if (application_id, version) != (_APPLICATION_ID, _USER_VERSION):
        raise JournalError(
            f"{path} is not a journal of version {_USER_VERSION}: application id {application_id:#x}, version {version}"
        )
