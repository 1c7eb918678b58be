"""Alarms on their way out, in one SQLite file: what is in it survives a power cut and leaves once acknowledged."""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smallhold.assist.alarm_condition import AlarmChange, Change
from smallhold.assist.interop.hl7_alarm import AlarmEvent, event_of, write_alarm
from smallhold.device.wall_clock import wall_ms
from smallhold.errors import JournalError

_APPLICATION_ID = 0x534D414F  # "SMAO"
_TABLES = """
CREATE TABLE IF NOT EXISTS message (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, control_id TEXT NOT NULL, body BLOB NOT NULL, t_ms INTEGER NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0, refusal TEXT);
CREATE TABLE IF NOT EXISTS alarm (name TEXT PRIMARY KEY, events INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS mark (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
#: The newest refused messages are kept so that somebody can look at them.
_KEPT_REFUSED = 1_000


@dataclass(frozen=True, slots=True)
class Pending:
    """A message that waits."""

    seq: int
    control_id: str
    body: bytes
    attempts: int


class AlarmOutbox:
    """A queue of ORU^R40 messages, oldest first; safe from any thread.

    Guarantees:
        * What `put` returned for is on the disk.
        * The same bytes are sent again until somebody acknowledges or refuses them.
        * Changes and the place in the journal that they came from are written in one transaction.

    Args:
        path: Made new when absent, mode 0600.
        most: Waiting messages beyond are refused.
        sender: MSH-3.
        clock: Milliseconds UTC.

    Raises:
        JournalError: the file cannot be opened, or is something else.
    """

    def __init__(
        self, path: Path, *, most: int = 100_000, sender: str = "SMALLHOLD", clock: Callable[[], int] = wall_ms
    ) -> None:
        self.path, self._most, self._sender, self._clock = path, most, sender, clock
        self._lock = threading.Lock()
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
            self._db = sqlite3.connect(path, isolation_level=None, timeout=5.0, check_same_thread=False)
            self._db.execute("PRAGMA trusted_schema = OFF")
            self._db.execute("PRAGMA secure_delete = ON")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            held = self._db.execute("PRAGMA application_id").fetchone()[0]
            if held not in (0, _APPLICATION_ID):
                raise JournalError(f"{path}: expected a queue of alarms, found another database")
            self._db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            self._db.executescript(_TABLES)
        except (sqlite3.Error, OSError) as error:
            raise JournalError(
                f"the queue of alarms {path} could not be opened: {error}", hint="name another file with --queue"
            ) from error

    def put(self, changes: Iterable[AlarmChange], *, next_seq: int | None = None) -> int:
        """Queue what happened to alerts.

        Args:
            changes: In order.
            next_seq: The first journal entry that is not in them, kept as `next_seq`.

        Returns:
            How many messages were queued; acknowledgements and the like of unannounced alarms are told as `present`.

        Raises:
            JournalError: the disk is full or gone, or the queue is; nothing was queued.
        """
        with self._transaction("written"):
            count = 0
            for change in changes:
                count += self._put(change)
            if next_seq is not None:
                self._db.execute("INSERT OR REPLACE INTO mark VALUES ('next_seq', ?)", (str(next_seq),))
            (waiting,) = self._db.execute("SELECT count(*) FROM message WHERE refusal IS NULL").fetchone()
            if count and waiting > self._most:
                raise JournalError(
                    f"the queue of alarms {self.path} is full: {self._most} messages wait",
                    hint="see whether the receiver answers",
                )
        return count

    @property
    def next_seq(self) -> int | None:
        """The first journal entry that was not taken, None before `put` was told one."""
        row = self._row("SELECT value FROM mark WHERE name = 'next_seq'")
        return None if row is None else int(row[0])

    def oldest(self) -> Pending | None:
        """The message whose turn it is."""
        row = self._row(
            "SELECT seq, control_id, body, attempts FROM message WHERE refusal IS NULL ORDER BY seq LIMIT 1"
        )
        return None if row is None else Pending(*row)

    def done(self, seq: int) -> None:
        """A message was acknowledged."""
        with self._transaction("written"):
            self._db.execute("DELETE FROM message WHERE seq = ?", (seq,))

    def tried(self, seq: int) -> None:
        """A message was answered with an error; it stays."""
        with self._transaction("written"):
            self._db.execute("UPDATE message SET attempts = attempts + 1 WHERE seq = ?", (seq,))

    def refuse(self, seq: int, why: str) -> None:
        """The receiver will not take a message; it is kept apart, and the next one has its turn."""
        with self._transaction("written"):
            self._db.execute("UPDATE message SET refusal = ? WHERE seq = ?", (why[:200], seq))
            self._db.execute(
                "DELETE FROM message WHERE refusal IS NOT NULL AND seq NOT IN "
                "(SELECT seq FROM message WHERE refusal IS NOT NULL ORDER BY seq DESC LIMIT ?)",
                (_KEPT_REFUSED,),
            )

    def counts(self) -> tuple[int, int]:
        """How many wait, and how many were refused."""
        waiting, refused = self._row("SELECT count(*) - count(refusal), count(refusal) FROM message") or (0, 0)
        return int(waiting), int(refused)

    def close(self) -> None:
        """Close the file; what waits stays in it."""
        with self._lock, suppress(sqlite3.Error):
            self._db.close()

    def _row(self, query: str) -> tuple[Any, ...] | None:
        with self._lock:
            try:
                row: tuple[Any, ...] | None = self._db.execute(query).fetchone()
            except sqlite3.Error as error:
                raise JournalError(f"the queue of alarms {self.path} could not be read: {error}") from error
        return row

    def _put(self, change: AlarmChange) -> int:
        name = f"{change.alert.patient}:{change.alert.id}"
        row = self._db.execute("SELECT events FROM alarm WHERE name = ?", (name,)).fetchone()
        if row is None and change.change is Change.RESOLVED:
            return 0  # nobody was told of it
        event: AlarmEvent = event_of(change, is_known=row is not None)
        number, control_id, now_ms = 0 if row is None else row[0], secrets.token_hex(10), self._clock()
        body = write_alarm(event, control_id, now_ms, number=number, sender=self._sender)
        self._db.execute("INSERT INTO message (control_id, body, t_ms) VALUES (?, ?, ?)", (control_id, body, now_ms))
        if change.change is Change.RESOLVED:
            self._db.execute("DELETE FROM alarm WHERE name = ?", (name,))
        else:
            self._db.execute("INSERT OR REPLACE INTO alarm VALUES (?, ?)", (name, number + 1))
        return 1

    @contextmanager
    def _transaction(self, doing: str) -> Iterator[None]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield
                self._db.execute("COMMIT")
            except (sqlite3.Error, OSError) as error:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise JournalError(f"the queue of alarms {self.path} could not be {doing}: {error}") from error
            except BaseException:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise
