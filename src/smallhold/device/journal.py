"""The journal: every decision, alert and verdict, in a chain that shows any later change.

An entry is committed when `append` returns: it survives the end of the process, however sudden. It is on the disk,
and signed, at the next checkpoint. What this does and does not protect from: `docs/reference/journal.md`.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smallhold.device.journal_chain import (
    CHECKPOINT_EVERY,
    ERASURE,
    Checkpoint,
    erasure_payload,
    next_entry,
    sign_checkpoint,
)
from smallhold.device.journal_check import tail_problem
from smallhold.device.journal_store import (
    open_for_writing,
    read_entries,
    read_last_checkpoint,
    read_last_seq,
    read_rows,
    storage_errors,
)
from smallhold.device.trust import key_id
from smallhold.device.wall_clock import wall_ms
from smallhold.errors import InputError, JournalError
from smallhold.records import AuditEntry

__all__ = ["Checkpoint", "Journal", "read_entries"]

_CHECKPOINT_MS = 1000
_NONCE_BYTES = 16

_Write = tuple[str, tuple[object, ...]]


class Journal:
    """The one writer of a journal file; any number of readers may look on.

    Use it as a context manager, or close it. All methods may be called from any thread.
    """

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        lock_file: int,
        key: Ed25519PrivateKey | None,
        clock: Callable[[], int],
    ) -> None:
        self.path = path
        self._connection = connection
        self._lock_file = lock_file
        self._key = key
        self._key_id = "" if key is None else key_id(key.public_key())
        self._clock = clock
        self._mutex = threading.Lock()
        self._is_open = True
        self._is_head_known = False
        self._last: AuditEntry | None = None
        self._checkpoint: Checkpoint | None = None
        self._synced: tuple[int, int] | None = None  # seq and time of the last entry that was forced to the disk

    @classmethod
    def open(cls, path: Path, *, key: Ed25519PrivateKey | None = None, clock: Callable[[], int] = wall_ms) -> Journal:
        """Open a journal for appending, or begin one; its last stretch is checked first.

        Args:
            path: The database file; its folder exists.
            key: Signs the checkpoints. Without it entries are chained but never signed, `must_checkpoint` is
                refused, and `verify` reports the missing checkpoints.
            clock: Wall clock in milliseconds.

        Raises:
            JournalError: another writer has it open, its end was altered, it belongs to another key, the file is
                damaged, or it cannot be written.
        """
        with storage_errors(path, "opened"):
            lock_file = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                _take_lock(lock_file, path)
                journal = cls(path, open_for_writing(path), lock_file, key, clock)
            except BaseException:
                os.close(lock_file)
                raise
            try:
                journal._load_head()
            except BaseException:
                journal._release()
                raise
            return journal

    def append(self, kind: str, payload: bytes, *, must_checkpoint: bool = False) -> AuditEntry:
        """Add one entry; when this returns, it is committed.

        Args:
            kind: What the payload is: 1 to 64 printable characters.
            payload: Any bytes; they can be erased later without breaking the chain.
            must_checkpoint: Sign and force to the disk before returning, as every action of class A3 and above
                needs. Without it that happens at every 64th entry, and when the last time is a second ago.

        Returns:
            The entry.

        Raises:
            JournalError: it could not be written (disk full, read-only, closed). Nothing was added; whoever asked
                must refuse actions of class A3 and above.
            InputError: `kind` is malformed or reserved.
        """
        if not 1 <= len(kind) <= 64 or not kind.isprintable():
            raise InputError(f"kind: expected 1 to 64 printable characters, got {kind[:80]!r}")
        if kind == ERASURE:
            raise InputError("kind: 'erasure' is reserved; use erase(seq, reason)")
        with self._mutex:
            return self._append(kind, payload, must_checkpoint=must_checkpoint)

    def erase(self, seq: int, reason: str) -> AuditEntry:
        """Delete the payload of one entry for good and say so in the chain, which stays whole.

        The payload and its nonce are overwritten in the database, and the write-ahead log is emptied. Copies that
        the file system, the drive or a backup keeps are beyond reach.

        Args:
            seq: The entry whose payload goes; the entry itself stays.
            reason: Why, for the record; it must not repeat what is erased.

        Returns:
            The entry that records the erasure.

        Raises:
            JournalError: there is no such payload, it records an erasure itself, or a reader kept the write-ahead
                log from being emptied (the payload is deleted then, and the log goes when the journal is next
                opened).
        """
        with self._mutex:
            self._require_open()
            with storage_errors(self.path, "read"):
                found = self._connection.execute(
                    "SELECT e.kind FROM entries e JOIN payloads p ON p.seq = e.seq WHERE e.seq = ?", (seq,)
                ).fetchone()
            if found is None:
                raise JournalError(f"entry {seq} has no payload to erase: it never existed or is erased already")
            if found[0] == ERASURE:
                raise JournalError(f"entry {seq} records an erasure, which cannot be erased itself")
            entry = self._append(
                ERASURE, erasure_payload(seq, reason), must_checkpoint=self._key is not None, erased=seq
            )
            with storage_errors(self.path, "emptied of the erased payload"):
                (is_busy, *_) = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if is_busy:
                raise JournalError(
                    f"the payload of entry {seq} is deleted, but a reader keeps it alive in the write-ahead log",
                    hint="end the reader, then open the journal again",
                )
            return entry

    def entries(self, start: int = 0, kind: str | None = None) -> Iterator[tuple[AuditEntry, bytes | None]]:
        """Entries from `start` on, of one kind or all, with their payloads (None: erased)."""
        return read_entries(self.path, start, kind)

    def payload(self, seq: int) -> bytes | None:
        """The payload of one entry, None when it was erased.

        Raises:
            JournalError: there is no such entry.
        """
        with self._mutex, storage_errors(self.path, "read"):
            self._require_open()
            row = next(read_rows(self._connection, seq), None)
        if row is None or row.entry.seq != seq:
            raise JournalError(f"journal {self.path} has no entry {seq}")
        return row.payload

    def last_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint. Kept outside (`to_json`), it shows later whether the tail was cut."""
        with self._mutex:
            return self._checkpoint

    def close(self) -> None:
        """Sign and force out what is not yet, and let the next writer in; closing twice is harmless.

        Raises:
            JournalError: the last checkpoint could not be written; the journal is closed all the same.
        """
        with self._mutex:
            if not self._is_open:
                return
            try:
                is_synced = self._last is None or (self._synced is not None and self._synced[0] == self._last.seq)
                if self._is_head_known and self._last is not None and self._key is not None and not is_synced:
                    t_ms = self._clock()
                    checkpoint = sign_checkpoint(self._last, t_ms=t_ms, key=self._key, signer=self._key_id)
                    self._commit([_insert_checkpoint(checkpoint)], is_due=True)
                    self._checkpoint = checkpoint
            finally:
                self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, kind: str, payload: bytes, *, must_checkpoint: bool, erased: int | None = None) -> AuditEntry:
        self._require_open()
        if must_checkpoint and self._key is None:
            raise JournalError("a signed checkpoint is needed, but the journal was opened without a key")
        if not self._is_head_known:
            self._load_head()
        t_ms, nonce = self._clock(), os.urandom(_NONCE_BYTES)
        entry = next_entry(self._last, t_ms=t_ms, kind=kind, nonce=nonce, payload=payload)
        is_due = must_checkpoint or self._is_sync_due(entry)
        checkpoint = None
        writes: list[_Write] = [
            (
                "INSERT INTO entries (seq, t_ms, kind, payload_digest, prev, hash) VALUES (?, ?, ?, ?, ?, ?)",
                (entry.seq, entry.t_ms, entry.kind, entry.payload_digest, entry.prev, entry.hash),
            ),
            ("INSERT INTO payloads (seq, nonce, payload) VALUES (?, ?, ?)", (entry.seq, nonce, payload)),
        ]
        if erased is not None:
            writes.append(("DELETE FROM payloads WHERE seq = ?", (erased,)))
        if is_due and self._key is not None:
            checkpoint = sign_checkpoint(entry, t_ms=t_ms, key=self._key, signer=self._key_id)
            writes.append(_insert_checkpoint(checkpoint))
        self._commit(writes, is_due=is_due)
        self._last = entry
        self._checkpoint = checkpoint or self._checkpoint
        if is_due:
            self._synced = (entry.seq, t_ms)
        return entry

    def _is_sync_due(self, entry: AuditEntry) -> bool:
        if self._synced is None:
            return True
        seq, t_ms = self._synced
        # A clock that went back must not postpone the next checkpoint, hence the absolute value.
        return entry.seq - seq >= CHECKPOINT_EVERY or abs(entry.t_ms - t_ms) >= _CHECKPOINT_MS

    def _commit(self, writes: Sequence[_Write], *, is_due: bool) -> None:
        execute = self._connection.execute
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
                    if self._connection.in_transaction:
                        execute("ROLLBACK")
                    execute("PRAGMA synchronous = NORMAL")
                raise

    def _load_head(self) -> None:
        with storage_errors(self.path, "read"):
            last_seq, checkpoint = read_last_seq(self._connection), read_last_checkpoint(self._connection)
            tail = list(read_rows(self._connection, max(0, last_seq - CHECKPOINT_EVERY)))
            signed = None
            if checkpoint is not None:
                signed = next((row.entry for row in read_rows(self._connection, checkpoint.seq)), None)
        problem = tail_problem(tail, checkpoint, signed, None if self._key is None else self._key.public_key())
        if problem:
            raise JournalError(f"journal {self.path} is not as it was left: {problem}", hint="smallhold journal verify")
        self._last, self._checkpoint = tail[-1].entry if tail else None, checkpoint
        self._synced = None if checkpoint is None else (checkpoint.seq, checkpoint.t_ms)
        self._is_head_known = True

    def _require_open(self) -> None:
        if not self._is_open:
            raise JournalError(f"journal {self.path} is closed")

    def _release(self) -> None:
        self._is_open = False
        with suppress(sqlite3.Error):
            self._connection.close()
        os.close(self._lock_file)


def _insert_checkpoint(checkpoint: Checkpoint) -> _Write:
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
