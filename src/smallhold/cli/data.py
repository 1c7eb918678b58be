"""`smallhold data`: which data sets are known, where they lie, and where to get them."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from smallhold.errors import DataError
from smallhold.sectors.data_sets import KNOWN, KnownDataSet, cache_dir, find_data_set, known_data_set

EXAMPLE = "smallhold data list"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add `list` and `get`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="every known data set, its licence and where it was found")
    getting = actions.add_parser("get", help="say where to get a data set and how to lay it out")
    getting.add_argument("name", metavar="NAME", help="name of the data set, for example physionet2012_icu")
    for action in (listing, getting):
        # Accepted after the action as well as before it; SUPPRESS keeps what was given before.
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="data as JSON on stdout")
        action.add_argument(
            "--data",
            type=Path,
            metavar="DIR",
            help="look here alone; otherwise in $SMALLHOLD_DATA, ./data and the user's cache",
        )


def run(args: argparse.Namespace) -> int:
    """List, or explain; nothing is downloaded.

    Returns:
        0, or 1 when the data set that was asked for is not on this machine.
    """
    if args.action == "list":
        return _list(args.data, as_json=args.json)
    return _get(known_data_set(args.name), args.data, as_json=args.json)


def _list(data_dir: Path | None, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps([_described(known, data_dir) for known in KNOWN], ensure_ascii=False, indent=2))
        return 0
    for known in KNOWN:
        folder = _found(known, data_dir)
        print(f"{known.name}  [{known.licence}]")
        print(f"    {known.what}")
        print(f"    {folder if folder else 'not here'}")
    print("next: smallhold data get NAME", file=sys.stderr)
    return 0


def _get(known: KnownDataSet, data_dir: Path | None, *, as_json: bool) -> int:
    folder = _found(known, data_dir)
    if as_json:
        print(json.dumps(_described(known, data_dir), ensure_ascii=False, indent=2))
        return 0 if folder else 1
    if folder:
        print(folder)
        print(f"{known.name} is already here", file=sys.stderr)
        return 0
    print(f"{known.name}: {known.what}")
    print(f"licence: {known.licence}")
    print("from:")
    for source in known.sources:
        print(f"    {source}")
    print(f"lay it out as: {(data_dir or cache_dir()) / known.name}/*.jsonl (or *.jsonl.zst), one row a line:")
    print(f"    {known.row}")
    # Files of the public homes change without notice: what cannot be checked against a digest is not fetched.
    print(f"{known.name} was not downloaded: no digests of its files are known", file=sys.stderr)
    return 1


def _found(known: KnownDataSet, data_dir: Path | None) -> Path | None:
    try:
        return find_data_set(known.name, data_dir)
    except DataError:
        return None


def _described(known: KnownDataSet, data_dir: Path | None) -> dict[str, object]:
    folder = _found(known, data_dir)
    return {**asdict(known), "found": None if folder is None else str(folder)}
