"""One patient's medication: prescriptions, what was given, and every check before a dose.

The board is a fold over events: each is checked, written to the journal, and only then true. After a restart the same
events give the same board. A dose that cannot be journalled is not given.

Checks before a dose, all of which are named when they fail:

1. The prescription stands: not stopped, not over, begun.
2. It is a dose of the plan: inside its window, and not given, refused or held before (a double dose).
3. The drug's interval and its ceiling in 24 hours, over all prescriptions of that drug, in whole numbers.
4. Allergies and interactions with what is prescribed now or was given in the last day.
5. Nothing is stopped: the stop control and the journal.

A caution of (4) may be overridden by a second person with a reason; everything else needs a new prescription.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from smallhold.assist.medication.prescription import Kind, Prescription, Slot, SlotState, slot_state
from smallhold.assist.orders.amount import MICRO, format_amount
from smallhold.assist.orders.interactions import InteractionTable
from smallhold.assist.orders.limits import Dose
from smallhold.errors import InputError, PolicyError

_DAY_MS = 24 * 3_600_000
#: How far back a slot is still looked at: what was missed longer ago is history.
_LOOK_BACK_MS = 2 * _DAY_MS

Severity = Literal["contraindicated", "caution"]


@dataclass(frozen=True, slots=True)
class Conflict:
    """Why a drug should not meet a patient, or another drug."""

    severity: Severity
    text: str
    source: str = ""


def table_check(table: InteractionTable, allergies: Iterable[str]) -> CheckDrug:
    """The check of a board from a table: an allergy forbids; an interaction, or a drug it does not list, is a caution.

    Args:
        table: Allergies and interactions.
        allergies: What the patient is allergic to.
    """
    known = tuple(allergies)

    def check(drug: str, others: tuple[str, ...]) -> Iterable[Conflict]:
        for finding in table.check(drug, drugs=others, allergies=known):
            severity: Severity = "contraindicated" if finding.kind == "allergy" else "caution"
            yield Conflict(severity, f"{finding.kind} {finding.other}: {finding.summary}", finding.source)

    return check


#: (drug, other drugs) to conflicts; from the allergy and interaction tables.
CheckDrug = Callable[[str, tuple[str, ...]], Iterable[Conflict]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Administration:
    """One dose that was given.

    Attributes:
        prescription: Its id.
        slot_ms: The planned time it answers; None for what is not scheduled.
        t_ms: When.
        dose: Smallest steps.
        actor: Who gave it.
        witness: The second person, empty without one.
        is_confirmed: The patient confirmed that they took it.
    """

    prescription: str
    slot_ms: int | None
    t_ms: int
    dose: int
    actor: str
    witness: str = ""
    is_confirmed: bool = False


class DoseRefusedError(PolicyError):
    """A dose may not be given; `reasons` are stable identifiers with numbers, as the gate's are."""

    def __init__(self, what: str, reasons: tuple[str, ...]) -> None:
        super().__init__(f"{what}: refused: {'; '.join(reasons)}")
        self.reasons = reasons


@dataclass(frozen=True, slots=True)
class SlotView:
    """One planned dose as staff sees it."""

    prescription: Prescription
    slot: Slot
    state: SlotState
    actor: str = ""
    reason: str = ""


@dataclass(slots=True)
class _State:
    prescriptions: dict[str, Prescription] = field(default_factory=dict)
    stopped: dict[str, int] = field(default_factory=dict)
    given: list[Administration] = field(default_factory=list)
    settled: dict[tuple[str, int], tuple[SlotState, str, str]] = field(default_factory=dict)


class MedicationBoard:
    """One patient's prescriptions and doses.

    Args:
        patient: Pseudonymous identifier.
        write: Writes one event to the journal, checkpoint included; raises JournalError when it cannot, and then the
            event has not happened.
        check_drug: Allergies and interactions.
        is_stopped: The stop control: True forbids every dose.
        elsewhere: Drug to its doses that were given outside this board: `DoseLedger.given`, under standing orders.
    """

    def __init__(
        self,
        patient: str,
        write: Callable[[Mapping[str, Any]], None],
        *,
        check_drug: CheckDrug | None = None,
        is_stopped: Callable[[], bool] = lambda: False,
        elsewhere: Callable[[str], Iterable[Dose]] = lambda _: (),
    ) -> None:
        self.patient = patient
        self._elsewhere = elsewhere
        self._write, self._check_drug, self._is_stopped = write, check_drug, is_stopped
        self._state = _State()

    def recall(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Take in events that are on record already.

        Raises:
            InputError: an event cannot be read, or belongs to another patient.
        """
        for event in events:
            self._apply(event)

    def prescribe(self, prescription: Prescription, *, needed_prescribers: int = 1) -> tuple[Conflict, ...]:
        """Add a prescription.

        Args:
            prescription: For this patient.
            needed_prescribers: How many different persons must have signed it; the policy says.

        Returns:
            Cautions that whoever gives it will meet.

        Raises:
            DoseRefusedError: too few prescribers, or contraindicated.
            InputError: of another patient, or the id is taken.
            JournalError: it could not be journalled.
        """
        what = f"prescription {prescription.id!r}"
        if prescription.patient != self.patient:
            raise InputError(f"{what}: is of another patient than this board")
        if prescription.id in self._state.prescriptions:
            raise InputError(f"{what}: the id is taken; a changed prescription is a new one")
        persons = len(set(prescription.prescribers))
        if persons < needed_prescribers:
            raise DoseRefusedError(what, (f"prescribers: {needed_prescribers} persons must sign, {persons} did",))
        units = {p.unit for p in self._state.prescriptions.values() if p.drug == prescription.drug} - {
            prescription.unit
        }
        if units:  # sums of 24 hours could not be formed
            raise DoseRefusedError(what, (f"unit: this drug is prescribed in {units.pop()}, not {prescription.unit}",))
        found = self._conflicts(prescription.drug, prescription.start_ms)
        worst = tuple(f"contraindicated: {c.text}" for c in found if c.severity == "contraindicated")
        if worst:
            raise DoseRefusedError(what, worst)
        self._record({"event": "prescribed", "prescription": _prescription_json(prescription)})
        return found

    def stop(self, prescription: str, actor: str, t_ms: int, reason: str) -> None:
        """End a prescription; stopping is never refused for a person who is named.

        Raises:
            InputError: unknown, or nobody or no reason is given.
            JournalError: it could not be journalled; the prescription counts as stopped all the same.
        """
        self._known(prescription)
        _named(actor, reason, "stop")
        self._state.stopped.setdefault(prescription, t_ms)  # first: what cannot be written is stopped all the same
        self._record({"event": "stopped", "id": prescription, "actor": actor, "t_ms": t_ms, "reason": reason})

    def give(
        self,
        prescription: str,
        actor: str,
        now_ms: int,
        *,
        slot_ms: int | None = None,
        witness: str = "",
        reason: str = "",
    ) -> Administration:
        """A dose is being given, now.

        Args:
            prescription: Its id.
            actor: Who gives it.
            now_ms: UTC.
            slot_ms: Which planned dose; required for a scheduled prescription.
            witness: A second person, who overrides a caution.
            reason: Why it is overridden.

        Raises:
            DoseRefusedError: a check failed; nothing has happened.
            InputError: unknown prescription, or nobody is named.
            JournalError: it could not be journalled, so it must not be given.
        """
        item = self._known(prescription)
        _named(actor, "-", "give")
        reasons = (
            *self._standing_reasons(item, now_ms),
            *self._slot_reasons(item, slot_ms, now_ms),
            *self._amount_reasons(item, now_ms),
            *self._conflict_reasons(item, now_ms, actor, witness, reason),
        )
        if self._is_stopped():
            reasons += ("stopped: the stop control is on",)
        if reasons:
            raise DoseRefusedError(f"dose of {item.drug!r}", reasons)
        dose = Administration(
            prescription=prescription, slot_ms=slot_ms, t_ms=now_ms, dose=item.dose, actor=actor, witness=witness
        )
        self._record({"event": "given", **asdict(dose), "reason": reason})
        return dose

    def settle(self, prescription: str, slot_ms: int, state: SlotState, actor: str, now_ms: int, reason: str) -> None:
        """A planned dose is not given: the patient refused it, or staff holds it.

        Raises:
            InputError: unknown, no such dose, another state than refused or held, or nobody or no reason is given.
            JournalError: it could not be journalled.
        """
        item = self._known(prescription)
        _named(actor, reason, "settle")
        if state not in (SlotState.REFUSED, SlotState.HELD):
            raise InputError(f"settle: expected refused or held, got {state}")
        if (prescription, slot_ms) in self._state.settled or not _has_slot(item, slot_ms):
            raise InputError(f"settle: prescription {prescription!r} has no open dose at {slot_ms} ms")
        event = {"event": "settled", "id": prescription, "slot_ms": slot_ms, "state": state.value}
        self._record({**event, "actor": actor, "t_ms": now_ms, "reason": reason})

    def confirm(self, prescription: str, t_ms: int, now_ms: int) -> None:
        """The patient confirms on their own device that they took the dose given at `t_ms`.

        Raises:
            InputError: no such dose.
            JournalError: it could not be journalled.
        """
        if not any(dose.prescription == prescription and dose.t_ms == t_ms for dose in self._state.given):
            raise InputError(f"confirm: no dose of {prescription!r} was given at {t_ms} ms")
        self._record({"event": "confirmed", "id": prescription, "given_ms": t_ms, "t_ms": now_ms})

    def plan(self, now_ms: int, *, until_ms: int | None = None) -> tuple[SlotView, ...]:
        """Planned doses from two days ago to `until_ms` (a day from now), by time."""
        views = []
        for item in self._state.prescriptions.values():
            stopped_ms = self._state.stopped.get(item.id)
            for slot in item.slots(now_ms - _LOOK_BACK_MS, until_ms or now_ms + _DAY_MS):
                held = self._state.settled.get((item.id, slot.due_ms))
                if held is not None:
                    views.append(SlotView(item, slot, *held))
                elif stopped_ms is None or slot.due_ms < stopped_ms:
                    views.append(SlotView(item, slot, slot_state(item, slot, now_ms)))
        return tuple(sorted(views, key=lambda view: (view.slot.due_ms, view.prescription.id)))

    def given(self) -> tuple[Administration, ...]:
        """Every dose that was given, oldest first."""
        return tuple(self._state.given)

    def prescriptions(self) -> tuple[Prescription, ...]:
        """Those that stand."""
        return tuple(item for item in self._state.prescriptions.values() if item.id not in self._state.stopped)

    def _known(self, prescription: str) -> Prescription:
        item = self._state.prescriptions.get(prescription)
        if item is None:
            raise InputError(f"no prescription {prescription!r} of this patient")
        return item

    def _standing_reasons(self, item: Prescription, now_ms: int) -> tuple[str, ...]:
        if item.id in self._state.stopped:
            return ("stopped: the prescription was ended",)
        if now_ms < item.start_ms - item.early_ms:
            return (f"not_begun: begins in {item.start_ms - now_ms} ms",)
        if item.end_ms is not None and now_ms >= item.end_ms:
            return (f"over: ended {now_ms - item.end_ms} ms ago",)
        return ()

    def _slot_reasons(self, item: Prescription, slot_ms: int | None, now_ms: int) -> tuple[str, ...]:
        if item.kind is not Kind.SCHEDULED:
            if slot_ms is not None:
                return ("no_slot: this prescription has no planned times",)
            is_given = any(dose.prescription == item.id for dose in self._state.given)
            return ("double: an emergency order is given once",) if item.kind is Kind.EMERGENCY and is_given else ()
        if slot_ms is None or not _has_slot(item, slot_ms):
            return (f"no_slot: no dose is planned at {slot_ms} ms",)
        held = self._state.settled.get((item.id, slot_ms))
        if held is not None:
            return (f"double: this dose is on record as {held[0]}",)
        state = slot_state(item, Slot(item.id, slot_ms), now_ms)
        if state is SlotState.UPCOMING:
            return (f"early: due in {slot_ms - now_ms} ms, may be given {item.early_ms} ms before",)
        return ("missed: too late without a new order",) if state is SlotState.MISSED else ()

    def _amount_reasons(self, item: Prescription, now_ms: int) -> tuple[str, ...]:
        reasons: tuple[str, ...] = ()
        rules = [item, *(p for p in self._state.prescriptions.values() if p.drug == item.drug)]
        doses = [
            Dose("", dose.t_ms, dose.dose * MICRO, self._state.prescriptions[dose.prescription].unit, dose.prescription)
            for dose in self._state.given
            if self._state.prescriptions[dose.prescription].drug == item.drug
        ]
        doses += self._elsewhere(item.drug)
        interval_ms = max(rule.min_interval_ms for rule in rules)
        newest_ms = max((dose.t_ms for dose in doses), default=None)
        if newest_ms is not None and now_ms - newest_ms < interval_ms:
            reasons += (f"interval: {now_ms - newest_ms} ms after the last dose, {interval_ms} ms are needed",)
        ceilings = [rule.max_daily_dose for rule in rules if rule.max_daily_dose is not None]
        if ceilings:
            units = {dose.unit for dose in doses} - {item.unit}
            if units:
                return (*reasons, f"unit: doses of this drug in {sorted(units)} cannot be added to {item.unit}")
            total = item.dose * MICRO + sum(dose.amount for dose in doses if now_ms - dose.t_ms < _DAY_MS)
            if total > min(ceilings) * MICRO:
                told = format_amount(total)
                reasons += (f"ceiling: {told} {item.unit} in 24 h, at most {min(ceilings)}",)
        return reasons

    def _conflict_reasons(
        self, item: Prescription, now_ms: int, actor: str, witness: str, reason: str
    ) -> tuple[str, ...]:
        reasons: tuple[str, ...] = ()
        is_overridden = bool(witness) and witness != actor and bool(reason)
        for conflict in self._conflicts(item.drug, now_ms, without=item.id):
            if conflict.severity == "contraindicated":
                reasons += (f"contraindicated: {conflict.text}",)
            elif not is_overridden:
                reasons += (f"caution: {conflict.text}; a second person and a reason are needed",)
        return reasons

    def _conflicts(self, drug: str, now_ms: int, without: str = "") -> tuple[Conflict, ...]:
        if self._check_drug is None:
            return ()
        state = self._state
        others = {item.drug for item in self.prescriptions() if item.id != without}
        others |= {state.prescriptions[dose.prescription].drug for dose in state.given if now_ms - dose.t_ms < _DAY_MS}
        return tuple(self._check_drug(drug, tuple(sorted(others - {drug}))))

    def _record(self, event: Mapping[str, Any]) -> None:
        event = {"patient": self.patient, **event}
        self._write(event)
        self._apply(event)

    def _apply(self, event: Mapping[str, Any]) -> None:
        state = self._state
        try:
            if event["patient"] != self.patient:
                raise InputError("a medication event belongs to another patient than this board")
            match event["event"]:
                case "prescribed":
                    item = read_prescription(event["prescription"])
                    state.prescriptions[item.id] = item
                case "stopped":
                    state.stopped.setdefault(event["id"], event["t_ms"])
                case "given":
                    names = ("prescription", "slot_ms", "t_ms", "dose", "actor", "witness", "is_confirmed")
                    dose = Administration(**{name: event[name] for name in names})
                    state.given.append(dose)
                    if dose.slot_ms is not None:
                        state.settled[dose.prescription, dose.slot_ms] = (SlotState.GIVEN, dose.actor, event["reason"])
                case "settled":
                    held = (SlotState(event["state"]), event["actor"], event["reason"])
                    state.settled[event["id"], event["slot_ms"]] = held
                case "confirmed":
                    for at, dose in enumerate(state.given):
                        if dose.prescription == event["id"] and dose.t_ms == event["given_ms"]:
                            state.given[at] = Administration(**{**asdict(dose), "is_confirmed": True})
                case other:
                    raise InputError(f"unknown medication event {other!r}")
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"a medication event cannot be read: {error!r}") from error


def _named(actor: str, reason: str, what: str) -> None:
    if not actor or not reason:
        raise InputError(f"{what}: expected the name of a person and a reason, got {actor!r} and {reason!r}")


def _has_slot(item: Prescription, slot_ms: int) -> bool:
    return any(True for _ in item.slots(slot_ms, slot_ms + 1))


def _prescription_json(item: Prescription) -> dict[str, Any]:
    return {**asdict(item), "times_of_day": list(item.times_of_day), "prescribers": list(item.prescribers)}


def read_prescription(value: Mapping[str, Any]) -> Prescription:
    """A prescription from its journalled event; KeyError, TypeError, ValueError or InputError where it is none."""
    lists = {name: tuple(value[name]) for name in ("times_of_day", "prescribers")}
    return Prescription(**{**value, **lists, "kind": Kind(value["kind"])})
