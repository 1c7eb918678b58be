"""Closed loops on SIMULATED patients by the real way: signed orders, policy, people, journal. Nothing clinical."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from smallhold.assist.orders.book import OrderBook
from smallhold.assist.orders.closed_loop import (
    BookGate,
    Controller,
    Doses,
    FloatArray,
    Gate,
    IntArray,
    LoopTrace,
    Plant,
    limits_gate,
    nothing,
    run_loop,
)
from smallhold.assist.orders.interactions import load_interactions
from smallhold.assist.orders.shelf import TRUST, put_order
from smallhold.assist.orders.signing import sign_order, verify_order
from smallhold.assist.orders.standing_order import Bound, StandingOrder
from smallhold.assist.orders.stop import stop
from smallhold.assist.policy import Profile
from smallhold.device.home import Home, init
from smallhold.device.journal import Journal
from smallhold.device.trust import generate_private_key, load_trusted_keys, save_public_key
from smallhold.sectors.hospital.arterial_pressure import FLUID, VASOPRESSOR, PressureController, SimulatedPressure
from smallhold.sectors.hospital.glucose_insulin import DRUG, GlucoseController, SimulatedGlucose

Kind = Literal["glucose", "pressure"]
START_MS = 1_800_000_000_000  # some wall clock; the simulation goes on from there
_PATIENT = "simulated-1"
_MICRO, _MINUTE, _HOUR = 1_000_000, 60_000, 3_600_000


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to treat the same simulated patients.

    Attributes:
        name: Of the arm.
        num_patients: N.
        in_range: Share of time within the range, 0 to 1.
        below: Share below.
        above: Share above.
        doses: Released, all patients together.
        counts: Of proposals by what became of them; empty where no order book was asked.
        reasons: Of the order book's refusals.
    """

    name: str
    num_patients: int
    in_range: float
    below: float
    above: float
    doses: int
    counts: dict[str, int]
    reasons: dict[str, int]


def demonstration_orders(kind: Kind) -> tuple[StandingOrder, ...]:
    """The standing orders of a demonstration; two people sign each."""

    def order(drug: str, unit: str, dose: int, rate: int, total: int, interval_ms: int, bound: Bound) -> StandingOrder:
        return StandingOrder(
            name=f"demo-{drug}",
            drug=drug,
            unit=unit,
            dose_max=dose,
            rate_max=rate,
            rate_window_ms=_HOUR,
            total_max=total,
            count_max=1000,
            interval_ms=interval_ms,
            not_before_ms=START_MS,
            expires_ms=START_MS + 24 * _HOUR,
            patient=_PATIENT,
            ward=None,
            required_signatures=2,
            bounds=(bound,),
            note="simulated",
        )

    if kind == "glucose":
        fresh = Bound("Glucose", "mmol/L", 5_500_000, None, 10 * _MINUTE)
        return (order(DRUG, "U", 600_000, 2 * _MICRO, 8 * _MICRO, 5 * _MINUTE, fresh),)
    high = Bound("MAP", "mm[Hg]", None, 80 * _MICRO, 2 * _MINUTE)
    low = Bound("MAP", "mm[Hg]", None, 65 * _MICRO, 2 * _MINUTE)
    return (
        order(VASOPRESSOR, "ug", 15 * _MICRO, 700 * _MICRO, 4000 * _MICRO, _MINUTE, high),
        order(FLUID, "mL", 250 * _MICRO, 500 * _MICRO, 1000 * _MICRO, 30 * _MINUTE, low),
    )


def simulated(kind: Kind, num_patients: int, seed: int, *, has_gap: bool = False) -> tuple[Plant, Controller, int]:
    """Patients, their controller and the number of steps: 12 h of glucose, 6 h of pressure."""
    if kind == "glucose":
        glucose = SimulatedGlucose(num_patients, seed, hours=12, sensor_gap=(360, 400) if has_gap else None)
        return glucose, GlucoseController(num_patients), 12 * 60 // glucose.minutes
    pressure = SimulatedPressure(num_patients, seed, hours=6, sensor_gap=(180, 190) if has_gap else None)
    return pressure, PressureController(num_patients), 6 * 60 // pressure.minutes


def demonstrate(kind: Kind, profile: Profile, *, seed: int = 0, num_patients: int = 1000) -> tuple[Arm, ...]:
    """One simulated patient by the real way in several arms, and many by the orders' limits alone.

    Everything happens in a temporary home with new keys; the device's own home is not touched.

    Args:
        kind: `glucose` or `pressure`.
        profile: In force.
        seed: Another seed gives other patients.
        num_patients: Of the arms with many.
    """
    orders = demonstration_orders(kind)
    arms = [_arm("no treatment", kind, seed, 1, lambda _: nothing)]
    alone = _by_the_book("the loop alone", kind, profile, seed)
    arms.append(alone)
    if alone.counts.get("asked"):
        arms.append(_by_the_book("people confirm each dose", kind, profile, seed, people=("Dr A", "Nurse B")))
    if alone.counts.get("asked") or alone.counts.get("automatic"):
        name = "the same, stopped halfway"
        arms.append(_by_the_book(name, kind, profile, seed, people=("Dr A", "Nurse B"), is_stopped=True))
    arms.append(_arm("no treatment", kind, seed, num_patients, lambda _: nothing))
    many = _arm(
        "within the orders, no policy",
        kind,
        seed,
        num_patients,
        lambda plant: limits_gate(orders, plant.num_patients, START_MS),
    )
    return (*arms, many)


def _arm(name: str, kind: Kind, seed: int, num_patients: int, make_gate: Callable[[Plant], Gate]) -> Arm:
    plant, controller, steps = simulated(kind, num_patients, seed, has_gap=True)
    return _summary(name, run_loop(plant, controller, make_gate(plant), steps), Counter(), Counter())


def _by_the_book(
    name: str, kind: Kind, profile: Profile, seed: int, *, people: Sequence[str] = (), is_stopped: bool = False
) -> Arm:
    with tempfile.TemporaryDirectory(prefix="smallhold-demo-") as folder:
        home = make_home(Path(folder), demonstration_orders(kind))
        with Journal.open(home.journal, key=home.device_key()) as journal:
            book = OrderBook(home, journal, load_interactions(), monotonic=None)  # its time is simulated
            plant, controller, steps = simulated(kind, 1, seed, has_gap=True)
            units = {order.drug: order.unit for order in demonstration_orders(kind)}
            gate = BookGate(plant, book, profile, units, patient=_PATIENT, start_ms=START_MS, people=people)

            def until_stopped(proposals: Doses, reading: FloatArray, minute: int) -> dict[str, IntArray]:
                if is_stopped and minute == steps // 2 * plant.minutes:
                    stop(home.path)
                return gate(proposals, reading, minute)

            trace = run_loop(plant, controller, until_stopped, steps)
    return _summary(name, trace, gate.counts, gate.reasons)


def make_home(folder: Path, orders: Sequence[StandingOrder]) -> Home:
    """A new home whose orders two new keys have signed; the keys are forgotten."""
    home = Home(folder / "home")
    init(home)
    (home.orders / TRUST).mkdir(parents=True)
    keys = [generate_private_key(), generate_private_key()]
    for number, key in enumerate(keys):
        save_public_key(key.public_key(), home.orders / TRUST / f"demo-{number}.pem")
    for order in orders:
        envelope = sign_order(order, keys)
        put_order(home.orders, verify_order(envelope, load_trusted_keys(home.orders / TRUST)), envelope)
    return home


def _summary(name: str, trace: LoopTrace, counts: Counter[str], reasons: Counter[str]) -> Arm:
    doses = sum(int((amounts > 0).sum()) for amounts in trace.doses.values())
    return Arm(
        name, trace.values.shape[1], trace.in_range, trace.below, trace.above, doses, dict(counts), dict(reasons)
    )
