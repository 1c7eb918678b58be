"""A round of which the server sees the sum: turns of request and answer, each carried like a round without it.

Five turns under masks (`privacy.secure_sum`), three with ciphertexts (`encrypted_sum`). What the server says is the
same for all sites, so that no engine has to know that there are turns: it asks, hands over the answers and closes,
until the round's number moves on.

The server's side is a function of the messages that it took and of where it closed a turn. Both are in the journal
before they count: a server that was killed goes on in the turn that it was in. A site's masks live in its process; one
that was restarted has left the attempt. Where too few are left before the last turn, another attempt begins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from smallhold.device.durable_file import write_durably
from smallhold.errors import FederationError, JournalError, QuorumError, SecureSumError, UpdateRefused
from smallhold.federate.job import FederatedJob, draw_cohort
from smallhold.federate.journal import Entry, RoundJournal
from smallhold.federate.layout import Vector
from smallhold.federate.members import Members
from smallhold.federate.messages import SecureAnswer, SecureRequest, message_arrays
from smallhold.privacy.clip import clip_update
from smallhold.privacy.fixed_point import NOISE_TAIL, FixedPoint
from smallhold.privacy.randomness import Int64
from smallhold.privacy.secure_sum import SecureSumConfig, SecureSumServer
from smallhold.privacy.weighted import decode_weighted, encode_weighted, weight_digits
from smallhold.records import sha256_hex

TURNS = ("advertise", "share", "input", "confirm", "open")
ENCRYPTED_TURNS = ("key", "input", "open")
# Of a site's numbers: steps of a millionth of the clip norm; of a thirty-thousandth where two are to ride in a slot.
_LEVEL_BITS, _ENCRYPTED_LEVEL_BITS = 20, 16


def fixed_point_of(job: FederatedJob) -> FixedPoint:
    """How a site's numbers become whole ones that add up without wrapping; counts are whole, noise included."""
    if job.is_counting:
        most, noise = job.statistics.max_count, job.stddev_of(job.cohort_size)
        bits = (most * job.cohort_size + math.ceil(NOISE_TAIL * noise)).bit_length() + 1
        return FixedPoint(bits=max(4, bits), value_range=float(most), num_sites=job.cohort_size, noise_stddev=noise)
    room = (job.cohort_size - 1).bit_length() + 1
    level_bits = _ENCRYPTED_LEVEL_BITS if job.upload.key_holder else _LEVEL_BITS
    return FixedPoint(bits=level_bits + room, value_range=job.privacy.clip_norm, num_sites=job.cohort_size)


def most_examples(job: FederatedJob) -> int:
    """The largest weight of a site; under privacy of records every site weighs 1."""
    return job.aggregation.max_examples if job.tells_examples else 1


def encode_input(job: FederatedJob, delta: Vector, num_examples: int) -> Int64:
    """What a site hides: its update within the clip norm, weighted, with its weight; or its counts.

    Args:
        job: What is carried out.
        delta: (P,).
        num_examples: Of how many the update speaks.
    """
    if job.is_counting:
        return np.rint(delta).astype(np.int64)
    clipped, _ = clip_update(delta, clip_norm=job.privacy.clip_norm)
    return encode_weighted(clipped, num_examples, max_examples=most_examples(job), fixed_point=fixed_point_of(job))


def _input_length(job: FederatedJob, size: int) -> int:
    return size if job.is_counting else size + weight_digits(fixed_point_of(job))


def sum_config(job: FederatedJob, size: int, members: Members, number: int, base: str, attempt: int) -> SecureSumConfig:
    """What all parties agree on for one attempt; a party that sees another job, round or model agrees on nothing.

    Args:
        job: What is carried out.
        size: P.
        members: Keys.
        number: Of the round.
        base: Digest of the global model.
        attempt: Of the round.
    """
    fixed = fixed_point_of(job)
    return SecureSumConfig(
        session=f"{job.digest} {base} {number} {attempt}",
        members={site: members.sites[site] for site in draw_cohort(job, number)},
        server_key=members.server,
        length=_input_length(job, size),
        bits=fixed.bits,
        threshold=job.least,
    )


class HiddenSum(Protocol):
    """The server's side of one attempt: takes signed messages, closes turn after turn, and opens the sum."""

    #: Whether the last turn asks one site, that no other can stand in for.
    is_opened_by_one: ClassVar[bool]

    @property
    def waiting_for(self) -> frozenset[str]:
        """Sites that may still answer in this turn."""
        ...

    @property
    def survivors(self) -> frozenset[str]:
        """Sites whose vectors are in the sum."""
        ...

    def receive(self, message: bytes) -> str:
        """Take a message of this turn; gives its sender, or raises SecureSumError."""
        ...

    def close_turn(self) -> bytes | dict[str, bytes] | Int64:
        """What the next turn says, to all or to each; at the end the sum (P,). Raises SecureSumError."""
        ...


class _MaskedSum:
    """`privacy.secure_sum` as a `HiddenSum`."""

    is_opened_by_one: ClassVar[bool] = False

    def __init__(self, config: SecureSumConfig, members: Members, fixed: FixedPoint) -> None:
        self._server, self._fixed = SecureSumServer(config, key=members.key), fixed
        server = self._server
        self._closing: Iterator[Callable[[], Any]] = iter(
            (
                server.close_advertising,
                server.close_sharing,
                server.close_inputs,
                server.close_confirmations,
                self._open,
            )
        )
        self.receive = server.receive
        self._close = next(self._closing)

    @property
    def waiting_for(self) -> frozenset[str]:
        return self._server.waiting_for

    @property
    def survivors(self) -> frozenset[str]:
        return self._server.survivors

    def close_turn(self) -> bytes | dict[str, bytes] | Int64:
        said: bytes | dict[str, bytes] | Int64 = self._close()
        self._close = next(self._closing, self._close)
        return said

    def _open(self) -> Int64:
        return self._fixed.from_field(self._server.close())


class SecureRounds:
    """The server's side, for one round after the other.

    Args:
        job: What is carried out.
        size: P.
        folder: Of the server's state; accepted messages go to `secure/ROUND-ATTEMPT/TURN/SITE.safetensors`.
        journal: Of the job.
        members: Keys; None where the job's rounds are only read.
    """

    def __init__(
        self, job: FederatedJob, size: int, folder: Path, journal: RoundJournal, members: Members | None
    ) -> None:
        self._job, self._size, self._folder, self._journal, self._members = job, size, folder, journal, members
        self._round = self.attempt = 0
        self._turns = ENCRYPTED_TURNS if job.upload.key_holder else TURNS

    def begin(self, number: int, base: str, entries: Sequence[Entry] = ()) -> None:
        """Begin a round, or go on with it.

        Args:
            number: Of the round.
            base: Digest of the global model.
            entries: Of the journal.

        Raises:
            JournalError: a message is no longer what it was.
        """
        self._round, self._base = number, base
        of_round = [entry for entry in entries if entry.body.get("round") == number]
        self.attempt = sum(entry.kind == "turn_failed" for entry in of_round)
        self._start()
        for entry in of_round if self._members is not None else []:
            if entry.body.get("attempt") != self.attempt:
                continue
            if entry.kind == "message":
                self._sum.receive(SecureAnswer.from_bytes(self._read(entry.body)).said())
            elif entry.kind == "turn_closed":
                self._close()

    def _start(self) -> None:
        self._turn, self._arrays = 0, dict[str, NDArray[Any]]()
        self.total: Int64 | None = None
        self._opened = -1  # messages of the last turn when it could not be closed
        if self._members is not None:
            config = sum_config(self._job, self._size, self._members, self._round, self._base, self.attempt)
            self._sum = self._open_sum(config, self._members)

    def _open_sum(self, config: SecureSumConfig, members: Members) -> HiddenSum:
        fixed, holder = fixed_point_of(self._job), self._job.upload.key_holder
        if not holder:
            return _MaskedSum(config, members, fixed)
        from smallhold.federate.encrypted_sum import EncryptedSumServer

        return EncryptedSumServer(config, members, holder, fixed)

    @property
    def turn(self) -> str:
        """Round, attempt and turn."""
        return f"{self._round}/{self.attempt}/{self._turns[self._turn]}"

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """Sites that may still answer in this turn."""
        self._check_members()
        return tuple(sorted(self._sum.waiting_for))

    def request(self, model: Vector) -> bytes:
        """What the turn asks of every site; the model goes with the turn that trains."""
        self._check_members()
        arrays = self._arrays | ({"model": model} if self._turns[self._turn] == "input" else {})
        return SecureRequest(
            job=self._job.digest,
            round=self._round,
            base=self._base,
            attempt=self.attempt,
            turn=self._turns[self._turn],
            arrays=arrays,
        ).to_bytes()

    def receive(self, answer: SecureAnswer, blob: bytes) -> None:
        """Count an answer; it is on the disk and in the journal when this returns.

        Raises:
            UpdateRefused: `stale`: of another attempt or turn; `malformed`: forged, or not part of the protocol.
        """
        self._check_members()
        now = f"turn {self._turns[self._turn]} of attempt {self.attempt}"
        if (answer.attempt, answer.turn) != (self.attempt, self._turns[self._turn]):
            raise UpdateRefused("stale", f"expected {now}, got turn {answer.turn} of attempt {answer.attempt}")
        try:
            sender = self._sum.receive(answer.said())
        except SecureSumError as error:
            raise UpdateRefused("malformed", str(error)) from error
        try:
            if sender != answer.site:  # signed by one, sent as another
                raise UpdateRefused("unknown_site", f"{answer.site} sends a message of {sender}")
            body = {"round": self._round, "attempt": self.attempt, "turn": answer.turn, "site": answer.site}
            body |= {"digest": sha256_hex(blob), "bytes": len(blob)}
            path = self._file(body)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path, [blob], mode=0o600, removes_leftovers=False)
            self._journal.append("message", **body)
        except BaseException:
            self.begin(self._round, self._base, self._journal.entries)  # without what is not in the journal
            raise

    def close_turn(self) -> bool:
        """Close the turn; True when the sum is open, as `total`.

        Raises:
            QuorumError: too few sites are left. Another attempt has begun, unless it was the last turn and the sites
                may still answer.
        """
        self._check_members()
        if self.total is not None:
            return True
        turn = self._turns[self._turn]
        try:
            self._close()
        except SecureSumError as error:
            missing = f"job {self._job.name}, round {self._round}, turn {turn} of attempt {self.attempt}: {error}"
            hint = "start the missing sites and run the same command again"
            opened = len(self._messages_of(turn))
            if turn == "open" and (self._sum.is_opened_by_one or self._opened != opened):
                # What was opened so far is not lost, and who has opened takes part in no other attempt.
                self.begin(self._round, self._base, self._journal.entries)
                self._opened = opened
                raise QuorumError(missing, hint=hint) from error
            self._journal.append("turn_failed", round=self._round, attempt=self.attempt, turn=turn)
            self.attempt += 1
            self._start()
            raise QuorumError(f"{missing}; attempt {self.attempt} begins", hint=hint) from error
        if self.total is None:
            self._journal.append("turn_closed", round=self._round, attempt=self.attempt, turn=turn)
        return self.total is not None

    def _messages_of(self, turn: str) -> list[dict[str, Any]]:
        now = {"round": self._round, "attempt": self.attempt, "turn": turn}
        bodies = (entry.body for entry in self._journal.entries if entry.kind == "message")
        return [body for body in bodies if now.items() <= body.items()]

    @property
    def survivors(self) -> tuple[str, ...]:
        """Sites whose updates are in the sum."""
        return tuple(sorted(self._sum.survivors))

    def aggregate(self) -> tuple[Vector, int]:
        """The weighted mean (P,) of the survivors' updates, and their examples together; of counts the sum.

        Raises:
            FederationError: the sum is not open.
        """
        if self.total is None:
            raise FederationError(f"round {self._round}: the sum is not open")
        fixed = fixed_point_of(self._job)
        if self._job.is_counting:
            return self.total.astype(np.float32), len(self.survivors)
        mean, num_examples = decode_weighted(self.total, max_examples=most_examples(self._job), fixed_point=fixed)
        return mean.astype(np.float32), num_examples

    def _close(self) -> None:
        """End the turn that is open, and say what the next one asks."""
        said = self._sum.close_turn()
        if isinstance(said, np.ndarray):
            self.total = said
            return
        self._turn += 1
        if isinstance(said, dict):
            self._arrays = message_arrays(**{f"inbox/{site}": message for site, message in said.items()})
        else:
            self._arrays = message_arrays(message=said)

    def _read(self, body: dict[str, Any]) -> bytes:
        path = self._file(body)
        try:
            blob = path.read_bytes()
        except OSError as error:
            raise JournalError(f"{path}: an accepted message cannot be read: {error}") from error
        if sha256_hex(blob) != body["digest"]:
            raise JournalError(f"{path}: the message was altered after it was accepted")
        return blob

    def _file(self, body: dict[str, Any]) -> Path:
        return self._folder / message_file(body)

    def _check_members(self) -> None:
        if self._members is None:
            raise FederationError(
                f"job {self._job.name}: {self._job.upload.hidden_by} needs the keys of its members",
                hint="smallhold federate run makes them; between machines see docs/guides/federation.md",
            )


def message_file(body: Mapping[str, Any]) -> Path:
    """Where an accepted message lies, within the server's folder."""
    return Path("secure", f"{body['round']}-{body['attempt']}", str(body["turn"]), f"{body['site']}.safetensors")
