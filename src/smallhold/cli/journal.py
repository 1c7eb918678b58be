"""`smallhold journal`: read, verify and export what a device wrote down."""

from __future__ import annotations

import argparse
import base64
import json
import sys
from collections import deque
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from smallhold.cli.options import home_of
from smallhold.device.durable_file import write_durably
from smallhold.device.home import Home
from smallhold.device.journal_chain import Checkpoint
from smallhold.device.journal_store import last_seq, read_entries
from smallhold.device.journal_verify import VerifyReport, export, verify, verify_export
from smallhold.device.trust import load_public_key
from smallhold.errors import InputError
from smallhold.records import AuditEntry

EXAMPLE = "smallhold journal show --last 5 && smallhold journal verify"

_PREVIEW = 72


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    showing = _add_action(actions, "show", "print entries, oldest first")
    showing.add_argument(
        "--last", type=_count, default=20, metavar="N", help="look at the last N entries (default: 20)"
    )
    showing.add_argument("--kind", metavar="K", help="only entries of this kind")
    verifying = _add_action(actions, "verify", "recompute the chain, digests and signatures; exit 1 if any is wrong")
    verifying.add_argument("--outside", type=Path, metavar="FILE", help="a checkpoint kept elsewhere: finds a cut tail")
    verifying.add_argument("--keep", type=Path, metavar="FILE", help="write the last checkpoint there when all is well")
    verifying.add_argument(
        "--export", type=Path, metavar="FILE", help="verify this export instead of the home's journal"
    )
    verifying.add_argument("--key", type=Path, metavar="PEM", help="the device's public key (default: of the home)")
    exporting = _add_action(actions, "export", "write entries, payloads and checkpoints as JSON lines")
    exporting.add_argument("file", type=Path, metavar="FILE", help="where to write")


def run(args: argparse.Namespace) -> int:
    """Carry out one action."""
    home = home_of(args)
    match args.action:
        case "show":
            _show(args.journal or home.journal, args.last, args.kind, args.json)
            return 0
        case "verify":
            return _verify(home, args)
        case _:
            count = export(args.journal or home.journal, args.file)
            print(json.dumps({"file": str(args.file), "entries": count}) if args.json else f"{count} entries")
            print(f"next: smallhold journal verify --export {args.file}", file=sys.stderr)
            return 0


def _show(path: Path, last: int, kind: str | None, as_json: bool) -> None:
    start = 0 if kind is not None else max(0, last_seq(path) + 1 - last)
    for entry, payload in deque(read_entries(path, start, kind), maxlen=last):
        if as_json:
            print(json.dumps({**_entry_to_json(entry), **_payload_to_json(payload)}))
        else:
            time = datetime.fromtimestamp(entry.t_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
            print(f"{entry.seq:>8}  {time}  {entry.kind:<14}  {_preview(payload)}")


def _verify(home: Home, args: argparse.Namespace) -> int:
    public_key: Ed25519PublicKey = home.device_key().public_key() if args.key is None else load_public_key(args.key)
    outside = None if args.outside is None else Checkpoint.from_json(_read(args.outside))
    if args.export is None:
        report = verify(args.journal or home.journal, public_key, outside)
    else:
        report = verify_export(args.export, public_key, outside)
    if args.json:
        print(json.dumps({"is_intact": report.is_intact, **asdict(report)}, indent=2))
    else:
        _print_report(report)
    if not report.is_intact:
        return 1
    if args.keep is not None and report.checkpoint is not None:
        _write(args.keep, report.checkpoint.to_json())
        print(f"next: keep {args.keep} elsewhere; later: smallhold journal verify --outside FILE", file=sys.stderr)
    return 0


def _print_report(report: VerifyReport) -> None:
    if report.problem is not None:
        print(f"NOT INTACT: {report.problem.kind} at entry {report.problem.seq}: {report.problem.message}")
        print(f"entries before the first problem: {report.entries}")
        return
    signed = "none" if report.checkpoint is None else f"entry {report.checkpoint.seq}"
    compared = "compared with an outside checkpoint" if report.is_compared_outside else "no outside checkpoint given"
    print(f"intact: {report.entries} entries, {report.erased} payloads erased, {report.checkpoints} checkpoints")
    print(f"signed up to: {signed}")
    print(f"tail: {compared}")


def _add_action(actions: Any, name: str, summary: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=summary, description=summary.capitalize())
    # Accepted after the action as well as before it; SUPPRESS keeps what was given before.
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    parser.add_argument("--home", type=Path, metavar="DIR", default=argparse.SUPPRESS, help="the device's home")
    parser.add_argument("--journal", type=Path, metavar="FILE", help="another journal than the home's")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {number}")
    return number


def _entry_to_json(entry: AuditEntry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in AuditEntry.__slots__}


def _payload_to_json(payload: bytes | None) -> dict[str, Any]:
    if payload is None:
        return {"payload": None}
    try:
        return {"payload": json.loads(payload)}
    except (ValueError, RecursionError):
        return {"payload_base64": base64.b64encode(payload).decode()}


def _preview(payload: bytes | None) -> str:
    if payload is None:
        return "(erased)"
    text = payload[: 4 * _PREVIEW].decode(errors="replace")
    # A payload is data from outside: it must not steer the terminal.
    plain = "".join(character if character.isprintable() else "·" for character in text)
    return plain if len(plain) <= _PREVIEW else plain[: _PREVIEW - 1] + "…"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _write(path: Path, data: bytes) -> None:
    try:
        write_durably(path, [data], mode=0o644)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}") from error
