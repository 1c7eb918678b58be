"""Noise: its distribution against the formula, its exactness against a scalar twin, its source."""

import math
import os
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

import smallhold.privacy.noise as noise_module
from smallhold.errors import InputError, PrivacyError
from smallhold.privacy.noise import (
    GRID_STEPS,
    add_gaussian_noise,
    discrete_gaussian,
    discrete_laplace,
    grid_sensitivity,
    grid_step,
)
from smallhold.privacy.randomness import SecureRandom, UnsafeSeededRandom, uniform_below, unit_floats


def probabilities(weight, reach):
    mass = np.array([weight(x) for x in range(-reach, reach + 1)])
    return mass / mass.sum()


def fits(samples, expected, reach):
    """Pearson's test, the tails taken together; seeds are fixed, so that it never fails by chance."""
    counts = np.bincount(samples.clip(-reach - 1, reach + 1) + reach + 1, minlength=2 * reach + 3)[1:-1].astype(float)
    outside = samples.size - counts.sum()
    keep = expected * samples.size >= 10
    observed = np.append(counts[keep], counts[~keep].sum() + outside)
    wanted = np.append(expected[keep], 1 - expected[keep].sum()) * samples.size
    if wanted[-1] < 5:
        observed, wanted = observed[:-1], wanted[:-1] * observed[:-1].sum() / wanted[:-1].sum()
    return stats.chisquare(observed, wanted).pvalue


@pytest.mark.parametrize("stddev", [0.4, 0.999, 1.0, 2.5, 17.3])
def test_discrete_gaussian_has_the_probabilities_of_its_definition(stddev):
    samples = discrete_gaussian(60_000, stddev=stddev, random=UnsafeSeededRandom(int(stddev * 10)))
    reach = math.ceil(6 * stddev) + 2
    expected = probabilities(lambda x: math.exp(-(x**2) / (2 * stddev**2)), reach)
    assert fits(samples, expected, reach) > 0.001


@pytest.mark.parametrize("scale", [1, 3, 20])
def test_discrete_laplace_has_the_probabilities_of_its_definition(scale):
    samples = discrete_laplace(60_000, scale=scale, random=UnsafeSeededRandom(scale))
    reach = 12 * scale
    assert fits(samples, probabilities(lambda x: math.exp(-abs(x) / scale), reach), reach) > 0.001


@pytest.mark.parametrize("stddev", [1e3, 2.0**30, 2.0**40])
def test_wide_noise_is_gaussian(stddev):
    samples = discrete_gaussian(50_000, stddev=stddev, random=UnsafeSeededRandom(3)) / stddev
    assert stats.kstest(samples, "norm").pvalue > 0.001


def test_the_exact_path_alone_gives_the_same_numbers(monkeypatch):
    """The slow twin: with an endless window every coin is decided in exact arithmetic, from the same words."""
    fast = discrete_gaussian(400, stddev=3.7, random=UnsafeSeededRandom("twin"))
    monkeypatch.setattr(noise_module, "_WINDOW", math.inf)
    exact = discrete_gaussian(400, stddev=3.7, random=UnsafeSeededRandom("twin"))
    np.testing.assert_array_equal(fast, exact)


@pytest.mark.parametrize("stddev", [0.01, 0.7, 5.5, 1e4, 2.0**38])
def test_the_float_probabilities_are_within_the_argued_error(stddev):
    variance = Fraction(stddev) ** 2
    scale = math.floor(stddev) + 1
    candidate = np.abs(discrete_laplace(60, scale=scale, random=UnsafeSeededRandom(1)))
    ratio = noise_module._Ratio(candidate, square=True, shift=variance / scale, divisor=2 * variance)
    for index, found in enumerate(np.exp(-ratio.floats())):
        low, high = noise_module._exponential_bounds(ratio.exact(index), 100)
        assert high - low < Fraction(1, 2**100)
        assert low - Fraction(1, 2**38) < Fraction(float(found)) < high + Fraction(1, 2**38)


def test_a_coin_that_64_bits_cannot_decide_draws_more():
    class Counting(UnsafeSeededRandom):
        drawn = 0

        def words(self, count):
            self.drawn += count
            return super().words(count)

    exponent = Fraction(1)
    low, _ = noise_module._exponential_bounds(exponent, 200)
    word = math.floor(low * 2**64)  # exp(-1) lies between this word and the next
    source = Counting(5)
    heads = [noise_module._exact_coin(exponent, word, source) for _ in range(200)]
    assert source.drawn >= 200
    fraction = float(low * 2**64 - word)
    assert abs(np.mean(heads) - fraction) < 0.12  # 3.4 standard deviations


def test_gaussian_noise_lies_on_its_grid_and_has_its_spread():
    vector = np.linspace(-3, 3, 40_000).astype(np.float32)
    noisy = add_gaussian_noise(vector, stddev=0.37, random=UnsafeSeededRandom(1))
    steps = noisy / grid_step(0.37)
    np.testing.assert_array_equal(steps, np.rint(steps))
    assert stats.kstest((noisy - vector) / 0.37, "norm").pvalue > 0.001


@pytest.mark.parametrize("stddev", [1e-200, 1e-6, 1.0, 3.0, 1e20])
def test_the_grid_is_a_power_of_two_with_enough_steps(stddev):
    step = grid_step(stddev)
    assert math.frexp(step)[0] == 0.5
    assert GRID_STEPS <= stddev / step < 2 * GRID_STEPS
    assert grid_sensitivity(10**6, stddev) < 1e-6 * stddev


def test_noise_that_a_value_would_drown_is_refused():
    with pytest.raises(PrivacyError, match="expected at most 2\\^21"):
        add_gaussian_noise(np.array([1.0]), stddev=1e-9)


@pytest.mark.parametrize("stddev", [0.0, -1.0, np.nan, 2.0**41, 2.0**-11])
def test_a_spread_out_of_range_is_refused(stddev):
    with pytest.raises(InputError, match="stddev: expected"):
        discrete_gaussian(3, stddev=stddev)


def test_secure_noise_differs_each_time_and_seeded_noise_does_not():
    assert not np.array_equal(discrete_gaussian(50, stddev=100.0), discrete_gaussian(50, stddev=100.0))
    same = [discrete_gaussian(50, stddev=100.0, random=UnsafeSeededRandom(7)) for _ in range(2)]
    np.testing.assert_array_equal(*same)


def test_a_forked_process_does_not_repeat_its_parents_noise():
    source = SecureRandom()
    source.words(1)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, source.words(4).tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(read, 32)
    os.close(read)
    os.close(write)
    assert len(theirs) == 32
    assert theirs != source.words(4).tobytes()


@pytest.mark.parametrize("bound", [1, 2, 3, 10, 2**40 + 1])
def test_uniform_numbers_stay_below_their_bound(bound):
    values = uniform_below(bound, 5000, UnsafeSeededRandom(bound))
    assert values.min() >= 0
    assert values.max() < bound
    assert abs(values.mean() / max(bound - 1, 1) - (0.5 if bound > 1 else 0)) < 0.03


def test_a_word_that_would_favour_small_residues_is_drawn_again():
    class Fixed:
        def __init__(self):
            self.left = [2**64 - 1, 5]

        def words(self, count):
            return np.array([self.left.pop(0) for _ in range(min(count, 1))], dtype=np.uint64)

    assert uniform_below(3, 1, Fixed()).tolist() == [
        2
    ]  # the last multiple of 3 is 2^64 - 1, taken it would be a 0 too many
    with pytest.raises(InputError, match="bound: expected 1 to 2\\^62"):
        uniform_below(0, 1, Fixed())


def test_unit_floats_are_below_one():
    floats = unit_floats(1000, UnsafeSeededRandom(1))
    assert 0 <= floats.min() < floats.max() < 1
