"""Differential privacy of a record at its site: DP-SGD while training, paid for from the site's own ledger.

Source: Abadi et al. 2016, arXiv:1607.00133, algorithm 1, with Poisson sampling: in each step every record takes part
with the same probability, independently; each one's gradient is clipped, and Gaussian noise is added to the sum.
Neighbouring data sets differ by one record. The server need not be trusted: what leaves the site is noisy already.
How many consents were withdrawn is told in the clear; it is not part of what is promised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smallhold.errors import FederationError, InputError
from smallhold.federate.job import FederatedJob, LocalChoice, RecordPrivacyChoice
from smallhold.federate.round_budget import RoundBudget
from smallhold.privacy.accountant import Charge, compose_epsilon, fit_noise_multiplier
from smallhold.privacy.ledger import Budget
from smallhold.privacy.noise import add_gaussian_noise, grid_sensitivity
from smallhold.privacy.randomness import Random, SecureRandom

_TWO_64 = 2.0**64


class RecordGuard:
    """Sampling and noise of one round of local training.

    Attributes:
        sampling_rate: With which probability a record takes part in a step.
        steps: Of the round.

    Args:
        privacy: Clip norm and noise.
        local: Batch size and epochs.
        num_rows: Records of the site.
        random: Of sampling and noise; a cryptographically secure source when None.
    """

    def __init__(
        self, privacy: RecordPrivacyChoice, local: LocalChoice, num_rows: int, random: Random | None = None
    ) -> None:
        self.clip_norm = privacy.clip_norm
        self.sampling_rate = min(1.0, local.batch_size / num_rows)
        self.steps = max(1, math.ceil(local.epochs * num_rows / local.batch_size))
        self._stddev = privacy.noise_multiplier * privacy.clip_norm
        self._num_rows, self._random = num_rows, random or SecureRandom()

    def draw(self) -> NDArray[np.int64]:
        """Records of one step, possibly none."""
        uniform = self._random.words(self._num_rows).astype(np.float64) / _TWO_64
        return np.flatnonzero(uniform < self.sampling_rate)

    def release(self, total: NDArray[np.floating]) -> NDArray[np.float64]:
        """A noisy mean of a sum (P,) of clipped gradients.

        Divided by the expected number of records: the real one is a secret.
        """
        noisy = add_gaussian_noise(total, stddev=self._stddev, random=self._random)
        return noisy / (self.sampling_rate * self._num_rows)

    def charge(self, num_parameters: int) -> Charge:
        """What the round costs a record."""
        # What rounding to the noise's grid adds to the sensitivity counts as a little less noise.
        sensitivity = self.clip_norm + grid_sensitivity(num_parameters, self._stddev)
        return Charge(noise_multiplier=self._stddev / sensitivity, sampling_rate=self.sampling_rate, steps=self.steps)


def fit_record_noise(job: FederatedJob, num_rows: Sequence[int], *, num_parameters: int) -> FederatedJob:
    """The job with the least noise, to three decimals upwards, that keeps every site within the budget.

    Args:
        job: Its `record_privacy` gives clip norm, epsilon and delta; its noise multiplier is not looked at.
        num_rows: Records of each site.
        num_parameters: P.

    Raises:
        InputError: no noise is enough, there is no site, or one without a record.
        MissingExtraError: dp-accounting is absent.
    """
    if not num_rows or min(num_rows) < 1:
        raise InputError(f"num_rows: expected one or more records at each of one or more sites, got {list(num_rows)}")
    fitted, privacy = 0.0, job.record_privacy
    for rows in sorted(set(num_rows)):  # few records are drawn often: what does for them mostly does for others
        guard = RecordGuard(replace(privacy, noise_multiplier=fitted or 1.0), job.local, rows)
        if (
            fitted
            and compose_epsilon([guard.charge(num_parameters)] * job.rounds, delta=privacy.delta) <= privacy.epsilon
        ):
            continue
        needed = fit_noise_multiplier(
            privacy.epsilon, delta=privacy.delta, sampling_rate=guard.sampling_rate, steps=guard.steps * job.rounds
        )
        fitted = max(fitted, round(needed + 0.001, 3))  # the noise's grid takes less than that
    return replace(job, record_privacy=replace(privacy, noise_multiplier=fitted))


class RecordBudget:
    """A site's budget in one job.

    Args:
        job: With `record_privacy`.
        folder: Of the site; holds the ledger and its key.
        num_rows: Records of the site.
        num_parameters: P.

    Raises:
        FederationError: the job's rounds cost more than its epsilon at this site: said before anything is trained.
    """

    def __init__(self, job: FederatedJob, folder: Path, *, num_rows: int, num_parameters: int) -> None:
        self._job, self._folder, self._num_parameters = job, folder, num_parameters
        cost = self._of(RecordGuard(job.record_privacy, job.local, num_rows)).cost(job.rounds)
        choice = job.record_privacy
        if cost > choice.epsilon:
            raise FederationError(
                f"job {job.name}: {job.rounds} rounds on {num_rows} records at noise_multiplier "
                f"{choice.noise_multiplier:g} cost epsilon {cost:.3g}, and the budget is {choice.epsilon:g}",
                hint="fewer rounds, smaller batches, or more noise",
            )

    def begin_round(self, number: int, num_rows: int, random: Random | None = None) -> RecordGuard:
        """Pay for a round and give what trains it; one that was killed half way is paid for again.

        Raises:
            BudgetExceeded: the budget does not reach; the round must not be trained.
            LedgerError: the ledger is altered, or cannot be written.
        """
        guard = RecordGuard(self._job.record_privacy, self._job.local, num_rows, random)
        self._of(guard).pay(self._folder, self._job, number)
        return guard

    def _of(self, guard: RecordGuard) -> RoundBudget:
        choice = self._job.record_privacy
        return RoundBudget("record", Budget(choice.epsilon, choice.delta), guard.charge(self._num_parameters))
