from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smallhold.decide.conformal import (
    AdaptiveConformal,
    Conformal,
    Group,
    fit_conformal,
    least_probability,
    smallest_alpha,
    smallest_count,
)
from smallhold.errors import InputError, RecipeError, ShapeError

SHARES = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5000001, 0.9, 1.0]), min_size=1, max_size=40)
# A busy machine must not decide whether a property holds.
PATIENT = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
ALPHAS = st.sampled_from([0.02, 0.05, 0.1, 0.2, 1 / 3, 0.5, 0.9])


def slow_least(values: list[float], alpha: float) -> float:
    """The ceil((n + 1)(1 - alpha))-th largest, in exact tenths of thousandths."""
    n = len(values)
    rank = -(-(n + 1) * (10_000 - round(alpha * 10_000)) // 10_000)
    return sorted(values, reverse=True)[rank - 1] if rank <= n else 0.0


def test_the_threshold_by_hand() -> None:
    values = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    assert least_probability(values, 0.1) == 0.1  # nine can promise 0.1, just
    assert least_probability(values, 0.0999) == 0.0
    assert least_probability(values, 0.2) == 0.2
    assert least_probability(values, 0.5) == 0.5
    assert least_probability(values, 1.0) == math.inf
    assert least_probability(values, 0.0) == least_probability([], 0.1) == 0.0


@PATIENT
@given(SHARES, st.sampled_from([0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.5, 0.9]))
def test_the_threshold_is_that_of_the_slow_twin(values: list[float], alpha: float) -> None:
    assert least_probability(values, alpha) == slow_least(values, alpha)


@PATIENT
@given(SHARES, ALPHAS, st.randoms())
def test_neither_the_order_of_rows_nor_of_units_matters(values: list[float], alpha: float, random) -> None:
    units = [i % 3 for i in range(len(values))]
    pairs = list(zip(values, units, strict=True))
    random.shuffle(pairs)
    expected = least_probability(values, alpha, units=units)
    assert least_probability([v for v, _ in pairs], alpha, units=[f"unit {u}" for _, u in pairs]) == expected


@PATIENT
@given(SHARES, ALPHAS, st.integers(2, 5))
def test_a_row_repeated_for_every_unit_changes_nothing(values: list[float], alpha: float, times: int) -> None:
    units = np.repeat(np.arange(len(values)), times)
    assert least_probability(np.repeat(values, times), alpha, units=units) == least_probability(values, alpha)


@PATIENT
@given(SHARES)
def test_accepting_more_misses_never_lowers_the_threshold(values: list[float]) -> None:
    fitted = [least_probability(values, alpha) for alpha in (0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.99, 1.0)]
    assert fitted == sorted(fitted)


@PATIENT
@given(st.integers(1, 500))
def test_the_feasibility_bound_is_where_the_threshold_begins(n: int) -> None:
    alpha = smallest_alpha(n)
    assert smallest_count(alpha) == n
    values = np.full(n, 0.7)
    assert least_probability(values, alpha) == 0.7
    assert least_probability(values, alpha * 0.999) == 0.0


def three_groups(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of a model that is wrong about one group and says nothing in another; ties abound."""
    labels = (rng.random(n) < 0.2).astype(np.int64)
    groups = rng.integers(0, 3, n)
    noise = rng.normal(size=n)
    margin = np.select([groups == 0, groups == 1], [2 * labels - 1 + noise, 1 - 2 * labels + noise], 0.0)
    yes = np.round(1 / (1 + np.exp(-margin)), 2)
    return np.stack([1 - yes, yes], axis=1), labels, groups.astype(str)


def test_the_promise_is_kept_for_every_choice_in_every_group() -> None:
    # The mean over many calibration splits is what is promised, whatever the model is worth. 120 draws of about
    # 20 positives a group: standard error of a mean about 0.01.
    alpha, kept = 0.2, []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        p, labels, groups = three_groups(rng, 300)
        fitted = fit_conformal(p, labels, alpha=alpha, groups=groups)
        p, labels, groups = three_groups(rng, 300)
        row = []
        for group in "012":
            for choice in (0, 1):
                part = (groups == group) & (labels == choice)
                row.append(fitted.sets(p[part], group)[:, choice].mean())
        kept.append(row)
    assert (np.mean(kept, axis=0) >= 1 - alpha - 0.03).all()
    # Not by giving everything: ties and the rule that no set is empty add a little.
    assert np.mean(kept, axis=0)[0] <= 1 - alpha + 0.05


def test_together_the_rare_choice_pays_and_by_choice_it_does_not() -> None:
    # What Mondrian groups are for: 5 % positives, and a model that prefers the other choice.
    rng = np.random.default_rng(0)

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        labels = (rng.random(n) < 0.05).astype(np.int64)
        yes = 1 / (1 + np.exp(-(labels * 1.5 - 3 + rng.normal(size=n))))
        return np.stack([1 - yes, yes], axis=1), labels

    rows = draw(4000)
    p, labels = draw(20_000)
    shares = {}
    for is_by_choice in (False, True):
        fitted = fit_conformal(*rows, alpha=0.1, is_by_choice=is_by_choice)
        shares[is_by_choice] = fitted.sets(p)[labels == 1, 1].mean()
    assert shares[False] < 0.3
    assert shares[True] == pytest.approx(0.9, abs=0.05)


def test_several_rows_of_a_patient_count_as_one_patient() -> None:
    # Nine patients can promise 0.1; so can nine with a hundred rows each, and eight with many rows cannot.
    rng = np.random.default_rng(1)
    for patients, is_feasible in ((9, True), (8, False)):
        units = np.repeat(np.arange(patients), 100)
        yes = rng.random(units.size)
        fitted = fit_conformal(
            np.stack([1 - yes, yes], axis=1), np.ones(units.size, np.int64), alpha=0.1, units=units, is_by_choice=False
        )
        assert fitted.groups[0].counts == (patients, patients)
        assert fitted.is_feasible is is_feasible
        assert (min(fitted.least) > 0) is is_feasible


def test_pooled_hours_keep_the_promise_for_new_patients() -> None:
    # Every patient has four rows that nearly agree: counted as rows, 40 patients would look like 160.
    alpha, kept = 0.1, []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        patient = rng.normal(size=80)[:, None]
        yes = 1 / (1 + np.exp(-(patient + 0.1 * rng.normal(size=(80, 4)))))
        p = np.stack([1 - yes, yes], axis=-1)
        units = np.repeat(np.arange(40), 4)
        fitted = fit_conformal(p[:40].reshape(-1, 2), np.ones(160, np.int64), alpha=alpha, units=units)
        kept.append(fitted.sets(p[40:])[..., 1].mean())
    assert np.mean(kept) >= 1 - alpha - 0.015


def test_a_group_too_small_keeps_every_choice_and_says_so() -> None:
    p = np.array([[0.9, 0.1]] * 30 + [[0.2, 0.8]] * 5)
    labels = np.array([0] * 30 + [1] * 5)
    fitted = fit_conformal(p, labels, alpha=0.1)
    assert fitted.groups[0].counts == (30, 5)
    assert fitted.groups[0].least == (0.9, 0.0)
    assert not fitted.is_feasible
    assert fitted.smallest_alpha == pytest.approx(1 / 6)
    assert fitted.sets(np.array([0.95, 0.05])).tolist() == [True, True]


def test_a_group_that_nobody_calibrated_gets_what_holds_in_every_group() -> None:
    promise = Conformal(
        alpha=0.1,
        is_by_choice=True,
        groups=(
            Group(name="6", least=(0.7, 0.2), counts=(50, 20)),
            Group(name="24", least=(0.6, 0.3), counts=(50, 20)),
        ),
    )
    assert promise.least_of("24") == (0.6, 0.3)
    assert promise.least_of("17") == promise.least_of(None) == promise.least == (0.6, 0.2)
    assert [promise.group_at(bins) for bins in (1, 6, 17, 24, 48)] == ["6", "6", "6", "24", "24"]
    named = Conformal(alpha=0.1, is_by_choice=True, groups=(Group(name="", least=(0.1,), counts=(9,)),))
    assert named.group_at(6) is None


def test_a_set_is_never_empty() -> None:
    promise = Conformal(alpha=0.4, is_by_choice=False, groups=(Group(name="", least=(0.8,) * 3, counts=(9,) * 3),))
    assert promise.sets(np.array([[0.3, 0.4, 0.3], [0.9, 0.1, 0.0]])).tolist() == [
        [False, True, False],
        [True, False, False],
    ]


def test_a_promise_survives_json() -> None:
    promise = fit_conformal(np.array([[0.9, 0.1], [0.3, 0.7]] * 10), np.array([0, 1] * 10), alpha=0.2)
    assert Conformal.from_json(json.loads(json.dumps(asdict(promise)))) == promise


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 0}, "expected alpha in"),
        ({"alpha": "0.1"}, "malformed"),
        ({"groups": []}, "one or more groups"),
        ({"groups": [{"name": "", "least": [2.0], "counts": [1]}]}, "thresholds in"),
        ({"groups": [{"name": "", "least": [0.2], "counts": [1, 2]}]}, "one threshold and one count"),
        ({"groups": [{"name": "", "least": [0.2]}]}, "malformed"),
        ({"groups": 7}, "malformed"),
        ({"mood": 1}, "malformed"),
    ],
)
def test_a_promise_that_cannot_be_read_is_refused(change: dict, message: str) -> None:
    value = {"alpha": 0.1, "is_by_choice": True, "groups": [{"name": "", "least": [0.2], "counts": [9]}], **change}
    with pytest.raises(RecipeError, match=message):
        Conformal.from_json(value)


def test_rows_that_cannot_be_fitted_are_refused() -> None:
    p, labels = np.array([[0.5, 0.5]] * 3), np.array([0, 1, 1])
    with pytest.raises(InputError, match="alpha: expected a share"):
        fit_conformal(p, labels, alpha=1.0)
    with pytest.raises(InputError, match="labels: expected 0 to 1, got 0 to 2"):
        fit_conformal(p, np.array([0, 1, 2]), alpha=0.1)
    with pytest.raises(ShapeError, match="3 rows, 2 labels"):
        fit_conformal(p, labels[:2], alpha=0.1)
    with pytest.raises(ShapeError, match="units: expected one a row"):
        least_probability([0.1, 0.2], 0.1, units=[1])


def run_stream(truth: np.ndarray, calibration: np.ndarray, *, alpha: float, step: float) -> tuple[float, float]:
    """Share of misses with the adaptive level and with a fixed one; checks the theorem on the way."""
    state, fixed = AdaptiveConformal.start(alpha, step=step), least_probability(calibration, alpha)
    for p in truth:
        state = state.update(is_missed=bool(p < least_probability(calibration, state.level)))
        assert -step <= state.level <= 1 + step
        assert abs(state.num_missed / state.num_outcomes - alpha) <= state.bound + 1e-12
    return state.num_missed / state.num_outcomes, float(np.mean(truth < fixed))


def test_under_shift_the_adaptive_level_keeps_its_long_run_promise_and_a_fixed_one_does_not() -> None:
    rng = np.random.default_rng(0)
    calibration = rng.beta(6, 2, 300)
    shifted = np.concatenate([rng.beta(6, 2, 500), rng.beta(2, 4, 1500)])
    adaptive, fixed = run_stream(shifted, calibration, alpha=0.1, step=0.02)
    assert adaptive == pytest.approx(0.1, abs=0.03)
    assert fixed > 0.4


@settings(PATIENT, max_examples=25)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=200), st.sampled_from([0.05, 0.3]), st.sampled_from([0.01, 0.2]))
def test_the_bound_holds_for_any_stream_whatever(truth: list[float], alpha: float, step: float) -> None:
    run_stream(np.array(truth), np.linspace(0.05, 0.95, 30), alpha=alpha, step=step)


def test_a_set_that_was_not_made_at_this_level_is_noticed() -> None:
    state = AdaptiveConformal(alpha=0.1, step=0.1, level=-0.05, first_level=0.1, num_outcomes=3)
    with pytest.raises(InputError, match="the set is full, so the outcome cannot be outside it"):
        state.update(is_missed=True)
    assert state.update(is_missed=False).level == pytest.approx(-0.04)
    with pytest.raises(InputError, match="the set is empty"):
        AdaptiveConformal(alpha=0.1, step=0.1, level=1.0, first_level=0.1).update(is_missed=False)
    with pytest.raises(InputError, match="expected alpha and step"):
        AdaptiveConformal.start(0.1, step=0)
    assert AdaptiveConformal.start(0.1).bound == math.inf
