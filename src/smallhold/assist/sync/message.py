"""What travels between devices: journal entries under their own identity, acts of people, and signed batches of both.

A message is identified by (device, seq): the number of the entry in the journal of the device that wrote it. Each of
a device's two streams, `act` (what people did: everybody gets it) and `record` (steps and alarms: the ward node gets
it), is a chain: a message names the one before, so that a receiver sees a gap.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from smallhold.assist.sync.clock import Stamp
from smallhold.errors import InputError
from smallhold.records import canonical_json

ACT, RECORD = "act", "record"
STREAMS = (ACT, RECORD)
_ACT_SCHEMA = "smallhold.act/1"
_BATCH_SCHEMA = "smallhold.sync-batch/1"

#: How far a receiver got: (device, stream) -> seq of the last message taken.
Have = dict[tuple[str, str], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One journal entry of one device, on its way.

    Attributes:
        device: Who wrote it.
        seq: Its number in that device's journal.
        hash: The entry's hash there: the same number with another hash is another history.
        prev: Number of the message before in this stream, -1 for the first.
        stream: `act` or `record`.
        kind: Of the entry.
        t_ms: Wall clock of the device when it was written.
        patient: Whom it is about, or None.
        payload: None when it was erased before it could be sent.
    """

    device: str
    seq: int
    hash: str
    prev: int
    stream: str
    kind: str
    t_ms: int
    patient: str | None
    payload: bytes | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON object."""
        members = {item.name: getattr(self, item.name) for item in fields(self)}
        return {**members, "payload": None if self.payload is None else base64.b64encode(self.payload).decode()}

    @classmethod
    def from_json(cls, value: Any) -> Message:
        """Read back what `to_json` wrote.

        Raises:
            InputError: a member is missing, unknown or of the wrong type.
        """
        try:
            message = cls(**{**value, "payload": None if value["payload"] is None else _decode(value["payload"])})
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"not a message: {error}") from error
        texts = (message.device, message.hash, message.kind)
        numbers = (message.seq, message.prev, message.t_ms)
        is_right = all(type(item) is str for item in texts) and all(type(item) is int for item in numbers)
        if not is_right or message.stream not in STREAMS or not isinstance(message.patient, str | None):
            raise InputError(f"not a message: a member of {message.device!r}/{message.seq!r} has the wrong type")
        return message


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """What a person did, as it is journalled.

    Attributes:
        device: Where.
        seq: The journal entry's number there; -1 before it is written.
        stamp: Of the device's hybrid clock.
        kind: `acknowledge`, `medication`, `message` ...
        about: What it concerns, for example an alert's id or a dose's; two acts about the same thing can conflict.
        patient: Whom it is about, or None.
        actor: The person.
        body: Anything that JSON holds.
        seen: Device -> number of the last act of that device that was known here.
    """

    device: str
    seq: int = -1
    stamp: Stamp
    kind: str
    about: str
    patient: str | None
    actor: str
    body: Mapping[str, Any]
    seen: Mapping[str, int]

    @property
    def order(self) -> tuple[Stamp, str, int]:
        """The one order that every device comes to."""
        return self.stamp, self.device, self.seq

    def has_seen(self, other: Act) -> bool:
        """Whether whoever did this could know of the other."""
        if self.device == other.device:
            return other.seq < self.seq
        return self.seen.get(other.device, -1) >= other.seq

    def to_payload(self) -> bytes:
        """Canonical JSON for one journal entry."""
        members = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "seq"}
        return canonical_json({"schema": _ACT_SCHEMA, **members})

    @classmethod
    def from_payload(cls, payload: bytes, *, device: str, seq: int) -> Act:
        """Read back what `to_payload` wrote, as entry `seq` of `device`.

        Raises:
            InputError: it is not an act, or another device's.
        """
        try:
            value = json.loads(payload)
            if value.pop("schema") != _ACT_SCHEMA or value["device"] != device:
                raise ValueError(f"expected the schema {_ACT_SCHEMA} and the device {device!r}")
            act = cls(**{**value, "seq": seq, "stamp": Stamp(*value["stamp"])})
            if not all(type(item) is int for item in (*act.stamp, *act.seen.values())):
                raise ValueError("stamp and seen: expected whole numbers")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"not an act: {error}") from error
        return act


@dataclass(frozen=True, slots=True)
class Batch:
    """What one device says to another: how far it got, what it takes, and messages that the other has not got."""

    sender: str
    to: str
    have: Have
    wants: tuple[str, ...]
    messages: tuple[Message, ...] = ()

    def to_bytes(self, key: Ed25519PrivateKey) -> bytes:
        """Canonical JSON, signed by the sender."""
        body = {
            "schema": _BATCH_SCHEMA,
            "sender": self.sender,
            "to": self.to,
            "have": [[*name, seq] for name, seq in sorted(self.have.items())],
            "wants": list(self.wants),
            "messages": [message.to_json() for message in self.messages],
        }
        return canonical_json({"body": body, "signature": key.sign(canonical_json(body)).hex()})

    @classmethod
    def from_bytes(cls, data: bytes, keys: Mapping[str, Ed25519PublicKey], *, to: str) -> Batch:
        """Check and read a batch.

        Args:
            data: From `to_bytes`, or anything.
            keys: Peer to its public key.
            to: This device.

        Raises:
            InputError: cut or altered, not for this device, or not signed by the peer that it names.
        """
        try:
            value = json.loads(data)
            body, signature = value["body"], bytes.fromhex(value["signature"])
            sender = body["sender"]
            if sender not in keys:
                raise ValueError(f"sender {sender!r} is not a known peer")
            keys[sender].verify(signature, canonical_json(body))
            if body["schema"] != _BATCH_SCHEMA or body["to"] != to:
                raise ValueError(
                    f"expected the schema {_BATCH_SCHEMA} to {to!r}, got {body['schema']!r} to {body['to']!r}"
                )
            have = {(device, stream): int(seq) for device, stream, seq in body["have"]}
            messages = tuple(map(Message.from_json, body["messages"]))
            return cls(sender, to, have, tuple(map(str, body["wants"])), messages)
        except InvalidSignature as error:
            raise InputError("the batch was altered, or is not signed by the peer that it names") from error
        except (KeyError, TypeError, ValueError, InputError, RecursionError) as error:
            raise InputError(f"not a batch for this device: {error}") from error


def _decode(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
