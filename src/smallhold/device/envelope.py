"""DSSE envelopes: any number of ed25519 signatures over one payload and its type.

Source: DSSE 1.0 protocol and envelope, https://github.com/secure-systems-lab/dsse. Our profile of it is stricter:
canonical JSON, standard base64, `keyid` required and used, no other members, so that no byte can change unseen.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from smallhold.errors import InputError, SignatureError
from smallhold.records import canonical_json

Signatures = list[tuple[str, bytes]]


def key_id(public: Ed25519PublicKey) -> str:
    """SHA-256 of the key's 32 raw bytes, in hexadecimal."""
    return hashlib.sha256(public.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """The bytes that a DSSE signature covers (PAE of the protocol).

    >>> pre_authentication_encoding("t", b"{}")
    b'DSSEv1 1 t 2 {}'
    """
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def sign_payload(
    payload: bytes, payload_type: str, key: Ed25519PrivateKey, *, earlier: Iterable[tuple[str, bytes]] = ()
) -> bytes:
    """An envelope with one more signature.

    Args:
        payload: What is signed.
        payload_type: Media type; a signature over one type is none over another.
        key: Of the signer.
        earlier: Signatures that the payload has already; one by the same key is replaced.
    """
    signer = key_id(key.public_key())
    signatures = [(keyid, signature) for keyid, signature in earlier if keyid != signer]
    signatures.append((signer, key.sign(pre_authentication_encoding(payload_type, payload))))
    return canonical_json(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": payload_type,
            "signatures": [
                {"keyid": keyid, "sig": base64.b64encode(signature).decode()} for keyid, signature in signatures
            ],
        }
    )


def open_envelope(data: bytes, payload_type: str, *, name: str) -> tuple[bytes, Signatures]:
    """Payload and signatures, none of them believed yet.

    Args:
        data: The envelope.
        payload_type: What it must say.
        name: Of the file, for messages.

    Raises:
        SignatureError: not an envelope of that type in canonical form.
    """
    try:
        envelope = json.loads(data)
        if canonical_json(envelope) != data:
            raise ValueError("not in canonical form")
        _exact_members(envelope, {"payload", "payloadType", "signatures"})
        if envelope["payloadType"] != payload_type:
            raise ValueError(f"payloadType: expected {payload_type}, got {envelope['payloadType']!r}")
        payload = _strict_base64(envelope["payload"])
        signatures: Signatures = []
        for item in envelope["signatures"]:
            _exact_members(item, {"keyid", "sig"})
            if not isinstance(item["keyid"], str):
                raise ValueError(f"keyid: expected text, got {item['keyid']!r}")
            signatures.append((item["keyid"], _strict_base64(item["sig"])))
    except (ValueError, TypeError, RecursionError, InputError) as error:
        raise SignatureError(f"{name} is not a signed envelope: {error}") from error
    return payload, signatures


def check_signatures(
    payload: bytes,
    payload_type: str,
    signatures: Signatures,
    trusted_keys: Mapping[str, Ed25519PublicKey],
    *,
    what: str,
    trusted_by: str,
    hint: str,
) -> tuple[str, ...]:
    """Who of the trusted signed it; what strangers signed beside them does not count.

    Returns:
        Key ids of distinct trusted signers, in the order of their signatures; at least one.

    Raises:
        SignatureError: no trusted key signed it, or a signature under a trusted key's name is not its own.
    """
    signed = pre_authentication_encoding(payload_type, payload)
    known = [(trusted_keys[keyid], keyid, signature) for keyid, signature in signatures if keyid in trusted_keys]
    if not known:
        raise SignatureError(
            f"signed by nobody {trusted_by} trusts: signed by {_short(keyid for keyid, _ in signatures)}, "
            f"trusted are {_short(trusted_keys)}",
            hint=hint,
        )
    for key, keyid, signature in known:
        try:
            key.verify(signature, signed)
        except InvalidSignature as error:
            raise SignatureError(f"signature by key {keyid[:16]} does not match the {what}") from error
    return tuple(dict.fromkeys(keyid for _, keyid, _ in known))


def _exact_members(value: Any, names: set[str]) -> None:
    if not isinstance(value, dict) or value.keys() != names:
        raise ValueError(f"expected an object with the members {sorted(names)}")


def _strict_base64(text: Any) -> bytes:
    if not isinstance(text, str):
        raise TypeError("expected base64 text")
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:  # the last character has bits that decoding ignores
        raise ValueError("base64 is not in its one canonical form")
    return data


def _short(key_ids: Iterable[str]) -> str:
    return ", ".join(ascii(keyid[:16])[1:-1] for keyid in key_ids) or "none"
