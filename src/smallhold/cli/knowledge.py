"""`smallhold knowledge`: look counts up in a signed knowledge pack, and cite it."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallhold.cli.options import home_of
from smallhold.cli.output import print_json
from smallhold.errors import InputError

if TYPE_CHECKING:
    from smallhold.device.knowledge import Finding, KnowledgePack

EXAMPLE = "smallhold knowledge show icu.knowledge.json --where condition=sepsis --where treatment=antibacterials"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    showing = actions.add_parser("show", help="verify a pack, and show the cells that are asked for")
    showing.add_argument("pack", type=Path, metavar="FILE", help="made by smallhold federate knowledge")
    showing.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="DIMENSION=CATEGORY",
        help="the cells of this category alone; once a dimension",
    )
    showing.add_argument(
        "--trusted-keys", type=Path, metavar="DIR", help="public keys; default: the home's trust folder"
    )
    showing.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="data as JSON on stdout")


def run(args: argparse.Namespace) -> int:
    """Carry out one action."""
    from smallhold.device.knowledge import KnowledgePack
    from smallhold.device.trust import load_trusted_keys

    where = _where(args.where)
    keys = load_trusted_keys(args.trusted_keys or home_of(args).trust)
    pack = KnowledgePack.open(args.pack, keys, now=datetime.now(UTC))
    finding = pack.look_up(where)
    if args.json:
        print_json(_to_json(pack, finding))
    else:
        _print(pack, finding)
    return 0


def _where(given: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        name, is_pair, category = text.partition("=")
        if not is_pair or name in found:
            raise InputError(f"--where: expected DIMENSION=CATEGORY, once a dimension, got {text!r}", hint=EXAMPLE)
        found[name] = category
    return found


def _to_json(pack: KnowledgePack, finding: Finding) -> dict[str, Any]:
    about = {name: value for name, value in asdict(pack).items() if name != "counts"}
    cells = [
        {**cell.where, "count": cell.count, "interval": None if cell.count is None else finding.interval(cell.count)}
        for cell in finding.cells
    ]
    total = {"total": finding.total, "total_stddev": finding.stddev, "citation": finding.citation()}
    return {"digest": pack.digest, **about, "where": dict(finding.where), "cells": cells, **total}


def _print(pack: KnowledgePack, finding: Finding) -> None:
    print(f"{pack.name}: genuine, {pack.data}, {pack.sites} sites, valid until {pack.valid_until}")
    names = [" ".join(cell.where.values()) for cell in finding.cells]
    wide = max(map(len, names))
    for name, cell in zip(names, finding.cells, strict=True):
        if cell.count is None:
            print(f"  {name:{wide}}  below {pack.min_cohort}, withheld")
        else:
            low, high = finding.interval(cell.count)
            print(f"  {name:{wide}}  {cell.count:>7}  ({low} to {high})")
    print("in brackets: what was counted before the noise, with 95 % confidence; it says nothing about other patients")
    print(f"cells a person: {pack.max_cells} at most, drawn where there were more")
    print(f"cite: {finding.citation()}")
