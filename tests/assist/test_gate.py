from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallhold.assist.gate import REASONS, Gate, Tolerances, reason_id
from smallhold.assist.hospital import LABORATORY_MAX_AGE_MS, HospitalLimits
from smallhold.errors import InputError
from smallhold.records import Observation
from smallhold.sectors.hospital.parameters import INDEX

from .small_ward import MINUTE_MS, reading

LIMITS = HospitalLimits()


def reasons(observation: Observation, now_ms: int | None = None, gate: Gate | None = None) -> list[str]:
    result, value = (gate or Gate(LIMITS)).check(observation, observation.t_received_ms if now_ms is None else now_ms)
    assert result.is_accepted == (value is not None) == (not result.reasons)
    return list(result.reasons)


def test_a_good_reading_passes_with_its_value() -> None:
    result, value = Gate(LIMITS).check(reading("HR", 88), 0)
    assert (result.is_accepted, result.reasons, value) == (True, (), 88.0)


def test_a_value_in_another_unit_passes_in_the_canonical_one() -> None:
    _, value = Gate(LIMITS).check(reading("Temp", 98.6, unit="[degF]"), 0)
    assert value == pytest.approx(37.0)


@pytest.mark.parametrize(
    ("observation", "expected"),
    [
        (reading("Mood", 3), "unknown_code: 'Mood' is not a signal of this sector"),
        (reading("HR", float("nan")), "not_finite: HR reads nan"),
        (reading("HR", float("-inf")), "not_finite: HR reads -inf"),
        (reading("HR", 80, unit="mm[Hg]"), "unit: HR: unit 'mm[Hg]' is not a unit of heart rate"),
        (reading("HR", 900), "range: HR 900 /min lies outside 10 to 300 /min"),
        (reading("Temp", 37, unit="[degF]"), "range: Temp 2.77778 Cel lies outside 20 to 45 Cel"),
        (replace(reading(), quality="leads off"), "quality: the device says 'leads off' of HR"),
        (
            replace(reading(), t_measured_ms=60_000, t_received_ms=0),
            "clock_future: HR measured 60000 ms after its arrival; allowed 5000 ms",
        ),
        (
            replace(reading(), t_received_ms=3_600_000),
            "stale: HR was 3600000 ms old on arrival; allowed 900000 ms",
        ),
    ],
)
def test_each_reason_is_told_with_its_numbers(observation: Observation, expected: str) -> None:
    (reason,) = reasons(observation)
    assert reason.startswith(expected)
    assert reason_id(reason) in REASONS


def test_a_signal_may_have_a_longest_age_of_its_own() -> None:
    tolerances = Tolerances(max_age_of_ms=LABORATORY_MAX_AGE_MS)
    late = {"now_ms": 6 * 3_600_000}
    assert reasons(reading("Creatinine", 1.1, unit="mg/dL"), gate=Gate(LIMITS, tolerances), **late) == []
    assert [reason_id(r) for r in reasons(reading("HR", 80), gate=Gate(LIMITS, tolerances), **late)] == ["stale"]
    (reason,) = reasons(reading("Creatinine", 1.1, unit="mg/dL"), now_ms=43_200_001, gate=Gate(LIMITS, tolerances))
    assert reason == "stale: Creatinine was 43200001 ms old on arrival; allowed 43200000 ms"
    assert LABORATORY_MAX_AGE_MS.keys() <= INDEX.keys()
    with pytest.raises(InputError, match="max_age_of_ms of HR must not be negative, got -1"):
        Tolerances(max_age_of_ms={"HR": -1})


def test_a_reading_that_waited_on_this_machine_is_stale_too() -> None:
    assert [reason_id(r) for r in reasons(reading(), now_ms=3_600_000)] == ["stale"]


def test_the_same_identifier_is_a_resend_whatever_it_says() -> None:
    gate = Gate(LIMITS)
    assert not reasons(reading("HR", 80, 1, id="x"), gate=gate)
    assert reasons(reading("Temp", 37, 2, id="x"), gate=gate) == ["duplicate: observation 'x' was received before"]


def test_the_same_value_at_the_same_time_is_a_duplicate_but_another_value_is_not() -> None:
    gate = Gate(LIMITS)
    assert not reasons(reading("HR", 80, 1, id="a"), gate=gate)
    assert reasons(reading("HR", 80, 1, id="b"), gate=gate) == ["duplicate: HR 80 at 60000 ms was received before"]
    assert not reasons(reading("HR", 81, 1, id="c"), gate=gate)
    assert not reasons(reading("RespRate", 81, 1, id="d"), gate=gate)


def test_a_clock_going_back_is_told_per_signal_and_beyond_the_tolerance() -> None:
    gate = Gate(LIMITS, Tolerances(clock_back_ms=MINUTE_MS))
    assert not reasons(reading("HR", 80, 10), gate=gate)
    assert not reasons(reading("HR", 81, 9), gate=gate)
    assert not reasons(reading("Temp", 37, 5), gate=gate)
    expected = "clock_back: HR measured 120000 ms before the newest accepted reading; allowed 60000 ms"
    assert reasons(reading("HR", 82, 8), gate=gate) == [expected]


def test_a_refused_reading_leaves_no_trace() -> None:
    gate = Gate(LIMITS)
    assert reasons(reading("HR", 900, 50, id="x"), gate=gate)
    assert not reasons(reading("HR", 80, 1, id="x"), gate=gate)


def test_all_reasons_are_listed_in_order() -> None:
    gate = Gate(LIMITS)
    assert not reasons(reading("HR", 80, 10, id="x"), gate=gate)
    bad = replace(reading("HR", 900, 1, id="x"), quality="noise", t_received_ms=MINUTE_MS * 100)
    found = [reason_id(r) for r in reasons(bad, gate=gate)]
    assert found == ["range", "quality", "duplicate", "clock_back", "stale"]
    assert found == sorted(found, key=REASONS.index)


def test_negative_tolerances_are_refused() -> None:
    with pytest.raises(InputError, match="clock_back_ms must not be negative, got -1"):
        Tolerances(clock_back_ms=-1)


class NaiveGate:
    """Slow twin: remembers everything and looks through all of it."""

    def __init__(self, tolerances: Tolerances) -> None:
        self.accepted: list[Observation] = []
        self.tolerances = tolerances

    def accepts(self, new: Observation) -> bool:
        low, high = LIMITS.plausible_range(new.code) or (0.0, 0.0)
        newest = [old.t_measured_ms for old in self.accepted if old.code == new.code]
        is_good = (
            low <= new.value <= high
            and all(old.id != new.id for old in self.accepted)
            and all(
                (old.code, old.t_measured_ms, old.value) != (new.code, new.t_measured_ms, new.value)
                for old in self.accepted
            )
            and (not newest or new.t_measured_ms >= max(newest) - self.tolerances.clock_back_ms)
        )
        if is_good:
            self.accepted.append(new)
        return is_good


@given(
    st.lists(
        st.builds(
            reading,
            code=st.sampled_from(["HR", "RespRate"]),
            value=st.sampled_from([0.0, 60.0, 61.0, 1e9]),
            minute=st.integers(0, 6),
            id=st.sampled_from("abcdefghijklmnop"),
        ),
        max_size=25,
    ),
    st.sampled_from([0, MINUTE_MS, 3 * MINUTE_MS]),
)
def test_agrees_with_a_gate_that_remembers_everything(observations: list[Observation], clock_back_ms: int) -> None:
    tolerances = Tolerances(clock_back_ms=clock_back_ms)
    gate, naive = Gate(LIMITS, tolerances), NaiveGate(tolerances)
    for observation in observations:
        assert gate.check(observation, observation.t_received_ms)[0].is_accepted == naive.accepts(observation)


def test_memory_stays_bounded() -> None:
    gate = Gate(LIMITS, Tolerances(clock_back_ms=2 * MINUTE_MS, remembered_ids=10))
    for minute in range(1000):
        assert not reasons(reading("HR", 60 + minute % 7, minute), gate=gate)
    assert len(gate._memory.ids) == 10
    assert len(gate._memory.recent["HR"]) == 3
