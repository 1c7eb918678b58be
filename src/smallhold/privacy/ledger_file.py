"""A privacy ledger on the disk: one writer at a time, each line durable before `spend` returns."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smallhold.device.durable_file import write_durably
from smallhold.device.wall_clock import wall_ms
from smallhold.errors import LedgerError
from smallhold.privacy.accountant import Charge
from smallhold.privacy.ledger import Budget, Head, LedgerState, Spend, begin_ledger, read_ledger, spend_budget


class Ledger:
    """The one writer of a ledger file; use it as a context manager, or close it.

    Args:
        path: The file; its folder exists.
        key: The site's ed25519 key.
        budgets: What to grant if the file does not exist yet; a file that does must grant exactly this. None: the
            file must exist.
        at_least: A head seen before; a ledger that no longer holds it is refused.
        clock: Wall clock in milliseconds.

    Raises:
        LedgerError: altered, cut, of another key, with other budgets, absent without `budgets` (or with `at_least`),
            open elsewhere, or not writable.
    """

    def __init__(
        self,
        path: Path,
        *,
        key: Ed25519PrivateKey,
        budgets: Mapping[str, Budget] | None = None,
        at_least: Head | None = None,
        clock: Callable[[], int] = wall_ms,
    ) -> None:
        self.path, self._key, self._clock = path, key, clock
        try:
            self._lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise LedgerError(f"privacy ledger {path} cannot be opened: {error}") from error
        try:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise LedgerError(f"privacy ledger {path} is open in another process") from error
            self._state = self._load(budgets, at_least)
        except BaseException:
            os.close(self._lock)
            raise
        self._is_open = True

    def spend(self, release: str, charges: Mapping[str, Charge]) -> Mapping[str, float]:
        """Pay for a release before it happens; when this returns, the line is on the disk.

        Returns:
            By unit, what is spent now, all releases together.

        Raises:
            BudgetExceeded: the budget does not reach; nothing was spent, and the release must not happen.
            LedgerError: paid for already, closed, or the line could not be written: the release must not happen.
            InputError: the charges do not cover exactly the units with a budget.
        """
        if not self._is_open:
            raise LedgerError(f"privacy ledger {self.path} is closed")
        after = spend_budget(self._state, release, charges, key=self._key, t_ms=self._clock())
        self._write(after)
        self._state = after
        return after.spends[-1].epsilon

    def find(self, release: str) -> Spend | None:
        """The line that paid for a release, if one did."""
        return self._state.find(release)

    @property
    def state(self) -> LedgerState:
        """Budgets and spends so far."""
        return self._state

    @property
    def head(self) -> Head:
        """The last line; keep it elsewhere, it proves later that nothing was cut."""
        return self._state.head

    def close(self) -> None:
        """Let others write."""
        if self._is_open:
            self._is_open = False
            os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _load(self, budgets: Mapping[str, Budget] | None, at_least: Head | None) -> LedgerState:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            if budgets is None or at_least is not None:
                raise LedgerError(
                    f"privacy ledger {self.path} is gone or was never begun",
                    hint="restore it from a backup; a new one would forget what was spent",
                ) from None
            state = begin_ledger(budgets, key=self._key, t_ms=self._clock())
            self._write(state)
            return state
        except OSError as error:
            raise LedgerError(f"privacy ledger {self.path} cannot be read: {error}") from error
        state = read_ledger(data, public_key=self._key.public_key(), at_least=at_least)
        if budgets is not None and dict(budgets) != dict(state.budgets):
            raise LedgerError(
                f"privacy ledger {self.path} grants {_say(state.budgets)}, asked for is {_say(budgets)}: "
                "a budget is granted once"
            )
        return state

    def _write(self, state: LedgerState) -> None:
        try:
            write_durably(self.path, (line + b"\n" for line in state.lines))
        except OSError as error:
            raise LedgerError(f"privacy ledger {self.path} cannot be written: {error}; nothing was spent") from error


def _say(budgets: Mapping[str, Budget]) -> str:
    return ", ".join(f"{unit} ({budget.epsilon:g}, {budget.delta:g})" for unit, budget in sorted(budgets.items()))
