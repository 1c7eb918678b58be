"""A round of which the server sees the sum: five turns of request and answer, each carried like a round without it.

The protocol is that of `privacy.secure_sum`. What the server says is the same for all sites, so that no engine has to
know that there are turns: it asks, hands over the answers and closes, until the round's number moves on.

The server's side is a function of the messages that it took and of where it closed a turn. Both are in the journal
before they count: a server that was killed goes on in the turn that it was in. A site's masks live in its process; one
that was restarted has left the attempt. Where too few are left before the last turn, another attempt begins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

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
from smallhold.privacy.packing import UInt
from smallhold.privacy.randomness import Int64
from smallhold.privacy.secure_sum import SecureSumConfig, SecureSumServer
from smallhold.privacy.weighted import decode_weighted, encode_weighted, weight_digits
from smallhold.records import sha256_hex

TURNS = ("advertise", "share", "input", "confirm", "open")
_LEVEL_BITS = 20  # of a site's numbers: steps of a millionth of the clip norm


def fixed_point_of(job: FederatedJob) -> FixedPoint:
    """How a site's numbers become whole ones that add up without wrapping; counts are whole, noise included."""
    if job.is_counting:
        most, noise = job.statistics.max_count, job.stddev_of(job.cohort_size)
        bits = (most * job.cohort_size + math.ceil(NOISE_TAIL * noise)).bit_length() + 1
        return FixedPoint(bits=max(4, bits), value_range=float(most), num_sites=job.cohort_size, noise_stddev=noise)
    room = (job.cohort_size - 1).bit_length() + 1
    return FixedPoint(bits=_LEVEL_BITS + room, value_range=job.privacy.clip_norm, num_sites=job.cohort_size)


def most_examples(job: FederatedJob) -> int:
    """The largest weight of a site; under privacy of records every site weighs 1."""
    return job.aggregation.max_examples if job.tells_examples else 1


def encode_input(job: FederatedJob, delta: Vector, num_examples: int) -> Int64:
    """What a site puts under masks: its update within the clip norm, weighted, with its weight; or its counts.

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
        self.total: UInt | None = None
        self._opened = -1  # messages of the last turn when it could not be closed
        if self._members is not None:
            config = sum_config(self._job, self._size, self._members, self._round, self._base, self.attempt)
            self._sum = SecureSumServer(config, key=self._members.key)

    @property
    def turn(self) -> str:
        """Round, attempt and turn."""
        return f"{self._round}/{self.attempt}/{TURNS[self._turn]}"

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """Sites that may still answer in this turn."""
        self._check_members()
        return tuple(sorted(self._sum.waiting_for))

    def request(self, model: Vector) -> bytes:
        """What the turn asks of every site; the model goes with the turn that trains."""
        self._check_members()
        arrays = self._arrays | ({"model": model} if TURNS[self._turn] == "input" else {})
        return SecureRequest(
            job=self._job.digest,
            round=self._round,
            base=self._base,
            attempt=self.attempt,
            turn=TURNS[self._turn],
            arrays=arrays,
        ).to_bytes()

    def receive(self, answer: SecureAnswer, blob: bytes) -> None:
        """Count an answer; it is on the disk and in the journal when this returns.

        Raises:
            UpdateRefused: `stale`: of another attempt or turn; `malformed`: forged, or not part of the protocol.
        """
        self._check_members()
        now = f"turn {TURNS[self._turn]} of attempt {self.attempt}"
        if (answer.attempt, answer.turn) != (self.attempt, TURNS[self._turn]):
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
        turn = TURNS[self._turn]
        try:
            self._close()
        except SecureSumError as error:
            missing = f"job {self._job.name}, round {self._round}, turn {turn} of attempt {self.attempt}: {error}"
            hint = "start the missing sites and run the same command again"
            if turn == "open" and self._opened != (opened := len(self._messages_of(turn))):
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
        levels = fixed.from_field(self.total)
        if self._job.is_counting:
            return levels.astype(np.float32), len(self.survivors)
        mean, num_examples = decode_weighted(levels, max_examples=most_examples(self._job), fixed_point=fixed)
        return mean.astype(np.float32), num_examples

    def _close(self) -> None:
        """End the turn that is open, and say what the next one asks."""
        close: tuple[Callable[[], Any], ...] = (
            self._sum.close_advertising,
            self._sum.close_sharing,
            self._sum.close_inputs,
            self._sum.close_confirmations,
            self._sum.close,
        )
        said = close[self._turn]()
        if self._turn == len(TURNS) - 1:
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
                f"job {self._job.name}: upload.secure needs the keys of its members",
                hint="smallhold federate run makes them; between machines see docs/guides/federation.md",
            )


def message_file(body: Mapping[str, Any]) -> Path:
    """Where an accepted message lies, within the server's folder."""
    return Path("secure", f"{body['round']}-{body['attempt']}", str(body["turn"]), f"{body['site']}.safetensors")
