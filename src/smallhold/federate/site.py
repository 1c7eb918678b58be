"""A site's side of a job: it is asked, trains on rows that never leave, and answers with how its model changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from smallhold.errors import FederationError, UpdateRefused
from smallhold.federate.answer import ANSWER, Answer, read_answer, write_answer
from smallhold.federate.cell_counts import check_layout
from smallhold.federate.consent import ConsentList
from smallhold.federate.encrypted_sum import EncryptedSite
from smallhold.federate.filters import encode_delta
from smallhold.federate.job import FederatedJob
from smallhold.federate.layout import Vector
from smallhold.federate.local_model import LocalModel, Rows, Trained
from smallhold.federate.members import Members
from smallhold.federate.messages import TrainRequest, Update
from smallhold.federate.person_privacy import PersonBudget
from smallhold.federate.record_privacy import RecordBudget
from smallhold.federate.secure_site import SecureSite
from smallhold.records import sha256_hex


class Site:
    """One organisation in a job."""

    def __init__(
        self,
        name: str,
        job: FederatedJob,
        model: LocalModel,
        rows: Rows,
        folder: Path,
        members: Members | None = None,
    ) -> None:
        """Take part in a job.

        Args:
            name: Of the site; one of the job's.
            job: What is carried out.
            model: What is trained.
            rows: The site's training rows.
            folder: Of the site's state; created when absent.
            members: Keys of all sites and of the server, where the job takes secure sums.

        Raises:
            FederationError: the job does not know the site, it has no row, the keys are missing, or the job costs more
                than its privacy budget here.
            BudgetExceeded: a job that counts costs more than its own budget.
            RecipeError: the job counts and the model does not.
        """
        if name not in job.sites:
            raise FederationError(f"site {name}: expected one of {', '.join(job.sites)}")
        if not len(rows):
            raise FederationError(f"site {name}: no rows to learn from")
        check_layout(job, model.layout)
        self.name, self._job, self._model, self._rows, self._folder = name, job, model, rows, folder
        folder.mkdir(parents=True, exist_ok=True)
        self._budget: RecordBudget | PersonBudget | None = None
        if job.record_privacy.epsilon:
            size = model.layout.size
            self._budget = RecordBudget(job, folder, num_rows=len(rows), num_parameters=size)
        elif job.statistics.epsilon:
            self._budget = PersonBudget(job, folder)

        self._secure: SecureSite | None = None
        if job.upload.is_hidden:
            if members is None:
                raise FederationError(f"site {name}: {job.upload.hidden_by} needs the keys of the job's members")
            kind = EncryptedSite if job.upload.key_holder else SecureSite
            self._secure = kind(name, job, model.layout, members, folder, self._train_delta)

    @property
    def consent(self) -> ConsentList:
        """Withdrawals as they are now."""
        return ConsentList(self._folder / "withdrawals.jsonl")

    def respond(self, request: bytes) -> bytes:
        """Train for one round and answer.

        The answer is kept: the same request, delivered again after a crash, gets the same bytes and trains nothing.

        Raises:
            UpdateRefused: the request is malformed, of another job, or of a model of another layout; or `stale`: what
                the site left out for later rounds has gone into a later one.
            FederationError: everybody has withdrawn.
            BudgetExceeded: the round would cost more than what is left of the site's privacy budget.
        """
        if self._secure is not None:
            return self._secure.respond(request)
        asked = TrainRequest.from_bytes(request)
        if asked.job != self._job.digest:
            raise UpdateRefused("foreign", "the request belongs to another job")
        model = asked.arrays["model"]
        layout = self._model.layout
        if model.shape != (layout.size,) or layout.digest_of(model) != asked.base:
            raise UpdateRefused("malformed", f"the global model is not the one of digest {asked.base[:12]}")
        kept, digest = read_answer(self._folder / ANSWER), sha256_hex(request)
        if kept is not None and kept.request == digest:
            return kept.blob
        residual = self._residual(kept, asked.round)
        trained, count, seed = self._train(model, asked.round)
        encoding, arrays, left = encode_delta(trained.model - model, self._job, seed, residual)
        blob = Update(
            job=asked.job,
            site=self.name,
            round=asked.round,
            base=asked.base,
            # How many records there are, and how well they fit, would be a release of its own.
            num_examples=count if self._job.tells_examples else 1,
            withdrawn=len(self._rows) - count,
            encoding=encoding,
            metrics={"loss": trained.loss} if self._job.tells_examples else {},
            arrays=arrays,
        ).to_bytes()
        write_answer(self._folder / ANSWER, Answer(asked.job, asked.round, digest, blob, left))
        return blob

    def _train(self, model: Vector, number: int) -> tuple[Trained, int, int]:
        """Train from a global model (P,) in a round; also the number of rows, and the seed."""
        allowed = self.consent.allowed(self._rows.group)
        if not allowed:
            raise FederationError(f"site {self.name}: consent was withdrawn for all {len(self._rows)} rows")
        rows = self._rows.take(allowed)
        seed = int(np.random.SeedSequence([self._job.seed, number, *self.name.encode()]).generate_state(1)[0])
        guard = None if self._budget is None else self._budget.begin_round(number, len(rows))
        return self._model.train(model, rows, self._job.local, seed, guard), len(rows), seed

    def _train_delta(self, model: Vector, number: int) -> tuple[Vector, int]:
        trained, count, _ = self._train(model, number)
        return trained.model - model, count if self._job.tells_examples else 1

    def _residual(self, kept: Answer | None, number: int) -> Vector | None:
        """What earlier rounds of this job left out."""
        if kept is None or kept.job != self._job.digest or kept.residual is None:
            return None
        if number <= kept.round:
            raise UpdateRefused(
                "stale", f"round {number} after round {kept.round}: what was left out would be sent twice"
            )
        return kept.residual
