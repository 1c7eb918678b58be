"""Who may take part in secure sums: a public key for the server and for each site, known to all before the first round.

Each party has its own private key; the folder of public ones goes to all of them by another way than the server, which
could otherwise put keys of its own there and be every site but one::

    members/server.pem
    members/sites/SITE.pem
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smallhold.device.trust import (
    generate_private_key,
    load_private_key,
    load_public_key,
    save_private_key,
    save_public_key,
)

FOLDER, KEY = "members", "secure-sum.key"


@dataclass(frozen=True, slots=True)
class Members:
    """Public keys of a job's parties, and the private one of one of them.

    Attributes:
        key: Private.
        server: Raw public key.
        sites: Site -> raw public key.
    """

    key: Ed25519PrivateKey
    server: bytes
    sites: dict[str, bytes]


def make_members(run: Path, sites: Iterable[str]) -> None:
    """Make the keys of a run in which all parties lie in one folder; what is there already stays.

    Args:
        run: Holds `server/`, `sites/SITE/` and `members/`.
        sites: Of the job.

    Raises:
        InputError: a key cannot be read or written.
    """
    make_key(run / "server" / KEY, run / FOLDER / "server.pem")
    for site in sites:
        make_key(run / "sites" / site / KEY, run / FOLDER / "sites" / f"{site}.pem")


def load_members(folder: Path, key: Path, sites: Iterable[str]) -> Members:
    """What a party knows.

    Args:
        folder: With the public keys.
        key: The party's own private key.
        sites: Of the job.

    Raises:
        InputError: a key is missing or none.
    """
    server = load_public_key(folder / "server.pem").public_bytes_raw()
    public = {site: load_public_key(folder / "sites" / f"{site}.pem").public_bytes_raw() for site in sites}
    return Members(load_private_key(key), server, public)


def make_key(private: Path, public: Path | None = None) -> None:
    """Make the key of one party; what is there already stays.

    Args:
        private: Where it goes.
        public: Where its public half goes; None leaves that to others.

    Raises:
        InputError: a key cannot be read or written.
    """
    for path in filter(None, (private, public)):
        path.parent.mkdir(parents=True, exist_ok=True)
    if not private.exists():
        save_private_key(generate_private_key(), private)
    if public is not None and not public.exists():
        save_public_key(load_private_key(private).public_key(), public)
