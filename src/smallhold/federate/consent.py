"""Who may be learnt from: a site's list of people who withdrew, kept where the rows are.

A line of JSON each withdrawal, by the identifier that the site's rows are grouped by. The list never leaves the site;
an update says how many rows were left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
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
        self._lines = path.read_bytes().splitlines() if path.exists() else []
        try:
            self._withdrawn = {str(json.loads(line)["group"]) for line in self._lines}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{path}: malformed list of withdrawals: {error}") from error

    def withdraw(self, group: str) -> None:
        """Write a withdrawal down; it holds from the next round on."""
        if group in self._withdrawn:
            return
        line = canonical_json({"group": group, "t_ms": wall_ms()})
        write_durably(self._path, [b"\n".join([*self._lines, line, b""])], mode=0o600)
        self._lines.append(line)
        self._withdrawn.add(group)

    def allowed(self, groups: Sequence[str]) -> list[int]:
        """Indices of the rows that may be learnt from."""
        return [index for index, group in enumerate(groups) if group not in self._withdrawn]

    @property
    def digest(self) -> str:
        """SHA-256 of the list, which proves what it was without showing it to anybody."""
        return sha256_hex(b"\n".join(self._lines))
