"""`smallhold journal`: what a device wrote down; here showing and verifying, each other action in its own file."""

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

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from smallhold.cli import journal_alarms, journal_keep, journal_replay, journal_sync, journal_witness
from smallhold.cli.journal_options import add_action, journal_of, key_if_any, read_file, write_file
from smallhold.cli.options import home_of
from smallhold.device.home import Home
from smallhold.device.journal_chain import Checkpoint
from smallhold.device.journal_export import verify_folder
from smallhold.device.journal_seal import Keyring
from smallhold.device.journal_store import Unsealer, read_last_seq, read_rows, snapshot
from smallhold.device.journal_verify import VerifyReport, verify, verify_export
from smallhold.device.journal_witness import Statement, marks_of
from smallhold.device.trust import key_id, load_public_key
from smallhold.errors import JournalError
from smallhold.records import AuditEntry

EXAMPLE = "smallhold journal show --last 5 && smallhold journal verify"

_PREVIEW = 72


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    showing = add_action(actions, "show", "print entries, oldest first")
    showing.add_argument(
        "--last", type=_count, default=20, metavar="N", help="look at the last N entries (default: 20)"
    )
    showing.add_argument("--kind", metavar="K", help="only entries of this kind")
    verifying = add_action(actions, "verify", "recompute the chain, digests and signatures; exit 1 if any is wrong")
    verifying.add_argument("--outside", type=Path, metavar="FILE", help="a checkpoint kept elsewhere: finds a cut tail")
    verifying.add_argument(
        "--witness",
        type=Path,
        metavar="FILE",
        action="append",
        default=[],
        help="a witness's statement; may be repeated",
    )
    verifying.add_argument(
        "--witness-key", type=Path, metavar="PEM", action="append", default=[], help="a witness's public key"
    )
    verifying.add_argument(
        "--since",
        type=Path,
        metavar="FILE",
        help="verify only what came after this kept checkpoint of a verified journal",
    )
    verifying.add_argument("--keep", type=Path, metavar="FILE", help="write the last checkpoint there when all is well")
    verifying.add_argument(
        "--export", type=Path, metavar="PATH", help="verify this export, file or folder, instead of the home's journal"
    )
    verifying.add_argument("--key", type=Path, metavar="PEM", help="the device's public key (default: of the home)")
    journal_keep.configure(actions)
    journal_replay.configure(actions)
    journal_witness.configure(actions)
    journal_alarms.configure(actions)
    journal_sync.configure(actions)


def run(args: argparse.Namespace) -> int:
    """Carry out one action."""
    home = home_of(args)
    match args.action:
        case "show":
            _show(journal_of(args), args.last, args.kind, args.json, key_if_any(home))
            return 0
        case "verify":
            return _verify(home, args)
        case "replay":
            return journal_replay.run(args)
        case "sync":
            return journal_sync.run(args)
        case "alarms":
            return journal_alarms.run(args)
        case "checkpoint":
            return journal_witness.offer(args)
        case "witness":
            return journal_witness.state(args)
        case "erase":
            return journal_keep.erase(args)
        case "retain":
            return journal_keep.retain(args)
        case _:
            return journal_keep.write_export(args)


def _show(path: Path, last: int, kind: str | None, as_json: bool, key: Ed25519PrivateKey | None) -> None:
    with snapshot(path) as connection:
        start = 0 if kind is not None else max(0, read_last_seq(connection) + 1 - last)
        unsealer = Unsealer(connection, None if key is None else Keyring(key))
        for row in deque(read_rows(connection, start, kind), maxlen=last):
            payload, is_sealed = None, False
            try:
                payload = unsealer.open(row)
            except JournalError:
                is_sealed = True
            if as_json:
                sealed = {"is_sealed": True} if is_sealed else {}
                print(json.dumps({**_entry_to_json(row.entry), **_payload_to_json(payload), **sealed}))
            else:
                time = datetime.fromtimestamp(row.entry.t_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
                text = "(sealed)" if is_sealed else _preview(payload)
                print(f"{row.entry.seq:>8}  {time}  {row.entry.kind:<14}  {text}")


def _verify(home: Home, args: argparse.Namespace) -> int:
    is_folder = args.export is not None and args.export.is_dir()
    public_key: Ed25519PublicKey
    if args.key is None and is_folder:
        public_key = load_public_key(args.export / "device.pem")
        print(f"with the export's own key {key_id(public_key)}: compare it with the device's", file=sys.stderr)
    else:
        public_key = home.device_key().public_key() if args.key is None else load_public_key(args.key)
    outside = None if args.outside is None else Checkpoint.from_json(read_file(args.outside))
    statements = [Statement.from_json(read_file(path)) for path in args.witness]
    marks = marks_of(statements, [load_public_key(path) for path in args.witness_key], public_key)
    if args.export is None:
        since = None if args.since is None else Checkpoint.from_json(read_file(args.since))
        report = verify(journal_of(args), public_key, outside, since=since, marks=marks)
    elif is_folder:
        report, _ = verify_folder(args.export, public_key, outside, marks=marks)
    else:
        report = verify_export(args.export, public_key, outside, marks=marks)
    if args.json:
        print(json.dumps({"is_intact": report.is_intact, **asdict(report)}, indent=2))
    else:
        _print_report(report)
    if not report.is_intact:
        return 1
    if args.keep is not None and report.checkpoint is not None:
        write_file(args.keep, report.checkpoint.to_json())
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
    if report.withheld:
        print(f"withheld: {report.withheld} payloads, of which the digests are chained")
    print(f"signed up to: {signed}")
    print(f"tail: {compared}")


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
