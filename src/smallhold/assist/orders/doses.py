"""The dose ledger: every dose that counts as given, read back from the journal.

There is no second file that could disagree: a dose *is* its journal entry, which is signed and on the disk before the
dose is released. A process that is killed in between has counted a dose that nobody got, and never the other way round.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from smallhold.assist.orders.amount import check_amount, parse_unit
from smallhold.assist.orders.limits import Dose
from smallhold.device.journal import Journal
from smallhold.errors import JournalError, OrderError
from smallhold.records import AuditEntry, Order, Verdict, canonical_json

DOSE = "dose"
WITHHELD = "dose-withheld"
_SCHEMA = "smallhold.dose/1"


class DoseLedger:
    """What was given, by patient and drug; `catch_up` reads what the journal holds beyond what is known."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._next_seq = 0
        self._doses: dict[tuple[str, str], list[Dose]] = {}
        self._ids: set[tuple[str, str]] = set()
        #: The latest time of any dose, UTC milliseconds; -1 without one.
        self.latest_ms = -1
        #: When the latest dose was written whose payload was erased since, so that nobody knows what it was.
        self.erased_ms = -1

    def catch_up(self) -> None:
        """Read new entries; another writer in this process cannot spend a bound twice.

        Raises:
            JournalError: it cannot be read, or an entry that says it is a dose is none.
        """
        for entry, payload in self.journal.entries(self._next_seq):
            self._next_seq = entry.seq + 1
            if entry.kind == DOSE:
                self._take(entry, payload)

    def _take(self, entry: AuditEntry, payload: bytes | None) -> None:
        if payload is None:
            self.erased_ms = max(self.erased_ms, entry.t_ms)
            return
        try:
            value = json.loads(payload)
            if value["schema"] != _SCHEMA:
                raise ValueError(f"schema {value['schema']!r}")
            patient, drug = _text(value["patient"]), _text(value["drug"])
            if not isinstance(value["t_ms"], int):
                raise TypeError("t_ms is not a whole number")
            dose = Dose(
                id=_text(value["id"]),
                t_ms=value["t_ms"],
                amount=check_amount(value["dose"], "dose"),
                unit=parse_unit(value["unit"], "unit"),
                order=_text(value["order"]),
            )
        except (ValueError, TypeError, KeyError, OrderError, RecursionError) as error:
            raise JournalError(
                f"journal entry {entry.seq} is not a dose as this software writes it: {error}"
            ) from error
        self._doses.setdefault((patient, drug), []).append(dose)
        self._ids.add((patient, dose.id))
        self.latest_ms = max(self.latest_ms, dose.t_ms)

    def given(self, patient: str, drug: str) -> Sequence[Dose]:
        """Doses of one drug to one patient, oldest first."""
        return self._doses.get((patient, drug), ())

    def is_used(self, patient: str, dose_id: str) -> bool:
        """Whether a dose of this patient has this id."""
        return (patient, dose_id) in self._ids

    def debit(self, order: Order, dose_id: str, verdict: Verdict, confirmed_by: Sequence[str]) -> AuditEntry:
        """Write a dose down, signed and forced to the disk; only then may it be released.

        Raises:
            JournalError: it could not be written. Whether it was all the same is for the journal to say: `catch_up`.
        """
        entry = self.journal.append(
            DOSE,
            canonical_json(
                {
                    "schema": _SCHEMA,
                    "id": dose_id,
                    "patient": order.patient,
                    "drug": order.drug,
                    "dose": order.dose,
                    "unit": order.unit,
                    "order": order.standing_order,
                    "t_ms": order.t_ms,
                    "effect": verdict.effect,
                    "clauses": verdict.clauses,
                    "confirmed_by": list(confirmed_by),
                    "trace_id": order.provenance.trace_id,
                    "profile": order.provenance.profile,
                    "bundle": order.provenance.bundle,
                    "simulated": order.provenance.simulated,
                }
            ),
            patient=order.patient,
            must_checkpoint=True,
        )
        self.catch_up()
        return entry


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"expected a text, got {value!r}")
    return value
