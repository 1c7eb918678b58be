"""Who may be learnt from: a site's list of people who withdrew, kept where the rows are.

A line of JSON each withdrawal, by the identifier that the site's rows are grouped by, and each return, which has
`"is_restored": true`; the last line of somebody holds. The list never leaves the site; an update says how many rows
were left out.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from smallhold.device.durable_file import write_durably
from smallhold.device.wall_clock import wall_ms
from smallhold.errors import DataError
from smallhold.records import canonical_json, sha256_hex


class ConsentList:
    """Withdrawals of one site."""

    def __init__(self, path: Path) -> None:
        """Read the list; an absent file holds no withdrawal.

        Raises:
            DataError: malformed: nobody may be learnt from while it cannot be read.
        """
        self._path = path
        self._read()

    def withdraw(self, group: str, *, said_ms: int | None = None) -> None:
        """Write a withdrawal down, beside what others wrote meanwhile; it holds from the next round on.

        Args:
            group: Who withdrew.
            said_ms: When, UTC; what the list says of them since then stays. None is now.

        Raises:
            DataError: what others wrote is malformed.
            OSError: it cannot be written; the list is as it was.
        """
        self._say({"group": group}, said_ms, is_withdrawn=True)

    def restore(self, group: str, *, said_ms: int | None = None) -> None:
        """Write down that one who withdrew may be learnt from again; see `withdraw`."""
        self._say({"group": group, "is_restored": True}, said_ms, is_withdrawn=False)

    def _say(self, said: dict[str, str | bool], said_ms: int | None, *, is_withdrawn: bool) -> None:
        group = str(said["group"])
        with self._alone():
            self._read()
            is_older = said_ms is not None and said_ms < self._last_ms.get(group, said_ms)
            if is_older or (group in self._withdrawn) == is_withdrawn:
                return
            line = canonical_json({**said, "t_ms": wall_ms() if said_ms is None else said_ms})
            write_durably(self._path, [b"\n".join([*self._lines, line, b""])], mode=0o600)
            self._read()

    def _read(self) -> None:
        self._lines = self._path.read_bytes().splitlines() if self._path.exists() else []
        self._withdrawn: set[str] = set()
        self._last_ms: dict[str, int] = {}
        try:
            for line in self._lines:
                said = json.loads(line)
                group = str(said["group"])
                self._last_ms[group] = int(said.get("t_ms", 0))
                if said.get("is_restored", False):
                    self._withdrawn.discard(group)
                else:
                    self._withdrawn.add(group)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"{self._path}: malformed list of withdrawals: {error}") from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Between processes: a ward writes what patients say, an administrator what was said on paper."""
        with self._path.with_name(f".{self._path.name}.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # held for one short file alone
            yield

    def allowed(self, groups: Sequence[str]) -> list[int]:
        """Indices of the rows that may be learnt from."""
        return [index for index, group in enumerate(groups) if group not in self._withdrawn]

    @property
    def digest(self) -> str:
        """SHA-256 of the list, which proves what it was without showing it to anybody."""
        return sha256_hex(b"\n".join(self._lines))
