"""Where a long measurement finds its data, and the command line that long measurements share."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import figures

from smallhold.cli.main import main

RUNS = figures.ROOT / "runs"


@dataclass(frozen=True, slots=True)
class Place:
    """Where data lie, and the threads that training may use."""

    data: Path
    threads: int


def carry_out(about: str | None, measurements: Mapping[str, Callable[[Place], None]]) -> int:
    """Run those that the command line names, each in turn, and write the tables again."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*measurements, []], help="default: all")
    parser.add_argument("--data", default=os.environ.get("SMALLHOLD_DATA"), help="default $SMALLHOLD_DATA")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="torch's threads; default 2")
    args = parser.parse_args()
    if not args.data:
        parser.error("real data are needed: set SMALLHOLD_DATA or give --data")
    place = Place(Path(args.data), args.threads)
    for name in args.names or measurements:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        measurements[name](place)
        for path, text in figures.pages().items():
            figures.write(path, text)
    return 0


@cache
def publisher() -> tuple[str, str]:
    """The option `--home` of who signs what is built on the way, and trusts what is shipped as well."""
    home = RUNS / "publisher"
    smallhold("device", "--home", str(home), "init")
    for key in (figures.ROOT / "models" / "trusted_keys").glob("*.pem"):
        shutil.copy(key, home / "trust")
    return "--home", str(home)


def smallhold(*words: str) -> None:
    """Run a command, and end where it fails."""
    if code := main([*words]):
        raise SystemExit(f"smallhold {' '.join(words)}: exit code {code}")
