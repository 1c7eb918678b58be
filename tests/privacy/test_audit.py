"""The leakage audit: bounds against the paper's formula in exact arithmetic, rates counted by hand."""

import math
from fractions import Fraction

import numpy as np
import pytest

from smallhold.errors import InputError, ShapeError
from smallhold.privacy.audit import (
    audit_one_run,
    canary_exposure,
    epsilon_lower_bound,
    guess_p_value,
    measure_membership,
)


def exact_p_value(canaries, guesses, correct, success, delta):
    """Theorem 5.2 with fractions, term by term."""
    mass = [math.comb(guesses, k) * success**k * (1 - success) ** (guesses - k) for k in range(guesses + 1)]
    beta = sum(mass[correct:])
    alpha = max((sum(mass[correct - i : correct]) / i for i in range(1, correct + 1)), default=Fraction(0))
    return min(beta + 2 * canaries * delta * alpha, 1)


@pytest.mark.parametrize(("guesses", "correct"), [(1, 1), (10, 9), (40, 25), (40, 40), (60, 0)])
@pytest.mark.parametrize("odds", [1, 3, 20])
@pytest.mark.parametrize("delta", [Fraction(0), Fraction(1, 10**4)])
def test_p_values_agree_with_exact_arithmetic(guesses, correct, odds, delta):
    exact = exact_p_value(100, guesses, correct, Fraction(odds, odds + 1), delta)
    found = guess_p_value(100, guesses, correct, epsilon=math.log(odds), delta=float(delta))
    assert math.isclose(found, exact, rel_tol=1e-9)


def test_all_of_a_hundred_right_without_delta_is_a_bound_in_closed_form():
    """(e^eps / (1 + e^eps))^100 = .05."""
    success = 0.05 ** (1 / 100)
    bound = epsilon_lower_bound(100, 100, 100, delta=0.0)
    assert math.isclose(bound, math.log(success / (1 - success)), abs_tol=2e-6)


def test_delta_and_chance_lower_the_bound():
    bounds = [epsilon_lower_bound(512, 200, 190, delta=delta) for delta in (0.0, 1e-6, 1e-4, 1e-2)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] > 2
    assert epsilon_lower_bound(512, 200, 104, delta=1e-5) == 0.0


def test_a_mechanism_that_keeps_its_claim_is_rarely_accused():
    """Randomized response at epsilon 1: the bound exceeds 1 in at most five of a hundred seeds (.05), plus chance."""
    accused = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        included = random.random(400) < 0.5
        told = np.where(random.random(400) < math.e / (1 + math.e), included, ~included)
        result = audit_one_run(told + random.random(400) / 4, included, guesses=200, delta=1e-6, claimed=1.0)
        accused += not result.has_passed
    assert accused <= 10


def test_a_mechanism_without_noise_is_accused():
    included = np.random.default_rng(0).random(400) < 0.5
    result = audit_one_run(included + 0.0, included, guesses=200, delta=1e-5, claimed=1.0)
    assert not result.has_passed
    assert result.epsilon > 3
    assert result.correct == 200


def test_auc_and_rates_counted_by_hand():
    scores = np.array([0.9, 0.8, 0.4, 0.7, 0.4, 0.1])
    members = np.array([True, True, True, False, False, False])
    result = measure_membership(scores, members, false_positive_rate=0.0)
    assert math.isclose(result.auc, (3 + 3 + 1.5) / 9)
    assert math.isclose(result.true_positive_rate, 2 / 3)
    assert math.isclose(measure_membership(scores, members, false_positive_rate=0.34).true_positive_rate, 2 / 3)
    assert measure_membership(scores, members, false_positive_rate=1.0).true_positive_rate == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_auc_agrees_with_counting_pairs(seed):
    random = np.random.default_rng(seed)
    scores, members = random.integers(0, 8, 60) / 8, random.random(60) < 0.4
    pairs = [(a > b) + (a == b) / 2 for a in scores[members] for b in scores[~members]]
    result = measure_membership(scores, members, false_positive_rate=0.1)
    assert math.isclose(result.auc, np.mean(pairs))
    best = max(
        np.mean(scores[members] > bar) for bar in [*scores, -1.0] if np.mean(scores[~members] > bar) <= 0.1 + 1e-9
    )
    assert math.isclose(result.true_positive_rate, best)


def test_exposure_of_a_secret_that_stands_out_and_of_one_that_does_not():
    candidates = np.arange(1, 1024, dtype=np.float64)  # 1023 of them
    exposure = canary_exposure(np.array([0.5, 512.0, 5000.0]), candidates)
    assert exposure[0] == 10.0
    assert math.isclose(exposure[1], math.log2(1024 / 513))
    assert exposure[2] == 0.0


def test_bad_input_is_refused():
    scores, flags = np.array([0.1, 0.2, 0.3]), np.array([True, False, True])
    with pytest.raises(InputError, match="guesses: expected an even number, got 3"):
        audit_one_run(scores, flags, guesses=3, delta=1e-5)
    with pytest.raises(InputError, match="guesses: expected a whole number from 2 to 3, got 4"):
        audit_one_run(scores, flags, guesses=4, delta=1e-5)
    with pytest.raises(ShapeError, match=r"flags: expected bool \(3,\)"):
        audit_one_run(scores, flags[:2], guesses=2, delta=1e-5)
    with pytest.raises(InputError, match="nothing to tell apart"):
        measure_membership(scores, np.ones(3, dtype=bool))
    with pytest.raises(InputError, match="correct: expected a whole number from 0 to 2"):
        guess_p_value(5, 2, 3, epsilon=1.0, delta=0.0)
