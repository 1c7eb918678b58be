"""The order book: whether a signed order covers a dose, and the one way by which a dose is released.

`administer` does these things in this order, and ends at the first that fails:

1. The order is signed, in force, not revoked; the dose is within its bounds, the patient's readings too; no allergy and
   no interaction speaks against it; its id is new; the clock has not jumped.
2. The policy's verdict allows A4, with as many people as it wants.
3. Nothing is stopped.
4. The dose is journalled: signed, and on the disk. From here on it counts, whatever happens.
5. Nothing is stopped, still.
6. It is released.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from smallhold.assist.orders.amount import check_amount
from smallhold.assist.orders.doses import WITHHELD, DoseLedger
from smallhold.assist.orders.interactions import InteractionTable
from smallhold.assist.orders.limits import limit_reason
from smallhold.assist.orders.shelf import read_shelf
from smallhold.assist.orders.signing import SignedOrder
from smallhold.assist.orders.stop import is_stopped
from smallhold.device.home import Home
from smallhold.device.journal import Journal
from smallhold.errors import InputError, JournalError, OrderError, OrderRefused
from smallhold.records import ActionClass, Effect, Order, Verdict, canonical_json

#: How far wall clock and stopwatch may drift apart between two looks, milliseconds.
_JUMP_MS = 5_000
#: People who must agree. There is no window for a veto here, so that `notify_with_veto` needs one as well.
_PEOPLE = {Effect.AUTO: 0, Effect.NOTIFY_WITH_VETO: 1, Effect.CONFIRM_ONE: 1, Effect.CONFIRM_TWO: 2}


@dataclass(frozen=True, slots=True)
class Reading:
    """A laboratory or vital value in its unit, with the time when it was taken (UTC milliseconds)."""

    value: float
    unit: str
    t_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DoseRequest:
    """One dose that somebody or something wants to give.

    Attributes:
        id: Unique for the patient; asking again with it never gives twice.
        patient: Pseudonymous identifier.
        ward: Where the patient lies, for orders of a ward.
        drug: Lower case.
        dose: Millionths of `unit`.
        unit: UCUM code; must be the order's.
        allergies: Known allergies, empty when there are none; None = nobody asked, and nothing is given.
        drugs: What the patient takes; None likewise.
        readings: Newest reading by code.
    """

    id: str
    patient: str
    ward: str = ""
    drug: str
    dose: int
    unit: str
    allergies: frozenset[str] | None = None
    drugs: frozenset[str] | None = None
    readings: Mapping[str, Reading] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OrderStatus:
    """Whether a dose is covered.

    Attributes:
        state: The policy's fact `standing_order`.
        reason: Why not; empty when valid.
        signed: The order that covers it.
    """

    state: Literal["valid", "expired", "none"]
    reason: str
    signed: SignedOrder | None = None


class OrderBook:
    """The orders of a home, and what was given under them. All methods may be called from any thread.

    Args:
        home: Its `orders/` are read anew for every dose, so that a revocation holds at once.
        journal: Open for writing, with a key; it is the ledger.
        interactions: What speaks against what.
        minimum_signatures: What this site requires of every order.
        monotonic: Stopwatch in seconds beside which the wall clock is held; None where time is simulated.

    Raises:
        JournalError: the journal cannot be read, or holds a dose that is none.
        InputError: a key in `orders/trust/` is not a public key.
    """

    def __init__(
        self,
        home: Home,
        journal: Journal,
        interactions: InteractionTable,
        *,
        minimum_signatures: int = 1,
        monotonic: Callable[[], float] | None = time.monotonic,
    ) -> None:
        self._home = home
        self._interactions = interactions
        self._minimum_signatures = minimum_signatures
        self._monotonic = monotonic
        self._mutex = threading.Lock()
        self._ledger = DoseLedger(journal)
        self._ledger.catch_up()
        self._latest_ms = self._ledger.latest_ms
        self._clock_pair: tuple[int, float] | None = None
        self._clock_fault: str | None = None
        read_shelf(home.orders)

    @property
    def path(self) -> Path:
        """The folder of orders."""
        return self._home.orders

    def check(self, request: DoseRequest, now_ms: int) -> OrderStatus:
        """Whether a signed order covers a dose now. Nothing is written.

        Args:
            request: The dose.
            now_ms: Wall clock, UTC milliseconds.

        Raises:
            OrderError: the request is malformed (an amount that is not a whole number, an empty id).
        """
        with self._mutex:
            return self._check(request, now_ms)

    def administer(
        self,
        request: DoseRequest,
        now_ms: int,
        verdict: Verdict,
        release: Callable[[Order], None],
        *,
        confirmed_by: Sequence[str] = (),
    ) -> Order:
        """Release one dose, or refuse.

        Args:
            request: The dose.
            now_ms: Wall clock, UTC milliseconds.
            verdict: What the policy says of this action.
            release: Gives the dose; called at most once, after the dose is on the disk. It must have a deadline.
            confirmed_by: The people who agreed.

        Returns:
            What was released.

        Raises:
            OrderRefused: not covered, not allowed, stopped, not journalled, or `release` failed. After a failure of
                `release`, or a stop in the last moment, the dose counts as given.
            OrderError: the request is malformed.
        """
        with self._mutex:
            # (1) An order covers it.
            status = self._check(request, now_ms)
            if status.signed is None or status.state != "valid":
                raise OrderRefused(f"dose {request.id!r} of {request.drug}: {status.reason}")
            # (2) The policy allows it.
            _check_verdict(verdict, confirmed_by)
            # (3) Nothing is stopped: `_check` has looked, and (5) looks again.
            order = _order(request, status.signed, now_ms, verdict)
            # (4) Written down before anything happens.
            try:
                self._ledger.debit(order, request.id, verdict, confirmed_by)
            except (JournalError, InputError) as error:
                raise OrderRefused(
                    f"dose {request.id!r} of {request.drug}: the journal failed: {error}",
                    hint="nothing was released; mend the journal, then ask with a new id",
                ) from error
            self._latest_ms = max(self._latest_ms, now_ms)
            # (5) Still not stopped; then (6).
            if is_stopped(self._home.path):
                self._withhold(request, "stopped")
                raise OrderRefused(f"dose {request.id!r} of {request.drug}: stopped; it counts as given")
            try:
                release(order)
            except Exception as error:
                self._withhold(request, f"release failed: {type(error).__name__}")
                raise OrderRefused(
                    f"dose {request.id!r} of {request.drug}: release failed: {error}; it counts as given",
                    hint="find out whether any of it reached the patient",
                ) from error
            return order

    def _withhold(self, request: DoseRequest, reason: str) -> None:
        note = {"id": request.id, "patient": request.patient, "drug": request.drug, "reason": reason}
        try:
            self._ledger.journal.append(WITHHELD, canonical_json(note), patient=request.patient, must_checkpoint=True)
        except (JournalError, InputError):
            return  # the dose counts as given, which is the cautious side; the caller is told in any case

    def _check(self, request: DoseRequest, now_ms: int) -> OrderStatus:
        check_amount(request.dose, "dose")
        if not request.id or not request.patient or not request.id.isprintable() or len(request.id) > 200:
            raise OrderError("dose: expected an id of 1 to 200 printable characters, and a patient")
        if is_stopped(self._home.path):
            return OrderStatus("none", "stopped: there is a STOP in the home, or the home cannot be read")
        if fault := self._clock(now_ms):
            return OrderStatus("none", fault)
        try:
            self._ledger.catch_up()
            shelf = read_shelf(self._home.orders, minimum_signatures=self._minimum_signatures)
        except (JournalError, InputError) as error:
            return OrderStatus("none", str(error))
        if shelf.unreadable_revocation is not None:
            return OrderStatus(
                "none", f"a revocation cannot be believed, and may be for any order: {shelf.unreadable_revocation}"
            )
        if self._ledger.is_used(request.patient, request.id):
            return OrderStatus("none", "its id was used already")
        covering = [signed for signed in shelf.orders.values() if _covers(signed, request)]
        if not covering:
            return OrderStatus("none", "no signed order covers this drug for this patient")
        # The narrowest first, then the newest.
        covering.sort(key=lambda signed: (signed.order.patient is None, -signed.order.not_before_ms, signed.digest))
        reasons: list[tuple[Literal["expired", "none"], str]] = []
        for signed in covering:
            state, reason = self._judge(signed, shelf.revoked, request, now_ms)
            if state == "valid":
                return OrderStatus("valid", "", signed)
            reasons.append((state, reason))
        # What is in force and refuses says more than what has expired beside it.
        state, reason = next((item for item in reasons if item[0] == "none"), reasons[0])
        return OrderStatus(state, reason)

    def _judge(
        self, signed: SignedOrder, revoked: Mapping[str, str], request: DoseRequest, now_ms: int
    ) -> tuple[Literal["valid", "expired", "none"], str]:
        order, name = signed.order, f"order {signed.order.name} ({signed.digest[:16]})"
        if signed.digest in revoked:
            return "none", f"{name} was revoked: {revoked[signed.digest]}"
        if now_ms >= order.expires_ms:
            return "expired", f"{name} has expired"
        if now_ms < order.not_before_ms:
            return "none", f"{name} is not valid yet"
        if self._ledger.erased_ms >= order.not_before_ms - max(order.rate_window_ms, order.interval_ms):
            return "none", f"{name}: a dose since it began was erased from the journal, so that sums cannot be formed"
        if request.unit != order.unit:
            return "none", f"{name} is in {order.unit}, the dose in {request.unit!r}; nothing is converted"
        given = self._ledger.given(request.patient, request.drug)
        reason = limit_reason(order, given, request.dose, now_ms) or self._contraindication(signed, request, now_ms)
        return ("none", f"{name}: {reason}") if reason else ("valid", "")

    def _contraindication(self, signed: SignedOrder, request: DoseRequest, now_ms: int) -> str | None:
        order = signed.order
        if request.allergies is None or request.drugs is None:
            return f"the patient's {'allergies' if request.allergies is None else 'drugs'} are not known"
        allergies = {item.strip().lower() for item in request.allergies}
        drugs = {item.strip().lower() for item in request.drugs}
        for kind, found in (("allergy", allergies & {*order.allergies}), ("drug", drugs & {*order.interacting_drugs})):
            if found:
                return f"the order forbids it with {kind} {', '.join(sorted(found))}"
        for finding in self._interactions.check(order.drug, drugs=drugs, allergies=allergies):
            return f"{finding.kind} {finding.other}: {finding.summary}"
        for bound in order.bounds:
            reading = request.readings.get(bound.code)
            if reading is None or reading.unit != bound.unit:
                return f"no reading of {bound.code} in {bound.unit}"
            if not 0 <= now_ms - reading.t_ms <= bound.max_age_ms:
                return f"the reading of {bound.code} is older than {bound.max_age_ms // 1000} s, or from the future"
            if not bound.allows(reading.value):
                return f"{bound.code} is outside its bounds"
        return None

    def _clock(self, now_ms: int) -> str | None:
        if not isinstance(now_ms, int) or isinstance(now_ms, bool):
            raise OrderError(f"now_ms: expected whole milliseconds, got {now_ms!r}")
        if self._clock_fault is not None:
            return self._clock_fault
        if now_ms < self._latest_ms:
            # Not kept: a clock that is put right again is right.
            return f"the clock went back {self._latest_ms - now_ms} ms behind the last dose or look"
        if self._monotonic is not None:
            ticks = self._monotonic()
            if self._clock_pair is not None:
                jump = (now_ms - self._clock_pair[0]) - (ticks - self._clock_pair[1]) * 1000
                if abs(jump) > _JUMP_MS:
                    self._clock_fault = f"the clock jumped by {jump / 1000:.0f} s; set it, then open the book again"
                    return self._clock_fault
            self._clock_pair = (now_ms, ticks)
        self._latest_ms = now_ms
        return None


def _covers(signed: SignedOrder, request: DoseRequest) -> bool:
    order = signed.order
    if order.drug != request.drug:
        return False
    return order.patient == request.patient if order.patient is not None else order.ward == request.ward


def _check_verdict(verdict: Verdict, confirmed_by: Sequence[str]) -> None:
    if verdict.action is not ActionClass.A4 or verdict.effect is Effect.FORBID:
        raise OrderRefused(
            f"the policy's verdict does not allow it: expected A4 and not forbid, got {verdict.action} {verdict.effect}"
        )
    people = {" ".join(name.split()).casefold() for name in confirmed_by} - {""}
    if len(people) < _PEOPLE[verdict.effect]:
        raise OrderRefused(
            f"the policy wants {verdict.effect}: expected {_PEOPLE[verdict.effect]} distinct people, got {len(people)}"
        )


def _order(request: DoseRequest, signed: SignedOrder, now_ms: int, verdict: Verdict) -> Order:
    order = signed.order
    return Order(
        patient=request.patient,
        t_ms=now_ms,
        standing_order=signed.digest,
        drug=request.drug,
        dose=request.dose,
        unit=request.unit,
        limits={
            "dose_max": order.dose_max,
            "rate_max": order.rate_max,
            "rate_window_ms": order.rate_window_ms,
            "total_max": order.total_max,
            "count_max": order.count_max,
            "interval_ms": order.interval_ms,
        },
        provenance=verdict.provenance,
    )
