"""Finding what is wrong with a journal: recompute everything, name the first place that does not fit.

Pure functions of rows that somebody else read, so that the database and its export are judged alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from smallhold.device.journal_chain import (
    CHECKPOINT_EVERY,
    ERASURE,
    FIRST_PREV,
    Checkpoint,
    erased_seq,
    hash_at,
    is_entry,
    is_own_hash,
    is_signed_by,
    payload_digest,
)
from smallhold.errors import JournalError
from smallhold.records import AuditEntry

_SEARCH_REACH = 1024  # how far a moved entry is followed to say where it came from


@dataclass(frozen=True, slots=True)
class Row:
    """One entry as read from storage, with its payload and the checkpoint made at it, if any; nothing is believed.

    Attributes:
        entry: The entry; its members may have any type that storage can hold.
        nonce: 16 bytes, or None when the payload was erased.
        payload: The payload, or None when it was erased.
        checkpoint: The checkpoint with this entry's seq, or None.
    """

    entry: AuditEntry
    nonce: bytes | None
    payload: bytes | None
    checkpoint: Checkpoint | None


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
        is_compared_outside: An outside checkpoint was given and holds.
        problem: The first problem, or None when the journal is intact.
    """

    entries: int
    erased: int
    checkpoints: int
    checkpoint: Checkpoint | None
    is_compared_outside: bool
    problem: Problem | None

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
) -> VerifyReport:
    """Recompute everything and find the first problem.

    Args:
        rows: All rows in the order in which they are stored.
        public_key: The device's key.
        outside: A checkpoint that was kept outside, or None.
        expected_entries: How many entries there must be at least, as storage itself says elsewhere (a payload or a
            checkpoint without an entry, or the head of an export).

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
    walk = _Walk(public_key, outside)
    rest = iter(rows)
    problem = next((found for row in rest if (found := walk.step(row, rest)) is not None), None)
    if problem is None:
        problem = next(walk.problems_at_end(expected_entries), None)
    return VerifyReport(
        entries=walk.count,
        erased=walk.erased,
        checkpoints=walk.checkpoints,
        checkpoint=walk.checkpoint,
        is_compared_outside=outside is not None and problem is None,
        problem=problem,
    )


@dataclass(slots=True)
class _Walk:
    """What is known after `count` entries."""

    public_key: Ed25519PublicKey
    outside: Checkpoint | None
    count: int = 0
    prev: str = FIRST_PREV
    before_prev: str = ""
    checkpoint: Checkpoint | None = None
    checkpoints: int = 0
    erased: int = 0
    without_payload: set[int] = field(default_factory=set)

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

    def problems_at_end(self, expected_entries: int) -> Iterator[Problem]:
        last = self.count - 1
        if expected_entries > self.count:
            yield Problem(
                ProblemKind.CUT_TAIL,
                self.count,
                f"traces of entry {expected_entries - 1} are left, but the last entry is {last}",
            )
        if self.outside is not None and self.outside.seq > last:
            yield Problem(
                ProblemKind.CUT_TAIL,
                self.count,
                f"the outside checkpoint is of entry {self.outside.seq}, but the last entry is {last}",
            )
        for seq in sorted(self.without_payload):
            yield Problem(
                ProblemKind.PAYLOAD_MISSING, seq, f"entry {seq} has no payload, and no entry says it was erased"
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
        if self.outside is not None and self.outside.seq == here and self.outside.hash != entry.hash:
            return self._rewritten(here, "the outside checkpoint")
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
        if row.payload is None and row.nonce is None:
            self.without_payload.add(seq)
            return None
        is_right = (
            type(row.nonce) is bytes
            and type(row.payload) is bytes
            and payload_digest(row.nonce, row.payload) == row.entry.payload_digest
        )
        if not is_right or row.payload is None:
            return Problem(ProblemKind.ALTERED_PAYLOAD, seq, f"the payload of entry {seq} does not have its digest")
        if row.entry.kind == ERASURE:
            target = erased_seq(row.payload)
            if target is None:
                return Problem(ProblemKind.ALTERED_PAYLOAD, seq, f"entry {seq} does not say whose payload it erased")
            if target not in self.without_payload:
                return Problem(
                    ProblemKind.PAYLOAD_RESTORED, target, f"entry {seq} erased the payload of {target}, which is there"
                )
            self.without_payload.discard(target)
            self.erased += 1
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
