"""The journal as the console shows it: newest entries first, and a verification of the whole in a process of its own.

Run as a module it verifies and prints JSON: `python -m smallhold.console.audit JOURNAL PUBLIC_KEY_HEX`. Hashing a large
journal takes seconds of a core, which the ward's own process must not lose.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from smallhold.device.journal_seal import Keyring
from smallhold.device.journal_store import Unsealer, read_last_seq, read_rows, snapshot
from smallhold.device.journal_verify import verify
from smallhold.errors import JournalError

_WINDOW = 2_000
_MOST_SCANNED = 50_000
_LONGEST_TEXT = 4_000
_VERIFY_SECONDS = 300.0


class Audit:
    """Looks into a journal; safe from any thread.

    Args:
        path: The journal's file.
        key: The device's key: opens what is sealed, and its public half verifies.
    """

    def __init__(self, path: Path, key: Ed25519PrivateKey) -> None:
        self._path, self._key = path, key
        self._verifying = threading.Lock()

    def page(self, *, before: int | None, kind: str | None, limit: int) -> dict[str, Any]:
        """Entries, newest first.

        Args:
            before: Entries with a lower number alone; None: from the end.
            kind: Of this kind alone.
            limit: At most so many.

        Returns:
            `entries`, and `before`: where to go on, None at the beginning of the journal.

        Raises:
            JournalError: the journal cannot be read.
        """
        found: list[dict[str, Any]] = []
        with snapshot(self._path) as connection:
            unsealer = Unsealer(connection, Keyring(self._key))
            last = read_last_seq(connection)
            end = last + 1 if before is None else min(before, last + 1)
            lowest = max(0, end - _MOST_SCANNED)
            while end > lowest and len(found) < limit:
                start = max(lowest, end - (_WINDOW if kind else limit))
                rows = []
                for row in read_rows(connection, start):
                    if row.entry.seq >= end:
                        break
                    if kind is None or row.entry.kind == kind:
                        rows.append(row)
                for row in reversed(rows):
                    if len(found) == limit:
                        break
                    found.append(
                        {**asdict(row.entry), **_payload(unsealer, row), "is_signed": row.checkpoint is not None}
                    )
                end = start
        next_before = found[-1]["seq"] if len(found) == limit else end
        return {"entries": found, "before": next_before or None, "last": last}

    def verify(self) -> dict[str, Any]:
        """Verify every entry; `is_intact`, counts, and the first problem.

        Raises:
            JournalError: another verification runs, or this one did not end in time.
        """
        if not self._verifying.acquire(blocking=False):
            raise JournalError("a verification runs already", hint="try again when it has ended")
        try:
            public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
            words = [sys.executable, "-m", "smallhold.console.audit", str(self._path), public]
            done = subprocess.run(  # noqa: S603 - our own words, no shell
                words, stdin=subprocess.DEVNULL, capture_output=True, timeout=_VERIFY_SECONDS, check=False
            )
            report = json.loads(done.stdout)
        except subprocess.TimeoutExpired as error:
            raise JournalError(
                f"the verification did not end within {_VERIFY_SECONDS:g} s", hint="smallhold journal verify"
            ) from error
        except (OSError, ValueError) as error:
            raise JournalError("the verification could not be run", hint="smallhold journal verify") from error
        finally:
            self._verifying.release()
        if "error" in report:
            raise JournalError(report["error"])
        return dict(report)


def _payload(unsealer: Unsealer, row: Any) -> dict[str, Any]:
    try:
        payload = unsealer.open(row)
    except JournalError:
        return {"payload": None, "state": "sealed"}
    if payload is None:
        return {"payload": None, "state": "erased"}
    text = payload.decode(errors="replace")
    is_cut = len(text) > _LONGEST_TEXT
    return {"payload": text[:_LONGEST_TEXT], "state": "cut" if is_cut else "whole"}


def main(path: str, public_key: str) -> int:
    """Verify and print."""
    with suppress(OSError):
        os.nice(10)  # the ward comes first
    try:
        report = verify(Path(path), Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)))
    except JournalError as error:
        print(json.dumps({"error": str(error)}))
        return 1
    print(json.dumps({"is_intact": report.is_intact, **asdict(report)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
