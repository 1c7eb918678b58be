"""Options that the actions of `smallhold journal` share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smallhold.cli.options import home_of
from smallhold.device.durable_file import write_durably
from smallhold.device.home import Home
from smallhold.errors import InputError


def add_action(actions: Any, name: str, summary: str) -> argparse.ArgumentParser:
    """An action with the options that all have."""
    parser: argparse.ArgumentParser = actions.add_parser(name, help=summary, description=summary.capitalize())
    # Accepted after the action as well as before it; SUPPRESS keeps what was given before.
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    parser.add_argument("--home", type=Path, metavar="DIR", default=argparse.SUPPRESS, help="the device's home")
    parser.add_argument("--journal", type=Path, metavar="FILE", help="another journal than the home's")
    return parser


def journal_of(args: argparse.Namespace) -> Path:
    """The journal's database file."""
    chosen: Path | None = args.journal
    return home_of(args).journal if chosen is None else chosen


def key_if_any(home: Home) -> Ed25519PrivateKey | None:
    """The home's key, None where there is none: another machine's journal can be looked at, sealed payloads cannot."""
    return home.device_key() if home.device_key_path.exists() else None


def read_file(path: Path) -> bytes:
    """The content of a file that the command line names."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def write_file(path: Path, data: bytes) -> None:
    """Write a file that is no secret; it appears whole or not at all."""
    try:
        write_durably(path, [data], mode=0o644)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}") from error
