"""What was asked, what came back and what it cost: one SQLite file, so that nothing is paid for twice.

A request is written down before it is sent, with an upper bound of its tokens. The response and its true tokens are
written in one transaction before anybody sees the response. A process that is killed in between leaves a request
that may have been paid for; the caps count it at its bound. Prompts and keys are never written, only digests.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

from smallhold.errors import DataError

NAME = "answers.db"
_APPLICATION_ID = 0x534D4845  # "SMHE", in the file's header
_TABLES = """
CREATE TABLE requests (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL, sent TEXT NOT NULL, state TEXT NOT NULL,
  prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL);
CREATE TABLE responses (key TEXT PRIMARY KEY, received TEXT NOT NULL, body TEXT NOT NULL);
"""

#: How a request ended that costs no tokens: it never left, or the server declined it.
Ending = Literal["unsent", "refused"]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of one request, or of many.

    Attributes:
        prompt: Of the question.
        completion: Of the answer.
    """

    prompt: int
    completion: int

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.prompt + other.prompt, self.completion + other.completion)

    @property
    def total(self) -> int:
        """Both."""
        return self.prompt + self.completion


@dataclass(frozen=True, slots=True)
class Spend:
    """What has been spent so far, over all runs into one folder.

    Attributes:
        requests: Requests that left this machine.
        maybe_paid: Those among them whose fate is unknown.
        tokens: True tokens of the answered ones, upper bounds of those whose fate is unknown.
    """

    requests: int
    maybe_paid: int
    tokens: Tokens


class Store:
    """The file; one process at a time."""

    def __init__(self, folder: Path) -> None:
        """Open or make the file.

        Raises:
            DataError: another process uses it, or it is damaged or something else.
        """
        self._path = folder / NAME
        with self._errors():
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
            self._connection = sqlite3.connect(self._path, isolation_level=None, timeout=1.0)
        try:
            with self._errors():
                self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def response(self, key: str) -> str | None:
        """What was answered to a request, or None."""
        with self._errors():
            row = self._connection.execute("SELECT body FROM responses WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def begin(self, key: str, now: str, bound: Tokens) -> int:
        """Write down a request that is about to be sent; returns its number."""
        with self._errors():
            cursor = self._connection.execute(
                "INSERT INTO requests (key, sent, state, prompt_tokens, completion_tokens) VALUES (?, ?, ?, ?, ?)",
                (key, now, "maybe_paid", bound.prompt, bound.completion),
            )
        return int(cursor.lastrowid or 0)

    def answer(self, number: int, key: str, now: str, body: str, tokens: Tokens) -> None:
        """Keep the response of a request together with its true tokens."""
        with self._errors(), self._transaction():
            self._connection.execute("INSERT INTO responses VALUES (?, ?, ?)", (key, now, body))
            self._connection.execute(
                "UPDATE requests SET state = 'answered', prompt_tokens = ?, completion_tokens = ? WHERE id = ?",
                (tokens.prompt, tokens.completion, number),
            )

    def end(self, number: int, ending: Ending) -> None:
        """Write down that a request was not carried out; one that is never ended may have been paid for."""
        with self._errors():
            self._connection.execute(
                "UPDATE requests SET state = ?, prompt_tokens = 0, completion_tokens = 0 WHERE id = ?",
                (ending, number),
            )

    def spend(self) -> Spend:
        """What has been spent."""
        with self._errors():
            requests, maybe, prompt, completion = self._connection.execute(
                "SELECT count(*), coalesce(sum(state = 'maybe_paid'), 0), coalesce(sum(prompt_tokens), 0), "
                "coalesce(sum(completion_tokens), 0) FROM requests WHERE state != 'unsent'"
            ).fetchone()
        return Spend(requests, maybe, Tokens(prompt, completion))

    def _prepare(self) -> None:
        run = self._connection.execute
        run("PRAGMA trusted_schema = OFF")
        run("PRAGMA locking_mode = EXCLUSIVE")
        run("PRAGMA fullfsync = ON")  # macOS: fsync alone stops at the drive's cache
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")  # in this mode every commit is on the disk when it returns
        run("BEGIN IMMEDIATE")
        if run("SELECT count(*) FROM sqlite_schema").fetchone() == (0,):
            run(f"PRAGMA application_id = {_APPLICATION_ID}")
            for statement in _TABLES.split(";"):
                run(statement)
        run("COMMIT")
        (application_id,) = run("PRAGMA application_id").fetchone()
        if application_id != _APPLICATION_ID:
            raise DataError(f"{self._path}: expected answers of an endpoint, got another database")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            hint = None
            if "locked" in str(error):
                hint = "another process is labelling into this folder: wait for it, or choose another --out"
            raise DataError(f"{self._path}: cannot be used: {error}", hint=hint) from error
