"""A site's side of a secure sum: one object for one session, one answer to each message, no input or output."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from smallhold.errors import InputError, SecureSumError, ShapeError
from smallhold.privacy.key_agreement import agree, private_key, public_bytes
from smallhold.privacy.packing import UInt, pack_bits, word_type
from smallhold.privacy.secure_sum.config import SecureSumConfig
from smallhold.privacy.secure_sum.envelope import (
    SERVER,
    SIGNATURE_BYTES,
    Kind,
    check_signature,
    join_parts,
    seal,
    split_parts,
    split_set,
    unseal,
)
from smallhold.privacy.secure_sum.graph import is_connected
from smallhold.privacy.secure_sum.masks import add_masks, commit_seed, self_mask_key
from smallhold.privacy.secure_sum.roster import MASK_PURPOSE, Advertisement, Roster, mask_sign, read_roster
from smallhold.privacy.shamir import SECRET_BYTES, SHARE_BYTES, split_secret

_NONCE = bytes(12)  # each key encrypts exactly one message


class SecureSumSite:
    """The site's state machine: `advertise`, `share_keys`, `mask`, `confirm`, `open_shares`, in this order, once each.

    Keys and masks are drawn when the object is made and live only in it: it cannot be saved, restored or used again,
    so no mask is ever used twice. A site that restarts has dropped out of the session.

    After any refusal the object refuses everything: a server cannot try again with another message.

    Args:
        config: Equal to everybody else's.
        site: The own id, one of the members.
        key: The own ed25519 key, whose public half `config.members` holds.

    Raises:
        InputError: not a member, or another key.
    """

    def __init__(self, config: SecureSumConfig, *, site: str, key: Ed25519PrivateKey) -> None:
        if config.members.get(site) != key.public_key().public_bytes_raw():
            raise InputError(f"site: {site!r} is not a member with this key")
        self._config, self._site, self._key = config, site, key
        self._context = config.context()
        self._mask_private_bytes = secrets.token_bytes(SECRET_BYTES)
        self._mask_private = private_key(self._mask_private_bytes)
        self._share_private = private_key(secrets.token_bytes(SECRET_BYTES))
        self._seed = secrets.token_bytes(SECRET_BYTES)
        self._next: Kind | None = Kind.ADVERTISE
        self._roster: Roster
        self._held: dict[str, bytes] = {}  # site to its two shares that this site holds
        self._sharers: frozenset[str]
        self._survivors: frozenset[str]
        self._confirmed: bytes

    def advertise(self) -> bytes:
        """The first message: fresh public keys, and a commitment to the seed of the own mask."""
        with self._turn(Kind.ADVERTISE, then=Kind.SHARES):
            return self._seal(Kind.ADVERTISE, self._own_advertisement().to_bytes())

    def share_keys(self, roster_message: bytes) -> bytes:
        """Answer the roster with shares of the own secrets, encrypted to each neighbour.

        Raises:
            SecureSumError: forged, replayed or malformed; too few sites; a stranger or a key twice on the roster; or
                this site's own advertisement was left out or exchanged.
        """
        with self._turn(Kind.SHARES, then=Kind.INPUT):
            roster = read_roster(self._from_server(Kind.ROSTER, roster_message), self._config)
            if roster.advertisements.get(self._site) != self._own_advertisement():
                raise SecureSumError("the roster does not hold this site's own keys: left out or exchanged")
            self._roster = roster
            holders = roster.holders(self._site)
            needed = self._config.shares_needed(len(holders))
            points = [roster.point(holder) for holder in holders]
            of_key = split_secret(self._mask_private_bytes, holders=points, threshold=needed)
            of_seed = split_secret(self._seed, holders=points, threshold=needed)
            ciphertexts = []
            for holder, point in zip(holders, points, strict=True):
                pair = of_key[point] + of_seed[point]
                if holder == self._site:
                    self._held[holder] = pair
                else:
                    ciphertexts.append(
                        AESGCM(self._share_key(self._site, holder)).encrypt(_NONCE, pair, roster.context)
                    )
            return self._seal(Kind.SHARES, b"".join(ciphertexts))

    def mask(self, inbox_message: bytes, vector: UInt) -> bytes:
        """Answer the other sites' shares with the masked vector.

        Args:
            inbox_message: From the server.
            vector: (length,) of the smallest unsigned type that holds `bits` bits; every entry below 2^bits.

        Raises:
            SecureSumError: forged, replayed or malformed; fewer sites than the threshold; or shares that the sender
                did not encrypt for this site.
            ShapeError: the vector has another length or type, or an entry of more than `bits` bits.
        """
        with self._turn(Kind.INPUT, then=Kind.CONFIRM):
            config, roster = self._config, self._roster
            if vector.shape != (config.length,) or vector.dtype != word_type(config.bits):
                raise ShapeError(
                    f"vector: expected {word_type(config.bits)} ({config.length},), got {vector.dtype} {vector.shape}"
                )
            if int(vector.max()) >> config.bits:
                raise ShapeError(f"vector: an entry has more than {config.bits} bits: {int(vector.max())}")
            self._read_inbox(self._from_server(Kind.INBOX, inbox_message))
            masks = [(self_mask_key(self._seed, context=roster.context), 1)]
            for other in roster.neighbors[self._site]:
                if other in self._sharers:
                    theirs = roster.advertisements[other].mask_key
                    pair_key = agree(self._mask_private, theirs, context=roster.context, purpose=MASK_PURPOSE)
                    masks.append((pair_key, mask_sign(self._site, other)))
            masked = vector.copy()
            add_masks(masked, masks)
            masked &= vector.dtype.type(2**config.bits - 1)
            return self._seal(Kind.INPUT, pack_bits(masked, config.bits).tobytes())

    def confirm(self, survivors_message: bytes) -> bytes:
        """Sign the set of sites whose vectors arrived; at most one set is ever signed in a session.

        Raises:
            SecureSumError: forged, replayed or malformed; fewer than the threshold; sites that never sent shares; this
                site is left out; or the survivors do not hang together.
        """
        with self._turn(Kind.CONFIRM, then=Kind.OPENED):
            roster = self._roster
            body = self._from_server(Kind.SURVIVORS, survivors_message)
            survivors = split_set(body, roster.sites)
            if len(survivors) < self._config.threshold:
                raise SecureSumError(
                    f"too few survivors: expected at least {self._config.threshold}, got {len(survivors)}"
                )
            if self._site not in survivors:
                raise SecureSumError("the survivors leave this site out, which did send its vector")
            if strangers := survivors - self._sharers:
                raise SecureSumError(f"the survivors name {min(strangers)!r}, who never sent shares")
            self._check_neighbors(survivors)
            if not is_connected(survivors, roster.neighbors):
                raise SecureSumError("the survivors fall into groups without common masks, which could be opened apart")
            self._survivors, self._confirmed = survivors, body
            return self._seal(Kind.CONFIRM, body, context=roster.context)

    def open_shares(self, confirmations_message: bytes) -> bytes:
        """Give away what opens the sum: of a survivor the share of its seed, of a drop-out the share of its mask key.

        One of the two for each site, never both: which one, the set that this site signed says.

        Raises:
            SecureSumError: forged, replayed or malformed; or fewer than the threshold have signed the same set.
        """
        with self._turn(Kind.OPENED, then=None):
            roster = self._roster
            signers = set()
            for part in split_parts(self._from_server(Kind.CONFIRMATIONS, confirmations_message)):
                place, signature = int.from_bytes(part[:2], "big"), part[2:]
                if len(signature) != SIGNATURE_BYTES or place >= len(roster.sites):
                    raise SecureSumError("malformed message: not a confirmation")
                signer = roster.sites[place]
                if signer not in self._survivors:
                    raise SecureSumError(f"a confirmation by {signer!r}, who is not among the survivors")
                check_signature(
                    signature,
                    Kind.CONFIRM,
                    self._confirmed,
                    context=roster.context,
                    sender=signer,
                    public_key=self._config.members[signer],
                )
                signers.add(signer)
            if len(signers) < self._config.threshold:
                raise SecureSumError(
                    f"too few sites confirm the survivors: expected at least {self._config.threshold}, "
                    f"got {len(signers)}"
                )
            opened = [
                self._held[other][SHARE_BYTES:] if other in self._survivors else self._held[other][:SHARE_BYTES]
                for other in sorted(self._held)
            ]
            self._held.clear()
            return self._seal(Kind.OPENED, b"".join(opened))

    def _read_inbox(self, body: bytes) -> None:
        roster = self._roster
        parts = split_parts(body)
        if not parts:
            raise SecureSumError("malformed message: an empty inbox")
        self._sharers = split_set(parts[0], roster.sites)
        if len(self._sharers) < self._config.threshold:
            raise SecureSumError(
                f"too few sites sent shares: expected at least {self._config.threshold}, got {len(self._sharers)}"
            )
        if self._site not in self._sharers:
            raise SecureSumError("the inbox says that this site sent no shares, which it did")
        self._check_neighbors(self._sharers)
        senders = [other for other in roster.neighbors[self._site] if other in self._sharers]
        if len(parts) != len(senders) + 1:
            raise SecureSumError(
                f"malformed message: shares of {len(senders)} neighbours expected, got {len(parts) - 1}"
            )
        for sender, ciphertext in zip(senders, parts[1:], strict=True):
            try:
                pair = AESGCM(self._share_key(sender, self._site)).decrypt(_NONCE, ciphertext, roster.context)
            except InvalidTag as error:
                raise SecureSumError(f"the shares from {sender!r} are not what it encrypted for this site") from error
            if len(pair) != 2 * SHARE_BYTES:
                raise SecureSumError(f"the shares from {sender!r} have {len(pair)} bytes, expected {2 * SHARE_BYTES}")
            self._held[sender] = pair

    def _check_neighbors(self, present: frozenset[str]) -> None:
        neighbors = self._roster.neighbors[self._site]
        needed, found = self._config.neighbors_needed(len(neighbors)), len(present.intersection(neighbors))
        if found < needed:
            raise SecureSumError(f"too few of this site's neighbours are left: expected at least {needed}, got {found}")

    def _share_key(self, sender: str, recipient: str) -> bytes:
        """The key of the one message from `sender` to `recipient`, one of which is this site."""
        other = recipient if sender == self._site else sender
        theirs = self._roster.advertisements[other].share_key
        purpose = b"shares " + join_parts([sender.encode(), recipient.encode()])
        return agree(self._share_private, theirs, context=self._roster.context, purpose=purpose)

    def _own_advertisement(self) -> Advertisement:
        commitment = commit_seed(self._seed, context=self._context, sender=self._site)
        return Advertisement(public_bytes(self._mask_private), public_bytes(self._share_private), commitment)

    def _from_server(self, kind: Kind, message: bytes) -> bytes:
        return unseal(message, kind=kind, context=self._context, keys={SERVER: self._config.server_key})[1]

    def _seal(self, kind: Kind, body: bytes, *, context: bytes | None = None) -> bytes:
        return seal(kind, body, context=context or self._context, sender=self._site, key=self._key)

    @contextmanager
    def _turn(self, step: Kind, *, then: Kind | None) -> Iterator[None]:
        if self._next != step:
            expected = "nothing: the session is over for this site" if self._next is None else self._next.name
            raise SecureSumError(f"out of turn: expected {expected}, got {step.name}")
        self._next = None
        yield
        self._next = then


def field_vector(values: UInt, bits: int) -> UInt:
    """Values as `mask` wants them: reduced modulo 2^bits, in the smallest unsigned type.

    >>> field_vector(np.array([1, 70000], dtype=np.uint64), 16)
    array([   1, 4464], dtype=uint16)
    """
    return (values & values.dtype.type(2**bits - 1)).astype(word_type(bits))
