"""`smallhold device`: make a home, install a bundle into it, return to the one before, look."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from smallhold.cli.options import home_of
from smallhold.device.home import Home, init
from smallhold.device.install import SlotStatus, Status, active_bundle, install, rollback, status
from smallhold.device.manifest import Manifest
from smallhold.device.trust import key_id

EXAMPLE = "smallhold device init && smallhold device install icu-risk.bundle && smallhold device status"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_action(actions, "init", "make the folders and keys of a home; what exists is kept")
    installing = _add_action(actions, "install", "verify a bundle, try it out, make it the active one")
    installing.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle: directory or single file")
    _add_action(actions, "rollback", "return to the bundle that was active before the last install")
    _add_action(actions, "status", "show the active bundle, the other slot and the highest version that ran")


def run(args: argparse.Namespace) -> int:
    """Carry out one action."""
    home = home_of(args)
    now = datetime.now(UTC)
    match args.action:
        case "init":
            init(home)
            _print({"home": str(home.path), "publisher": key_id(home.publisher_key().public_key())}, args.json)
            _next("smallhold device install BUNDLE")
        case "install":
            _print(_summary(install(home, args.bundle, now=now, check=lambda path: _check_new(home, path))), args.json)
            _next("smallhold device status")
        case "rollback":
            _print(_summary(rollback(home, now=now, check=_check)), args.json)
            _next("smallhold device status")
        case _:
            found = status(home)
            if args.json:
                print(json.dumps(_status_to_json(found), indent=2))
            else:
                _print_status(home, found)
    return 0


def _check(bundle: Path) -> None:
    from smallhold.decide import check_bundle  # late: the other actions need no runtime

    check_bundle(bundle)


def _check_new(home: Home, bundle: Path) -> None:
    """Load it, decide once, and hold it against the home's change plan where there is one."""
    _check(bundle)
    if not home.change_plan.exists():
        return
    from smallhold.evaluate.change_plan import check_change, read_change_plan

    plan = read_change_plan(home.change_plan)
    active = None if status(home).active is None else active_bundle(home)
    held = check_change(plan, bundle, active)
    for line in (f"change plan {plan.name} {plan.version}, {plan.digest[:12]}:", *held):
        print(line, file=sys.stderr)


def _add_action(actions: Any, name: str, summary: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=summary, description=summary.capitalize())
    # Accepted after the action as well as before it; SUPPRESS keeps what was given before.
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    parser.add_argument("--home", type=Path, metavar="DIR", default=argparse.SUPPRESS, help="the device's home")
    return parser


def _summary(manifest: Manifest) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "version": manifest.version,
        "digest": manifest.digest,
        "created": manifest.created,
        "expires": manifest.expires,
        "tasks": list(manifest.tasks),
        "is_simulated": manifest.is_simulated,
    }


def _status_to_json(found: Status) -> dict[str, Any]:
    slots = {
        slot.slot: {"bundle": None if slot.manifest is None else _summary(slot.manifest), "problem": slot.problem}
        for slot in found.slots
    }
    return {**asdict(found), "slots": slots}


def _print_status(home: Home, found: Status) -> None:
    print(f"home      {home.path}")
    for slot in found.slots:
        print(f"slot {slot.slot}    {'active' if slot.slot == found.active else '      '}  {_describe(slot)}")
    print(f"highest   {found.highest_version or 'none'}")
    if found.active is None:
        _next("smallhold device install BUNDLE")
    elif found.can_roll_back:
        _next("smallhold device rollback (returns to the other slot)")


def _describe(slot: SlotStatus) -> str:
    if slot.problem is not None:
        return f"unreadable: {slot.problem}"
    if slot.manifest is None:
        return "empty"
    note = ", simulated data" if slot.manifest.is_simulated else ""
    return f"{slot.manifest.name} {slot.manifest.version} ({', '.join(slot.manifest.tasks)}{note})"


def _print(members: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(members, indent=2))
        return
    width = max(map(len, members))
    for name, value in members.items():
        shown = ", ".join(value) if isinstance(value, list) else "never" if value is None else value
        print(f"{name:{width}}  {shown}")


def _next(command: str) -> None:
    print(f"next: {command}", file=sys.stderr)
