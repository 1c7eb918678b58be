"""A site's side of a round of which the server sees the sum; see `secure_rounds`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from smallhold.errors import FederationError, UpdateRefused
from smallhold.federate.answer import ANSWER, Answer, read_answer, write_answer
from smallhold.federate.job import FederatedJob, draw_cohort
from smallhold.federate.layout import Layout, Vector
from smallhold.federate.members import Members
from smallhold.federate.messages import SecureAnswer, SecureRequest, message_arrays
from smallhold.federate.secure_rounds import encode_input, fixed_point_of, sum_config
from smallhold.privacy.secure_sum import SecureSumSite
from smallhold.records import sha256_hex

#: Trains from a global model (P,) in a round; gives the delta (P,) and of how many examples it speaks.
Train = Callable[[Vector, int], tuple[Vector, int]]


class SecureSite:
    """One site in the secure sums of a job. Its masks live in memory: after a restart it waits for the next attempt.

    Args:
        name: Of the site.
        job: What is carried out.
        layout: Of the model.
        members: Keys.
        folder: Of the site's state.
        train: See `Train`.
    """

    #: Turns whose answer is on the disk before it goes: turn -> file.
    lasting: ClassVar[Mapping[str, str]] = {"open": ANSWER}  # a site's last word in a round

    def __init__(
        self, name: str, job: FederatedJob, layout: Layout, members: Members, folder: Path, train: Train
    ) -> None:
        self._name, self._job, self._layout, self._members, self._train = name, job, layout, members, train
        self._folder = folder
        self._session: tuple[int, int, str] | None = None
        self._answers: dict[str, bytes] = {}
        self._trained: tuple[int, str, Vector, int] | None = None

    def respond(self, request: bytes) -> bytes:
        """Answer in one turn. The same request again gets the same bytes.

        Raises:
            UpdateRefused: malformed, of another job, or `stale`: of a round of which this site has opened a sum.
            FederationError: the site was restarted within the attempt, or is not in the round's cohort.
            SecureSumError: the server does not follow the protocol; this attempt is over for the site.
        """
        asked, digest = SecureRequest.from_bytes(request), sha256_hex(request)
        if asked.job != self._job.digest:
            raise UpdateRefused("foreign", "the request belongs to another job")
        if digest in self._answers:
            return self._answers[digest]
        kept = read_answer(self._folder / self.lasting[asked.turn]) if asked.turn in self.lasting else None
        if kept is not None and kept.request == digest:
            return kept.blob
        self._check_opened(asked)
        self._attend(asked)
        message = self._answer(asked)
        blob = SecureAnswer(
            job=asked.job,
            site=self._name,
            round=asked.round,
            base=asked.base,
            attempt=asked.attempt,
            turn=asked.turn,
            arrays=message_arrays(message=message),
        ).to_bytes()
        if asked.turn in self.lasting:
            write_answer(self._folder / self.lasting[asked.turn], Answer(asked.job, asked.round, digest, blob, None))
        self._answers[digest] = blob
        return blob

    def _attend(self, asked: SecureRequest) -> None:
        """Begin an attempt, or refuse one that this process did not begin."""
        if asked.turn == "advertise":
            self._begin(asked)
        if self._session != (asked.round, asked.attempt, asked.base):
            raise FederationError(
                f"site {self._name}: has no part in round {asked.round}, attempt {asked.attempt}: it was started later"
            )

    def _join(self, asked: SecureRequest) -> None:
        """Take part in an attempt; answers of the one before are not asked for again."""
        if self._name not in draw_cohort(self._job, asked.round):
            raise FederationError(f"site {self._name}: not in the cohort of round {asked.round}")
        self._session, self._answers = (asked.round, asked.attempt, asked.base), {}

    def _begin(self, asked: SecureRequest) -> None:
        self._join(asked)
        config = sum_config(self._job, self._layout.size, self._members, asked.round, asked.base, asked.attempt)
        self._sum = SecureSumSite(config, site=self._name, key=self._members.key)

    def _answer(self, asked: SecureRequest) -> bytes:
        match asked.turn:
            case "advertise":
                return self._sum.advertise()
            case "share":
                return self._sum.share_keys(asked.said())
            case "input":
                delta, num_examples = self._delta(asked)
                numbers = fixed_point_of(self._job).to_field(encode_input(self._job, delta, num_examples))
                return self._sum.mask(asked.said(f"inbox/{self._name}"), numbers)
            case "confirm":
                return self._sum.confirm(asked.said())
            case "open":
                return self._sum.open_shares(asked.said())
            case other:
                raise UpdateRefused("malformed", f"no such turn {other!r}")

    def _delta(self, asked: SecureRequest) -> tuple[Vector, int]:
        """What the site learnt in this round; once for all attempts."""
        if self._trained is None or self._trained[:2] != (asked.round, asked.base):
            model = asked.arrays.get("model")
            if model is None or model.shape != (self._layout.size,) or self._layout.digest_of(model) != asked.base:
                raise UpdateRefused("malformed", f"the global model is not the one of digest {asked.base[:12]}")
            delta, num_examples = self._train(model, asked.round)
            self._trained = (asked.round, asked.base, delta, num_examples)
        return self._trained[2:]

    def _check_opened(self, asked: SecureRequest) -> None:
        """Of a round one sum is opened: the difference of two shows a site."""
        opened = read_answer(self._folder / ANSWER)
        if opened is not None and opened.job == asked.job and asked.round <= opened.round:
            raise UpdateRefused("stale", f"a sum of round {opened.round} was opened: no other will be")
