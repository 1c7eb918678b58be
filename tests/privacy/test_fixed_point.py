"""Fixed point, packing, weights and shared noise: exact sums that cannot wrap."""

import math

import numpy as np
import pytest

from smallhold.errors import InputError, PrivacyError, ShapeError
from smallhold.privacy.distributed_noise import (
    effective_noise_multiplier,
    local_stddev,
    noise_share,
    round_conditionally,
    rounded_norm_bound,
)
from smallhold.privacy.fixed_point import NOISE_TAIL, FixedPoint
from smallhold.privacy.packing import pack_bits, packed_size, unpack_bits, word_type
from smallhold.privacy.randomness import UnsafeSeededRandom
from smallhold.privacy.weighted import decode_weighted, encode_weighted, weight_digits


def test_levels_of_a_field_small_enough_to_count():
    fixed = FixedPoint(bits=4, value_range=1.0, num_sites=2)  # sums fit -8 ... 7
    assert (fixed.max_level, fixed.step) == (3, 1 / 3)
    levels = fixed.quantize(np.array([1.0, -1.0, 0.3, 0.0]))
    assert levels.tolist() == [3, -3, 1, 0]
    assert fixed.to_field(levels).tolist() == [3, 13, 1, 0]
    assert fixed.from_field(fixed.to_field(levels * 2)).tolist() == [6, -6, 2, 0]


@pytest.mark.parametrize("bits", [8, 16, 17, 20, 32, 33, 62])
@pytest.mark.parametrize("num_sites", [1, 3, 50])
def test_the_worst_sum_does_not_wrap(bits, num_sites):
    fixed = FixedPoint(bits=bits, value_range=2.5, num_sites=num_sites)
    for sign in (1, -1):
        levels = fixed.quantize(np.full(3, sign * 2.5))
        total = np.zeros(3, dtype=word_type(bits))
        for _ in range(num_sites):
            total += fixed.to_field(levels)
        total &= total.dtype.type(2**bits - 1)
        assert fixed.from_field(total).tolist() == (levels * num_sites).tolist()
        np.testing.assert_allclose(fixed.to_floats(fixed.from_field(total)), sign * 2.5 * num_sites, rtol=1e-12)


def test_noise_has_room_to_its_tail():
    plain = FixedPoint(bits=20, value_range=1.0, num_sites=10)
    fixed = plain.with_noise(0.25)
    assert math.isclose(fixed.noise_stddev * fixed.step, 0.25, rel_tol=1e-3)
    assert fixed.max_level * 10 + NOISE_TAIL * fixed.noise_stddev <= 2**19 - 1
    assert fixed.max_level * 10 + NOISE_TAIL * fixed.noise_stddev > 0.99 * 2**19  # and wastes none


def test_stochastic_rounding_has_the_value_as_its_mean():
    fixed = FixedPoint(bits=8, value_range=1.0, num_sites=1)
    values = np.full(40_000, 0.3 * fixed.step)
    levels = fixed.quantize(values, stochastic=UnsafeSeededRandom(1))
    assert set(levels.tolist()) == {0, 1}
    assert abs(levels.mean() - 0.3) < 0.01


def test_an_entry_out_of_range_is_refused_or_saturates_on_purpose():
    fixed = FixedPoint(bits=16, value_range=1.0, num_sites=2)
    with pytest.raises(PrivacyError, match=r"1 of 2 entries lie beyond value_range 1, the largest is 1.5"):
        fixed.quantize(np.array([0.0, -1.5]))
    assert fixed.quantize(np.array([0.0, -1.5]), saturate=True).tolist() == [0, -fixed.max_level]


def test_too_many_sites_for_a_field_are_refused():
    with pytest.raises(InputError, match="the sum of 200 sites with noise of 0 levels does not fit in 8 bits"):
        FixedPoint(bits=8, value_range=1.0, num_sites=200)
    with pytest.raises(InputError, match="does not fit in 8 bits"):
        FixedPoint(bits=8, value_range=1.0, num_sites=2, noise_stddev=20.0)


@pytest.mark.parametrize("bits", range(1, 65))
def test_packing_is_undone_by_unpacking_and_has_no_gaps(bits):
    random = np.random.default_rng(bits)
    for count in (0, 1, 7, 8, 9, 61):
        values = random.integers(0, 2**bits - 1, size=count, dtype=np.uint64, endpoint=True).astype(word_type(bits))
        packed = pack_bits(values, bits)
        assert packed.size == packed_size(count, bits)
        twin = sum(int(value) << (bits * place) for place, value in enumerate(values))  # one long number
        assert packed.tobytes() == twin.to_bytes(packed.size, "little")
        np.testing.assert_array_equal(unpack_bits(packed, count, bits), values)


def test_packing_refuses_what_does_not_fit():
    with pytest.raises(InputError, match="numbers of 3 bits, the largest is 8"):
        pack_bits(np.array([8], dtype=np.uint8), 3)
    with pytest.raises(ShapeError, match="expected 2 bytes for 3 numbers of 5 bits"):
        unpack_bits(np.zeros(3, dtype=np.uint8), 3, 5)
    with pytest.raises(ShapeError, match="unused bits"):
        unpack_bits(np.array([0, 0x80], dtype=np.uint8), 3, 5)


def test_a_weighted_mean_comes_out_of_a_plain_sum():
    fixed = FixedPoint(bits=24, value_range=1.0, num_sites=7)
    random = np.random.default_rng(1)
    updates, counts = random.uniform(-1, 1, size=(7, 30)), [1, 12, 500, 3, 9999, 70, 10_000]
    total = sum(
        encode_weighted(update, count, max_examples=10_000, fixed_point=fixed)
        for update, count in zip(updates, counts, strict=True)
    )
    mean, num_examples = decode_weighted(total, max_examples=10_000, fixed_point=fixed)
    assert num_examples == sum(counts)
    # each site rounds by half a step at most
    np.testing.assert_allclose(mean, np.average(updates, axis=0, weights=counts), atol=3.5 * fixed.step)


def test_weights_near_the_limit_of_a_narrow_field_are_exact():
    fixed = FixedPoint(bits=10, value_range=1.0, num_sites=50)
    top = 2**40 // 50
    levels = encode_weighted(np.zeros(3), top, max_examples=top, fixed_point=fixed)
    assert levels.size == 3 + weight_digits(fixed)
    total = fixed.from_field(fixed.to_field(levels * 50))
    assert decode_weighted(total, max_examples=top, fixed_point=fixed)[1] == 50 * top


def test_a_sum_without_weights_is_refused():
    fixed = FixedPoint(bits=24, value_range=1.0, num_sites=3)
    with pytest.raises(PrivacyError, match="its weights sum to 0 examples"):
        decode_weighted(np.zeros(9, dtype=np.int64), max_examples=10, fixed_point=fixed)


def test_the_shares_of_the_fewest_survivors_make_the_whole_noise():
    assert local_stddev(10.0, min_survivors=25) == 2.0
    total = sum(
        noise_share(20_000, stddev=40.0, min_survivors=16, random=UnsafeSeededRandom(site)) for site in range(16)
    )
    assert abs(total.std() / 40.0 - 1) < 0.02


def test_rounding_stays_within_its_norm_bound():
    values = np.random.default_rng(0).normal(size=400)
    values *= 30 / np.linalg.norm(values)
    bound = rounded_norm_bound(30.0, 400)
    assert 30 < bound < 30 + 20
    for seed in range(20):
        levels = round_conditionally(values, norm_bound=bound, random=UnsafeSeededRandom(seed))
        assert np.linalg.norm(levels) <= bound
    with pytest.raises(PrivacyError, match="no rounding out of 64"):
        round_conditionally(values * 3, norm_bound=bound)


def test_shared_noise_is_worth_a_gaussian_of_its_sum_once_the_shares_are_wide():
    wide = effective_noise_multiplier(
        sensitivity=100.0, num_parameters=10**6, stddev=200.0, min_survivors=16, num_sites=20
    )
    assert math.isclose(wide, 2.0, rel_tol=1e-9)
    narrow = effective_noise_multiplier(
        sensitivity=1.0, num_parameters=10**6, stddev=2.0, min_survivors=16, num_sites=20
    )
    assert narrow < 0.01  # half a step a site: the sum is not Gaussian, and is not charged as if it were
