"""The rules of the journal: how entries chain, and what a checkpoint signs. Pure functions."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from smallhold.device.trust import key_id
from smallhold.errors import JournalError
from smallhold.records import AuditEntry, canonical_json, sha256_hex

FIRST_PREV = "0" * 64
CHECKPOINT_EVERY = 64
ERASURE = "erasure"
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
    """The entry that follows `last` (None: the first)."""
    seq, prev = (0, FIRST_PREV) if last is None else (last.seq + 1, last.hash)
    digest = payload_digest(nonce, payload)
    own = entry_hash(seq=seq, t_ms=t_ms, kind=kind, payload_digest=digest, prev=prev)
    return AuditEntry(seq=seq, t_ms=t_ms, kind=kind, payload_digest=digest, prev=prev, hash=own)


def payload_digest(nonce: bytes, payload: bytes) -> str:
    """SHA-256 over nonce and payload: without the nonce, a digest says nothing about an erased payload."""
    return hashlib.sha256(nonce + payload).hexdigest()


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


def erasure_payload(seq: int, reason: str) -> bytes:
    """The payload of the entry that records an erasure."""
    return canonical_json({"reason": reason, "seq": seq})


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


def erased_seq(payload: bytes) -> int | None:
    """Whose payload an erasure entry says it erased; None when it does not say."""
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    seq = value.get("seq") if isinstance(value, dict) else None
    return seq if type(seq) is int else None
