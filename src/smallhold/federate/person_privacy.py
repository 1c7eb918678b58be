"""Differential privacy of a person whom a site counts: what a job's one round costs, and who pays.

Each site pays from its own ledger before its counts leave it, whoever adds the noise: the same persons counted by two
jobs have been spent twice. A server that adds the noise pays from its ledger as well.
"""

from __future__ import annotations

from pathlib import Path

from smallhold.errors import BudgetExceeded
from smallhold.federate.job import FederatedJob
from smallhold.federate.round_budget import RoundBudget
from smallhold.privacy.accountant import Charge, fit_noise_multiplier
from smallhold.privacy.distributed_noise import effective_noise_multiplier
from smallhold.privacy.ledger import Budget


def person_budget(job: FederatedJob) -> RoundBudget:
    """What a counting job with noise costs a person at a site.

    The noise is a discrete Gaussian on whole counts, of which concentrated DP is proven (Canonne, Kamath, Steinke 2020,
    theorem 14; for sums of shares Kairouz, Liu, Steinke 2021, theorem 1): charged as such.
    """
    statistics = job.statistics
    noise = statistics.noise_multiplier
    if job.upload.secure:
        noise = effective_noise_multiplier(
            sensitivity=statistics.sensitivity,
            num_parameters=statistics.num_cells,
            stddev=statistics.stddev,
            min_survivors=job.least,
            num_sites=job.cohort_size,
        )
    charge = Charge(noise_multiplier=noise, mechanism="concentrated")
    return RoundBudget("patient", Budget(statistics.epsilon, statistics.delta), charge)


class PersonBudget:
    """A site's budget for counting.

    Args:
        job: With noise on its statistics.
        folder: Of the site; holds the ledger and its key.

    Raises:
        BudgetExceeded: the job alone costs more than its epsilon: said before anything is counted.
    """

    def __init__(self, job: FederatedJob, folder: Path) -> None:
        self._job, self._folder, self._budget = job, folder, person_budget(job)
        check_person_cost(job, self._budget)

    def begin_round(self, number: int, num_rows: int) -> None:
        """Pay for a round; see `RoundBudget.pay`."""
        del num_rows
        self._budget.pay(self._folder, self._job, number)


def check_person_cost(job: FederatedJob, budget: RoundBudget) -> None:
    """Refuse a job that costs more than its own budget.

    Raises:
        BudgetExceeded: names a noise multiplier that is enough.
    """
    cost, granted = budget.cost(job.rounds), budget.budget
    if cost > granted.epsilon:
        enough = fit_noise_multiplier(granted.epsilon, delta=granted.delta, mechanism="concentrated")
        raise BudgetExceeded(
            f"job {job.name}: statistics.noise_multiplier {job.statistics.noise_multiplier:g} costs epsilon "
            f"{cost:.3g} of {granted.epsilon:g} at delta {granted.delta:g}",
            hint=f"noise_multiplier = {enough:g} is enough",
        )
