"""Who takes part in a session after the first messages: each site's fresh keys, and the graph between them."""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from smallhold.errors import SecureSumError
from smallhold.privacy.secure_sum.config import SecureSumConfig
from smallhold.privacy.secure_sum.envelope import Kind, join_parts, split_parts, unseal
from smallhold.privacy.secure_sum.graph import neighborhoods

MASK_PURPOSE = b"pair mask"
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Advertisement:
    """What a site shows of itself at the start.

    Attributes:
        mask_key: X25519 public key of the pairwise masks; its private half is opened when the site drops out.
        share_key: X25519 public key that shares for this site are encrypted to; its private half never leaves.
        commitment: To the seed of the site's own mask.
    """

    mask_key: bytes
    share_key: bytes
    commitment: bytes

    def to_bytes(self) -> bytes:
        """96 bytes."""
        return self.mask_key + self.share_key + self.commitment

    @classmethod
    def from_bytes(cls, body: bytes) -> Advertisement:
        """Read what `to_bytes` wrote.

        Raises:
            SecureSumError: of another size.
        """
        if len(body) != 3 * _KEY_BYTES:
            raise SecureSumError(f"malformed message: an advertisement has {3 * _KEY_BYTES} bytes, got {len(body)}")
        return cls(body[:32], body[32:64], body[64:])


@dataclass(frozen=True, slots=True)
class Roster:
    """The sites of a session in sorted order, and what follows from them.

    Attributes:
        sites: Ids, sorted; a site's place plus one is its point in secret sharing.
        advertisements: By site.
        context: 32 bytes for the session and this roster; derived keys and later signatures cover them.
        neighbors: By site.
    """

    sites: tuple[str, ...]
    advertisements: dict[str, Advertisement]
    context: bytes
    neighbors: dict[str, tuple[str, ...]] = field(repr=False)

    def point(self, site: str) -> int:
        """The site's point in secret sharing, from 1."""
        return bisect.bisect_left(self.sites, site) + 1

    def holders(self, site: str) -> tuple[str, ...]:
        """Who holds shares of a site's secrets: its neighbours and itself, sorted."""
        return tuple(sorted((site, *self.neighbors[site])))


def read_roster(body: bytes, config: SecureSumConfig) -> Roster:
    """Check every signed advertisement of a roster and build what follows from it.

    Raises:
        SecureSumError: fewer sites than the threshold, a site twice or out of order, a key used twice, an
            advertisement that is not signed by a member, or more than members.
    """
    context = config.context()
    advertisements: dict[str, Advertisement] = {}
    for message in split_parts(body):
        site, advertised = unseal(message, kind=Kind.ADVERTISE, context=context, keys=config.members)
        if advertisements and site <= next(reversed(advertisements)):
            raise SecureSumError(f"the roster names {site!r} twice or out of order")
        advertisements[site] = Advertisement.from_bytes(advertised)
    if len(advertisements) < config.threshold:
        raise SecureSumError(
            f"too few sites: expected at least {config.threshold}, the roster has {len(advertisements)}"
        )
    keys = [key for shown in advertisements.values() for key in (shown.mask_key, shown.share_key)]
    if len(set(keys)) != len(keys):
        raise SecureSumError("the roster holds the same public key twice")
    digest = hashlib.sha256(context + body).digest()
    sites = tuple(advertisements)
    return Roster(sites, advertisements, digest, neighborhoods(sites, digest, config.neighbors))


def write_roster(messages: Sequence[bytes]) -> bytes:
    """The body of a roster, from signed advertisements sorted by site."""
    return join_parts(messages)


def mask_sign(own: str, other: str) -> int:
    """Of two sites, the lower adds their mask and the higher takes it away."""
    return 1 if own < other else -1
