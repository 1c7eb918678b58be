"""Another organisation's node as witness of a journal: it signs how far it saw it grow, and never two histories.

The device hands over an *offer*: its newest checkpoint, and the links of the chain since the last one that the witness
signed. A link is what an entry's hash is made of, without the payload: time, kind and digest. The witness recomputes
the chain, so it knows that the new history extends the old one, and signs a *statement* with its own key. Somebody who
has the device's key can rewrite the journal, but not what the witness stated.

Offers and statements are files; nothing needs to be online.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from smallhold.device.durable_file import write_durably
from smallhold.device.journal_chain import FIRST_PREV, Checkpoint, entry_hash, is_signed_by
from smallhold.device.journal_check import Mark
from smallhold.device.journal_store import read_last_checkpoint, read_rows, snapshot
from smallhold.device.trust import key_id
from smallhold.errors import InputError, JournalError
from smallhold.records import canonical_json

_OFFER_SCHEMA = "smallhold.witness-offer/1"
_STATEMENT_SCHEMA = "smallhold.witness/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What a witness signed.

    Attributes:
        device: Key id of the device whose journal it is.
        seq: The entry.
        hash: Its hash.
        t_ms: The witness's clock.
        since: The entry up to which the witness had seen it before; -1 for the first statement.
        witness: Key id of the witness.
        signature: ed25519 over the canonical JSON of the other members and the schema.
    """

    device: str
    seq: int
    hash: str
    t_ms: int
    since: int
    witness: str
    signature: str = ""

    def signed_bytes(self) -> bytes:
        """What the signature covers."""
        members = {name: value for name, value in asdict(self).items() if name != "signature"}
        return canonical_json({"schema": _STATEMENT_SCHEMA, **members})

    def to_json(self) -> bytes:
        """Canonical JSON, to be kept by both sides."""
        return canonical_json({"schema": _STATEMENT_SCHEMA, **asdict(self)})

    @classmethod
    def from_json(cls, data: bytes) -> Statement:
        """Read what `to_json` wrote; the signature is not checked here.

        Raises:
            JournalError: not a statement.
        """
        try:
            value = json.loads(data)
            if value.pop("schema") != _STATEMENT_SCHEMA:
                raise ValueError(f"expected the schema {_STATEMENT_SCHEMA}")
            statement = cls(**value)
            numbers, texts = (statement.seq, statement.t_ms, statement.since), (statement.device, statement.hash)
            if not all(type(item) is int for item in numbers) or not all(type(item) is str for item in texts):
                raise ValueError("a member has the wrong type")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise JournalError(f"not a witness's statement: {error}") from error
        return statement


def make_offer(path: Path, last: Statement | None = None) -> bytes:
    """The newest checkpoint of a journal, and the links since the last statement of the witness.

    Raises:
        JournalError: there is no journal or no checkpoint, or the journal does not reach the statement.
    """
    with snapshot(path) as connection:
        checkpoint = read_last_checkpoint(connection)
        first = 0 if last is None else last.seq + 1
        if checkpoint is None or checkpoint.seq < first - 1:
            raise JournalError(
                f"journal {path} has no checkpoint at or after entry {max(0, first - 1)}: nothing to offer",
                hint="write to it, or close it: a checkpoint is signed then",
            )
        links = []
        for row in read_rows(connection, first):
            if row.entry.seq > checkpoint.seq:
                break
            links.append([row.entry.t_ms, row.entry.kind, row.entry.payload_digest])
    offer = {"schema": _OFFER_SCHEMA, "checkpoint": asdict(checkpoint), "first": first, "links": links}
    return canonical_json(offer)


def witness(
    offer: bytes, folder: Path, key: Ed25519PrivateKey, *, t_ms: int, device_key: Ed25519PublicKey | None = None
) -> Statement:
    """Check that an offer extends what was stated before, and sign it.

    Args:
        offer: From `make_offer`.
        folder: Where this witness remembers; one file a device, made when the device is new.
        key: The witness's own key.
        t_ms: Now.
        device_key: The device's public key; needed once, then remembered.

    Returns:
        The statement; for a checkpoint that was stated before, the same again.

    Raises:
        InputError: the offer is not one, or the device is new and its key was not given.
        JournalError: not signed by the device, or does not extend what was stated before. A fork (the device signed
            another history) is kept beside the memory as evidence, and the memory is as it was.
    """
    checkpoint, first, links = _read_offer(offer)
    memory = _Memory.load(folder, checkpoint.key_id)
    if memory is None:
        if device_key is None:
            raise InputError(
                f"device {checkpoint.key_id[:16]} is new to this witness",
                hint="give its public key once: --device-key PEM",
            )
        memory = _Memory(folder, device_key, None)
    if not is_signed_by(checkpoint, memory.device_key):
        raise JournalError("the offered checkpoint is not signed by the device that it names")
    last = memory.last
    if last is not None and checkpoint.seq < last.seq:
        raise JournalError(
            f"the offer ends at entry {checkpoint.seq}, but entry {last.seq} was stated before: "
            "it is older, or was cut",
            hint="an older copy of the journal is in use there, or its tail was cut: compare",
        )
    if last is not None and checkpoint.seq == last.seq and checkpoint.hash == last.hash:
        return last
    known = (-1, FIRST_PREV) if last is None else (last.seq, last.hash)
    if first - 1 > known[0]:
        raise InputError(f"the offer begins with entry {first}: expected one from entry {known[0] + 1} on or earlier")
    hashes = _recompute(first, links, known, None if first else FIRST_PREV)
    if hashes.get(known[0], known[1]) != known[1] or hashes.get(checkpoint.seq) != checkpoint.hash:
        raise _not_extending(offer, folder, checkpoint, first, links, known[0])
    unsigned = Statement(
        device=checkpoint.key_id,
        seq=checkpoint.seq,
        hash=checkpoint.hash,
        t_ms=t_ms,
        since=known[0],
        witness=key_id(key.public_key()),
    )
    statement = Statement(**{**asdict(unsigned), "signature": key.sign(unsigned.signed_bytes()).hex()})
    memory.save(statement)  # before anybody gets it: a witness that forgets could sign two histories
    return statement


def marks_of(
    statements: Sequence[Statement], witness_keys: Sequence[Ed25519PublicKey], device_key: Ed25519PublicKey
) -> tuple[Mark, ...]:
    """Check statements, for `verify(marks=...)`.

    Raises:
        JournalError: one is about another device, or not signed by one of these witnesses.
    """
    keys = {key_id(key): key for key in witness_keys}
    marks = []
    for statement in statements:
        if statement.device != key_id(device_key):
            raise JournalError(f"the statement about entry {statement.seq} is about another device's journal")
        if statement.witness not in keys:
            raise JournalError(
                f"the statement about entry {statement.seq} is by witness {statement.witness[:16]}, "
                "whose key was not given"
            )
        try:
            keys[statement.witness].verify(bytes.fromhex(statement.signature), statement.signed_bytes())
        except (InvalidSignature, ValueError) as error:
            raise JournalError(
                f"the statement about entry {statement.seq} is not signed by the witness that it names: "
                "it proves nothing"
            ) from error
        marks.append(Mark(statement.seq, statement.hash, f"the statement of witness {statement.witness[:16]}"))
    return tuple(marks)


@dataclass(slots=True)
class _Memory:
    """What a witness knows of one device."""

    folder: Path
    device_key: Ed25519PublicKey
    last: Statement | None

    @classmethod
    def load(cls, folder: Path, device: str) -> _Memory | None:
        if not (len(device) == 64 and set(device) <= set("0123456789abcdef")):
            raise InputError("the offer names no device")
        path = folder / f"{device}.json"
        if not path.exists():
            return None
        try:
            value = json.loads(path.read_bytes())
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(value["device_key"]))
            return cls(folder, key, Statement.from_json(canonical_json(value["last"])))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise JournalError(
                f"the witness's memory {path} cannot be read: {error}", hint="restore it; without it a fork can pass"
            ) from error

    def save(self, statement: Statement) -> None:
        value = {"device_key": self.device_key.public_bytes_raw().hex(), "last": json.loads(statement.to_json())}
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_durably(self.folder / f"{statement.device}.json", [canonical_json(value)])
        except OSError as error:
            raise JournalError(f"the witness's memory in {self.folder} could not be written: {error}") from error
        self.last = statement


def _read_offer(offer: bytes) -> tuple[Checkpoint, int, list[list[Any]]]:
    try:
        value = json.loads(offer)
        if value["schema"] != _OFFER_SCHEMA:
            raise ValueError(f"expected the schema {_OFFER_SCHEMA}")
        checkpoint = Checkpoint.from_json(canonical_json({"schema": "smallhold.checkpoint/1", **value["checkpoint"]}))
        first, links = value["first"], value["links"]
        if type(first) is not int or first < 0 or len(links) != checkpoint.seq + 1 - first:
            raise ValueError(f"expected the links of entries {first} to {checkpoint.seq}, got {len(links)}")
        for t_ms, kind, digest in links:
            if type(t_ms) is not int or type(kind) is not str or type(digest) is not str:
                raise ValueError("a link has the wrong type")
    except (ValueError, TypeError, KeyError, JournalError, RecursionError) as error:
        raise InputError(f"not an offer for a witness: {error}") from error
    return checkpoint, first, links


def _not_extending(
    offer: bytes, folder: Path, checkpoint: Checkpoint, first: int, links: list[list[Any]], known: int
) -> JournalError:
    """The error for an offer that does not fit; a fork that the device itself signed is kept as evidence."""
    what = (
        f"the offered history up to entry {checkpoint.seq} does not extend the one that was stated up to entry {known}"
    )
    own = _recompute(first, links, (-1, FIRST_PREV), FIRST_PREV) if first == 0 else {}
    if own.get(checkpoint.seq) != checkpoint.hash or known < 0:
        return JournalError(
            f"{what}: it is another history, or the offer was damaged on its way",
            hint="ask for an offer of the whole journal (without --since)",
        )
    evidence = folder / f"{checkpoint.key_id}-fork-{checkpoint.seq}-{checkpoint.hash[:16]}.json"
    try:
        write_durably(evidence, [offer])
    except OSError as error:
        return JournalError(f"FORK: {what}; the evidence could not be written: {error}")
    return JournalError(
        f"FORK: {what}, and the device signed both; the offer is kept in {evidence}",
        hint="the device's journal was rewritten by somebody who has its key",
    )


def _recompute(first: int, links: list[list[Any]], known: tuple[int, str], prev: str | None) -> dict[int, str]:
    """Hashes of the entries that the offer links, from the witness's own knowledge of where they begin."""
    hashes: dict[int, str] = {}
    for seq, (t_ms, kind, digest) in enumerate(links, start=first):
        if seq == known[0] + 1 and prev is None:
            prev = known[1]
        if prev is None:
            continue  # entries before what is known cannot be checked without their beginning, and need not be
        prev = hashes[seq] = entry_hash(seq=seq, t_ms=t_ms, kind=kind, payload_digest=digest, prev=prev)
    return hashes
