"""Who stands behind an order, and who takes it back: DSSE envelopes, as bundles have, of types of their own.

A signature over a bundle is none over an order, because the payload type is part of what is signed; and the keys are
kept apart, because whoever publishes models need not be allowed to prescribe.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from smallhold.assist.orders.standing_order import StandingOrder
from smallhold.device.envelope import check_signatures, open_envelope, sign_payload
from smallhold.errors import InputError, OrderError, SignatureError
from smallhold.records import canonical_json

ORDER_TYPE = "application/vnd.smallhold.standing-order+json"
REVOCATION_TYPE = "application/vnd.smallhold.order-revocation+json"
_HINT = "if this person may sign orders, put the public key (*.pem) into the home's orders/trust/ folder"


@dataclass(frozen=True, slots=True)
class SignedOrder:
    """An order that enough people have signed."""

    order: StandingOrder
    digest: str
    signers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Revocation:
    """An order is taken back for good."""

    order: str
    reason: str
    t_ms: int


def sign_order(order: StandingOrder, keys: Sequence[Ed25519PrivateKey]) -> bytes:
    """The envelope of an order, signed by each of the keys.

    Raises:
        InputError: no key.
    """
    if not keys:
        raise InputError("keys: expected at least one private key")
    envelope = sign_payload(order.to_bytes(), ORDER_TYPE, keys[0])
    for key in keys[1:]:
        envelope = add_signature(envelope, key)
    return envelope


def add_signature(envelope: bytes, key: Ed25519PrivateKey) -> bytes:
    """The envelope with one more signature, for a second person at another place.

    Raises:
        OrderError: the envelope is malformed or holds no valid order: nothing else is ever signed.
    """
    payload, signatures = _open(envelope, ORDER_TYPE)
    StandingOrder.from_bytes(payload)
    return sign_payload(payload, ORDER_TYPE, key, earlier=signatures)


def verify_order(
    envelope: bytes, trusted_keys: Mapping[str, Ed25519PublicKey], *, minimum_signatures: int = 1
) -> SignedOrder:
    """Believe an order, or not.

    Args:
        envelope: From `sign_order`.
        trusted_keys: Of those who may sign orders, by key id.
        minimum_signatures: What this site requires of every order; an order can require more of itself.

    Raises:
        OrderError: malformed, or signed by too few distinct trusted keys, or a signature is not what it says.
    """
    payload, signatures = _open(envelope, ORDER_TYPE)
    signers = _signers(payload, ORDER_TYPE, signatures, trusted_keys, "standing order")
    order = StandingOrder.from_bytes(payload)
    required = max(order.required_signatures, minimum_signatures)
    if len(signers) < required:
        raise OrderError(
            f"standing order {order.name}: expected signatures of {required} distinct people, got {len(signers)}",
            hint="let a second person sign it: smallhold order sign FILE --key THEIR_KEY",
        )
    return SignedOrder(order, order.digest, signers)


def unsafe_read_order(envelope: bytes) -> tuple[StandingOrder, tuple[str, ...]]:
    """The order and the key ids that claim to have signed it, believed by nobody: for showing, never for use.

    Raises:
        OrderError: malformed.
    """
    payload, signatures = _open(envelope, ORDER_TYPE)
    return StandingOrder.from_bytes(payload), tuple(keyid for keyid, _ in signatures)


def sign_revocation(order: str, reason: str, t_ms: int, key: Ed25519PrivateKey) -> bytes:
    """Take an order back; one signature is enough, because stopping is always safe.

    Args:
        order: Digest of the order, 64 hexadecimal digits.
        reason: For people.
        t_ms: Wall clock.
        key: Of anyone who may sign orders.

    Raises:
        OrderError: the digest or the reason is malformed.
    """
    payload = canonical_json({"order": order, "reason": reason, "t_ms": t_ms})
    _revocation(payload)
    return sign_payload(payload, REVOCATION_TYPE, key)


def verify_revocation(envelope: bytes, trusted_keys: Mapping[str, Ed25519PublicKey]) -> Revocation:
    """Believe a revocation, or not.

    Raises:
        OrderError: malformed, or not signed by anyone who may sign orders.
    """
    payload, signatures = _open(envelope, REVOCATION_TYPE)
    _signers(payload, REVOCATION_TYPE, signatures, trusted_keys, "revocation")
    return _revocation(payload)


def _revocation(payload: bytes) -> Revocation:
    try:
        value = Revocation(**json.loads(payload))
        is_digest = len(value.order) == 64 and set(value.order) <= set("0123456789abcdef")
        if not is_digest or not value.reason.strip() or not isinstance(value.t_ms, int):
            raise ValueError("expected an order's digest, a reason and a time")
    except (ValueError, TypeError, AttributeError) as error:
        raise OrderError(f"revocation is malformed: {error}") from error
    return value


def _open(envelope: bytes, payload_type: str) -> tuple[bytes, list[tuple[str, bytes]]]:
    try:
        return open_envelope(envelope, payload_type, name="the file")
    except SignatureError as error:
        raise OrderError(str(error), hint="smallhold order sign makes one") from error


def _signers(
    payload: bytes,
    payload_type: str,
    signatures: list[tuple[str, bytes]],
    trusted_keys: Mapping[str, Ed25519PublicKey],
    what: str,
) -> tuple[str, ...]:
    try:
        return check_signatures(
            payload, payload_type, signatures, trusted_keys, what=what, trusted_by="for orders this home", hint=_HINT
        )
    except SignatureError as error:
        raise OrderError(f"{what}: {error}", hint=error.hint) from error
