import json
import math
import os

import numpy as np
import pytest

from smallhold.assist.drift import ANSWERS, CALIBRATION, INPUTS, DriftMonitor, DriftState
from smallhold.errors import InputError

from .drifting_ward import (
    another_unit,
    grids_of,
    not_measured,
    numbers_of,
    reference_of,
    run_ward,
    small_reference,
    small_signal,
    ward,
)


def small_monitor(run_length: float, *parameters: str, windows: int = 1) -> DriftMonitor:
    names = parameters or ("HR",)
    means = (0.5, 0.1, 0.9, 0.0)
    return DriftMonitor(
        small_reference(*names, means=means, windows=windows), small_signal(*names), run_length=run_length
    )


def window_of(value: float = 0.5, tail: float = 0.1, measured: float = 1.0, refused: float = 0.0) -> np.ndarray:
    return np.array([value, tail, measured, refused])


def test_evidence_by_hand() -> None:
    monitor = small_monitor(1e9)
    monitor.add_window(0, window_of(value=0.9, tail=0.0, measured=1.0, refused=0.0))
    # What may be expected at most, mean and tolerance: .6 of the value and of its mirror image, .2 of the tail, .2 of
    # "not measured", .1 of "refused". The rest reaches 1 or passes it, and nobody bets on it.
    odds = [0.9 / 0.6, 0.1 / 0.6, 0.0 / 0.2, 0.0 / 0.2, 0.0 / 0.1]
    expected = np.mean([1 + stake * (ratio - 1) for ratio in odds for stake in (0.15, 0.5, 0.9)])
    assert monitor.status()[INPUTS]["evidence"] * 3e9 == pytest.approx(expected)
    again = np.mean([(2 + f * (r - 1)) * (1 + f * (r - 1)) for r in odds for f in (0.15, 0.5, 0.9)])
    monitor.add_window(0, window_of(value=0.9, tail=0.0, measured=1.0, refused=0.0))
    assert monitor.status()[INPUTS]["evidence"] * 3e9 == pytest.approx(again)


def test_false_alarms_keep_to_the_bound_on_the_very_edge_of_the_tolerance() -> None:
    """The worst ward that is no drift: every mean as far off as is allowed. T windows, run_length R: at most T / R."""
    run_length, runs, windows, alarms, beyond = 60, 150, 30, 0, 0
    for run in range(runs):
        rng = np.random.default_rng(run)
        for shift in (0.0, 0.25):
            monitor = small_monitor(run_length)
            for _ in range(windows):
                x = rng.random(4) < np.array([0.6 + shift, 0.2 + shift, 0.8 - shift, 0.1 + shift])
                monitor.add_window(0, x.astype(float))
            if shift:
                beyond += monitor.is_drifted
            else:
                alarms += monitor.is_drifted
    bound = windows / run_length
    assert alarms / runs <= bound + 3 * math.sqrt(bound * (1 - bound) / runs)
    assert beyond / runs > 0.9


def test_a_ward_that_does_not_change_raises_no_alarm_for_weeks() -> None:
    signal, reference, fresh = ward()
    numbers = numbers_of(signal, fresh)
    alarms = [run_ward(DriftMonitor(reference, signal), numbers, seed, 14) for seed in range(3)]
    # Three times two weeks of 672 windows: the bound allows 3 * 672 / 100,000 = 0.02 alarms in all.
    assert alarms == [None] * 3


@pytest.mark.parametrize(
    ("change", "named", "within_hours"),
    [
        (lambda stay: another_unit(stay, "Temp", 1.8, 32), "Temp refused", 1_000),
        (lambda stay: another_unit(stay, "Glucose", 1 / 18.02, 0), "Glucose", 3_000),
        (lambda stay: not_measured(stay, "GCS"), "GCS measured", 1_000),
    ],
)
def test_a_shift_is_found_and_named(change: object, named: str, within_hours: int) -> None:
    signal, reference, fresh = ward()
    old, new = numbers_of(signal, fresh), numbers_of(signal, [change(stay) for stay in fresh])  # type: ignore[operator]
    for seed in range(2):
        monitor = DriftMonitor(reference, signal)
        assert run_ward(monitor, old, seed, 4) is None  # two ordinary days first
        hours = run_ward(monitor, new, seed, 30)
        assert hours is not None and hours <= within_hours
        assert named in monitor.reason and monitor.states[INPUTS] is DriftState.DRIFTED


def test_windows_at_different_hours_of_a_stay_do_not_share_evidence() -> None:
    """The windows of one patient are not independent: one extreme patient must not speak eight times."""
    apart, together = small_monitor(30, windows=8), small_monitor(30, windows=8)
    for window in range(8):
        apart.add_window(window, window_of(value=0.99, tail=1.0))
        together.add_window(0, window_of(value=0.99, tail=1.0))
    assert not apart.is_drifted and together.is_drifted


def test_what_was_not_measured_says_nothing() -> None:
    monitor = small_monitor(10)
    before = json.dumps(monitor.status())
    monitor.add_window(0, np.full(4, np.nan))
    assert json.dumps(monitor.status()) == before


def test_calibration_that_holds_is_ok_and_calibration_that_is_lost_is_found() -> None:
    for factor, state in ((1.0, DriftState.OK), (3.0, DriftState.DRIFTED), (1 / 3, DriftState.DRIFTED)):
        monitor, rng = small_monitor(10_000), np.random.default_rng(1)
        for _ in range(1_000):
            p = float(rng.beta(1.2, 6.0))
            odds = p / (1 - p) * factor
            monitor.add_outcome(p, bool(rng.random() < odds / (1 + odds)))
        assert monitor.states[CALIBRATION] is state, factor
        assert monitor.states[INPUTS] is monitor.states[ANSWERS] is DriftState.OK
    assert "came true" in monitor.reason and "were predicted" in monitor.reason


def test_the_calibration_bound_holds_at_the_edge_of_its_tolerance() -> None:
    alarms, runs, outcomes, run_length = 0, 150, 40, 60
    for run in range(runs):
        monitor, rng = small_monitor(run_length), np.random.default_rng(run)
        for _ in range(outcomes):
            p = float(rng.uniform(0.05, 0.5))
            odds = 1.25 * p / (1 - p)
            monitor.add_outcome(p, bool(rng.random() < odds / (1 + odds)))
        alarms += monitor.is_drifted
    bound = outcomes / run_length / 3  # one of three monitors
    assert alarms / runs <= bound + 3 * math.sqrt(bound * (1 - bound) / runs)


def test_drift_stays_until_a_person_acknowledges_it_and_comes_back_when_its_cause_does() -> None:
    monitor = small_monitor(10)
    windows = 0
    while not monitor.is_drifted:
        monitor.add_window(0, window_of(refused=1.0))
        windows += 1
    assert "share of patients with HR refused 1.00, expected 0.00" in monitor.reason
    for _ in range(500):
        monitor.add_window(0, window_of())
    assert monitor.is_drifted
    with pytest.raises(InputError, match="name of a person"):
        monitor.acknowledge("")
    changes = monitor.take_changes()
    assert changes[-1].state is DriftState.DRIFTED and changes[-1].count == windows and not changes[-1].actor
    monitor.acknowledge("Dr Ito")
    (change,) = monitor.take_changes()
    assert (change.monitor, change.state, change.actor) == (INPUTS, DriftState.OK, "Dr Ito")
    assert "was drifted" in change.text and monitor.reason == ""
    assert monitor.take_changes() == () and monitor.status()[INPUTS]["evidence"] == 0
    for _ in range(windows):
        monitor.add_window(0, window_of(refused=1.0))
    assert monitor.is_drifted
    with pytest.raises(InputError, match="nothing to acknowledge"):
        small_monitor(10).acknowledge("Dr Ito")


def test_a_suspicion_passes_by_itself() -> None:
    monitor = small_monitor(10_000)
    while monitor.states[INPUTS] is DriftState.OK:
        monitor.add_window(0, window_of(refused=1.0))
    assert monitor.states[INPUTS] is DriftState.WATCH and not monitor.is_drifted
    for _ in range(200):
        monitor.add_window(0, window_of())
    states = [change.state for change in monitor.take_changes()]
    assert states == [DriftState.WATCH, DriftState.OK]


def test_memory_does_not_grow_and_evidence_stays_finite() -> None:
    def size(monitor: DriftMonitor) -> int:
        return sum(array.nbytes for array in vars(monitor).values() if isinstance(array, np.ndarray))

    monitor = small_monitor(1_000)
    before = size(monitor)
    for _ in range(500):
        monitor.add_window(0, window_of(value=1.0, tail=1.0, measured=0.0, refused=1.0))
        monitor.add_outcome(0.0, True)
    assert size(monitor) == before and monitor.status()[INPUTS]["evidence"] == 1.0
    assert len(monitor.take_changes()) <= 4


def test_a_monitor_refuses_what_it_cannot_watch() -> None:
    reference = small_reference("HR", means=(0.5, 0.1, 0.9, 0.0))
    with pytest.raises(InputError, match="fitted for other parameters"):
        DriftMonitor(reference, small_signal("Temp"))
    with pytest.raises(InputError, match="run_length must be at least 1 window, got nan"):
        DriftMonitor(reference, small_signal("HR"), run_length=math.nan)
    with pytest.raises(InputError, match=r"expected a probability, got 1\.5"):
        small_monitor(10).add_outcome(1.5, True)


@pytest.mark.data
def test_real_patients_are_no_drift_until_the_unit_changes() -> None:
    if "SMALLHOLD_DATA" not in os.environ:
        pytest.skip("SMALLHOLD_DATA is not set: physionet2012_icu is needed")
    pytest.importorskip("zstandard", reason="zstandard is not installed: physionet2012_icu is compressed")
    from smallhold.sectors.hospital import icu_risk
    from smallhold.sectors.splits import Split

    stays = icu_risk.load_stays()
    signal = grids_of(icu_risk.split(stays, Split.TRAIN)[:1_000])
    reference = reference_of(signal, icu_risk.split(stays, Split.CALIBRATION))
    fresh = icu_risk.split(stays, Split.VALIDATION)
    plain = numbers_of(signal, fresh)
    assert [run_ward(DriftMonitor(reference, signal), plain, seed, 7) for seed in range(2)] == [None] * 2
    fahrenheit = numbers_of(signal, [another_unit(stay, "Temp", 1.8, 32) for stay in fresh])
    for seed in range(2):
        assert (run_ward(DriftMonitor(reference, signal), fahrenheit, seed, 4) or 1e9) <= 300
