"""Counting as a `LocalModel`: the vector is a table of counts, and to train on rows is to add them to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from smallhold.errors import FederationError, RecipeError
from smallhold.federate.job import FederatedJob, LocalChoice
from smallhold.federate.layout import Layout, Vector
from smallhold.federate.local_model import Rows, Trained
from smallhold.federate.statistics import count_persons
from smallhold.privacy.distributed_noise import noise_share
from smallhold.privacy.randomness import Random

if TYPE_CHECKING:
    from smallhold.federate.record_privacy import RecordGuard


class CellCounts:
    """The table of a job's statistics; a row's label is its cell, its group the person.

    Where the server sees no single update, a site's counts carry its share of the noise; otherwise the server adds it.

    Args:
        job: With `[statistics]`.
        random: Of the noise; a cryptographically secure source when None.

    Raises:
        RecipeError: the job counts nothing.
    """

    def __init__(self, job: FederatedJob, random: Random | None = None) -> None:
        if not job.is_counting:
            raise RecipeError(f"job {job.name}: task {job.task!r} counts; expected the table [statistics]")
        self._job, self._random = job, random
        self.layout = counts_layout(job)

    def initial(self, seed: int) -> Vector:
        """Nobody."""
        del seed
        return np.zeros(self.layout.size, np.float32)

    def train(
        self, model: Vector, rows: Rows, choice: LocalChoice, seed: int, guard: RecordGuard | None = None
    ) -> Trained:
        """The table (P,) with this site's persons, whole numbers below 2^24, which float32 holds exactly."""
        del choice, guard
        statistics = self._job.statistics
        counts = count_persons(
            rows.label,
            rows.group,
            num_cells=statistics.num_cells,
            max_cells=statistics.max_cells,
            max_count=statistics.max_count,
            seed=seed,
        )
        if self._job.upload.secure and statistics.stddev:
            counts += noise_share(
                len(counts), stddev=statistics.stddev, min_survivors=self._job.least, random=self._random
            )
        return Trained(model + counts.astype(np.float32), 0.0)

    def predict(self, model: Vector, rows: Rows) -> NDArray[np.float64]:
        """Counts predict nothing.

        Raises:
            FederationError: always.
        """
        del model, rows
        raise FederationError(
            f"job {self._job.name}: counts are no model that could be compared",
            hint="smallhold federate knowledge makes a pack of them",
        )


def counts_layout(job: FederatedJob) -> Layout:
    """Of the table of counts, one axis a dimension."""
    shape = [len(dimension.categories) for dimension in job.statistics.dimensions]
    return Layout.of({"counts": np.zeros(shape, np.float32)})


def check_layout(job: FederatedJob, layout: Layout) -> None:
    """Hold a model to what the job does: weights must not be added up, and counts not be averaged.

    Raises:
        RecipeError: the job counts and its task trains.
    """
    if job.is_counting and layout != counts_layout(job):
        raise RecipeError(
            f"job {job.name}: [statistics] with task {job.task!r}, which trains a model",
            hint="remove the table, or name a task that counts",
        )
