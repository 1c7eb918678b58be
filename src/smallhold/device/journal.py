"""The journal: every decision, alert and verdict, in a chain that shows any later change.

An entry is committed when `append` returns: it survives the end of the process, however sudden. It is on the disk,
and signed, at the next checkpoint. What this does and does not protect from: `docs/reference/journal.md`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smallhold.device.journal_chain import ERASURE, Checkpoint, erasure_payload
from smallhold.device.journal_seal import EPOCH_MS
from smallhold.device.journal_store import (
    Unsealer,
    count_sealed,
    read_data_keys,
    read_entries,
    read_older,
    read_rows,
    storage_errors,
)
from smallhold.device.journal_writer import JournalWriter, NewEntry, Write
from smallhold.device.wall_clock import wall_ms
from smallhold.errors import InputError, JournalError
from smallhold.records import AuditEntry

__all__ = ["Checkpoint", "Journal", "NewEntry", "read_entries"]

_WAIT_SECONDS = 5.0
_RETAIN_CHUNK = 10_000  # payloads that go in one transaction: what is erased passes through the write-ahead log


@dataclass(slots=True)
class _Request:
    """Entries of one caller that wait to be committed, and what came of them."""

    items: Sequence[NewEntry]
    entries: list[AuditEntry] | None = None
    error: BaseException | None = None

    @property
    def is_done(self) -> bool:
        """Whether they were committed or refused."""
        return self.entries is not None or self.error is not None


@dataclass(frozen=True, slots=True)
class Retained:
    """What retention came to.

    Attributes:
        erased: Payloads.
        keys: Data keys that sealed nothing any more.
        unsure: Payloads that look older but stay, because the clock cannot be trusted there.
        before_ms: The limit.
    """

    erased: int
    keys: int
    unsure: int
    before_ms: int


class Journal:
    """The one writer of a journal file; any number of readers may look on.

    Use it as a context manager, or close it. All methods may be called from any thread.
    """

    def __init__(self, path: Path, *, key: Ed25519PrivateKey | None, clock: Callable[[], int]) -> None:
        self.path = path
        self._key = key
        self._writer = JournalWriter(path, key, clock)
        self._mutex = threading.Lock()
        self._turn = threading.Condition()
        self._waiting: deque[_Request] = deque()
        self._is_committing = False

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
        return cls(path, key=key, clock=clock)

    @property
    def is_signing(self) -> bool:
        """Whether it has a key, so that `must_checkpoint` may be asked for."""
        return self._key is not None

    def append(
        self, kind: str, payload: bytes, *, patient: str | None = None, must_checkpoint: bool = False
    ) -> AuditEntry:
        """Add one entry; when this returns, it is committed.

        Args:
            kind: What the payload is: 1 to 64 printable characters.
            payload: Any bytes; they can be erased later without breaking the chain.
            patient: Whom it is about: it is sealed with a data key of theirs, and `erase_patient` erases it. Without
                one, or in a journal without a key, it is stored in the clear.
            must_checkpoint: Sign and force to the disk before returning, as every action of class A3 and above
                needs. Without it that happens at every 64th entry, and when the last time is a second ago.

        Returns:
            The entry.

        Raises:
            JournalError: it could not be written (disk full, read-only, closed). Nothing was added; whoever asked
                must refuse actions of class A3 and above.
            InputError: `kind` is malformed or reserved.
        """
        (entry,) = self.append_all([NewEntry(kind, payload, patient, must_checkpoint)])
        return entry

    def append_all(self, items: Sequence[NewEntry]) -> list[AuditEntry]:
        """Add several entries in one commit: all are there when this returns, or none.

        What other threads append meanwhile is committed together with the next that comes to its turn, so that many
        callers who need the disk wait for one fsync and not for one each.

        Raises:
            JournalError: they could not be written; none was added.
            InputError: a kind is reserved.
        """
        if any(item.kind == ERASURE for item in items):
            raise InputError("kind: 'erasure' is reserved; use erase(seq, reason)")
        if self._key is None and any(item.must_checkpoint for item in items):
            raise JournalError("a signed checkpoint is needed, but the journal was opened without a key")
        request, is_mine = _Request(items), False
        try:
            with self._turn:
                self._waiting.append(request)
                # Whoever commits takes everybody along, and a commit has SQLite's own deadline.
                while self._is_committing and not request.is_done:
                    self._turn.wait(_WAIT_SECONDS)
                is_mine = not request.is_done
                self._is_committing |= is_mine
            if is_mine:
                with self._mutex:
                    self._commit_waiting()
        finally:
            if is_mine:
                with self._turn:
                    self._is_committing = False
                    self._turn.notify_all()
        if request.error is not None:
            raise request.error
        return request.entries or []

    def sealed_for(self, patient: str) -> int:
        """How many payloads are sealed for a patient and can be read.

        Raises:
            JournalError: the journal cannot be read.
        """
        with self._mutex, storage_errors(self.path, "read"):
            self._writer.require_open()
            if self._writer.keyring is None:
                return 0
            keys = {row.id for row in read_data_keys(self._writer.connection, self._writer.keyring.tag(patient))}
            return sum(count for key, count in count_sealed(self._writer.connection).items() if key in keys)

    def erase_patient(self, patient: str, reason: str) -> AuditEntry:
        """Destroy a patient's data keys, and with them every payload that was sealed for them; say so in the chain.

        The wrapped keys are overwritten and deleted, and the write-ahead log is emptied. What is left of the payloads
        are ciphertexts that nothing opens. Copies of the key table that the drive or a backup keeps are beyond reach;
        whoever has one and the device's key can still read what they have of the ciphertexts.

        Args:
            patient: As given to `append`.
            reason: Why, for the record; it must not name the patient.

        Returns:
            The entry that records the erasure.

        Raises:
            JournalError: nothing is sealed for this patient, or a reader kept the write-ahead log from being emptied
                (the keys are deleted then, and the log goes when the journal is next opened).
        """
        with self._mutex:
            self._writer.require_open()
            if self._writer.keyring is None:
                raise JournalError("nothing is sealed in a journal without a key", hint="erase entries one by one")
            with storage_errors(self.path, "read"):
                rows = read_data_keys(self._writer.connection, self._writer.keyring.tag(patient))
            if not rows:
                raise JournalError("nothing is sealed for this patient: unknown, or erased already")
            keys = [row.id for row in rows]
            entry = self._append_erasure(
                erasure_payload(reason, keys=keys), [write for key in keys for write in _delete_key(key)]
            )
            self._writer.forget_keys(patient)
            self._writer.empty_log(
                "the patient's keys are deleted, but a reader keeps them alive in the write-ahead log"
            )
            return entry

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
            self._writer.require_open()
            with storage_errors(self.path, "read"):
                found = self._writer.connection.execute(
                    "SELECT e.kind FROM entries e JOIN payloads p ON p.seq = e.seq WHERE e.seq = ?", (seq,)
                ).fetchone()
            if found is None:
                raise JournalError(f"entry {seq} has no payload to erase: it never existed or is erased already")
            if found[0] == ERASURE:
                raise JournalError(f"entry {seq} records an erasure, which cannot be erased itself")
            entry = self._append_erasure(erasure_payload(reason, seq=seq), [_delete_payload(seq)])
            self._writer.empty_log(
                f"the payload of entry {seq} is deleted, but a reader keeps it alive in the write-ahead log"
            )
            return entry

    def retain(
        self, before_ms: int, reason: str, *, kept_kinds: Collection[str] = (), is_dry_run: bool = False
    ) -> Retained:
        """Erase payloads of entries older than a time, never a younger one; the chain stays.

        The time of an entry is what the device's clock said. So that a clock that was wrong costs no younger payload,
        an entry counts as older only if every entry before it does, and if its clock had been set at all. Data keys
        whose stretch of time is over and that seal nothing any more go as well.

        Args:
            before_ms: Entries of this time or later stay.
            reason: For the record.
            kept_kinds: Kinds that stay whatever their age; erasures always do.
            is_dry_run: Only count.

        Returns:
            What was, or would be, erased. Interrupted, the same call goes on.

        Raises:
            JournalError: it could not be written, or a reader kept the write-ahead log from being emptied.
        """
        with self._mutex:
            self._writer.require_open()
            with storage_errors(self.path, "read"):
                found = read_older(self._writer.connection, before_ms, {ERASURE, *kept_kinds})
            erased = 0
            if not is_dry_run:
                for first in range(0, len(found.seqs), _RETAIN_CHUNK):
                    part = found.seqs[first : first + _RETAIN_CHUNK]
                    deletions = [_delete_payload(seq) for seq in part]
                    self._append_erasure(erasure_payload(reason, stretches=_stretches(part)), deletions)
                    self._writer.empty_log("payloads are deleted, but a reader keeps them alive in the write-ahead log")
                    erased += len(part)
            with storage_errors(self.path, "read"):
                used = count_sealed(self._writer.connection)
                keys = [
                    row.id
                    for row in read_data_keys(self._writer.connection)
                    if row.id not in used and (row.epoch + 1) * EPOCH_MS <= before_ms
                ]
            if keys and not is_dry_run:
                self._append_erasure(
                    erasure_payload(reason, keys=keys), [write for key in keys for write in _delete_key(key)]
                )
                self._writer.forget_keys()
                self._writer.empty_log("data keys are deleted, but a reader keeps them alive in the write-ahead log")
            return Retained(len(found.seqs) if is_dry_run else erased, len(keys), found.unsure, before_ms)

    def entries(self, start: int = 0, kind: str | None = None) -> Iterator[tuple[AuditEntry, bytes | None]]:
        """Entries from `start` on, of one kind or all, with their payloads (None: erased)."""
        return read_entries(self.path, start, kind, key=self._key)

    def payload(self, seq: int) -> bytes | None:
        """The payload of one entry, None when it was erased.

        Raises:
            JournalError: there is no such entry.
        """
        with self._mutex, storage_errors(self.path, "read"):
            self._writer.require_open()
            row = next(read_rows(self._writer.connection, seq), None)
            if row is None or row.entry.seq != seq:
                raise JournalError(f"journal {self.path} has no entry {seq}")
            return Unsealer(self._writer.connection, self._writer.keyring).open(row)

    def last_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint. Kept outside (`to_json`), it shows later whether the tail was cut."""
        with self._mutex:
            return self._writer.checkpoint

    def close(self) -> None:
        """Sign and force out what is not yet, and let the next writer in; closing twice is harmless.

        Raises:
            JournalError: the last checkpoint could not be written; the journal is closed all the same.
        """
        with self._mutex:
            self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append_erasure(self, payload: bytes, writes: Sequence[Write]) -> AuditEntry:
        (entry,) = self._writer.append([NewEntry(ERASURE, payload, must_checkpoint=self.is_signing)], writes)
        return entry

    def _commit_waiting(self) -> None:
        """Commit everything that waits; each caller finds its entries or the error."""
        requests = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            entries = self._writer.append([item for request in requests for item in request.items])
        except Exception as error:
            for request in requests:
                request.error = error
            return
        except BaseException:  # this thread was interrupted; the others did not ask for that
            for request in requests:
                request.error = JournalError(f"journal {self.path}: the commit was interrupted")
            raise
        for request in requests:
            request.entries, entries = entries[: len(request.items)], entries[len(request.items) :]


def _stretches(seqs: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending numbers as runs without gaps."""
    runs: list[tuple[int, int]] = []
    for seq in seqs:
        if runs and runs[-1][1] == seq - 1:
            runs[-1] = (runs[-1][0], seq)
        else:
            runs.append((seq, seq))
    return runs


def _delete_payload(seq: int) -> Write:
    return "DELETE FROM payloads WHERE seq = ?", (seq,)


def _delete_key(key: int) -> list[Write]:
    # Overwritten first: what SQLite zeroes on deletion is up to its settings, what it writes into a row is not.
    return [
        ("UPDATE data_keys SET wrapped = zeroblob(length(wrapped)) WHERE id = ?", (key,)),
        ("DELETE FROM data_keys WHERE id = ?", (key,)),
    ]
