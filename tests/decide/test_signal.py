from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallhold.decide.signal import (
    CHANNELS,
    RankGauss,
    SignalSpec,
    SignalState,
    bin_of_minute,
    encode_stays,
    fit_rank_gauss,
)
from smallhold.errors import InputError, RecipeError, ShapeError

GRID = RankGauss((0.0, 1.0, 3.0), (-1.0, 0.0, 2.0))
SPEC = SignalSpec(("HR", "Temp", "Lactate"), (GRID, GRID, RankGauss((0.0,), (0.0,))), 60, ("age",))
WIDTH = len(CHANNELS)


def arrays(events: list[tuple[int, int, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    minute, code, value = zip(*events, strict=True) if events else ((), (), ())
    return np.array(minute, np.int32), np.array(code, np.int16), np.array(value, np.float32)


def one_by_one(spec: SignalSpec, events: list[tuple[int, int, float]], num_bins: int) -> np.ndarray:
    """The device's way: readings in order, a bin closed when its last minute has passed."""
    state, at, rows = SignalState(spec), 0, []
    for b in range(num_bins):
        while at < len(events) and events[at][0] <= spec.bin_minutes * (b + 1):
            state.observe(spec.parameters[events[at][1]], float(np.float32(events[at][2])))
            at += 1
        rows.append(state.close_bin())
    return np.array(rows)


def slowly(spec: SignalSpec, events: list[tuple[int, int, float]], num_bins: int) -> np.ndarray:
    """The definition of every channel, from the whole list each time."""
    out = np.zeros((num_bins, len(spec.parameters), WIDTH))
    for b in range(num_bins):
        for p, grid in enumerate(spec.grids):
            mine = [
                (max(0, math.ceil(minute / spec.bin_minutes) - 1), float(grid(np.array(np.float32(value)))))
                for minute, code, value in events
                if code == p
            ]
            past = [(when, score) for when, score in mine if when <= b]
            if not past:
                continue
            here = [score for when, score in past if when == b]
            recent = [score for when, score in past if when > b - 12]
            earlier = [score for when, score in past if when <= b - 6]
            scores = [score for _, score in past]
            out[b, p] = [
                scores[-1],
                sum(here) / len(here) if here else 0,
                math.log(1 + b - past[-1][0]),
                bool(here),
                scores[-1] - earlier[-1] if earlier else 0,
                scores[0],
                sum(scores) / len(scores),
                min(scores),
                max(scores),
                sum(recent) / len(recent) if recent else 0,
                math.log(1 + len(scores)),
            ]
    return out.reshape(num_bins, -1)


EVENTS = st.lists(
    st.tuples(
        st.integers(0, 30 * 60),  # past the last bin too
        st.integers(0, 1),  # Lactate is never measured
        st.one_of(st.sampled_from([0.0, 1.0, 3.0]), st.floats(-10, 10, width=32)),  # ties and clamped tails
    ),
    max_size=60,
).map(lambda events: sorted(events, key=lambda event: event[0]))


@settings(deadline=None, max_examples=150)
@given(events=EVENTS, num_bins=st.integers(1, 26))
def test_readings_one_by_one_and_whole_records_give_the_defined_channels(
    events: list[tuple[int, int, float]], num_bins: int
) -> None:
    expected = slowly(SPEC, events, num_bins)
    # float32 results of float64 sums that are added in another order
    np.testing.assert_allclose(one_by_one(SPEC, events, num_bins), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(encode_stays(SPEC, [arrays(events)], num_bins)[0], expected, rtol=1e-5, atol=1e-5)


def test_two_readings_of_one_hour_by_hand() -> None:
    state = SignalState(SPEC)
    state.observe("HR", 1.0)  # score 0
    state.observe("HR", 2.0)  # score 1
    first = state.close_bin().reshape(3, WIDTH)
    assert first[0].tolist() == pytest.approx([1, 0.5, 0, 1, 0, 0, 0.5, 0, 1, 0.5, math.log(3)])
    assert not first[1:].any()  # never measured
    second = state.close_bin().reshape(3, WIDTH)  # an empty bin: the newest value ages
    assert second[0].tolist() == pytest.approx([1, 0, math.log(2), 0, 0, 0, 0.5, 0, 1, 0.5, math.log(3)])


def test_a_reading_that_comes_after_its_bin_was_closed_counts_in_the_open_bin() -> None:
    late, on_time = SignalState(SPEC), SignalState(SPEC)
    said = late.close_bin()
    late.observe("HR", 3.0)  # taken in the first hour, received in the second
    on_time.close_bin()
    on_time.observe("HR", 3.0)
    np.testing.assert_array_equal(late.close_bin(), on_time.close_bin())
    assert not said.any()


def test_memory_does_not_grow_with_the_record() -> None:
    state = SignalState(SPEC)
    before = state.num_bytes
    for _ in range(200):
        state.observe("HR", 1.0)
        state.close_bin()
    assert state.num_bytes == before


def test_many_records_at_once_equal_each_record_alone() -> None:
    rng = np.random.default_rng(0)
    records = []
    for _ in range(515):  # more than one block
        n = int(rng.integers(0, 6))
        records.append(
            (
                np.sort(rng.integers(0, 300, n)).astype(np.int32),
                rng.integers(0, 3, n).astype(np.int16),
                rng.normal(size=n),
            )
        )
    together = encode_stays(SPEC, records, 5)
    for i in (0, 1, 511, 512, 514):
        np.testing.assert_array_equal(together[i], encode_stays(SPEC, [records[i]], 5)[0])


def test_no_records_give_no_rows() -> None:
    assert encode_stays(SPEC, [], 4).shape == (0, 4, 3 * WIDTH)


def test_bins_end_with_their_last_minute() -> None:
    minutes = np.array([0, 1, 60, 61, 120, 121], np.int32)
    assert bin_of_minute(minutes, 60).tolist() == [0, 0, 0, 1, 1, 2]


def test_an_unknown_parameter_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"unknown parameter 'Mood': this task reads HR, Temp, Lactate"):
        SignalState(SPEC).observe("Mood", 1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_refused_and_changes_nothing(value: float) -> None:
    state = SignalState(SPEC)
    with pytest.raises(InputError, match="HR: expected a finite value, got"):
        state.observe("HR", value)
    assert not state.close_bin().any()


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ((np.zeros(2, np.int32), np.zeros(1, np.int16), np.zeros(1)), "record 0: minute, code and value have 2, 1, 1"),
        ((np.array([5, 4], np.int32), np.zeros(2, np.int16), np.zeros(2)), "record 0: minutes must be sorted"),
        ((np.zeros(1, np.int32), np.array([3], np.int16), np.zeros(1)), r"codes must lie in \[0, 3\), got 3 to 3"),
        ((np.zeros(1, np.int32), np.array([-1], np.int16), np.zeros(1)), r"codes must lie in \[0, 3\), got -1 to -1"),
    ],
)
def test_a_record_whose_arrays_disagree_is_refused(record: tuple, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        encode_stays(SPEC, [record], 3)


def test_rank_gauss_gives_normal_scores_of_ranks() -> None:
    grid = fit_rank_gauss(np.arange(1001.0))
    assert grid(np.array(500.0)) == pytest.approx(0.0, abs=1e-9)
    assert grid(np.array(841.34)) == pytest.approx(1.0, abs=0.01)  # 84.13 % of a normal distribution lie below 1
    assert grid(np.array([-1e9, 1e9])).tolist() == pytest.approx([-2.878, 2.878], abs=1e-3)  # clamped at rank .002


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=80))
def test_a_fitted_transform_rises_and_stays_bounded(readings: list[float]) -> None:
    grid = fit_rank_gauss(np.array(readings))
    scores = np.array(grid.scores)
    assert (np.diff(scores) > 0).all()
    assert (np.abs(scores) < 2.9).all()
    assert np.isfinite(grid(np.array(readings))).all()


def test_tied_readings_share_the_mean_of_their_scores() -> None:
    grid = fit_rank_gauss(np.array([1.0] * 50 + [2.0] * 50), num_quantiles=101)
    assert grid.values[0] == 1.0
    assert grid.values[-1] == 2.0
    assert grid.scores[0] == pytest.approx(-grid.scores[-1], abs=1e-6)
    assert -0.9 < grid.scores[0] < -0.7  # mean of the lower half of a standard normal: -0.798


def test_constant_and_absent_readings_score_zero() -> None:
    assert fit_rank_gauss(np.full(7, 36.6))(np.array([0.0, 36.6, 99.0])).tolist() == pytest.approx([0, 0, 0], abs=1e-6)
    assert fit_rank_gauss(np.zeros(0)) == RankGauss((0.0,), (0.0,))


@pytest.mark.parametrize(
    ("values", "scores", "message"),
    [
        ((), (), "expected as many scores as values"),
        ((1.0, 2.0), (0.0,), "got 1 for 2"),
        ((1.0, 1.0), (0.0, 1.0), "values must increase strictly"),
        ((1.0, math.nan), (0.0, 1.0), "must be finite"),
        ((1.0, 2.0), (0.0, math.inf), "must be finite"),
    ],
)
def test_a_grid_that_cannot_be_interpolated_is_refused(values: tuple, scores: tuple, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        RankGauss(values, scores)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grids": (GRID,)}, "3 parameters but 1 rank-Gauss grids"),
        ({"parameters": ("HR", "HR", "Temp")}, "a parameter is named twice"),
        ({"bin_minutes": 0}, "bin_minutes must be positive, got 0"),
    ],
)
def test_a_specification_whose_parts_disagree_is_refused(change: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        dataclasses.replace(SPEC, **change)


def test_a_specification_survives_its_json_form() -> None:
    assert SignalSpec.from_json(SPEC.to_json()) == SPEC


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": ["last"]}, "are not those of this version"),
        ({"grids": None}, "malformed task file"),
        ({"grids": [{"values": ["x"], "scores": [0]}] * 3}, "malformed task file"),
        ({"bin_minutes": "often"}, "malformed task file"),
    ],
)
def test_a_malformed_json_form_is_refused(change: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        SignalSpec.from_json({**SPEC.to_json(), **change})
