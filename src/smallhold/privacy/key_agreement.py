"""Keys that two sites share without meeting: X25519, then HKDF-SHA256 to one key for one purpose.

Source: RFC 7748 (X25519), RFC 5869 (HKDF).
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from smallhold.errors import SecureSumError

KEY_BYTES = 32


def private_key(raw: bytes) -> X25519PrivateKey:
    """The private key with these 32 bytes."""
    return X25519PrivateKey.from_private_bytes(raw)


def public_bytes(key: X25519PrivateKey) -> bytes:
    """The 32 bytes of its public key."""
    return key.public_key().public_bytes_raw()


def agree(own: X25519PrivateKey, other_public: bytes, *, context: bytes, purpose: bytes) -> bytes:
    """A key of 32 bytes that both ends compute, and nobody else.

    Args:
        own: One end's private key.
        other_public: The other end's public key, 32 bytes.
        context: What both ends agree on before (the session and the cohort); another context gives another key.
        purpose: What the key is for; another purpose gives an independent key.

    Raises:
        SecureSumError: the public key is malformed or of low order, which would fix the secret whatever ours is.
    """
    try:
        shared = own.exchange(X25519PublicKey.from_public_bytes(other_public))
    except ValueError as error:
        raise SecureSumError(f"an advertised public key is not a usable X25519 key: {error}") from error
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=context, info=purpose).derive(shared)
