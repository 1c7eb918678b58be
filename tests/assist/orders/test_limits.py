import itertools
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from smallhold.assist.orders import Dose, StandingOrder, limit_reason

from .order_ward import HOUR, MINUTE, ORDER, START, UNIT


def dose(t_ms: int, amount: int, *, unit: str = "U", order: str = "o") -> Dose:
    return Dose(id=f"d{t_ms}", t_ms=t_ms, amount=amount, unit=unit, order=order)


def test_each_bound_has_its_reason() -> None:
    now = START + 3 * HOUR
    assert limit_reason(ORDER, [], 2 * UNIT, now) is None
    assert "dose_max 2 U" in str(limit_reason(ORDER, [], 2 * UNIT + 1, now))
    assert "is none" in str(limit_reason(ORDER, [], 0, now))
    assert "is none" in str(limit_reason(ORDER, [], -UNIT, now))
    assert "interval 300 s" in str(limit_reason(ORDER, [dose(now - 5 * MINUTE + 1, 1)], UNIT, now))
    assert limit_reason(ORDER, [dose(now - 5 * MINUTE, 1)], UNIT, now) is None
    full = [dose(now - minutes * MINUTE, 2 * UNIT) for minutes in (40, 20)]
    assert limit_reason(ORDER, full, UNIT, now) is None
    assert "5.000001 U within 3600 s would be above rate_max 5 U" in str(limit_reason(ORDER, full, UNIT + 1, now))
    many = [dose(START + number, 1) for number in range(10)]
    assert "count_max 10" in str(limit_reason(ORDER, many, 1, now))
    sixes = [dose(START + hours * HOUR, 2 * UNIT) for hours in range(6)]
    assert "14 U in all would be above total_max 12 U" in str(limit_reason(ORDER, sixes, 2 * UNIT, START + 10 * HOUR))
    assert "another unit" in str(limit_reason(ORDER, [dose(now - HOUR, 1, unit="mL")], 1, now))


def test_another_order_for_the_same_drug_is_no_second_allowance() -> None:
    now = START + HOUR
    before = [dose(START - MINUTE, 2 * UNIT, order="yesterday"), dose(now - 10 * MINUTE, 2 * UNIT, order="ward")]
    assert limit_reason(ORDER, before, UNIT, now) is None
    assert "would be above rate_max" in str(limit_reason(replace(ORDER, rate_max=2 * UNIT), before, UNIT, now))
    # What was given before the order began counts for rate and interval, not for its total.
    assert limit_reason(replace(ORDER, total_max=5 * UNIT), before, 2 * UNIT, now) is None


amounts = st.integers(1, 3 * UNIT)
orders = st.builds(
    lambda dose_max, more, most, window, count, interval: replace(
        ORDER,
        dose_max=dose_max,
        rate_max=dose_max + more,
        total_max=dose_max + more + most,
        rate_window_ms=window,
        count_max=count,
        interval_ms=interval,
    ),
    amounts,
    amounts,
    st.integers(0, 10 * UNIT),
    st.integers(1000, HOUR),
    st.integers(1, 20),
    st.integers(1000, 10 * MINUTE),
)


@given(orders, st.lists(st.tuples(st.integers(1, 20 * MINUTE), st.integers(-5, 4 * UNIT)), max_size=40))
def test_no_sequence_of_requests_gets_beyond_an_order(order: StandingOrder, requests: list[tuple[int, int]]) -> None:
    """The slow twin looks at all stretches of all given doses, from scratch."""
    given_doses: list[Dose] = []
    now = START
    for later, amount in requests:
        now += later
        reason = limit_reason(order, given_doses, amount, now)
        trial = [*given_doses, dose(now, amount)]
        windows = [
            sum(d.amount for d in trial if end - order.rate_window_ms < d.t_ms <= end)
            for end in (d.t_ms for d in trial)
        ]
        gaps = [two.t_ms - one.t_ms for one, two in itertools.pairwise(trial)]
        is_within = (
            0 < amount <= order.dose_max
            and max(windows) <= order.rate_max
            and sum(d.amount for d in trial) <= order.total_max
            and len(trial) <= order.count_max
            and all(gap >= order.interval_ms for gap in gaps)
        )
        assert (reason is None) == is_within, (reason, amount)
        if reason is None:
            given_doses = trial
