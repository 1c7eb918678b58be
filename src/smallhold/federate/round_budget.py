"""What a round costs a privacy unit, and who pays for it: the server or a site, each from a ledger of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from smallhold.device.trust import generate_private_key, load_private_key, save_private_key
from smallhold.federate.job import FederatedJob
from smallhold.privacy.accountant import Charge, compose_epsilon
from smallhold.privacy.ledger import Budget
from smallhold.privacy.ledger_file import Ledger

LEDGER, KEY = "privacy.ledger", "ledger.key"


@dataclass(frozen=True, slots=True)
class RoundBudget:
    """One round's charge, and the budget that it is paid from.

    Attributes:
        unit: Whom the promise is to: `record`, `patient` or `site`.
        budget: Granted once, for all jobs that pay from the same ledger.
        charge: Of one round.
    """

    unit: str
    budget: Budget
    charge: Charge

    def cost(self, rounds: int) -> float:
        """Epsilon of so many rounds, at the budget's delta."""
        return compose_epsilon([self.charge] * rounds, delta=self.budget.delta)

    def open_ledger(self, folder: Path) -> Ledger:
        """The ledger of a server's or a site's folder; begun, with a key of its own, where there is none.

        Raises:
            LedgerError: altered, of other budgets, or open elsewhere.
        """
        key = folder / KEY
        if not key.exists():
            save_private_key(generate_private_key(), key)
        return Ledger(folder / LEDGER, key=load_private_key(key), budgets={self.unit: self.budget})

    def pay(self, folder: Path, job: FederatedJob, number: int) -> None:
        """Pay for a round before its noise is drawn; one that was killed half way is paid for again.

        Raises:
            BudgetExceeded: the budget does not reach; the round must not happen.
            LedgerError: the ledger is altered, or cannot be written.
        """
        with self.open_ledger(folder) as ledger:
            attempt = 0
            while ledger.find(release := f"{job.digest}/{number}/{attempt}") is not None:
                attempt += 1
            ledger.spend(release, {self.unit: self.charge})
