"""`smallhold journal checkpoint` and `witness`: another home signs how far a journal grew, by files."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from smallhold.cli.journal_options import add_action, journal_of, read_file, write_file
from smallhold.cli.options import home_of
from smallhold.device.journal_witness import Statement, make_offer, witness
from smallhold.device.trust import load_public_key
from smallhold.device.wall_clock import wall_ms


def configure(actions: Any) -> None:
    """Declare the actions."""
    offering = add_action(actions, "checkpoint", "write the newest checkpoint and the chain's links for a witness")
    offering.add_argument("--out", type=Path, required=True, metavar="FILE", help="where to write the offer")
    offering.add_argument(
        "--since", type=Path, metavar="FILE", help="the witness's last statement: only what came after it is offered"
    )
    stating = add_action(actions, "witness", "check that an offer extends what this home stated before, and sign it")
    stating.add_argument("offer", type=Path, metavar="OFFER", help="from `journal checkpoint` of another home")
    stating.add_argument("--out", type=Path, required=True, metavar="FILE", help="where to write the statement")
    stating.add_argument(
        "--device-key", type=Path, metavar="PEM", help="the device's public key; needed the first time alone"
    )


def offer(args: argparse.Namespace) -> int:
    """Write an offer."""
    last = None if args.since is None else Statement.from_json(read_file(args.since))
    data = make_offer(journal_of(args), last)
    write_file(args.out, data)
    seq = json.loads(data)["checkpoint"]["seq"]
    print(
        json.dumps({"seq": seq, "bytes": len(data)}) if args.json else f"offers entries up to {seq}, {len(data)} bytes"
    )
    print(f"next, on the witness: smallhold journal witness {args.out} --out statement.json", file=sys.stderr)
    return 0


def state(args: argparse.Namespace) -> int:
    """Sign a statement."""
    home = home_of(args)
    key = None if args.device_key is None else load_public_key(args.device_key)
    statement = witness(read_file(args.offer), home.path / "witness", home.device_key(), t_ms=wall_ms(), device_key=key)
    write_file(args.out, statement.to_json())
    told = f"stated: device {statement.device[:16]} up to entry {statement.seq}, before that {statement.since}"
    print(statement.to_json().decode() if args.json else told)
    print(f"next, on the device: smallhold journal verify --witness {args.out} --witness-key PEM", file=sys.stderr)
    return 0
