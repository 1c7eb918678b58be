"""The journal's SQLite file: its tables, how it is opened, and reading without taking part in writing."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from smallhold.device.journal_chain import Checkpoint
from smallhold.device.journal_check import Row
from smallhold.device.journal_seal import KEY_ID_BYTES, NONCE_BYTES, DataKey, Keyring, sealing_key, unseal
from smallhold.errors import JournalError
from smallhold.records import AuditEntry

_APPLICATION_ID = 0x534D484A  # "SMHJ", in the file's header, so that no other database is taken for a journal
_USER_VERSION = 2
_OLD_VERSION = 1  # the same without data keys: read as it is, completed when it is opened for writing
_BUSY_SECONDS = 5.0
_CLOCK_WAS_SET_MS = 1_577_836_800_000  # 2020-01-01: a machine that says earlier had not been told the time

_TABLES = """
CREATE TABLE entries (
  seq INTEGER PRIMARY KEY, t_ms INTEGER NOT NULL, kind TEXT NOT NULL,
  payload_digest TEXT NOT NULL, prev TEXT NOT NULL, hash TEXT NOT NULL);
CREATE TABLE payloads (seq INTEGER PRIMARY KEY, nonce BLOB NOT NULL, payload BLOB NOT NULL);
CREATE TABLE checkpoints (
  seq INTEGER PRIMARY KEY, hash TEXT NOT NULL, t_ms INTEGER NOT NULL,
  key_id TEXT NOT NULL, signature TEXT NOT NULL);
"""
_KEYS_TABLE = """
CREATE TABLE data_keys (
  id INTEGER PRIMARY KEY, patient_tag BLOB NOT NULL, epoch INTEGER NOT NULL, wrapped BLOB NOT NULL);
"""
_ROWS = """
SELECT e.seq, e.t_ms, e.kind, e.payload_digest, e.prev, e.hash, p.nonce, p.payload,
       c.seq, c.hash, c.t_ms, c.key_id, c.signature
FROM entries e LEFT JOIN payloads p ON p.seq = e.seq LEFT JOIN checkpoints c ON c.seq = e.seq
WHERE e.seq >= ?1 AND (?2 IS NULL OR e.kind = ?2) ORDER BY e.seq
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
                f"{_TABLES}{_KEYS_TABLE} COMMIT;"
            )
        if _check_is_journal(connection, path) == _OLD_VERSION:
            connection.executescript(f"BEGIN; {_KEYS_TABLE} PRAGMA user_version = {_USER_VERSION}; COMMIT;")
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


def read_rows(connection: sqlite3.Connection, start: int = 0, kind: str | None = None) -> Iterator[Row]:
    """Entries from `start` on, with payload as stored and checkpoint, in the order of seq; nothing is checked."""
    for values in connection.execute(_ROWS, (start, kind)):
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


class Unsealer:
    """Opens the payloads of one journal; without a keyring, those alone that are in the clear."""

    def __init__(self, connection: sqlite3.Connection, keyring: Keyring | None) -> None:
        self._connection = connection
        self._keyring = keyring
        self._ciphers: dict[int, AESGCM | None] = {}

    def open(self, row: Row) -> bytes | None:
        """The payload, None when it or its data key was erased.

        Raises:
            JournalError: it is sealed and there is no keyring, or it was altered.
        """
        key = sealing_key(row.nonce)
        if row.payload is None or row.nonce is None or key is None:
            return row.payload
        if key not in self._ciphers:
            self._ciphers[key] = self._cipher(key, row.entry.seq)
        cipher = self._ciphers[key]
        return (
            None if cipher is None else unseal(cipher, row.nonce, row.payload, seq=row.entry.seq, kind=row.entry.kind)
        )

    def _cipher(self, key: int, seq: int) -> AESGCM | None:
        found = read_data_key(self._connection, key)
        if found is None:
            return None
        if self._keyring is None:
            raise JournalError(
                f"the payload of entry {seq} is sealed: it takes the key of the device that wrote it",
                hint="read it on the device, or ask for an export that discloses it",
            )
        return AESGCM(self._keyring.unwrap(found))


def read_data_keys(connection: sqlite3.Connection, tag: bytes | None = None) -> list[DataKey]:
    """The data keys of one patient, or all."""
    if _version(connection) == _OLD_VERSION:
        return []
    rows = connection.execute(
        "SELECT id, patient_tag, epoch, wrapped FROM data_keys WHERE ?1 IS NULL OR patient_tag = ?1 ORDER BY epoch",
        (tag,),
    )
    return [DataKey(*row) for row in rows]


@dataclass(slots=True)
class Older:
    """Entries with a payload that are older than a time, and how many only look so."""

    seqs: list[int]
    unsure: int = 0


def read_older(connection: sqlite3.Connection, before_ms: int, kept_kinds: Collection[str]) -> Older:
    """Numbers of entries whose payload is older than a time; see `Journal.retain`."""
    found, is_prefix = Older([]), True
    for seq, t_ms, kind, has_payload in connection.execute(
        "SELECT e.seq, e.t_ms, e.kind, p.seq IS NOT NULL "
        "FROM entries e LEFT JOIN payloads p ON p.seq = e.seq ORDER BY e.seq"
    ):
        is_prefix &= t_ms < before_ms
        if t_ms >= before_ms or not has_payload or kind in kept_kinds:
            continue
        if is_prefix and t_ms >= _CLOCK_WAS_SET_MS:
            found.seqs.append(seq)
        else:
            found.unsure += 1
    return found


def count_sealed(connection: sqlite3.Connection) -> dict[int, int]:
    """Data key to the number of payloads that name it, whether or not it still exists."""
    length = NONCE_BYTES + KEY_ID_BYTES
    counted = connection.execute(
        "SELECT substr(nonce, ?), count(*) FROM payloads WHERE length(nonce) = ? GROUP BY 1", (NONCE_BYTES + 1, length)
    )
    return {int.from_bytes(name): count for name, count in counted if type(name) is bytes}


def read_data_key(connection: sqlite3.Connection, identity: int) -> DataKey | None:
    """One data key, None when it was erased."""
    if _version(connection) == _OLD_VERSION:
        return None
    row = connection.execute(
        "SELECT id, patient_tag, epoch, wrapped FROM data_keys WHERE id = ?", (identity,)
    ).fetchone()
    return None if row is None else DataKey(*row)


def read_entries(
    path: Path, start: int = 0, kind: str | None = None, *, key: Ed25519PrivateKey | None = None
) -> Iterator[tuple[AuditEntry, bytes | None]]:
    """Entries from `start` on, of one kind or all, with their payloads (None: erased); nothing is verified.

    One consistent view of the moment when the first is taken, also while somebody writes.

    Args:
        path: The database file.
        start: The first entry.
        kind: Of this kind alone.
        key: The device's key, which opens what is sealed.

    Raises:
        JournalError: there is no journal, the file is damaged, or a payload is sealed and `key` was not given or is
            another device's.
    """
    with snapshot(path) as connection:
        unsealer = Unsealer(connection, None if key is None else Keyring(key))
        for row in read_rows(connection, start, kind):
            yield row.entry, unsealer.open(row)


def last_seq(path: Path) -> int:
    """The number of the last entry, -1 when there is none.

    Raises:
        JournalError: there is no journal, or the file is damaged.
    """
    with snapshot(path) as connection:
        return read_last_seq(connection)


def _checkpoint(seq: int, own: str, t_ms: int, signer: str, signature: str) -> Checkpoint:
    return Checkpoint(seq=seq, hash=own, t_ms=t_ms, key_id=signer, signature=signature)


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _check_is_journal(connection: sqlite3.Connection, path: Path) -> int:
    """The version of the file."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    version = _version(connection)
    if application_id != _APPLICATION_ID or version not in (_OLD_VERSION, _USER_VERSION):
        raise JournalError(
            f"{path} is not a journal of version {_OLD_VERSION} or {_USER_VERSION}: application id "
            f"{application_id:#x}, version {version}"
        )
    return version
