"""A site's side of a job: it is asked, trains on rows that never leave, and answers with how its model changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from smallhold.device.durable_file import write_durably
from smallhold.errors import FederationError, UpdateRefused
from smallhold.federate.consent import ConsentList
from smallhold.federate.filters import encode_delta
from smallhold.federate.job import FederatedJob
from smallhold.federate.local_model import LocalModel, Rows
from smallhold.federate.messages import TrainRequest, Update
from smallhold.records import sha256_hex


class Site:
    """One organisation in a job."""

    def __init__(self, name: str, job: FederatedJob, model: LocalModel, rows: Rows, folder: Path) -> None:
        """Take part in a job.

        Args:
            name: Of the site; one of the job's.
            job: What is carried out.
            model: What is trained.
            rows: The site's training rows.
            folder: Of the site's state; created when absent.

        Raises:
            FederationError: the job does not know the site, or it has no row.
        """
        if name not in job.sites:
            raise FederationError(f"site {name}: expected one of {', '.join(job.sites)}")
        if not len(rows):
            raise FederationError(f"site {name}: no rows to learn from")
        self.name, self._job, self._model, self._rows, self._folder = name, job, model, rows, folder
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def consent(self) -> ConsentList:
        """Withdrawals as they are now."""
        return ConsentList(self._folder / "withdrawals.jsonl")

    def respond(self, request: bytes) -> bytes:
        """Train for one round and answer.

        The answer is kept: the same request, delivered again after a crash, gets the same bytes and trains nothing.

        Raises:
            UpdateRefused: the request is malformed, of another job, or of a model of another layout.
            FederationError: everybody has withdrawn.
        """
        asked = TrainRequest.from_bytes(request)
        if asked.job != self._job.digest:
            raise UpdateRefused("foreign", "the request belongs to another job")
        model = asked.arrays["model"]
        layout = self._model.layout
        if model.shape != (layout.size,) or layout.digest_of(model) != asked.base:
            raise UpdateRefused("malformed", f"the global model is not the one of digest {asked.base[:12]}")
        answer = self._folder / f"{sha256_hex(request)}.update"
        if answer.exists():
            return answer.read_bytes()
        allowed = self.consent.allowed(self._rows.group)
        if not allowed:
            raise FederationError(f"site {self.name}: consent was withdrawn for all {len(self._rows)} rows")
        rows = self._rows.take(allowed)
        seed = np.random.SeedSequence([self._job.seed, asked.round, *self.name.encode()]).generate_state(1)
        trained = self._model.train(model, rows, self._job.local, int(seed[0]))
        encoding, arrays = encode_delta(trained.model - model, self._job, int(seed[0]))
        blob = Update(
            job=asked.job,
            site=self.name,
            round=asked.round,
            base=asked.base,
            num_examples=len(rows),
            withdrawn=len(self._rows) - len(rows),
            encoding=encoding,
            metrics={"loss": trained.loss},
            arrays=arrays,
        ).to_bytes()
        for old in self._folder.glob("*.update"):  # an earlier round is closed once a later one asks
            old.unlink()
        write_durably(answer, [blob], mode=0o600)
        return blob
