"""Messages of a secure sum: who says what in which session, under an ed25519 signature."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Collection, Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from smallhold.errors import SecureSumError

SERVER = ""
SIGNATURE_BYTES = 64
_MAGIC = b"SHS1"
_TAG_BYTES = 8  # of the session's context: enough to tell a message of another session from a forged one
_HEADER_BYTES = len(_MAGIC) + 1 + _TAG_BYTES + 1


class Kind(enum.IntEnum):
    """The messages, in the order of the protocol."""

    ADVERTISE = 1
    ROSTER = 2
    SHARES = 3
    INBOX = 4
    INPUT = 5
    SURVIVORS = 6
    CONFIRM = 7
    CONFIRMATIONS = 8
    OPENED = 9


def seal(kind: Kind, body: bytes, *, context: bytes, sender: str, key: Ed25519PrivateKey) -> bytes:
    """A signed message."""
    name = sender.encode()
    head = _MAGIC + bytes([kind]) + context[:_TAG_BYTES] + bytes([len(name)]) + name
    return b"".join((head, body, key.sign(_signed(kind, body, context, sender))))


def unseal(data: bytes, *, kind: Kind, context: bytes, keys: Mapping[str, bytes]) -> tuple[str, bytes]:
    """Sender and body of a message.

    Args:
        data: What arrived.
        kind: What is expected now.
        context: The session.
        keys: Whom to believe: sender to raw public key.

    Raises:
        SecureSumError: malformed, of another session (a replay), of another kind, from a stranger, or not signed by
            its sender.
    """
    found, tag, sender, body = _split(data)
    if tag != context[:_TAG_BYTES]:
        raise SecureSumError(f"a message from {_name(sender)} belongs to another session: replayed, or settings differ")
    if found != kind:
        raise SecureSumError(f"a message from {_name(sender)}: expected {kind.name}, got {found.name}: out of turn")
    if sender not in keys:
        raise SecureSumError(f"a message from {_name(sender)}, who is not expected to take part")
    check_signature(data[-SIGNATURE_BYTES:], kind, body, context=context, sender=sender, public_key=keys[sender])
    return sender, body


def check_signature(
    signature: bytes, kind: Kind, body: bytes, *, context: bytes, sender: str, public_key: bytes
) -> None:
    """Check a signature that travelled without its message.

    Raises:
        SecureSumError: it is not by this key over this message.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, _signed(kind, body, context, sender))
    except (InvalidSignature, ValueError) as error:
        raise SecureSumError(f"a {kind.name} message in the name of {_name(sender)} is not signed by it") from error


def join_parts(parts: Collection[bytes]) -> bytes:
    """Byte strings one after another, each with its length before it."""
    return b"".join(piece for part in parts for piece in (len(part).to_bytes(4, "big"), part))


def split_parts(data: bytes) -> list[bytes]:
    """What `join_parts` joined.

    Raises:
        SecureSumError: a length leads beyond the end.
    """
    parts, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if at + 4 + size > len(data):
            raise SecureSumError(f"malformed message: a part of {size} bytes, {len(data) - at - 4} are left")
        parts.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return parts


def join_set(chosen: Collection[str], sites: Collection[str]) -> bytes:
    """A set of sites as one bit each, in the order of `sites`, first site lowest."""
    bits = sum(1 << place for place, site in enumerate(sites) if site in chosen)
    return bits.to_bytes((len(sites) + 7) // 8, "little")


def split_set(data: bytes, sites: Collection[str]) -> frozenset[str]:
    """What `join_set` joined.

    Raises:
        SecureSumError: of another size, or with bits beyond the last site.
    """
    bits = int.from_bytes(data, "little")
    if len(data) != (len(sites) + 7) // 8 or bits >> len(sites):
        raise SecureSumError(f"malformed message: a set of {len(sites)} sites does not fit {len(data)} bytes")
    return frozenset(site for place, site in enumerate(sites) if bits >> place & 1)


def sender_of(data: bytes) -> str:
    """Who claims to have sent a message; nothing is verified."""
    return _split(data)[2]


def _split(data: bytes) -> tuple[Kind, bytes, str, bytes]:
    if len(data) < _HEADER_BYTES + SIGNATURE_BYTES or data[:4] != _MAGIC:
        raise SecureSumError("malformed message: not one of a secure sum, or cut short")
    name_size = data[_HEADER_BYTES - 1]
    start = _HEADER_BYTES + name_size
    if start + SIGNATURE_BYTES > len(data):
        raise SecureSumError("malformed message: cut short")
    try:
        kind = Kind(data[4])
        sender = data[_HEADER_BYTES:start].decode()
    except ValueError as error:
        raise SecureSumError(f"malformed message: {error}") from error
    return kind, data[5 : 5 + _TAG_BYTES], sender, data[start:-SIGNATURE_BYTES]


def _signed(kind: Kind, body: bytes, context: bytes, sender: str) -> bytes:
    name = sender.encode()
    return b"".join(
        (b"smallhold secure sum 1\0", bytes([kind]), context, bytes([len(name)]), name, hashlib.sha256(body).digest())
    )


def _name(sender: str) -> str:
    return "the server" if sender == SERVER else ascii(sender[:40])
