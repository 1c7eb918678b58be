"""Payloads sealed with a key per patient, so that forgetting a patient is forgetting a key.

A data key (AES-256) belongs to one patient and one stretch of 30 days. It lies in the journal's key table, wrapped by
a key that is derived from the device's own. Whoever has the journal alone reads nothing; whoever deletes a patient's
data keys has erased everything that was sealed with them, at once and however much it is.

Sources: AES-GCM, NIST SP 800-38D, 96-bit random nonces; HKDF, RFC 5869.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from smallhold.errors import JournalError

NONCE_BYTES = 16
KEY_ID_BYTES = 6  # below 2**53, so that every JSON reader keeps it exactly
EPOCH_MS = 30 * 24 * 3_600_000
_GCM_NONCE_BYTES = 12
_WRAP_INFO = b"smallhold journal: wrap data keys, version 1"
_TAG_INFO = b"smallhold journal: tag patients, version 1"


@dataclass(frozen=True, slots=True)
class DataKey:
    """One row of the key table.

    Attributes:
        id: Random, never used twice.
        tag: Which patient: 16 bytes of HMAC-SHA256, so that the table names nobody.
        epoch: The stretch of `EPOCH_MS` since 1970 whose payloads it seals.
        wrapped: Nonce, encrypted key and tag.
    """

    id: int
    tag: bytes
    epoch: int
    wrapped: bytes


class Keyring:
    """Makes, wraps and unwraps data keys under a device's key."""

    def __init__(self, device_key: Ed25519PrivateKey) -> None:
        secret = device_key.private_bytes_raw()
        self._wrapping = AESGCM(HKDF(SHA256(), 32, None, _WRAP_INFO).derive(secret))
        self._tagging = HKDF(SHA256(), 32, None, _TAG_INFO).derive(secret)

    def tag(self, patient: str) -> bytes:
        """What stands for a patient in the key table."""
        return hmac.new(self._tagging, patient.encode(), hashlib.sha256).digest()[:16]

    def make(self, patient: str, epoch: int) -> tuple[DataKey, AESGCM]:
        """A new data key, as a row and ready to use."""
        identity, tag, secret = int.from_bytes(os.urandom(KEY_ID_BYTES)), self.tag(patient), os.urandom(32)
        nonce = os.urandom(_GCM_NONCE_BYTES)
        wrapped = nonce + self._wrapping.encrypt(nonce, secret, _about(identity, tag, epoch))
        return DataKey(identity, tag, epoch, wrapped), AESGCM(secret)

    def unwrap(self, row: DataKey) -> bytes:
        """The secret of a row, 32 bytes.

        Raises:
            JournalError: the row was altered, or belongs to another device's journal.
        """
        try:
            nonce, sealed = row.wrapped[:_GCM_NONCE_BYTES], row.wrapped[_GCM_NONCE_BYTES:]
            return self._wrapping.decrypt(nonce, sealed, _about(row.id, row.tag, row.epoch))
        except (InvalidTag, ValueError, TypeError, OverflowError) as error:
            raise JournalError(
                f"data key {row.id!r} cannot be unwrapped: it was altered, or this is another device's key",
                hint="give the key of the device that wrote the journal",
            ) from error


def sealed_nonce(key: int) -> bytes:
    """A fresh nonce that names the data key."""
    return os.urandom(NONCE_BYTES) + key.to_bytes(KEY_ID_BYTES)


def sealing_key(nonce: object) -> int | None:
    """Which data key a stored nonce names; None for a payload in the clear, or what is no nonce."""
    if type(nonce) is bytes and len(nonce) == NONCE_BYTES + KEY_ID_BYTES:
        return int.from_bytes(nonce[NONCE_BYTES:])
    return None


def seal(cipher: AESGCM, nonce: bytes, payload: bytes, *, seq: int, kind: str) -> bytes:
    """Encrypt a payload for its place in the journal."""
    return cipher.encrypt(nonce[:_GCM_NONCE_BYTES], payload, _place(seq, kind))


def unseal(cipher: AESGCM, nonce: bytes, stored: bytes, *, seq: int, kind: str) -> bytes:
    """Decrypt what `seal` made.

    Raises:
        JournalError: it was altered, or moved from another place.
    """
    try:
        return cipher.decrypt(nonce[:_GCM_NONCE_BYTES], stored, _place(seq, kind))
    except InvalidTag as error:
        raise JournalError(
            f"the payload of entry {seq} was altered, moved, or sealed with another key",
            hint="smallhold journal verify",
        ) from error


def _place(seq: int, kind: str) -> bytes:
    return seq.to_bytes(8) + kind.encode()


def _about(identity: int, tag: bytes, epoch: int) -> bytes:
    return identity.to_bytes(KEY_ID_BYTES) + tag + epoch.to_bytes(8, signed=True)
