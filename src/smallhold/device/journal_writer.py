"""Writing a journal's file: one transaction after the other, each with the checkpoint that it needs.

A `JournalWriter` is used by one thread at a time; `Journal` sees to that.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from smallhold.device.journal_chain import CHECKPOINT_EVERY, Checkpoint, next_entry, sign_checkpoint
from smallhold.device.journal_check import tail_problem
from smallhold.device.journal_seal import EPOCH_MS, NONCE_BYTES, Keyring, seal, sealed_nonce
from smallhold.device.journal_store import (
    open_for_writing,
    read_data_keys,
    read_last_checkpoint,
    read_last_seq,
    read_rows,
    storage_errors,
)
from smallhold.device.trust import key_id
from smallhold.errors import InputError, JournalError
from smallhold.records import AuditEntry

_CHECKPOINT_MS = 1000

Write = tuple[str, tuple[object, ...]]
_INSERT_ENTRY = "INSERT INTO entries (seq, t_ms, kind, payload_digest, prev, hash) VALUES (?, ?, ?, ?, ?, ?)"
_INSERT_PAYLOAD = "INSERT INTO payloads (seq, nonce, payload) VALUES (?, ?, ?)"
_INSERT_KEY = "INSERT INTO data_keys (id, patient_tag, epoch, wrapped) VALUES (?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class NewEntry:
    """What is to be appended; see `Journal.append`."""

    kind: str
    payload: bytes
    patient: str | None = None
    must_checkpoint: bool = False

    def __post_init__(self) -> None:
        """Refuse a malformed kind."""
        if not 1 <= len(self.kind) <= 64 or not self.kind.isprintable():
            raise InputError(f"kind: expected 1 to 64 printable characters, got {self.kind[:80]!r}")


class JournalWriter:
    """The head of a journal, and the connection that extends it.

    Args:
        path: The database file; it is locked until `close`.
        key: Signs checkpoints and opens sealed payloads, or None.
        clock: Wall clock in milliseconds.

    Attributes:
        connection: For reading beside the writing.
        keyring: Of the key, or None.
        checkpoint: The newest.

    Raises:
        JournalError: another writer has it, its end was altered, it is damaged, or cannot be written.
    """

    def __init__(self, path: Path, key: Ed25519PrivateKey | None, clock: Callable[[], int]) -> None:
        self.path = path
        self.keyring = None if key is None else Keyring(key)
        self.checkpoint: Checkpoint | None = None
        self._key, self._clock = key, clock
        self._key_id = "" if key is None else key_id(key.public_key())
        self._data_keys: dict[tuple[str, int], tuple[int, AESGCM]] = {}
        self._is_head_known = False
        self._last: AuditEntry | None = None
        self._synced: tuple[int, int] | None = None  # seq and time of the last entry that was forced to the disk
        with storage_errors(path, "opened"):
            lock_file = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                _take_lock(lock_file, path)
                self.connection = open_for_writing(path)
            except BaseException:
                os.close(lock_file)
                raise
            self._lock_file, self._is_open = lock_file, True
            try:
                self._load_head()
            except BaseException:
                self._release()
                raise

    def append(self, items: Sequence[NewEntry], more: Sequence[Write] = ()) -> list[AuditEntry]:
        """Commit some entries, after other writes of the same transaction; all of it or nothing.

        Raises:
            JournalError: it could not be written, the journal is closed, or its end was altered meanwhile.
        """
        self.require_open()
        must_checkpoint = any(item.must_checkpoint for item in items)
        if not self._is_head_known:
            self._load_head()
        writes, entries = list(more), list[AuditEntry]()
        last, checkpoint, synced = self._last, self.checkpoint, self._synced
        made: dict[tuple[str, int], tuple[int, AESGCM]] = {}
        for number, item in enumerate(items):
            t_ms, nonce, payload = self._clock(), os.urandom(NONCE_BYTES), item.payload
            if item.patient is not None and self.keyring is not None:
                identity, cipher = self._data_key(self.keyring, item.patient, t_ms // EPOCH_MS, made, writes)
                nonce, seq = sealed_nonce(identity), 0 if last is None else last.seq + 1
                payload = seal(cipher, nonce, payload, seq=seq, kind=item.kind)
            last = next_entry(last, t_ms=t_ms, kind=item.kind, nonce=nonce, payload=payload)
            entries.append(last)
            writes.append((_INSERT_ENTRY, (last.seq, last.t_ms, last.kind, last.payload_digest, last.prev, last.hash)))
            writes.append((_INSERT_PAYLOAD, (last.seq, nonce, payload)))
            is_last = number == len(items) - 1
            if _is_sync_due(synced, last) or (is_last and must_checkpoint):
                synced = (last.seq, t_ms)
                if self._key is not None:
                    checkpoint = sign_checkpoint(last, t_ms=t_ms, key=self._key, signer=self._key_id)
                    writes.append(_insert_checkpoint(checkpoint))
        self._commit(writes, is_due=synced != self._synced)
        self._data_keys |= made
        self._last, self.checkpoint, self._synced = last, checkpoint, synced
        return entries

    def forget_keys(self, patient: str | None = None) -> None:
        """Drop data keys from memory: of one patient, or all; they are read again when needed."""
        for name in [name for name in self._data_keys if patient in (None, name[0])]:
            del self._data_keys[name]

    def empty_log(self, if_busy: str) -> None:
        """Empty the write-ahead log of what was erased; `if_busy` is the error while a reader holds it."""
        with storage_errors(self.path, "emptied of what was erased"):
            (is_busy, *_) = self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            raise JournalError(if_busy, hint="end the reader, then open the journal again")

    def require_open(self) -> None:
        """Raise a JournalError when it is closed."""
        if not self._is_open:
            raise JournalError(f"journal {self.path} is closed")

    def close(self) -> None:
        """Sign and force out what is not yet, and let the next writer in; closing twice is harmless.

        Raises:
            JournalError: the last checkpoint could not be written; it is closed all the same.
        """
        if not self._is_open:
            return
        try:
            is_synced = self._last is None or (self._synced is not None and self._synced[0] == self._last.seq)
            if self._is_head_known and self._last is not None and self._key is not None and not is_synced:
                t_ms = self._clock()
                checkpoint = sign_checkpoint(self._last, t_ms=t_ms, key=self._key, signer=self._key_id)
                self._commit([_insert_checkpoint(checkpoint)], is_due=True)
                self.checkpoint = checkpoint
        finally:
            self._release()

    def _data_key(
        self,
        keyring: Keyring,
        patient: str,
        epoch: int,
        made: dict[tuple[str, int], tuple[int, AESGCM]],
        writes: list[Write],
    ) -> tuple[int, AESGCM]:
        """The patient's data key: known, in the table, or made now; then its row joins what is to be written."""
        name = (patient, epoch)
        known = self._data_keys.get(name) or made.get(name)
        if known is not None:
            return known
        with storage_errors(self.path, "read"):
            rows = read_data_keys(self.connection, keyring.tag(patient))
        row = next((row for row in rows if row.epoch == epoch), None)
        if row is not None:
            known = self._data_keys[name] = (row.id, AESGCM(keyring.unwrap(row)))
            return known
        row, cipher = keyring.make(patient, epoch)
        writes.append((_INSERT_KEY, (row.id, row.tag, row.epoch, row.wrapped)))
        made[name] = (row.id, cipher)
        return made[name]

    def _commit(self, writes: Sequence[Write], *, is_due: bool) -> None:
        execute = self.connection.execute
        with storage_errors(self.path, "written"):
            try:
                if is_due:
                    execute("PRAGMA synchronous = FULL")  # makes this commit force the log to the disk
                execute("BEGIN IMMEDIATE")
                for statement, values in writes:
                    execute(statement, values)
                execute("COMMIT")
                if is_due:
                    execute("PRAGMA synchronous = NORMAL")
            except BaseException:
                # Whether a failed commit took place is for the file to say: it is read again before the next append.
                self._is_head_known = False
                with suppress(sqlite3.Error):
                    if self.connection.in_transaction:
                        execute("ROLLBACK")
                    execute("PRAGMA synchronous = NORMAL")
                raise

    def _load_head(self) -> None:
        with storage_errors(self.path, "read"):
            last_seq, checkpoint = read_last_seq(self.connection), read_last_checkpoint(self.connection)
            tail = list(read_rows(self.connection, max(0, last_seq - CHECKPOINT_EVERY)))
            signed = None
            if checkpoint is not None:
                signed = next((row.entry for row in read_rows(self.connection, checkpoint.seq)), None)
        problem = tail_problem(tail, checkpoint, signed, None if self._key is None else self._key.public_key())
        if problem:
            raise JournalError(f"journal {self.path} is not as it was left: {problem}", hint="smallhold journal verify")
        self._last, self.checkpoint = tail[-1].entry if tail else None, checkpoint
        self._synced = None if checkpoint is None else (checkpoint.seq, checkpoint.t_ms)
        self._is_head_known = True

    def _release(self) -> None:
        self._is_open = False
        with suppress(sqlite3.Error):
            self.connection.close()
        os.close(self._lock_file)


def _is_sync_due(synced: tuple[int, int] | None, entry: AuditEntry) -> bool:
    if synced is None:
        return True
    seq, t_ms = synced
    # A clock that went back must not postpone the next checkpoint, hence the absolute value.
    return entry.seq - seq >= CHECKPOINT_EVERY or abs(entry.t_ms - t_ms) >= _CHECKPOINT_MS


def _insert_checkpoint(checkpoint: Checkpoint) -> Write:
    return (
        "INSERT INTO checkpoints (seq, hash, t_ms, key_id, signature) VALUES (?, ?, ?, ?, ?)",
        (checkpoint.seq, checkpoint.hash, checkpoint.t_ms, checkpoint.key_id, checkpoint.signature),
    )


def _take_lock(lock_file: int, path: Path) -> None:
    try:
        fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise JournalError(
            f"journal {path} has a writer already", hint="end the other process, or use another --home"
        ) from error
