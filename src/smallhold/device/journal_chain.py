"""The rules of the journal: how entries chain, and what a checkpoint signs. Pure functions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from smallhold.device.journal_seal import NONCE_BYTES
from smallhold.device.trust import key_id
from smallhold.errors import JournalError
from smallhold.records import AuditEntry, canonical_json, sha256_hex

FIRST_PREV = "0" * 64
CHECKPOINT_EVERY = 64
ERASURE = "erasure"
_SEALED = b"smallhold sealed payload\0"
_CHECKPOINT_SCHEMA = "smallhold.checkpoint/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A signed statement that the entry `seq` had the hash `hash`, and with it everything before.

    Attributes:
        seq: The entry.
        hash: Its hash.
        t_ms: Wall clock when it was signed.
        key_id: SHA-256 of the raw public key that signed.
        signature: ed25519 over the canonical JSON of the other members and the schema, 128 hexadecimal digits.
    """

    seq: int
    hash: str
    t_ms: int
    key_id: str
    signature: str

    def to_json(self) -> bytes:
        """Canonical JSON, to be kept where whoever can change the journal cannot."""
        return canonical_json({"schema": _CHECKPOINT_SCHEMA, **asdict(self)})

    @classmethod
    def from_json(cls, data: bytes) -> Checkpoint:
        """Read what `to_json` wrote.

        Raises:
            JournalError: not a checkpoint; the signature is not checked here.
        """
        try:
            value = json.loads(data)
            if not isinstance(value, dict) or value.pop("schema", None) != _CHECKPOINT_SCHEMA:
                raise ValueError(f"expected the schema {_CHECKPOINT_SCHEMA}")
            checkpoint = cls(**value)
            if not _is_checkpoint(checkpoint):
                raise ValueError("a member has the wrong type")
        except (ValueError, TypeError, RecursionError) as error:
            raise JournalError(f"not a journal checkpoint: {error}") from error
        return checkpoint

    def signed_bytes(self) -> bytes:
        """What the signature covers."""
        members = {name: value for name, value in asdict(self).items() if name != "signature"}
        return canonical_json({"schema": _CHECKPOINT_SCHEMA, **members})


def entry_hash(*, seq: int, t_ms: int, kind: str, payload_digest: str, prev: str) -> str:
    """The hash of an entry with these members."""
    return sha256_hex(
        canonical_json({"seq": seq, "t_ms": t_ms, "kind": kind, "payload_digest": payload_digest, "prev": prev})
    )


def next_entry(last: AuditEntry | None, *, t_ms: int, kind: str, nonce: bytes, payload: bytes) -> AuditEntry:
    """The entry that follows `last` (None: the first); the payload as it is stored."""
    seq, prev = (0, FIRST_PREV) if last is None else (last.seq + 1, last.hash)
    digest = payload_digest(nonce, payload)
    own = entry_hash(seq=seq, t_ms=t_ms, kind=kind, payload_digest=digest, prev=prev)
    return AuditEntry(seq=seq, t_ms=t_ms, kind=kind, payload_digest=digest, prev=prev, hash=own)


def payload_digest(nonce: bytes, payload: bytes) -> str:
    """SHA-256 over nonce and stored payload: without the nonce, a digest says nothing about an erased payload.

    A sealed payload, whose nonce is longer, has a prefix of its own: no byte can move between nonce and payload.
    """
    return hashlib.sha256((b"" if len(nonce) == NONCE_BYTES else _SEALED) + nonce + payload).hexdigest()


def sign_checkpoint(entry: AuditEntry, *, t_ms: int, key: Ed25519PrivateKey, signer: str) -> Checkpoint:
    """Sign an entry's hash; `signer` is the key's id, passed in because it costs as much as the signature."""
    unsigned = Checkpoint(seq=entry.seq, hash=entry.hash, t_ms=t_ms, key_id=signer, signature="")
    signature = key.sign(unsigned.signed_bytes()).hex()
    return Checkpoint(seq=entry.seq, hash=entry.hash, t_ms=t_ms, key_id=signer, signature=signature)


def is_signed_by(checkpoint: Checkpoint, public_key: Ed25519PublicKey) -> bool:
    """Whether the checkpoint's signature is by this key, over these members."""
    if not _is_checkpoint(checkpoint) or checkpoint.key_id != key_id(public_key):
        return False
    try:
        public_key.verify(bytes.fromhex(checkpoint.signature), checkpoint.signed_bytes())
    except (InvalidSignature, ValueError):
        return False
    return checkpoint.signature == checkpoint.signature.lower()


def is_own_hash(entry: AuditEntry) -> bool:
    """Whether the entry's hash is the hash of its other members."""
    return is_entry(entry) and entry.hash == hash_at(entry, entry.seq)


def erasure_payload(
    reason: str, *, seq: int | None = None, stretches: Sequence[tuple[int, int]] = (), keys: Sequence[int] = ()
) -> bytes:
    """The payload of the entry that records an erasure.

    Args:
        reason: Why.
        seq: The one entry whose payload is gone, or None.
        stretches: First and last of each run of entries whose payloads are gone.
        keys: Data keys that are gone, and with them what they sealed.
    """
    gone = {"seq": seq, "stretches": list(map(list, stretches)), "keys": list(keys)}
    return canonical_json({"reason": reason, **{name: item for name, item in gone.items() if item not in (None, [])}})


def _is_checkpoint(checkpoint: Checkpoint) -> bool:
    texts = (checkpoint.hash, checkpoint.key_id, checkpoint.signature)
    return type(checkpoint.seq) is int and type(checkpoint.t_ms) is int and all(type(text) is str for text in texts)


def is_entry(entry: AuditEntry) -> bool:
    """Whether every member has its type: storage that was tampered with can hold anything."""
    texts = (entry.kind, entry.payload_digest, entry.prev, entry.hash)
    return type(entry.seq) is int and type(entry.t_ms) is int and all(type(text) is str for text in texts)


def hash_at(entry: AuditEntry, seq: int) -> str:
    """The hash that the entry would have as number `seq`."""
    return entry_hash(seq=seq, t_ms=entry.t_ms, kind=entry.kind, payload_digest=entry.payload_digest, prev=entry.prev)


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure entry says is gone: payloads by number (first and last of each stretch), and data keys."""

    stretches: tuple[tuple[int, int], ...] = ()
    keys: tuple[int, ...] = ()


def read_erasure(payload: bytes) -> Erased | None:
    """What an erasure entry says it erased; None when it does not say."""
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    seq, keys, stretches = value.get("seq"), value.get("keys", []), value.get("stretches", [])
    if type(seq) is int:
        return Erased(((seq, seq),))
    is_right = isinstance(keys, list) and isinstance(stretches, list) and all(type(key) is int for key in keys)
    if not is_right or not (keys or stretches):
        return None
    for item in stretches:
        if not (isinstance(item, list) and len(item) == 2 and all(type(at) is int for at in item)):
            return None
    return Erased(tuple((first, last) for first, last in stretches), tuple(keys))
