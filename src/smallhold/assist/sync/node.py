"""One device among others: a journal that is its own outbox, and an inbox in the same journal.

Everything that is known, from how far a peer's messages were taken to the hybrid clock, is derived from the journal.
An entry is written whole or not at all, so a process may be killed at any moment: what was not taken is asked for
again, what was taken is known by (device, seq) and not taken twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from smallhold.assist.sync.clock import MOST_AHEAD_MS, HybridClock
from smallhold.assist.sync.conflict import Conflict, find_conflicts
from smallhold.assist.sync.message import ACT, RECORD, STREAMS, Act, Batch, Have, Message
from smallhold.device.journal import Journal
from smallhold.device.wall_clock import wall_ms
from smallhold.errors import InputError, JournalError
from smallhold.records import AuditEntry, canonical_json

ACT_KIND, RECEIVED_KIND, HAVE_KIND, CONFLICT_KIND = "act", "sync-received", "sync-have", "sync-conflict"
#: Part of the protocol: another list makes another chain, and a peer that took the old one sees a gap.
RECORD_KINDS = ("step", "alarm", "reading", "staff", "feedback")
_MOST_MESSAGES = 2000
_MOST_BYTES = 8 * 2**20


class _Place(NamedTuple):
    """Where a message is: number at its origin and here (-1: erased here), and what identifies it."""

    seq: int
    here: int
    hash: str
    kind: str
    t_ms: int


@dataclass(slots=True)
class Taken:
    """What `take` made of a batch.

    Attributes:
        acts: New acts, in the order that every device comes to.
        records: New messages of the record stream.
        duplicates: Messages that were known.
        gaps: Messages that came before one that is missing; they will come again.
        refused: Why messages were refused: another history under a known number, or a malformed act.
        conflicts: New ones.
        skewed: Acts whose stamp is too far ahead to be followed; they are taken all the same.
    """

    acts: list[Act] = field(default_factory=list)
    records: int = 0
    duplicates: int = 0
    gaps: int = 0
    refused: list[str] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    skewed: int = 0


class SyncNode:
    """A device or a ward node.

    Args:
        journal: Open for appending. Steps and alarms that others write into it are sent, too.
        device: This node's name, the same for ever; 1 to 64 printable characters.
        wants: The streams that this node takes; a device takes acts, a ward node records as well.
        wall: Wall clock in milliseconds.
        most_ahead_ms: See `HybridClock`.

    Raises:
        InputError: the name is malformed.
        JournalError: an entry of the journal cannot be read.
    """

    def __init__(
        self,
        journal: Journal,
        device: str,
        *,
        wants: Sequence[str] = (ACT,),
        wall: Callable[[], int] = wall_ms,
        most_ahead_ms: int = MOST_AHEAD_MS,
    ) -> None:
        if not 1 <= len(device) <= 64 or not device.isprintable() or "/" in device:
            raise InputError(f"device: expected 1 to 64 printable characters without '/', got {device[:80]!r}")
        self.device = device
        self.wants = tuple(wants)
        self._journal, self._wall = journal, wall
        self.clock = HybridClock(most_ahead_ms=most_ahead_ms)
        self._read_to = 0
        self._index: dict[tuple[str, str], list[_Place]] = {}
        self._acts: dict[tuple[str, int], Act] = {}
        self._told: set[str] = set()
        self._refresh()
        self._note_conflicts()

    def act(
        self,
        kind: str,
        *,
        actor: str,
        about: str = "",
        patient: str | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Act:
        """A person did something here; on the disk when this returns.

        Args:
            kind: `acknowledge`, `medication`, `message` ...
            actor: The person.
            about: What it concerns; see `Act`.
            patient: Whom it is about; the entry is sealed for them.
            body: More.

        Raises:
            InputError: nobody is named, or the body has no JSON form.
            JournalError: it could not be written; it did not happen.
        """
        if not actor.strip():
            raise InputError("act: expected the name of a person, got an empty actor")
        self._refresh()
        seen = {
            device: self.have[device, ACT] for device, stream in self._index if stream == ACT and device != self.device
        }
        act = Act(
            device=self.device,
            stamp=self.clock.tick(self._wall()),
            kind=kind,
            about=about,
            patient=patient,
            actor=actor,
            body=dict(body or {}),
            seen=seen,
        )
        seq = self._append(ACT_KIND, act.to_payload(), patient)
        self._note_conflicts()
        return self._acts[self.device, seq]

    @property
    def have(self) -> Have:
        """How far each stream of each device was taken."""
        self._refresh()
        return {name: places[-1].seq for name, places in self._index.items()}

    def acts(self) -> tuple[Act, ...]:
        """Every act that is known, in the order that every device comes to."""
        self._refresh()
        return tuple(sorted(self._acts.values(), key=lambda act: act.order))

    def conflicts(self) -> tuple[Conflict, ...]:
        """Every conflict that is known, open or resolved."""
        return find_conflicts(self.acts())

    def greeting(self, peer: str) -> Batch:
        """How far this node got, to a peer of whom nothing is known."""
        return Batch(self.device, peer, self.have, self.wants)

    def batch_for(self, heard: Batch) -> Batch:
        """What the sender of a batch has not got and takes, the oldest first, bounded: ask again for the rest.

        Raises:
            JournalError: the peer has more of this device than its journal holds: the journal is an older copy.
        """
        peer, have, mine = heard.sender, heard.have, self.have
        for stream in STREAMS:
            if have.get((self.device, stream), -1) > mine.get((self.device, stream), -1):
                raise JournalError(
                    f"{peer} has entry {have[self.device, stream]} of {self.device}, whose journal ends before it: "
                    "it is an older copy",
                    hint="go on with the newest journal, or begin a new home under another device name",
                )
        messages: list[Message] = []
        size = 0
        for (device, stream), places in self._index.items():
            if stream not in heard.wants or device == peer:
                continue
            after, prev = have.get((device, stream), -1), -1
            for place in places:
                if place.seq > after:
                    message = self._message(device, stream, place, prev)
                    size += len(message.payload or b"")
                    if messages and (len(messages) == _MOST_MESSAGES or size > _MOST_BYTES):
                        return Batch(self.device, peer, mine, self.wants, tuple(messages))
                    messages.append(message)
                prev = place.seq
        return Batch(self.device, peer, mine, self.wants, tuple(messages))

    def take(self, batch: Batch) -> Taken:
        """Write down what is new in a batch; the same batch again changes nothing.

        Raises:
            JournalError: the journal cannot be written; what was written before it failed is kept.
        """
        self._refresh()
        taken, blocked = Taken(), set[tuple[str, str]]()
        new: dict[tuple[str, str], list[list[Any]]] = {}
        for message in batch.messages:
            name = (message.device, message.stream)
            if message.device == self.device or message.stream not in self.wants or name in blocked:
                taken.duplicates += message.device == self.device
                continue
            known = self._index.get(name, [])
            last = known[-1].seq if known else -1
            if message.seq <= last:
                taken.duplicates += 1
                earlier = next((place.hash for place in reversed(known) if place.seq == message.seq), None)
                if earlier != message.hash:
                    blocked.add(name)
                    taken.refused.append(
                        f"entry {message.seq} of {message.device} is not the one that was taken before: its journal "
                        "was replaced or forked"
                    )
                continue
            if message.prev != last:
                taken.gaps += 1
                blocked.add(name)
                continue
            if message.stream == ACT and message.payload is not None:
                try:
                    act = Act.from_payload(message.payload, device=message.device, seq=message.seq)
                except InputError as error:
                    taken.refused.append(f"entry {message.seq} of {message.device}: {error}")
                    blocked.add(name)
                    continue
                taken.skewed += not self.clock.follow(act.stamp, self._wall())
                taken.acts.append(act)
            else:
                taken.records += message.stream == RECORD
            self._append(RECEIVED_KIND, canonical_json(message.to_json()), message.patient)
            new.setdefault(name, []).append([message.seq, message.hash, message.kind, message.t_ms])
        for (device, stream), marks in new.items():
            # In the clear: what was taken must stay known when its payload is erased, or it would be fetched again.
            self._append(HAVE_KIND, canonical_json({"device": device, "stream": stream, "taken": marks}), None)
        taken.acts.sort(key=lambda act: act.order)
        taken.conflicts = self._note_conflicts()
        return taken

    def _append(self, kind: str, payload: bytes, patient: str | None) -> int:
        is_act = kind == ACT_KIND
        entry = self._journal.append(
            kind, payload, patient=patient, must_checkpoint=is_act and self._journal.is_signing
        )
        if entry.seq == self._read_to:
            self._absorb(entry, payload)
        else:
            self._refresh()  # somebody else wrote in between
        return entry.seq

    def _message(self, device: str, stream: str, place: _Place, prev: int) -> Message:
        payload = None if place.here < 0 else self._journal.payload(place.here)
        if device != self.device and payload is not None:
            return Message.from_json(json.loads(payload))
        return Message(
            device=device,
            seq=place.seq,
            hash=place.hash,
            prev=prev,
            stream=stream,
            kind=place.kind,
            t_ms=place.t_ms,
            patient=_patient_of(payload),
            payload=payload,
        )

    def _refresh(self) -> None:
        """Take in what the journal got since the last look."""
        for entry, payload in self._journal.entries(start=self._read_to):
            self._absorb(entry, payload)

    def _absorb(self, entry: AuditEntry, payload: bytes | None) -> None:
        self._read_to = entry.seq + 1
        if entry.kind == ACT_KIND or entry.kind in RECORD_KINDS:
            stream = ACT if entry.kind == ACT_KIND else RECORD
            place = _Place(entry.seq, entry.seq, entry.hash, entry.kind, entry.t_ms)
            self._index.setdefault((self.device, stream), []).append(place)
            if entry.kind == ACT_KIND and payload is not None:
                self._know(Act.from_payload(payload, device=self.device, seq=entry.seq))
        elif payload is None:
            return
        elif entry.kind == RECEIVED_KIND:
            message = Message.from_json(json.loads(payload))
            place = _Place(message.seq, entry.seq, message.hash, message.kind, message.t_ms)
            self._index.setdefault((message.device, message.stream), []).append(place)
            if message.stream == ACT and message.payload is not None:
                self._know(Act.from_payload(message.payload, device=message.device, seq=message.seq))
        elif entry.kind == HAVE_KIND:
            value = json.loads(payload)
            places = self._index.setdefault((value["device"], value["stream"]), [])
            known = {place.seq for place in places[-len(value["taken"]) :]}
            erased = [_Place(seq, -1, own, kind, t_ms) for seq, own, kind, t_ms in value["taken"] if seq not in known]
            if erased:
                places += erased
                places.sort()
        elif entry.kind == CONFLICT_KIND:
            self._told.add(json.loads(payload)["id"])

    def _know(self, act: Act) -> None:
        self._acts[act.device, act.seq] = act
        if act.device == self.device:
            self.clock.newest = max(self.clock.newest, act.stamp)
        else:
            self.clock.follow(act.stamp, self._wall())

    def _note_conflicts(self) -> list[Conflict]:
        """Journal conflicts that are new, and those that were resolved since."""
        new = []
        for conflict in find_conflicts(self._acts.values()):
            mark = conflict.id + (" resolved" if conflict.resolved_by is not None else "")
            if mark not in self._told:
                self._append(CONFLICT_KIND, canonical_json({"id": mark, **conflict.to_json()}), conflict.patient)
                new.append(conflict)
        return new


def _patient_of(payload: bytes | None) -> str | None:
    try:
        value = None if payload is None else json.loads(payload)
    except ValueError:
        return None
    patient = value.get("patient") if isinstance(value, dict) else None
    return patient if isinstance(patient, str) else None
