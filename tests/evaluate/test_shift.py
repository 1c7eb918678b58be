"""Kinds of patients that calibration never saw: what is held out, what is counted, and when nothing is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("sklearn", reason="calibration needs scikit-learn, the extra 'train'")

from smallhold.bundle.calibrate import calibrate_margins
from smallhold.decide.conformal import fit_conformal
from smallhold.decide.plan import Field, calibrate_logits
from smallhold.errors import ShapeError
from smallhold.evaluate.judged import read_by_field
from smallhold.evaluate.risk_coverage import exact_interval
from smallhold.evaluate.shift import Patients, adaptive_sets, shift_by_unit
from smallhold.sectors.hospital.stays import ICU_TYPES

HOURS = (6, 48)
FIELD = Field(name="died", choices=("no", "yes"), positive="yes")


def ward(n: int, seed: int, *, shift: float = 0.0, death_rate: float = 0.3) -> Patients:
    """Patients of all kinds; survivors of medical units look worse than others by `shift` log-odds."""
    rng = np.random.default_rng(seed)
    units = np.array(ICU_TYPES)[rng.integers(0, 4, n)]
    died = rng.random(n) < death_rate
    margins = 2.5 * died[:, None] - 2 + rng.normal(size=(n, 2)) + shift * ((units == "medical") & ~died)[:, None]
    return Patients(margins=margins, died=died, units=units)


@pytest.fixture(scope="module")
def calibration() -> Patients:
    return ward(600, 0)


@pytest.fixture(scope="module")
def field(calibration: Patients) -> Field:
    return calibrate_margins(FIELD, calibration.margins, calibration.died, HOURS, alpha=0.1)


def silent(caption: str, done: int, total: int) -> None:
    pass


def promise_again(field: Field, margins: Any, died: Any, horizons: Sequence[int], *, alpha: float) -> Field:
    """A quicker fit than a bundle's: the sets alone, on probabilities as they are."""
    logits = np.stack([np.zeros(margins.size), margins.reshape(-1)], axis=1)
    promise = fit_conformal(
        calibrate_logits(FIELD, logits),
        np.repeat(died, len(horizons)).astype(np.int64),
        alpha=alpha,
        groups=np.tile(np.array(horizons).astype(str), len(died)),
    )
    return replace(FIELD, conformal=promise)


def measure(field: Field, calibration: Patients, measured: Patients, seed: int = 0) -> Any:
    return shift_by_unit(field, calibration, measured, HOURS, recalibrate=promise_again, seed=seed, progress=silent)


def test_a_row_is_what_the_field_fitted_on_the_others_says_of_the_members(field: Field, calibration: Patients) -> None:
    measured = ward(400, 1)
    shift = shift_by_unit(field, calibration, measured, HOURS, recalibrate=calibrate_margins, seed=0, progress=silent)
    assert shift is not None
    assert [group["held_out"] for group in shift["groups"]] == list(ICU_TYPES)
    for group in shift["groups"]:
        others, me = calibration.units != group["held_out"], measured.units == group["held_out"]
        assert (group["n"], group["num_events"]) == (me.sum(), measured.died[me].sum())
        assert (group["num_calibration"], group["num_calibration_events"]) == (
            others.sum(),
            calibration.died[others].sum(),
        )
        fitted = calibrate_margins(FIELD, calibration.margins[others], calibration.died[others], HOURS, alpha=0.1)
        assert {(row["horizon_h"], row["choice"]) for row in group["rows"]} == {
            (hour, choice) for hour in HOURS for choice in ("no", "yes")
        }
        for row in group["rows"]:
            k, at = int(row["choice"] == "yes"), HOURS.index(row["horizon_h"])
            mine = me & (measured.died == bool(k))
            said, own = (read_by_field(item, measured.margins[mine, at], HOURS[at]) for item in (fitted, field))
            assert said.sets is not None and said.has_abstained is not None and own.sets is not None
            assert row["n"] == mine.sum()
            assert row["coverage"]["value"] == pytest.approx(said.sets[:, k].mean())
            low, high = exact_interval(int(said.sets[:, k].sum()), int(mine.sum()))
            assert (row["coverage"]["low"], row["coverage"]["high"]) == pytest.approx((low, high))
            assert row["reading"] == ("below" if high < 0.9 else "above" if low > 0.9 else "within")
            assert row["answered"] == pytest.approx(1 - said.has_abstained.mean())
            assert row["shipped_coverage"] == pytest.approx(own.sets[:, k].mean())


def test_calibration_patients_of_the_kind_change_nothing_for_it(field: Field, calibration: Patients) -> None:
    measured = ward(300, 2)
    is_surgical = (calibration.units == "surgical")[:, None]
    altered = replace(calibration, margins=np.where(is_surgical, -calibration.margins, calibration.margins))
    one, other = (
        {group["held_out"]: group["rows"] for group in measure(field, before, measured)["groups"]}
        for before in (calibration, altered)
    )
    assert one["surgical"] == other["surgical"]
    assert one["medical"] != other["medical"]


def test_where_the_others_look_different_the_fixed_rule_misses_and_the_adaptive_one_comes_back(field: Field) -> None:
    shift = measure(field, ward(400, 3, shift=1.5), ward(1600, 4, shift=1.5))
    medical = next(group for group in shift["groups"] if group["held_out"] == "medical")
    for row in medical["rows"]:
        if row["choice"] == "no":
            assert row["reading"] == "below" and row["coverage"]["value"] < 0.7
            assert row["adaptive_coverage"] == pytest.approx(0.9, abs=0.04)
            assert row["adaptive_set_size"] > row["set_size"]
        assert row["adaptive_coverage"] >= 0.9 - row["adaptive_bound"]
        assert row["adaptive_bound"] == pytest.approx(0.95 / (0.05 * row["n"]))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=120),
    st.sampled_from([0.05, 0.3]),
    st.sampled_from([0.02, 0.2]),
)
def test_the_bound_holds_for_each_choice_whatever_comes(
    stream: list[tuple[float, int]], alpha: float, step: float
) -> None:
    p = np.array([(1 - risk, risk) for risk, _ in stream])
    labels = np.array([truth for _, truth in stream])
    reference = [np.linspace(0.1, 0.9, 20), np.linspace(0.2, 0.6, 12)]
    sets, states = adaptive_sets(reference, p, labels, alpha=alpha, step=step)
    for k, state in enumerate(states):
        mine = labels == k
        assert state.num_outcomes == mine.sum()
        if mine.any():
            assert abs((~sets[mine, k]).mean() - alpha) <= state.bound + 1e-12


def test_a_set_knows_the_outcomes_before_it_and_no_later_one_and_a_level_its_own_choice_alone() -> None:
    rng = np.random.default_rng(5)
    risk = rng.random(80)
    p, labels = np.stack([1 - risk, risk], axis=1), rng.integers(0, 2, 80)
    reference: Sequence[np.ndarray] = [rng.random(40), rng.random(40)]
    sets, _ = adaptive_sets(reference, p, labels, alpha=0.2, step=0.2)
    later = labels.copy()
    later[50:] = 1 - later[50:]
    changed, _ = adaptive_sets(reference, p, later, alpha=0.2, step=0.2)
    assert (sets[:51] == changed[:51]).all()
    # Those who died are told by no survivor: taking survivors out leaves the rule for "yes" as it was.
    alone, _ = adaptive_sets(reference, p[labels == 1], labels[labels == 1], alpha=0.2, step=0.2)
    assert (sets[labels == 1, 1] == alone[:, 1]).all()


def test_the_order_is_the_seeds(field: Field, calibration: Patients) -> None:
    measured = ward(400, 6)
    first, again, other = (measure(field, calibration, measured, seed) for seed in (0, 0, 1))
    assert first == again != other
    fixed = [
        [(row["coverage"], row["answered"]) for group in shift["groups"] for row in group["rows"]]
        for shift in (first, other)
    ]
    assert fixed[0] == fixed[1]  # only the adaptive rule meets patients in an order


def test_too_few_are_counted_and_get_no_figure(field: Field, calibration: Patients) -> None:
    measured = ward(300, 7)
    few = measured.where(~measured.died | (measured.units != "coronary care") | (np.arange(300) < 30))
    num_deaths = int(few.died[few.units == "coronary care"].sum())
    assert num_deaths < 10
    group = measure(field, calibration, few)["groups"][-1]
    assert [row for row in group["rows"] if row["choice"] == "yes"] == [
        {"horizon_h": hour, "choice": "yes", "n": num_deaths, "is_too_small": True} for hour in HOURS
    ]
    assert all("coverage" in row for row in group["rows"] if row["choice"] == "no")
    # Without the medical patients nobody who died is left to calibrate on.
    scarce = calibration.where(~calibration.died | (calibration.units == "medical"))
    groups = {group["held_out"]: group for group in measure(field, scarce, measured)["groups"]}
    assert groups["medical"]["is_too_small"] and groups["medical"]["rows"] == []
    assert groups["medical"]["num_calibration_events"] == 0
    assert not groups["surgical"]["is_too_small"]


def test_nothing_is_said_without_a_promise_or_where_no_kind_can_be_held_out(
    field: Field, calibration: Patients
) -> None:
    measured = ward(100, 8)
    assert measure(replace(field, conformal=None), calibration, measured) is None
    nameless = replace(measured, units=np.full(100, "unknown"))
    assert measure(field, calibration, nameless) is None
    one_kind = [replace(part, units=np.full(len(part.died), "medical")) for part in (calibration, measured)]
    assert measure(field, *one_kind) is None
    with pytest.raises(ShapeError, match="2 margins, 1 outcomes, 2 units"):
        Patients(margins=np.zeros((2, 1)), died=np.zeros(1, bool), units=np.array(["a", "b"]))
