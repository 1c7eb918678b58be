"""A controller's proposals on their way to a simulated patient: policy, order book, release. For demonstration.

The loop is the same for one patient behind the real order book and for ten thousand behind `VectorLimits`; a *gate*
says what of each proposal is released.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from smallhold.assist.context import Context
from smallhold.assist.orders.book import DoseRequest, OrderBook, Reading
from smallhold.assist.orders.standing_order import StandingOrder
from smallhold.assist.orders.vector_limits import VectorLimits
from smallhold.assist.policy import Profile, decide
from smallhold.errors import OrderRefused
from smallhold.records import ActionClass, Effect, Order, Priority, Provenance

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Doses = Mapping[str, IntArray]  # drug -> (N,) millionths of a unit
Gate = Callable[[Doses, FloatArray, int], dict[str, IntArray]]
_PEOPLE = {Effect.AUTO: 0, Effect.NOTIFY_WITH_VETO: 1, Effect.CONFIRM_ONE: 1, Effect.CONFIRM_TWO: 2}


class Plant(Protocol):
    """Simulated patients; a step takes `minutes`."""

    minutes: int
    num_patients: int
    drugs: tuple[str, ...]
    low: float
    high: float
    code: str
    unit: str
    minute: int

    def measure(self) -> FloatArray:
        """(N,) what a sensor says, NaN when it is silent."""

    def truth(self) -> FloatArray:
        """(N,) what is so."""

    def step(self, doses: Doses) -> None:
        """Give doses in millionths of a unit, and go on."""


class Controller(Protocol):
    """Wants doses."""

    def propose(self, reading: FloatArray) -> dict[str, IntArray]:
        """(N,) millionths of a unit for each drug."""

    def note(self, released: Doses) -> None:
        """What was released of it."""


@dataclass(frozen=True, slots=True)
class LoopTrace:
    """What happened.

    Attributes:
        values: (T, N) true values after each step.
        doses: (T, N) released millionths of each drug.
        low: The range's lower end.
        high: Its upper end.
    """

    values: FloatArray
    doses: dict[str, IntArray]
    low: float
    high: float

    @property
    def in_range(self) -> float:
        """Share of all steps within the range, 0 to 1."""
        return float(((self.values >= self.low) & (self.values <= self.high)).mean())

    @property
    def below(self) -> float:
        """Share below it."""
        return float((self.values < self.low).mean())

    @property
    def above(self) -> float:
        """Share above it."""
        return float((self.values > self.high).mean())


def run_loop(plant: Plant, controller: Controller, gate: Gate, steps: int) -> LoopTrace:
    """Let a controller work on simulated patients, as far as the gate lets it.

    Args:
        plant: Patients; they are moved on.
        controller: Wants doses.
        gate: (proposals, reading, minute) -> what is released.
        steps: How many.
    """
    values = np.empty((steps, plant.num_patients))
    doses = {drug: np.zeros((steps, plant.num_patients), np.int64) for drug in plant.drugs}
    for number in range(steps):
        reading = plant.measure()
        released = gate(controller.propose(reading), reading, plant.minute)
        controller.note(released)
        plant.step(released)
        values[number] = plant.truth()
        for drug in plant.drugs:
            doses[drug][number] = released[drug]
    return LoopTrace(values, doses, plant.low, plant.high)


def nothing(proposals: Doses, _reading: FloatArray, _minute: int) -> dict[str, IntArray]:
    """The gate that releases nothing: no treatment."""
    return {drug: np.zeros_like(amounts) for drug, amounts in proposals.items()}


def limits_gate(orders: Sequence[StandingOrder], num_patients: int, start_ms: int) -> Gate:
    """The gate of many patients: each drug within its order and nothing else."""
    limits = {order.drug: VectorLimits(order, num_patients) for order in orders}

    def gate(proposals: Doses, _reading: FloatArray, minute: int) -> dict[str, IntArray]:
        now_ms = start_ms + minute * 60_000
        return {drug: limits[drug].release(amounts, now_ms) for drug, amounts in proposals.items()}

    return gate


class BookGate:
    """The real way of one patient: order book, policy, people, release.

    Args:
        plant: For its code and unit; one patient.
        book: Open, with orders for the plant's drugs.
        profile: In force.
        units: Drug -> unit.
        patient: As the orders name it.
        start_ms: The wall clock at minute 0.
        people: Who confirms whatever is asked; nobody by default.
        device_class: Whether the simulated installation is cleared as a closed loop.
    """

    def __init__(
        self,
        plant: Plant,
        book: OrderBook,
        profile: Profile,
        units: Mapping[str, str],
        *,
        patient: str,
        start_ms: int,
        people: Sequence[str] = (),
        is_cleared: bool = True,
    ) -> None:
        self._plant, self._book, self._profile, self._units = plant, book, profile, units
        self._patient, self._start_ms, self._people, self._is_cleared = patient, start_ms, people, is_cleared
        self._last: Reading | None = None
        #: proposed, automatic, asked, confirmed, forbidden, refused
        self.counts: Counter[str] = Counter()
        #: Why doses were refused by the order book; how often.
        self.reasons: Counter[str] = Counter()
        self.effects: Counter[Effect] = Counter()

    def __call__(self, proposals: Doses, reading: FloatArray, minute: int) -> dict[str, IntArray]:
        """What is released."""
        now_ms = self._start_ms + minute * 60_000
        is_fresh = bool(np.isfinite(reading[0]))
        if is_fresh:
            self._last = Reading(float(reading[0]), self._plant.unit, now_ms)
        released = {drug: np.zeros(1, np.int64) for drug in proposals}
        for drug, amounts in proposals.items():
            if amounts[0] > 0:
                released[drug][0] = self._give(drug, int(amounts[0]), now_ms, is_fresh=is_fresh)
        return released

    def _give(self, drug: str, amount: int, now_ms: int, *, is_fresh: bool) -> int:
        self.counts["proposed"] += 1
        request = DoseRequest(
            id=f"{drug}-{now_ms}",
            patient=self._patient,
            drug=drug,
            dose=amount,
            unit=self._units[drug],
            allergies=frozenset(),
            drugs=frozenset(),
            readings={} if self._last is None else {self._plant.code: self._last},
        )
        status = self._book.check(request, now_ms)
        context = Context(
            action=ActionClass.A4,
            priority=Priority.MEDIUM,
            standing_order=status.state,
            device_class="closed_loop_cleared" if self._is_cleared else "none",
            confidence="high",
            consent="given",
            is_stale=not is_fresh,
        )
        provenance = Provenance(trace_id="0" * 32, profile=self._profile.digest, simulated=True)
        verdict = decide(self._profile, context, provenance)
        self.effects[verdict.effect] += 1
        given: list[int] = []

        def release(order: Order) -> None:
            given.append(order.dose)

        if status.state != "valid":
            self.counts["refused"] += 1
            self.reasons[status.reason.split(": ")[-1]] += 1
            return 0
        if verdict.effect is Effect.FORBID:
            self.counts["forbidden"] += 1
            return 0
        needed = _PEOPLE[verdict.effect]
        if needed:
            self.counts["asked"] += 1
        if len(self._people) < needed:
            return 0
        try:
            self._book.administer(request, now_ms, verdict, release, confirmed_by=self._people[:needed])
        except OrderRefused as error:
            self.counts["refused"] += 1
            self.reasons[str(error).split(": ")[-1]] += 1
        if given:
            self.counts["confirmed" if needed else "automatic"] += 1
        return sum(given)
