"""The home of one device: its keys, the keys it trusts, the two slots of its bundle, and its journal."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smallhold.device.trust import (
    generate_private_key,
    key_id,
    load_private_key,
    save_private_key,
    save_public_key,
)
from smallhold.errors import InputError


@dataclass(frozen=True, slots=True)
class Home:
    """Where everything of one device lies; the members only name places, `init` makes them.

    Attributes:
        path: The directory; `$SMALLHOLD_HOME`, or the user's data directory.
    """

    path: Path

    @classmethod
    def default(cls, environment: Mapping[str, str] | None = None) -> Home:
        """`$SMALLHOLD_HOME`, else the data directory that the system gives to programs.

        Args:
            environment: The environment variables; default: this process's.
        """
        variables = os.environ if environment is None else environment
        if chosen := variables.get("SMALLHOLD_HOME"):
            return cls(_expanded(Path(chosen)))
        if sys.platform == "darwin":
            return cls(_expanded(Path("~/Library/Application Support/smallhold")))
        data_home = Path(variables.get("XDG_DATA_HOME", ""))
        # The XDG base directory specification: a relative path there is invalid and ignored.
        return cls((data_home if data_home.is_absolute() else _expanded(Path("~/.local/share"))) / "smallhold")

    @property
    def keys(self) -> Path:
        """Private keys; nobody else may read this folder."""
        return self.path / "keys"

    @property
    def trust(self) -> Path:
        """Public keys (*.pem) of those who may sign this device's bundles."""
        return self.path / "trust"

    @property
    def slots(self) -> Path:
        """The two bundles `a` and `b`, and which of them is active."""
        return self.path / "slots"

    @property
    def journal(self) -> Path:
        """The journal's database file."""
        return self.path / "journal.db"

    @property
    def change_plan(self) -> Path:
        """What an update may change and has to show; where it lies, `device install` holds every bundle against it."""
        return self.path / "change-plan.toml"

    @property
    def orders(self) -> Path:
        """Signed standing orders (*.json), `trust/` with the keys of those who may sign them, and `revoked/`."""
        return self.path / "orders"

    @property
    def device_key_path(self) -> Path:
        """Signs the journal's checkpoints."""
        return self.keys / "device.pem"

    @property
    def publisher_key_path(self) -> Path:
        """Signs the bundles that are built here."""
        return self.keys / "publisher.pem"

    def device_key(self) -> Ed25519PrivateKey:
        """The key that signs the journal's checkpoints.

        Raises:
            InputError: the home has no readable device key.
        """
        return _load(self.device_key_path)

    def publisher_key(self) -> Ed25519PrivateKey:
        """The key that signs the bundles built here.

        Raises:
            InputError: the home has no readable publisher key.
        """
        return _load(self.publisher_key_path)


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:  # a container's user without a home
        raise InputError(
            f"no home directory for {path}: {error}", hint="set SMALLHOLD_HOME to a folder, or give --home DIR"
        ) from error


def init(home: Home) -> None:
    """Make the folders and keys of a home; what exists already is kept, so running it again is harmless.

    The publisher's public key goes into `trust/`: a device trusts the bundles that are built on it. Delete it there
    (and keep the private key elsewhere) on a device that shall take bundles from others alone.

    Raises:
        InputError: a folder or key cannot be made or read; the message names it.
    """
    try:
        home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (home.keys, home.trust, home.slots):
            folder.mkdir(mode=0o700, exist_ok=True)
            folder.chmod(0o700)
    except OSError as error:
        raise InputError(
            f"home {home.path} cannot be made: {error}", hint="choose another with --home DIR or $SMALLHOLD_HOME"
        ) from error
    _make_key(home.device_key_path)
    if not home.publisher_key_path.exists():
        publisher = generate_private_key()
        # Trusted first: were it the other way round, a kill in between would leave a key that is never trusted.
        public = publisher.public_key()
        save_public_key(public, home.trust / f"publisher-{key_id(public)[:16]}.pem")
        save_private_key(publisher, home.publisher_key_path)
    load_private_key(home.publisher_key_path)


def _make_key(path: Path) -> None:
    if not path.exists():
        save_private_key(generate_private_key(), path)
    load_private_key(path)


def _load(path: Path) -> Ed25519PrivateKey:
    if not path.exists():
        raise InputError(f"no key at {path}", hint="smallhold device init")
    return load_private_key(path)
