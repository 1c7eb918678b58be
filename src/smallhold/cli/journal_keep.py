"""`smallhold journal erase`, `retain` and `export`: what is forgotten, what is kept, what is shown to an inspector."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from smallhold.cli import journal_fhir
from smallhold.cli.journal_options import add_action, journal_of
from smallhold.cli.options import home_of
from smallhold.device.journal import Journal
from smallhold.device.journal_export import Disclosure, export_for_inspector
from smallhold.device.journal_verify import export
from smallhold.device.wall_clock import wall_ms
from smallhold.errors import InputError, JournalError

_DAY_MS = 24 * 3_600_000


def configure(actions: Any) -> None:
    """Declare the actions."""
    erasing = add_action(actions, "erase", "destroy the keys of one patient's payloads for good, and journal that")
    erasing.add_argument("--patient", required=True, metavar="NAME", help="as the journal names them")
    erasing.add_argument("--reason", required=True, metavar="TEXT", help="goes on record; must not name the patient")
    erasing.add_argument("--yes", action="store_true", help="do it; without this it is only said what would happen")
    retaining = add_action(actions, "retain", "erase payloads older than a profile wants them kept, and journal that")
    retaining.add_argument("--profile", required=True, metavar="NAME", help="policy: eu, us or a file")
    retaining.add_argument("--dry-run", action="store_true", help="only say what would be erased")
    exporting = add_action(
        actions, "export", "write the journal as JSON lines, a folder for an inspector, or FHIR resources"
    )
    exporting.add_argument("file", type=Path, nargs="?", metavar="PATH", help="where to write; not with --fhir")
    journal_fhir.configure(exporting)
    exporting.add_argument(
        "--inspector", action="store_true", help="a folder with payloads, digests, public key and a cover"
    )
    exporting.add_argument("--patient", metavar="NAME", help="show this patient's payloads alone (with --inspector)")
    exporting.add_argument(
        "--from",
        dest="from_ms",
        type=_time,
        metavar="TIME",
        help="show what is of this time or later, for example 2026-01-31",
    )
    exporting.add_argument("--to", dest="to_ms", type=_time, metavar="TIME", help="show what is before this time")


def erase(args: argparse.Namespace) -> int:
    """Erase one patient from the journal, and from the ward's state beside it."""
    from smallhold.assist.live_state import forget_patient

    if not args.reason.strip() or args.patient in args.reason:
        raise InputError("--reason: expected a reason that does not name the patient")
    with _open(args) as journal:
        sealed = journal.sealed_for(args.patient)
        if not args.yes:
            print(json.dumps({"payloads": sealed}) if args.json else f"{sealed} payloads would be erased for good")
            print("this cannot be undone; to do it, add --yes", file=sys.stderr)
            return 1
        # The journal's lock says that no ward runs on this folder.
        has_left = forget_patient(journal.path.with_name("ward.db"), args.patient)
        entry = journal.erase_patient(args.patient, args.reason)
    told = {"payloads": sealed, "entry": entry.seq, "bed": has_left}
    bed = ", and the bed that the ward would have gone on with" if has_left else ""
    print(json.dumps(told) if args.json else f"{sealed} payloads erased{bed}")
    print("next: smallhold journal verify; backups and exports of the journal keep what they have", file=sys.stderr)
    return 0


def retain(args: argparse.Namespace) -> int:
    """Erase what is older than a profile's retention."""
    from smallhold.assist.policy import load_profile
    from smallhold.assist.retention import retain_days
    from smallhold.assist.sync.node import HAVE_KIND

    profile = load_profile(args.profile)
    days = retain_days(profile)
    reason = f"retention of profile {profile.name} {profile.version}: {days} days"
    with _open(args) as journal:
        done = journal.retain(wall_ms() - days * _DAY_MS, reason, kept_kinds=[HAVE_KIND], is_dry_run=args.dry_run)
    before = datetime.fromtimestamp(done.before_ms / 1000, UTC)
    if args.json:
        told = {
            "days": days,
            "erased": done.erased,
            "keys": done.keys,
            "unsure": done.unsure,
            "is_dry_run": args.dry_run,
        }
        print(json.dumps(told))
    else:
        would = "would be " if args.dry_run else ""
        print(
            f"{done.erased} payloads and {done.keys} data keys {would}erased: "
            f"older than {days} days ({before:%Y-%m-%d})"
        )
        if done.unsure:
            print(f"{done.unsure} payloads look older but stay: the clock cannot be trusted there")
    return 0


def write_export(args: argparse.Namespace) -> int:
    """Write an export."""
    is_chosen = args.inspector or args.patient is not None or args.from_ms is not None or args.to_ms is not None
    if args.fhir is not None:
        if is_chosen:
            raise InputError("export --fhir: --inspector, --patient, --from and --to are not for FHIR")
        return journal_fhir.run(args)
    if args.file is None or args.out is not None:
        raise InputError("export: expected PATH, or --fhir RELEASE and --out DIR")
    if not args.inspector:
        if is_chosen:
            raise InputError("--patient, --from and --to are for an export with --inspector")
        count = export(journal_of(args), args.file)
        print(json.dumps({"file": str(args.file), "entries": count}) if args.json else f"{count} entries")
    else:
        shown = Disclosure(patient=args.patient, from_ms=args.from_ms, to_ms=args.to_ms)
        counts = export_for_inspector(
            journal_of(args), args.file, home_of(args).device_key(), disclosure=shown, now=datetime.now(UTC)
        )
        told = {name: getattr(counts, name) for name in ("entries", "disclosed", "withheld", "erased")}
        print(json.dumps(told) if args.json else ", ".join(f"{number} {name}" for name, number in told.items()))
    print(f"next: smallhold journal verify --export {args.file}", file=sys.stderr)
    return 0


def _open(args: argparse.Namespace) -> Journal:
    path = journal_of(args)
    if not path.is_file():
        raise JournalError(f"no journal at {path}")
    return Journal.open(path, key=home_of(args).device_key())


def _time(text: str) -> int:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected a date or time as 2026-01-31 or 2026-01-31T08:00, got {text!r}"
        ) from error
    return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)
