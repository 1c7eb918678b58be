"""What every party of one secure sum has agreed on before it begins."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from smallhold.errors import InputError
from smallhold.privacy.checks import check_count
from smallhold.records import canonical_json

MIN_SITES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SecureSumConfig:
    """One secure sum: who, of what, and how few may remain. Equal on all sides, or no message is accepted.

    Attributes:
        session: Name of this sum, never used before: job, round and attempt.
        members: Site id to its ed25519 public key (32 raw bytes). Nobody else can take part: a server cannot invent
            sites.
        server_key: The server's ed25519 public key, 32 raw bytes.
        length: Entries of a vector.
        bits: Width of the field: sums are modulo 2^bits, 2 to 62.
        threshold: The fewest sites whose sum is opened; more than two thirds of the members, so that no two
            different survivor sets can both be confirmed while less than a third of the sites collude with the server.
        neighbors: With how many others each site exchanges masks and shares: None for all; else an even number,
            from `fit_graph`.
        share_threshold: How many shares give a secret back; needed with `neighbors`, else it is `threshold`.
        trusts_server_to_follow_protocol: Allows a threshold down to just over half: a server that shows different
            survivors to different sites can then open single vectors.
    """

    session: str
    members: Mapping[str, bytes]
    server_key: bytes
    length: int
    bits: int
    threshold: int
    neighbors: int | None = None
    share_threshold: int | None = None
    trusts_server_to_follow_protocol: bool = False

    def __post_init__(self) -> None:
        """Check everything once; the rest of the package relies on it."""
        num_members = len(self.members)
        if not 1 <= len(self.session) <= 200 or not self.session.isprintable():
            raise InputError(f"session: expected 1 to 200 printable characters, got {self.session[:80]!r}")
        for site, key in self.members.items():
            if not 1 <= len(site.encode()) <= 200 or len(key) != 32:
                raise InputError(f"members: expected ids of 1 to 200 bytes with keys of 32 bytes, got {site[:80]!r}")
        if not MIN_SITES <= num_members <= 65535:
            raise InputError(
                f"members: expected {MIN_SITES} to 65535 sites (a sum of two shows each the other), got {num_members}"
            )
        if len({*self.members.values(), self.server_key}) != num_members + 1 or len(self.server_key) != 32:
            raise InputError("members: two parties have the same key, or the server's key has not 32 bytes")
        check_count(self.length, "length")
        check_count(self.bits, "bits", at_least=2, at_most=62)
        fewest = num_members // 2 + 1 if self.trusts_server_to_follow_protocol else 2 * num_members // 3 + 1
        check_count(self.threshold, "threshold", at_least=max(fewest, 2), at_most=num_members)
        if (self.neighbors is None) != (self.share_threshold is None):
            raise InputError("neighbors and share_threshold: expected both or neither; fit_graph gives both")
        if self.neighbors is not None and self.share_threshold is not None:
            check_count(self.neighbors, "neighbors", at_least=2, at_most=num_members)
            if self.neighbors % 2:
                raise InputError(f"neighbors: expected an even number, got {self.neighbors}")
            check_count(
                self.share_threshold, "share_threshold", at_least=self.neighbors // 2 + 1, at_most=self.neighbors
            )

    def context(self) -> bytes:
        """32 bytes that stand for all of the above; every signature and every derived key covers them."""
        value = {
            "bits": self.bits,
            "length": self.length,
            "members": {site: key.hex() for site, key in self.members.items()},
            "neighbors": self.neighbors,
            "server": self.server_key.hex(),
            "session": self.session,
            "share_threshold": self.share_threshold,
            "threshold": self.threshold,
            "trusts_server": self.trusts_server_to_follow_protocol,
        }
        return hashlib.sha256(b"smallhold secure sum 1\0" + canonical_json(value)).digest()

    def shares_needed(self, num_holders: int) -> int:
        """How many shares give back a secret that so many sites hold; never more than there are."""
        if self.share_threshold is None:
            return self.threshold
        return min(self.share_threshold, num_holders - 1)

    def neighbors_needed(self, num_neighbors: int) -> int:
        """With how many neighbours a site must share masks before it sends or confirms anything.

        On a sparse graph fewer than that may all be corrupt, and a vector under their masks alone is an open one.
        """
        return self.threshold - 1 if self.share_threshold is None else min(self.share_threshold, num_neighbors)
