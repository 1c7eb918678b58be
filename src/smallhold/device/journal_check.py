"""Finding what is wrong with a journal: recompute everything, name the first place that does not fit.

Pure functions of rows that somebody else read, so that the database and its export are judged alike.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from smallhold.device.journal_chain import (
    CHECKPOINT_EVERY,
    ERASURE,
    FIRST_PREV,
    Checkpoint,
    hash_at,
    is_entry,
    is_own_hash,
    is_signed_by,
    payload_digest,
    read_erasure,
)
from smallhold.device.journal_seal import NONCE_BYTES, sealing_key
from smallhold.errors import JournalError
from smallhold.records import AuditEntry

_SEARCH_REACH = 1024  # how far a moved entry is followed to say where it came from


@dataclass(frozen=True, slots=True)
class Row:
    """One entry as read from storage, with its payload and the checkpoint made at it, if any; nothing is believed.

    Attributes:
        entry: The entry; its members may have any type that storage can hold.
        nonce: 16 bytes, 6 more that name the data key of a sealed payload, or None when the payload was erased.
        payload: The payload as it is stored, or None when it was erased.
        checkpoint: The checkpoint with this entry's seq, or None.
        is_withheld: An export does not show the payload, which is there.
    """

    entry: AuditEntry
    nonce: bytes | None
    payload: bytes | None
    checkpoint: Checkpoint | None
    is_withheld: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """What somebody outside knows of one entry; `who` in words, for example `the outside checkpoint`."""

    seq: int
    hash: str
    who: str


class ProblemKind(StrEnum):
    """What is wrong with a journal."""

    ALTERED_ENTRY = "altered entry"
    ALTERED_PAYLOAD = "altered payload"
    REMOVED = "removed entry"
    REORDERED = "reordered entry"
    INSERTED = "inserted entry"
    PAYLOAD_MISSING = "missing payload"
    PAYLOAD_RESTORED = "erased payload restored"
    BAD_SIGNATURE = "bad checkpoint signature"
    REWRITTEN = "rewritten since checkpoint"
    CHECKPOINT_MISSING = "missing checkpoint"
    CUT_TAIL = "cut tail"


@dataclass(frozen=True, slots=True)
class Problem:
    """The first thing that is wrong.

    Attributes:
        kind: What it is.
        seq: The entry where it shows.
        message: One sentence.
    """

    kind: ProblemKind
    seq: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What a verification found.

    Attributes:
        entries: Entries read, up to the first problem.
        erased: Payloads that were erased and whose erasure is itself an entry.
        checkpoints: Checkpoints whose signature and hash are right.
        checkpoint: The last of them: keep it outside. Entries after it are chained but not signed yet.
        is_compared_outside: An outside checkpoint or a witness's statement was given and holds.
        problem: The first problem, or None when the journal is intact.
        withheld: Payloads that an export does not show.
    """

    entries: int
    erased: int
    checkpoints: int
    checkpoint: Checkpoint | None
    is_compared_outside: bool
    problem: Problem | None
    withheld: int = 0

    @property
    def is_intact(self) -> bool:
        """True when nothing is wrong."""
        return self.problem is None


def check_chain(
    rows: Iterable[Row],
    *,
    public_key: Ed25519PublicKey,
    outside: Checkpoint | None = None,
    expected_entries: int = 0,
    keys: Collection[int] | None = None,
    since: Checkpoint | None = None,
    marks: Sequence[Mark] = (),
) -> VerifyReport:
    """Recompute everything and find the first problem.

    Args:
        rows: All rows in the order in which they are stored.
        public_key: The device's key.
        outside: A checkpoint that was kept outside, or None.
        expected_entries: How many entries there must be at least, as storage itself says elsewhere (a payload or a
            checkpoint without an entry, or the head of an export).
        keys: The data keys that are there, None when that is not known.
        since: A checkpoint up to which everything was verified before; `rows` begin with its entry.
        marks: What witnesses know, their signatures checked before.

    Returns:
        A report; its problem is the first that the walk meets, or else what shows at the end: a cut tail, then the
        first payload that is missing (its erasure may have been cut off with the tail).
        JournalError: the outside checkpoint itself is not signed by this key.
    """
    if outside is not None and not is_signed_by(outside, public_key):
        raise JournalError(
            "the outside checkpoint is not signed by this device's key, so it proves nothing",
            hint="give the checkpoint and the key of the same device",
        )
    known = [*marks, *([] if outside is None else [Mark(outside.seq, outside.hash, "the outside checkpoint")])]
    walk = _Walk(public_key, sorted(known, key=lambda mark: mark.seq))
    rest = iter(rows)
    problem = None if since is None else walk.begin_after(since, next(rest, None))
    problem = problem or next((found for row in rest if (found := walk.step(row, rest)) is not None), None)
    if problem is None:
        problem = next(walk.problems_at_end(expected_entries, keys), None)
    return VerifyReport(
        entries=walk.count,
        erased=walk.erased,
        checkpoints=walk.checkpoints,
        checkpoint=walk.checkpoint,
        is_compared_outside=bool(known) and problem is None,
        problem=problem,
        withheld=walk.withheld,
    )


@dataclass(slots=True)
class _Walk:
    """What is known after `count` entries."""

    public_key: Ed25519PublicKey
    marks: Sequence[Mark]
    first: int = 0
    count: int = 0
    prev: str = FIRST_PREV
    before_prev: str = ""
    checkpoint: Checkpoint | None = None
    checkpoints: int = 0
    erased: int = 0
    withheld: int = 0
    without_payload: set[int] = field(default_factory=set)
    sealed: dict[int, tuple[int, int]] = field(default_factory=dict)  # data key -> first entry, number of payloads
    erased_keys: dict[int, int] = field(default_factory=dict)  # data key -> the entry that says so

    def begin_after(self, since: Checkpoint, row: Row | None) -> Problem | None:
        """Take everything up to a signed checkpoint as verified, if its entry is still there."""
        if not is_signed_by(since, self.public_key):
            raise JournalError("the checkpoint to begin with is not signed by this device's key, so it proves nothing")
        self.first = self.count = since.seq
        if row is None or row.entry.seq != since.seq:
            return Problem(ProblemKind.CUT_TAIL, since.seq, f"entry {since.seq} is not there")
        if not is_own_hash(row.entry) or row.entry.hash != since.hash:
            return self._rewritten(since.seq, "the checkpoint to begin with")
        self.first = self.count = since.seq + 1
        self.prev, self.before_prev, self.checkpoint = since.hash, row.entry.prev, since
        return None

    def step(self, row: Row, rest: Iterator[Row]) -> Problem | None:
        problem = (
            self._chain_problem(row.entry, rest)
            or self._payload_problem(row)
            or self._checkpoint_problem(row.entry, row.checkpoint)
        )
        if problem is None:
            self.count += 1
            self.before_prev, self.prev = self.prev, row.entry.hash
        return problem

    def problems_at_end(self, expected_entries: int, keys: Collection[int] | None) -> Iterator[Problem]:
        last = self.count - 1
        if expected_entries > self.count:
            yield Problem(
                ProblemKind.CUT_TAIL,
                self.count,
                f"traces of entry {expected_entries - 1} are left, but the last entry is {last}",
            )
        for mark in self.marks:
            if mark.seq > last:
                yield Problem(
                    ProblemKind.CUT_TAIL,
                    self.count,
                    f"{mark.who} is of entry {mark.seq}, but the last entry is {last}",
                )
        for seq in sorted(self.without_payload):
            yield Problem(
                ProblemKind.PAYLOAD_MISSING, seq, f"entry {seq} has no payload, and no entry says it was erased"
            )
        if keys is None:
            return
        for key, (seq, count) in self.sealed.items():
            if key not in keys and key not in self.erased_keys:
                yield Problem(
                    ProblemKind.PAYLOAD_MISSING,
                    seq,
                    f"the data key of {count} payloads from entry {seq} on is gone, and no entry says it was erased",
                )
        for key, seq in self.erased_keys.items():
            if key in keys:
                yield Problem(
                    ProblemKind.PAYLOAD_RESTORED, seq, f"entry {seq} erased data key {key}, which is there again"
                )

    def _chain_problem(self, entry: AuditEntry, rest: Iterator[Row]) -> Problem | None:
        here = self.count
        if not is_entry(entry):
            return Problem(ProblemKind.ALTERED_ENTRY, here, f"a member of entry {here} has the wrong type")
        if entry.seq > here:
            if any(row.entry.seq == here for row in rest):
                return Problem(ProblemKind.REORDERED, here, f"entry {here} stands after entry {entry.seq}")
            return Problem(ProblemKind.REMOVED, here, f"entries {here} to {entry.seq - 1} are missing")
        if entry.seq < here:
            return Problem(ProblemKind.INSERTED, here, f"an entry numbered {entry.seq} stands where {here} belongs")
        if not is_own_hash(entry):
            return self._moved_or_altered(entry, rest)
        if entry.prev != self.prev:
            following = next(rest, None)
            is_followed = following is not None and following.entry.prev == entry.hash
            replaced = here - 1 if here > 0 and is_followed else here
            return Problem(
                ProblemKind.ALTERED_ENTRY, replaced, f"entry {here} does not follow entry {here - 1}: one was replaced"
            )
        for mark in self.marks:
            if mark.seq == here and mark.hash != entry.hash:
                return self._rewritten(here, mark.who)
        return None

    def _moved_or_altered(self, entry: AuditEntry, rest: Iterator[Row]) -> Problem:
        here = self.count
        nearby = range(max(0, here - _SEARCH_REACH), here + _SEARCH_REACH)
        origin = next((seq for seq in nearby if hash_at(entry, seq) == entry.hash), None)
        if origin is None:
            return Problem(ProblemKind.ALTERED_ENTRY, here, f"entry {here} does not have the hash that it states")
        message = f"the entry stored as {here} was written as {origin}"
        if origin < here:
            # If it follows the entry before the last, it is the last one that does not belong.
            inserted = here - 1 if entry.prev == self.before_prev else here
            return Problem(ProblemKind.INSERTED, inserted, message)
        is_moved = any(row.entry.prev == self.prev for row in rest)
        return Problem(ProblemKind.REORDERED if is_moved else ProblemKind.REMOVED, here, message)

    def _payload_problem(self, row: Row) -> Problem | None:
        seq = row.entry.seq
        if row.is_withheld and row.payload is None and row.nonce is None and row.entry.kind != ERASURE:
            self.withheld += 1
            return None
        if row.payload is None and row.nonce is None:
            self.without_payload.add(seq)
            return None
        key = sealing_key(row.nonce)
        is_right = (
            type(row.nonce) is bytes
            and (len(row.nonce) == NONCE_BYTES or key is not None)
            and type(row.payload) is bytes
            and payload_digest(row.nonce, row.payload) == row.entry.payload_digest
        )
        if not is_right or row.payload is None:
            return Problem(ProblemKind.ALTERED_PAYLOAD, seq, f"the payload of entry {seq} does not have its digest")
        if key is not None:
            first, count = self.sealed.get(key, (seq, 0))
            self.sealed[key] = (first, count + 1)
        return self._erasure_problem(seq, row.payload) if row.entry.kind == ERASURE else None

    def _erasure_problem(self, seq: int, payload: bytes) -> Problem | None:
        erased = read_erasure(payload)
        if erased is None or any(not 0 <= first <= last < seq for first, last in erased.stretches):
            return Problem(ProblemKind.ALTERED_PAYLOAD, seq, f"entry {seq} does not say whose payload it erased")
        for first, last in erased.stretches:
            for target in range(max(first, self.first), last + 1):
                if target not in self.without_payload:
                    return Problem(
                        ProblemKind.PAYLOAD_RESTORED,
                        target,
                        f"entry {seq} erased the payload of {target}, which is there",
                    )
                self.without_payload.discard(target)
                self.erased += 1
        for key in erased.keys:
            self.erased_keys[key] = seq
            self.erased += self.sealed.get(key, (0, 0))[1]
        return None

    def _checkpoint_problem(self, entry: AuditEntry, checkpoint: Checkpoint | None) -> Problem | None:
        signed = -1 if self.checkpoint is None else self.checkpoint.seq
        if checkpoint is None:
            if entry.seq - signed < CHECKPOINT_EVERY:
                return None
            return Problem(
                ProblemKind.CHECKPOINT_MISSING,
                entry.seq,
                f"no checkpoint in the {CHECKPOINT_EVERY} entries from {signed + 1} to {entry.seq}: they are unsigned",
            )
        if not is_signed_by(checkpoint, self.public_key):
            return Problem(
                ProblemKind.BAD_SIGNATURE, entry.seq, f"the checkpoint at entry {entry.seq} is not signed by this key"
            )
        if checkpoint.hash != entry.hash:
            return self._rewritten(entry.seq, "the checkpoint")
        self.checkpoint = checkpoint
        self.checkpoints += 1
        return None

    def _rewritten(self, seq: int, witness: str) -> Problem:
        first = 0 if self.checkpoint is None else self.checkpoint.seq + 1
        return Problem(
            ProblemKind.REWRITTEN,
            first,
            f"entry {seq} is not the one that {witness} speaks of: entries {first} to {seq} may be rewritten",
        )


def tail_problem(
    rows: Sequence[Row],
    last_checkpoint: Checkpoint | None,
    signed: AuditEntry | None,
    public_key: Ed25519PublicKey | None,
) -> str:
    """What is wrong with the last stretch of a journal, or an empty string; the cheap check before appending.

    Args:
        rows: The last rows, in order: all that a checkpoint may not cover yet.
        last_checkpoint: The checkpoint with the highest seq, or None.
        signed: The first entry at or after that seq, or None.
        public_key: The key that will sign what follows, or None.
    """
    for before, row in zip([None, *rows], rows, strict=False):
        if not is_own_hash(row.entry):
            return f"entry {row.entry.seq} does not have the hash that it states"
        if before is not None and (row.entry.seq, row.entry.prev) != (before.entry.seq + 1, before.entry.hash):
            return f"entry {row.entry.seq} does not follow entry {before.entry.seq}"
    if last_checkpoint is None:
        return ""
    if public_key is not None and not is_signed_by(last_checkpoint, public_key):
        return f"the checkpoint at entry {last_checkpoint.seq!r} is not signed by this device's key"
    if signed is None or (signed.seq, signed.hash) != (last_checkpoint.seq, last_checkpoint.hash):
        return f"entry {last_checkpoint.seq!r} is not the one that the last checkpoint speaks of: cut or rewritten"
    return ""
