"""The server's side of a secure sum: collects messages, closes each step, and opens the sum and nothing else."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smallhold.errors import InputError, SecureSumError
from smallhold.privacy.key_agreement import agree, private_key, public_bytes
from smallhold.privacy.packing import UInt, packed_size, unpack_bits, word_type
from smallhold.privacy.secure_sum.config import SecureSumConfig
from smallhold.privacy.secure_sum.envelope import (
    SERVER,
    SIGNATURE_BYTES,
    Kind,
    join_parts,
    join_set,
    seal,
    unseal,
)
from smallhold.privacy.secure_sum.masks import add_masks, commit_seed, self_mask_key
from smallhold.privacy.secure_sum.roster import (
    MASK_PURPOSE,
    Advertisement,
    Roster,
    mask_sign,
    read_roster,
    write_roster,
)
from smallhold.privacy.shamir import SHARE_BYTES, join_shares, lagrange_at_zero

_CIPHERTEXT_BYTES = 2 * SHARE_BYTES + 16


class SecureSumServer:
    """The server's state machine: five times `receive` what comes in, then close the step.

    ::

        receive(ADVERTISE)...  close_advertising()   -> the roster, for everybody
        receive(SHARES)...     close_sharing()       -> an inbox for each site
        receive(INPUT)...      close_inputs()        -> the survivors, for them
        receive(CONFIRM)...    close_confirmations() -> the signatures, for the survivors
        receive(OPENED)...     close()               -> the sum

    A message that is refused changes nothing; its sender counts as dropped out unless a good one follows. When to
    close a step is the caller's to decide: all are there, or a deadline has passed. Masked vectors are added as they
    come, so memory does not grow with the number of sites.

    Args:
        config: Equal to everybody else's.
        key: The server's ed25519 key, whose public half `config.server_key` is.

    Raises:
        InputError: another key.
    """

    def __init__(self, config: SecureSumConfig, *, key: Ed25519PrivateKey) -> None:
        if config.server_key != key.public_key().public_bytes_raw():
            raise InputError("key: not the private half of config.server_key")
        self._config, self._key = config, key
        self._context = config.context()
        self._collecting: Kind | None = Kind.ADVERTISE
        self._received: dict[str, bytes] = {}
        self._roster: Roster
        self._shares: dict[str, dict[str, bytes]] = {}  # sender, recipient, ciphertext
        self._sharers: frozenset[str] = frozenset()
        self._survivors: frozenset[str] = frozenset()
        self._total: UInt = np.zeros(config.length, dtype=word_type(config.bits))

    @property
    def waiting_for(self) -> frozenset[str]:
        """Sites that may still send the message that is being collected."""
        allowed: Mapping[Kind | None, frozenset[str]] = {
            Kind.ADVERTISE: frozenset(self._config.members),
            Kind.SHARES: frozenset(self._roster.sites) if self._collecting == Kind.SHARES else frozenset(),
            Kind.INPUT: self._sharers,
            Kind.CONFIRM: self._survivors,
            Kind.OPENED: self._survivors,
        }
        return allowed.get(self._collecting, frozenset()) - self._received.keys()

    @property
    def survivors(self) -> frozenset[str]:
        """Sites whose vectors are in the sum; empty before `close_inputs`."""
        return self._survivors

    def receive(self, message: bytes) -> str:
        """Take one message of the step that is being collected.

        Returns:
            Its sender.

        Raises:
            SecureSumError: forged, replayed, malformed, late, sent twice, or from a site that dropped out before.
        """
        if self._collecting is None:
            raise SecureSumError("the session is over")
        kind = self._collecting
        context = self._roster.context if kind == Kind.CONFIRM else self._context
        sender, body = unseal(message, kind=kind, context=context, keys=self._config.members)
        if sender in self._received:
            raise SecureSumError(f"{sender!r} has sent its {kind.name} message already: replayed")
        if sender not in self.waiting_for:
            raise SecureSumError(f"{sender!r} is no longer part of the session: it missed an earlier step")
        match kind:
            case Kind.ADVERTISE:
                Advertisement.from_bytes(body)
                self._received[sender] = message
            case Kind.SHARES:
                self._take_shares(sender, body)
            case Kind.INPUT:
                self._take_input(sender, body)
            case Kind.CONFIRM:
                if body != join_set(self._survivors, self._roster.sites):
                    raise SecureSumError(f"{sender!r} confirms another set of survivors")
                self._received[sender] = message[-SIGNATURE_BYTES:]
            case _:
                held = sum(1 for other in self._roster.holders(sender) if other in self._sharers)
                if len(body) != held * SHARE_BYTES:
                    raise SecureSumError(f"{sender!r} opens {len(body)} bytes, expected {held} shares")
                self._received[sender] = body
        return sender

    def close_advertising(self) -> bytes:
        """End the first step; the roster goes to every site on it.

        Raises:
            SecureSumError: fewer sites than the threshold, or two with the same key.
        """
        self._close(Kind.ADVERTISE, "advertised")
        body = write_roster([self._received[site] for site in sorted(self._received)])
        self._roster = read_roster(body, self._config)
        self._begin(Kind.SHARES)
        return self._seal(Kind.ROSTER, body)

    def close_sharing(self) -> dict[str, bytes]:
        """End the second step; each site that sent shares gets those that others encrypted for it.

        Raises:
            SecureSumError: fewer sites than the threshold.
        """
        self._close(Kind.SHARES, "sent shares")
        self._sharers = frozenset(self._received)
        present = join_set(self._sharers, self._roster.sites)
        inboxes = {}
        for site in sorted(self._sharers):
            senders = (other for other in self._roster.neighbors[site] if other in self._sharers)
            parts = [present, *(self._shares[other][site] for other in senders)]
            inboxes[site] = self._seal(Kind.INBOX, join_parts(parts))
        self._shares.clear()
        self._begin(Kind.INPUT)
        return inboxes

    def close_inputs(self) -> bytes:
        """End the third step; the set of survivors goes to each of them.

        Raises:
            SecureSumError: fewer sites than the threshold.
        """
        self._close(Kind.INPUT, "sent a vector")
        self._survivors = frozenset(self._received)
        self._begin(Kind.CONFIRM)
        return self._seal(Kind.SURVIVORS, join_set(self._survivors, self._roster.sites))

    def close_confirmations(self) -> bytes:
        """End the fourth step; the signatures go to the survivors.

        Raises:
            SecureSumError: fewer sites than the threshold.
        """
        self._close(Kind.CONFIRM, "confirmed the survivors")
        places = {site: place for place, site in enumerate(self._roster.sites)}
        parts = [places[site].to_bytes(2, "big") + self._received[site] for site in sorted(self._received)]
        self._begin(Kind.OPENED)
        return self._seal(Kind.CONFIRMATIONS, join_parts(parts))

    def close(self) -> UInt:
        """End the last step and open the sum.

        Returns:
            (length,) the sum of the survivors' vectors modulo 2^bits, in the type of the vectors.

        Raises:
            SecureSumError: too few shares of a secret, or shares that do not give it back; the site that sent a
                wrong share is named when it can be told.
        """
        self._close(Kind.OPENED, "opened shares", at_least=1)
        self._collecting = None
        roster = self._roster
        places = {
            opener: {
                owner: place for place, owner in enumerate(o for o in roster.holders(opener) if o in self._sharers)
            }
            for opener in self._received
        }
        weights: dict[tuple[int, ...], dict[int, int]] = {}
        masks: list[tuple[bytes, int]] = []
        for owner in sorted(self._sharers):
            shares = {}
            for opener in roster.holders(owner):
                if opener in self._received:
                    start = places[opener][owner] * SHARE_BYTES
                    shares[opener] = self._received[opener][start : start + SHARE_BYTES]
            secret = self._recover(owner, shares, weights)
            if owner in self._survivors:
                masks.append((self_mask_key(secret, context=roster.context), -1))
                continue
            own = private_key(secret)
            for other in roster.neighbors[owner]:
                if other in self._survivors:
                    theirs = roster.advertisements[other].mask_key
                    key = agree(own, theirs, context=roster.context, purpose=MASK_PURPOSE)
                    masks.append((key, -mask_sign(other, owner)))
        add_masks(self._total, masks)
        self._total &= self._total.dtype.type(2**self._config.bits - 1)
        return self._total

    def _take_shares(self, sender: str, body: bytes) -> None:
        neighbors = self._roster.neighbors[sender]
        if len(body) != len(neighbors) * _CIPHERTEXT_BYTES:
            raise SecureSumError(
                f"{sender!r} sent {len(body)} bytes of shares, expected {len(neighbors)} times {_CIPHERTEXT_BYTES}"
            )
        pieces = [body[at : at + _CIPHERTEXT_BYTES] for at in range(0, len(body), _CIPHERTEXT_BYTES)]
        self._shares[sender] = dict(zip(neighbors, pieces, strict=True))
        self._received[sender] = b""

    def _take_input(self, sender: str, body: bytes) -> None:
        config = self._config
        if len(body) != packed_size(config.length, config.bits):
            raise SecureSumError(
                f"{sender!r} sent a vector of {len(body)} bytes, expected {packed_size(config.length, config.bits)}"
            )
        try:
            vector = unpack_bits(np.frombuffer(body, dtype=np.uint8), config.length, config.bits)
        except InputError as error:
            raise SecureSumError(f"{sender!r} sent a malformed vector: {error}") from error
        self._total += vector
        self._received[sender] = b""

    def _recover(
        self, owner: str, shares: Mapping[str, bytes], weights: dict[tuple[int, ...], dict[int, int]]
    ) -> bytes:
        """The secret that an owner's holders open; with shares to spare, one wrong share is found and left out."""
        roster = self._roster
        needed = self._config.shares_needed(len(roster.holders(owner)))
        if len(shares) < needed:
            raise SecureSumError(
                f"too few shares of the secret of {owner!r}: expected at least {needed}, got {len(shares)}"
            )
        openers = sorted(shares)
        # Without a suspect first, then each opener in turn; to leave one out takes a share more than needed.
        for suspect in [None, *(openers if len(openers) > needed else ())]:
            chosen = [opener for opener in openers if opener != suspect][:needed]
            points = tuple(roster.point(opener) for opener in chosen)
            if points not in weights:
                weights[points] = lagrange_at_zero(points)
            try:
                by_point = {roster.point(opener): shares[opener] for opener in chosen}
                secret = join_shares(by_point, weights[points])
            except SecureSumError:
                continue
            if self._is_secret_of(owner, secret):
                return secret
        raise SecureSumError(
            f"the shares of the secret of {owner!r} do not give back what it committed to: "
            "it or a holder sent wrong ones"
        )

    def _is_secret_of(self, owner: str, secret: bytes) -> bool:
        shown = self._roster.advertisements[owner]
        if owner in self._survivors:
            return commit_seed(secret, context=self._context, sender=owner) == shown.commitment
        return public_bytes(private_key(secret)) == shown.mask_key

    def _close(self, step: Kind, what: str, *, at_least: int | None = None) -> None:
        if self._collecting != step:
            now = "nothing" if self._collecting is None else self._collecting.name
            raise SecureSumError(f"out of turn: {step.name} cannot be closed while {now} is collected")
        fewest = self._config.threshold if at_least is None else at_least
        if len(self._received) < fewest:
            raise SecureSumError(f"too few sites {what}: expected at least {fewest}, got {len(self._received)}")

    def _begin(self, step: Kind) -> None:
        self._collecting = step
        self._received = {}

    def _seal(self, kind: Kind, body: bytes) -> bytes:
        return seal(kind, body, context=self._context, sender=SERVER, key=self._key)
