"""Controllers behind the gates: ceilings for ten thousand, the policy's word for one, and the stop."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallhold.assist.orders import Dose, OrderBook, StandingOrder, limit_reason, load_interactions, stop
from smallhold.assist.orders.closed_loop import BookGate, LoopTrace, limits_gate, nothing, run_loop
from smallhold.assist.orders.demonstration import START_MS, demonstrate, demonstration_orders, make_home, simulated
from smallhold.assist.orders.vector_limits import VectorLimits
from smallhold.assist.policy import load_profile
from smallhold.device.journal import Journal
from smallhold.records import Effect

from .order_ward import MINUTE, ORDER, START
from .test_limits import orders

MANY = 10_000


def check_ceilings(order: StandingOrder, amounts: np.ndarray, minutes: int) -> None:
    """(T, N) released amounts against every bound of the order, in one go from the sums."""
    times = np.arange(len(amounts)) * minutes * MINUTE
    sums = np.vstack([np.zeros_like(amounts[:1]), amounts.cumsum(0)])
    first = np.searchsorted(times, times - order.rate_window_ms, side="right")
    within = sums[1:] - sums[first]
    assert amounts.min() >= 0 and amounts.max() <= order.dose_max
    assert within.max() <= order.rate_max
    assert sums[-1].max() <= order.total_max
    assert (amounts > 0).sum(0).max() <= order.count_max
    gap = -(-order.interval_ms // (minutes * MINUTE))  # steps
    for back in range(1, gap):
        assert not ((amounts[back:] > 0) & (amounts[:-back] > 0)).any()


@pytest.mark.parametrize("kind", ["glucose", "pressure"])
def test_ten_thousand_simulated_patients_never_get_more_than_their_orders_allow(kind: str) -> None:
    plant, controller, steps = simulated(kind, MANY, 11, has_gap=True)  # type: ignore[arg-type]
    standing = demonstration_orders(kind)  # type: ignore[arg-type]
    trace = run_loop(plant, controller, limits_gate(standing, MANY, START_MS), steps)
    for order in standing:
        check_ceilings(order, trace.doses[order.drug], plant.minutes)
        assert trace.doses[order.drug].max() > 0
    plant, controller, _ = simulated(kind, 500, 11, has_gap=True)  # type: ignore[arg-type]
    untreated = run_loop(plant, controller, nothing, steps)
    assert trace.in_range > untreated.in_range + 0.3 and trace.below <= untreated.below + 0.01
    assert trace.in_range + trace.below + trace.above == pytest.approx(1)


def test_ten_thousand_mad_controllers_never_get_more_than_their_order_allows() -> None:
    random = np.random.default_rng(0)
    order = replace(ORDER, count_max=15, total_max=20_000_000, interval_ms=10 * MINUTE)
    limits = VectorLimits(order, MANY)
    released = []
    for number in range(100):
        wanted = random.integers(-order.dose_max, 3 * order.dose_max, MANY)
        mad = random.random(MANY)
        wanted = np.where(mad < 0.02, np.iinfo(np.int64).max, np.where(mad < 0.04, np.iinfo(np.int64).min, wanted))
        released.append(limits.release(wanted, START + number * 5 * MINUTE))
    amounts = np.array(released)
    check_ceilings(order, amounts, 5)
    assert (amounts.sum(0) > 0.5 * order.total_max).mean() > 0.9  # they did get what they may
    late = limits.release(np.full(MANY, 1), order.expires_ms)
    assert not late.any()


@settings(deadline=None, max_examples=60)
@given(orders, st.lists(st.tuples(st.integers(1, 20 * MINUTE), st.integers(-5, 4_000_000)), max_size=30))
def test_the_limits_of_many_are_the_limits_of_one(order: StandingOrder, wanted: list[tuple[int, int]]) -> None:
    limits, earlier, now = VectorLimits(order, 2), [], START
    for later, amount in wanted:
        now += later
        reason = limit_reason(order, earlier, amount, now)
        expected = 0 if reason or now >= order.expires_ms else amount
        assert limits.release(np.array([amount, 0]), now).tolist() == [expected, 0]
        if expected:
            earlier.append(Dose(id=str(now), t_ms=now, amount=amount, unit=order.unit, order="o"))


def one_patient(
    folder: Path,
    profile: str,
    *,
    people: tuple[str, ...] = (),
    is_cleared: bool = True,
    stop_minute: int | None = None,
    steps: int = 60,
) -> tuple[LoopTrace, BookGate]:
    standing = demonstration_orders("glucose")
    home = make_home(folder, standing)
    loaded = load_profile(profile, allow_draft_permissions=True, source="continuous")
    with Journal.open(home.journal, key=home.device_key()) as journal:
        book = OrderBook(home, journal, load_interactions(), monotonic=None)
        plant, controller, _ = simulated("glucose", 1, 0)
        units = {order.drug: order.unit for order in standing}
        gate = BookGate(
            plant, book, loaded, units, patient="simulated-1", start_ms=START_MS, people=people, is_cleared=is_cleared
        )

        def stopping(*args: object) -> dict[str, np.ndarray]:
            if args[2] == stop_minute:
                stop(home.path)
            return gate(*args)  # type: ignore[arg-type]

        trace = run_loop(plant, controller, stopping, steps)
        written = sum(1 for _ in journal.entries(kind="dose"))
    (order,) = standing
    assert written == (trace.doses[order.drug] > 0).sum()  # each released dose is in the journal, and no other
    check_ceilings(order, trace.doses[order.drug], plant.minutes)
    return trace, gate


@pytest.mark.parametrize(
    ("profile", "effect"),
    [
        ("eu-closed-loop", Effect.AUTO),
        *((name, Effect.CONFIRM_ONE) for name in ("eu", "us", "uk", "ru", "cn")),
        *((name, Effect.FORBID) for name in ("base-clinical", "in")),
    ],
)
def test_what_the_loop_may_do_is_what_the_profile_says(tmp_path: Path, profile: str, effect: Effect) -> None:
    trace, gate = one_patient(tmp_path, profile, steps=12)
    assert set(gate.effects) == {effect} and gate.counts["proposed"] > 5
    given = int((trace.doses["insulin-regular"] > 0).sum())
    assert (given > 0) == (effect is Effect.AUTO) and gate.counts["automatic"] == given
    assert (gate.counts["asked"] > 0) == (effect is Effect.CONFIRM_ONE)
    assert (gate.counts["forbidden"] > 0) == (effect is Effect.FORBID)


def test_without_clearance_even_the_closed_loop_asks(tmp_path: Path) -> None:
    trace, gate = one_patient(tmp_path, "eu-closed-loop", is_cleared=False, steps=12)
    assert set(gate.effects) == {Effect.CONFIRM_ONE} and not trace.doses["insulin-regular"].any()


def test_a_person_who_confirms_lets_it_go_on(tmp_path: Path) -> None:
    trace, gate = one_patient(tmp_path, "eu", people=("Dr A",), steps=12)
    assert gate.counts["confirmed"] == gate.counts["asked"] == (trace.doses["insulin-regular"] > 0).sum() > 5


def test_a_stop_holds_within_one_step(tmp_path: Path) -> None:
    trace, gate = one_patient(tmp_path, "eu-closed-loop", stop_minute=50, steps=30)
    given = trace.doses["insulin-regular"][:, 0]
    assert given[9] > 0 and not given[10:].any()  # minute 50 is step 10
    assert gate.counts["refused"] > 0 and "STOP" in next(iter(gate.reasons))


def test_a_demonstration_compares_its_arms() -> None:
    arms = demonstrate("glucose", load_profile("uk"), num_patients=50)
    by_name = {(arm.name, arm.num_patients): arm for arm in arms}
    untreated, confirmed = by_name["no treatment", 1], by_name["people confirm each dose", 1]
    assert confirmed.in_range > untreated.in_range + 0.3
    assert by_name["the loop alone", 1].in_range == untreated.in_range
    halfway = by_name["the same, stopped halfway", 1]
    assert 0 < halfway.doses < confirmed.doses and halfway.counts.get("refused", 0) > 0
    assert by_name["within the orders, no policy", 50].in_range > by_name["no treatment", 50].in_range
