"""What a live ward must know after its process died: one SQLite file, written in small transactions.

It is a convenience beside the journal, not evidence: the journal says what happened, this says where to go on. Readings
that were journalled after the last save are taken from the journal again.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smallhold.errors import JournalError
from smallhold.records import canonical_json

_APPLICATION_ID = 0x534D4C56  # "SMLV"
_TABLES = """
CREATE TABLE IF NOT EXISTS bed (patient TEXT PRIMARY KEY, memory TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS owed (
  patient TEXT NOT NULL, bin INTEGER NOT NULL, t_ms INTEGER NOT NULL, code TEXT NOT NULL, value REAL NOT NULL);
CREATE INDEX IF NOT EXISTS owed_by_bed ON owed (patient, bin);
CREATE TABLE IF NOT EXISTS ward (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
Owed = tuple[str, float, int]


@dataclass(slots=True)
class KeptBed:
    """One bed as it was saved.

    Attributes:
        memory: From `Bedside.memory`, with what the ward keeps beside it.
        owed: What the model of this bed was owed from its present session's first bin on, in order.
        bins: Bins closed since admission.
        beside: Task of each specialist to what it was owed, as `owed`.
    """

    memory: dict[str, Any]
    owed: list[Owed] = field(default_factory=list)
    bins: int = 0
    beside: dict[str, list[Owed]] = field(default_factory=dict)


def forget_patient(path: Path, patient: str) -> bool:
    """Take a patient out of the file of a ward that does not run; whether they were in it.

    Raises:
        JournalError: the file is damaged, or something else.
    """
    if not path.exists():
        return False
    state = LiveState(path)
    try:
        is_here = patient in state.load()[0]
        state.discharge(patient)
    finally:
        state.close()
    return is_here


#: Between patient and task in the name of what a specialist is owed; no identifier holds a control character.
_OF = "\n"


def _name(patient: str, task: str) -> str:
    return f"{patient}{_OF}{task}" if task else patient


class LiveState:
    """The file of one ward; used from one thread.

    Args:
        path: Made new when absent, mode 0600.

    Raises:
        JournalError: the file cannot be opened, or is something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._owed: list[tuple[str, int, int, str, float]] = []
        self._bins: dict[str, int] = {}
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
            self._db = sqlite3.connect(path, isolation_level=None, timeout=5.0)
            self._db.execute("PRAGMA trusted_schema = OFF")
            self._db.execute("PRAGMA secure_delete = ON")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            held = self._db.execute("PRAGMA application_id").fetchone()[0]
            if held not in (0, _APPLICATION_ID):
                raise JournalError(f"{path}: expected a ward's state, found another database")
            self._db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            self._db.executescript(_TABLES)
        except (sqlite3.Error, OSError) as error:
            raise JournalError(
                f"the ward's state {path} could not be opened: {error}",
                hint="move the file away to begin with empty beds; the journal is not affected",
            ) from error

    def load(self) -> tuple[dict[str, KeptBed], dict[str, Any]]:
        """Every bed, and what the ward itself kept (`save`'s `ward`).

        Raises:
            JournalError: the file is damaged.
        """
        try:
            ward = {name: json.loads(value) for name, value in self._db.execute("SELECT name, value FROM ward")}
            beds = {
                patient: KeptBed(json.loads(memory))
                for patient, memory in self._db.execute("SELECT patient, memory FROM bed")
            }
            rows = self._db.execute("SELECT patient, bin, t_ms, code, value FROM owed ORDER BY rowid")
            names: dict[str, int] = {}
            for name, number, t_ms, code, value in rows:
                patient, _, task = name.partition(_OF)
                bed = beds.get(patient)
                if bed is not None:
                    owed = bed.beside.setdefault(task, []) if task else bed.owed
                    owed.append((code, value, t_ms))
                    names[name] = number if code else number + 1
                    bed.bins = bed.bins if task else names[name]
        except (sqlite3.Error, ValueError) as error:
            raise JournalError(f"the ward's state {self.path} cannot be read: {error}") from error
        self._bins = dict.fromkeys(beds, 0) | names
        return beds, ward

    def owe(self, patient: str, code: str, value: float, t_ms: int, task: str = "") -> None:
        """Keep what the general model, or the specialist of `task`, is owed; written with the next `save`."""
        name = _name(patient, task)
        number = self._bins.get(name, 0)
        self._owed.append((name, number, t_ms, code, value))
        if not code:
            self._bins[name] = number + 1

    def bins(self, patient: str) -> int:
        """Bins of this patient that were closed."""
        return self._bins.get(patient, 0)

    def save(self, memories: Mapping[str, dict[str, Any]], ward: Mapping[str, Any]) -> None:
        """Write beds that changed, what their models are owed, and the ward's own, in one transaction.

        Raises:
            JournalError: the disk is full or gone; what was not written is kept for the next call.
        """
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                "INSERT OR REPLACE INTO bed VALUES (?, ?)",
                [(patient, canonical_json(memory).decode()) for patient, memory in memories.items()],
            )
            self._db.executemany("INSERT INTO owed VALUES (?, ?, ?, ?, ?)", self._owed)
            self._db.executemany(
                "INSERT OR REPLACE INTO ward VALUES (?, ?)",
                [(name, canonical_json(value).decode()) for name, value in ward.items()],
            )
            self._db.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise JournalError(f"the ward's state {self.path} could not be written: {error}") from error
        self._owed.clear()

    def prune(self, patient: str, before_bin: int, task: str = "") -> None:
        """Forget what a model was owed before a bin that its session no longer holds."""
        with suppress(sqlite3.Error):  # kept rows cost space and nothing else
            self._db.execute("DELETE FROM owed WHERE patient = ? AND bin < ?", (_name(patient, task), before_bin))

    def discharge(self, patient: str) -> None:
        """Forget a patient who has left."""
        self._owed = [row for row in self._owed if row[0].partition(_OF)[0] != patient]
        gone = [name for name in self._bins if name.partition(_OF)[0] == patient]
        for name in gone:
            del self._bins[name]
        with suppress(sqlite3.Error):
            self._db.executemany("DELETE FROM owed WHERE patient = ?", [(name,) for name in {patient, *gone}])
            self._db.execute("DELETE FROM bed WHERE patient = ?", (patient,))
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the log still holds the rows as they were

    def close(self) -> None:
        """Close the file; what was not saved is lost."""
        with suppress(sqlite3.Error):
            self._db.close()
