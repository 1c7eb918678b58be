"""`smallhold journal sync`: acts and records to and from other homes, by a folder or over HTTP on this machine."""

from __future__ import annotations

import argparse
import json
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallhold.cli.journal_options import add_action, journal_of
from smallhold.cli.options import home_of
from smallhold.device.trust import load_public_key
from smallhold.errors import InputError

if TYPE_CHECKING:
    from smallhold.assist.sync.exchange import Exchanged


def configure(actions: Any) -> None:
    """Declare the action."""
    parser = add_action(actions, "sync", "exchange what people did, and steps for a ward node, with other homes")
    parser.add_argument("--name", required=True, metavar="NAME", help="this device's name, the same for ever")
    parser.add_argument(
        "--peer",
        required=True,
        action="append",
        metavar="NAME=PEM",
        help="another home and its public key; may be repeated",
    )
    parser.add_argument("--ward", action="store_true", help="this is the ward node: take steps and alarms, too")
    ways = parser.add_mutually_exclusive_group(required=True)
    ways.add_argument("--folder", type=Path, metavar="DIR", help="exchange files in this folder, once")
    ways.add_argument("--url", metavar="URL", help="exchange with the one peer that serves there")
    ways.add_argument(
        "--serve", type=int, metavar="PORT", help="serve on loopback until interrupted; 0 takes a free port"
    )


def run(args: argparse.Namespace) -> int:
    """Exchange; exit code 1 when a peer's batch was refused or the network failed."""
    from smallhold.assist.sync import ACT, RECORD, SyncNode
    from smallhold.assist.sync.exchange import SyncServer, sync_folder, sync_http
    from smallhold.device.journal import Journal

    peers = dict(map(_peer, args.peer))
    if args.url is not None and len(peers) != 1:
        raise InputError(f"--url: expected one --peer, got {len(peers)}")
    key = home_of(args).device_key()
    with Journal.open(journal_of(args), key=key) as journal:
        node = SyncNode(journal, args.name, wants=(ACT, RECORD) if args.ward else (ACT,))
        if args.serve is not None:
            server = SyncServer(node, key, peers, port=args.serve).start()
            print(json.dumps({"url": server.url}) if args.json else f"serving on {server.url}", flush=True)
            try:
                threading.Event().wait()
            finally:
                server.close()
        if args.folder is not None:
            if not args.folder.is_dir():
                raise InputError(f"--folder: {args.folder} is not a directory")
            results = sync_folder(node, args.folder, key, peers)
        else:
            results = [sync_http(node, args.url, next(iter(peers)), key, peers)]
        conflicts = [conflict for conflict in node.conflicts() if conflict.resolved_by is None]
    told = {"exchanged": [_told(item) for item in results], "open_conflicts": [item.to_json() for item in conflicts]}
    if args.json:
        print(json.dumps(told))
    else:
        for item in told["exchanged"]:
            print(
                f"{item['peer']}: {item['acts']} acts and {item['records']} records taken, {item['sent']} messages sent"
            )
        for conflict in conflicts:
            people = "; ".join(f"{act.actor} on {act.device}: {act.kind}" for act in conflict.acts)
            print(f"CONFLICT about {conflict.about}: {people}")
    failures = [text for item in results for text in (item.error, *(item.taken.refused if item.taken else ())) if text]
    for text in failures:
        print(f"error: {text}", file=sys.stderr)
    return 1 if failures else 0


def _told(item: Exchanged) -> dict[str, Any]:
    taken = item.taken
    return {
        "peer": item.peer,
        "acts": len(taken.acts) if taken else 0,
        "records": taken.records if taken else 0,
        "gaps": taken.gaps if taken else 0,
        "refused": list(taken.refused) if taken else [],
        "sent": item.sent,
        "error": item.error,
    }


def _peer(text: str) -> tuple[str, Any]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise InputError(f"--peer: expected NAME=PEM, got {text!r}")
    return name, load_public_key(Path(path))
