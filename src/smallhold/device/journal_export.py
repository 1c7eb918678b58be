"""An export for an inspector: a folder that proves itself without the device, and shows only what it is meant to show.

==================  ====================================================================================================
file                what it holds
==================  ====================================================================================================
README.md           what this is, what is shown and withheld, how to verify it
journal.jsonl       every entry of the chain with its checkpoints; payloads as stored where they are disclosed
payloads.jsonl      the disclosed payloads in the clear, one line an entry
data-keys.json      the data keys that open the disclosed sealed payloads
device.pem          the device's public key
SHA256SUMS          digests of the files above, as `sha256sum -c` reads them
==================  ====================================================================================================

What is withheld keeps its entry: number, time, kind and digest, chained and signed. So an inspector sees that something
is there and, when it is shown later, that it is that very thing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from smallhold.device.durable_file import fsync_directory, write_new_file
from smallhold.device.journal_chain import ERASURE, Checkpoint
from smallhold.device.journal_check import Mark, Row, VerifyReport
from smallhold.device.journal_seal import Keyring, sealing_key, unseal
from smallhold.device.journal_store import Unsealer, read_data_keys, read_rows, snapshot
from smallhold.device.journal_verify import read_export, rows_to_lines, verify_export
from smallhold.device.trust import key_id, load_public_key, save_public_key
from smallhold.errors import InputError, JournalError
from smallhold.records import canonical_json

_JOURNAL, _PAYLOADS, _KEYS, _KEY = "journal.jsonl", "payloads.jsonl", "data-keys.json", "device.pem"
_SUMS, _COVER = "SHA256SUMS", "README.md"
_FILES = (_COVER, _JOURNAL, _PAYLOADS, _KEYS, _KEY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disclosure:
    """What is shown.

    Attributes:
        patient: Only what was sealed for this patient; None: everything.
        from_ms: Only entries of this time or later (the device's clock).
        to_ms: Only entries before this time.
    """

    patient: str | None = None
    from_ms: int | None = None
    to_ms: int | None = None

    def has_time(self, t_ms: int) -> bool:
        """Whether an entry of this time is within the window."""
        return (self.from_ms is None or t_ms >= self.from_ms) and (self.to_ms is None or t_ms < self.to_ms)


@dataclass(slots=True)
class ExportCounts:
    """Entries in an export: all, and those whose payload is shown, withheld, or was erased before."""

    entries: int = 0
    disclosed: int = 0
    withheld: int = 0
    erased: int = 0


def export_for_inspector(
    path: Path, folder: Path, key: Ed25519PrivateKey, *, disclosure: Disclosure | None = None, now: datetime
) -> ExportCounts:
    """Write the folder; it appears whole or not at all.

    Args:
        path: The journal.
        folder: Must not exist yet.
        key: The device's key: it opens what is disclosed, and its public part goes with the export.
        disclosure: What is shown; default: everything that is there.
        now: Goes onto the cover.

    Raises:
        InputError: the folder exists or cannot be written.
        JournalError: no journal, a damaged one, or a payload cannot be opened.
    """
    if folder.exists():
        raise InputError(f"{folder} exists already: an export is never overwritten")
    shown = disclosure or Disclosure()
    counts, partial = ExportCounts(), folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(mode=0o700)
        with snapshot(path) as connection:
            keyring = Keyring(key)
            known = {row.id: row for row in read_data_keys(connection)}
            tag = None if shown.patient is None else keyring.tag(shown.patient)
            unsealer, secrets, opened = Unsealer(connection, keyring), dict[str, str](), list[bytes]()

            def rows() -> Iterator[Row]:
                for row in read_rows(connection):
                    counts.entries += 1
                    sealed = sealing_key(row.nonce)
                    is_erased = row.payload is None or (sealed is not None and sealed not in known)
                    is_theirs = tag is None or (sealed in known and known[sealed].tag == tag)
                    if row.entry.kind == ERASURE or is_erased:
                        counts.erased += is_erased
                        yield row
                    elif not is_theirs or not shown.has_time(row.entry.t_ms):
                        counts.withheld += 1
                        yield replace(row, nonce=None, payload=None, is_withheld=True)
                    else:
                        counts.disclosed += 1
                        if sealed is not None:
                            secrets[str(sealed)] = keyring.unwrap(known[sealed]).hex()
                        opened.append(_clear_line(row, unsealer.open(row)))
                        yield row

            write_new_file(partial / _JOURNAL, rows_to_lines(connection, rows()))
            write_new_file(partial / _PAYLOADS, opened)
        write_new_file(partial / _KEYS, [canonical_json(secrets)])
        save_public_key(key.public_key(), partial / _KEY)
        write_new_file(partial / _COVER, [_cover(counts, shown, key_id(key.public_key()), now).encode()])
        sums = [f"{hashlib.sha256((partial / name).read_bytes()).hexdigest()}  {name}\n".encode() for name in _FILES]
        write_new_file(partial / _SUMS, sums)
        partial.rename(folder)
        fsync_directory(folder.parent)
    except OSError as error:
        raise InputError(f"the export {folder} cannot be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return counts


def verify_folder(
    folder: Path,
    public_key: Ed25519PublicKey | None = None,
    outside: Checkpoint | None = None,
    *,
    marks: Sequence[Mark] = (),
) -> tuple[VerifyReport, Ed25519PublicKey]:
    """Verify an export without the device: digests, chain, signatures, and that clear payloads are the chained ones.

    Args:
        folder: From `export_for_inspector`.
        public_key: The device's key from a source that you trust; default: the one in the folder, which proves only
            that one device signed it all.
        outside: As for `verify`.
        marks: As for `verify`.

    Returns:
        The report, and the key that it was verified with.

    Raises:
        JournalError: a file is missing, altered or malformed, or a disclosed payload is not what the chain says.
    """
    _check_sums(folder)
    key = public_key or load_public_key(folder / _KEY)
    report = verify_export(folder / _JOURNAL, key, outside, marks=marks)
    if report.is_intact:
        _check_clear(folder)
    return report, key


def _check_sums(folder: Path) -> None:
    try:
        lines = (folder / _SUMS).read_text().splitlines()
        listed = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        if set(listed) != set(_FILES):
            raise JournalError(f"{folder / _SUMS}: expected the files {', '.join(_FILES)}, got {', '.join(listed)}")
        for name in _FILES:
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != listed[name]:
                raise JournalError(f"{folder / name} was altered: it does not have its digest in {_SUMS}")
    except (OSError, ValueError) as error:
        raise JournalError(f"{folder} is not a whole export for an inspector: {error}") from error


def _check_clear(folder: Path) -> None:
    """Every disclosed payload again: opened with its key, it must be the line that people read."""
    try:
        secrets = json.loads((folder / _KEYS).read_bytes())
        ciphers = {int(name): AESGCM(bytes.fromhex(secret)) for name, secret in secrets.items()}
        with (folder / _PAYLOADS).open("rb") as lines:
            for row in read_export(folder / _JOURNAL):
                sealed = sealing_key(row.nonce)
                if row.payload is None or row.nonce is None or row.entry.kind == ERASURE:
                    continue
                if sealed is not None and sealed not in ciphers:
                    continue  # erased: the ciphertext is chained, and nobody has the key
                payload = row.payload
                if sealed is not None:
                    payload = unseal(ciphers[sealed], row.nonce, payload, seq=row.entry.seq, kind=row.entry.kind)
                if lines.readline() != _clear_line(row, payload):
                    raise JournalError(
                        f"{folder / _PAYLOADS}: the payload of entry {row.entry.seq} is not the chained one"
                    )
            if lines.readline():
                raise JournalError(f"{folder / _PAYLOADS} holds more than the journal")
    except (OSError, ValueError, AttributeError) as error:
        raise JournalError(f"{folder} is not a whole export for an inspector: {error}") from error


def _clear_line(row: Row, payload: bytes | None) -> bytes:
    content = b"" if payload is None else payload
    try:
        shown: dict[str, Any] = {"payload": json.loads(content)}
        return canonical_json({"seq": row.entry.seq, "t_ms": row.entry.t_ms, "kind": row.entry.kind, **shown}) + b"\n"
    except (ValueError, RecursionError, InputError):
        shown = {"payload_base64": base64.b64encode(content).decode()}
        return canonical_json({"seq": row.entry.seq, "t_ms": row.entry.t_ms, "kind": row.entry.kind, **shown}) + b"\n"


def _cover(counts: ExportCounts, shown: Disclosure, device: str, now: datetime) -> str:
    window = f"{_time(shown.from_ms, 'the beginning')} to {_time(shown.to_ms, 'the end')}"
    who = "everybody" if shown.patient is None else "one patient"
    return f"""# Journal export

Made {now.astimezone(UTC):%Y-%m-%d %H:%M} UTC by device `{device}`.
Research and engineering software, **not a medical device**.

| | |
| --- | --- |
| Entries in the chain | {counts.entries} |
| Payloads shown | {counts.disclosed} ({who}, {window}) |
| Payloads withheld | {counts.withheld}: their entries are here with number, time, kind and digest |
| Payloads erased before | {counts.erased}: the chain says when and why |

Read `payloads.jsonl`: one line an entry. Verify without the device:

    smallhold journal verify --export THIS-FOLDER --key device.pem

Take `device.pem` from somebody you trust, not from this folder: the folder's own copy shows only that one device
signed everything. Its key id must be the device's name above. `sha256sum -c SHA256SUMS` checks the files alone.

Not proved: that what was written is true, that the device's clock was right, and that nothing came after the last
entry; for that, compare with a checkpoint kept outside or a witness's statement (`--outside`, `--witness`).
"""


def _time(t_ms: int | None, open_end: str) -> str:
    return open_end if t_ms is None else f"{datetime.fromtimestamp(t_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
