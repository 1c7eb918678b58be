"""The round journal: what happened in a job, written before it counts, each entry chained to the one before.

A line of JSON an entry, on the disk before the next step is taken. Whoever starts a server again over the same folder
reads where it was. A line that a crash cut short was never acted upon and is dropped; any other damage is an error.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smallhold.errors import JournalError
from smallhold.records import canonical_json, sha256_hex

_FIRST = "0" * 64


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened.

    Attributes:
        seq: 0 for the first.
        t_ms: Wall clock.
        kind: `job`, `update`, `refused`, `round_closed` or `finished`; of secure rounds `message`, `turn_closed` and
            `turn_failed` instead of `update`.
        body: What, with digests of everything that lies in files.
        prev: Hash of the entry before.
        hash: SHA-256 of the other members.
    """

    seq: int
    t_ms: int
    kind: str
    body: dict[str, Any]
    prev: str
    hash: str


class RoundJournal:
    """An append-only file; one process at a time."""

    def __init__(self, path: Path, *, clock_ms: Callable[[], int]) -> None:
        """Open or create a journal, and check all of it.

        Raises:
            JournalError: another process has it open, or it was altered.
        """
        self._clock_ms = clock_ms
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise JournalError(f"{path}: another server has this job open") from error
            self.entries, length = _read(path)
            self._file.truncate(length)
        except BaseException:
            self._file.close()
            raise

    def append(self, kind: str, **body: Any) -> Entry:
        """Add an entry; it is on the disk when this returns.

        Raises:
            JournalError: it could not be written; the journal is then as before.
        """
        last = self.entries[-1] if self.entries else None
        entry = _chain(last, self._clock_ms(), kind, body)
        self._file.seek(0, os.SEEK_END)
        before = self._file.tell()
        try:
            self._file.write(_line(entry))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(before)
            raise JournalError(f"{self._file.name}: cannot be written: {error}") from error
        self.entries.append(entry)
        return entry

    def close(self) -> None:
        """Let another process have it."""
        self._file.close()


def read_journal(path: Path) -> list[Entry]:
    """Read and check a journal without opening it for writing.

    Raises:
        JournalError: missing, or altered.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[list[Entry], int]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise JournalError(f"{path}: cannot be read: {error}") from error
    whole = data.rfind(b"\n") + 1
    entries: list[Entry] = []
    for number, line in enumerate(data[:whole].splitlines()):
        try:
            entry = Entry(**json.loads(line))
            is_genuine = entry == _chain(entries[-1] if entries else None, entry.t_ms, entry.kind, entry.body)
        except (ValueError, TypeError, RecursionError) as error:
            raise JournalError(f"{path}, line {number + 1}: malformed: {error}") from error
        if not is_genuine:
            raise JournalError(f"{path}, line {number + 1}: altered, or an entry before it is missing")
        entries.append(entry)
    return entries, whole


def _chain(last: Entry | None, t_ms: int, kind: str, body: dict[str, Any]) -> Entry:
    seq, prev = (0, _FIRST) if last is None else (last.seq + 1, last.hash)
    own = sha256_hex(canonical_json({"seq": seq, "t_ms": t_ms, "kind": kind, "body": body, "prev": prev}))
    return Entry(seq, t_ms, kind, body, prev, own)


def _line(entry: Entry) -> bytes:
    members = {name: getattr(entry, name) for name in ("seq", "t_ms", "kind", "body", "prev", "hash")}
    return canonical_json(members) + b"\n"
