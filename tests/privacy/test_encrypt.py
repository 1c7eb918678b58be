"""Encrypted sums: exact to the last level at their largest, and refused when they are not what they say."""

import math

import numpy as np
import pytest

from smallhold.errors import EncryptionError, InputError, MissingExtraError
from smallhold.privacy import encrypt as encrypt_module
from smallhold.privacy.encrypt import SLOTS, EncryptedSum, EncryptionConfig, decrypt_sum, encrypt_levels, make_keys
from smallhold.privacy.fixed_point import FixedPoint


@pytest.fixture(scope="module")
def keys():
    pytest.importorskip("tenseal", reason="homomorphic encryption: pip install 'smallhold[he]'")
    return make_keys()


def add_all(levels, keys, config):
    total = EncryptedSum(keys.public, config)
    for row in levels:
        total.add(encrypt_levels(row, keys.public, config))
    return decrypt_sum(total.to_bytes(), keys, config)


@pytest.mark.parametrize(("bits", "digits"), [(10, 4), (14, 3), (21, 2), (42, 1)])
def test_the_largest_sum_that_fits_is_exact(keys, bits, digits):
    """Every digit of every slot at its bound, with either sign: the worst for the modulus, and the noise is fresh."""
    config = EncryptionConfig(bits=bits, num_sites=10)
    assert config.digits == digits
    fixed = FixedPoint(bits=bits, value_range=1.0, num_sites=10)
    size = SLOTS * digits + 5  # a second ciphertext, mostly empty
    signs = np.random.default_rng(bits).choice([-1, 1], size=size)
    levels = np.array([signs * fixed.max_level] * 10, dtype=np.int64)
    total, summands = add_all(levels, keys, config)
    assert summands == 10
    np.testing.assert_array_equal(total, levels.sum(axis=0))
    constant = np.full((10, SLOTS * digits), fixed.max_level, dtype=np.int64)  # all weight on one coefficient
    np.testing.assert_array_equal(add_all(constant, keys, config)[0], constant.sum(axis=0))


def test_random_updates_sum_exactly(keys):
    config = EncryptionConfig(bits=14, num_sites=3)
    fixed = FixedPoint(bits=14, value_range=1.0, num_sites=3)
    levels = np.random.default_rng(0).integers(-fixed.max_level, fixed.max_level + 1, size=(3, 4000))
    np.testing.assert_array_equal(add_all(levels, keys, config)[0], levels.sum(axis=0))


def test_the_noise_is_as_wide_as_argued(keys):
    config = EncryptionConfig(bits=14, num_sites=10)
    _, context = encrypt_module._open_context(keys.secret, config)
    ts = encrypt_module._tenseal()
    errors = []
    for seed in range(6):
        slots = np.random.default_rng(seed).integers(-(2**30), 2**30, size=SLOTS).astype(float)
        errors.append(np.array(ts.ckks_vector(context, slots).decrypt()) - slots)
    spread = np.std(errors) * config.scale
    assert 0.9 < spread / encrypt_module._NOISE_STDDEV < 1.1
    # The bound in use is 40. The randomness cannot be seeded, and tails like Laplace's pass 15 in one run of 130,000.
    assert np.max(np.abs(errors)) * config.scale < 20 * encrypt_module._NOISE_STDDEV


def test_a_million_parameters_take_at_most_three_times_their_float_bytes(keys):
    """Ten sites at fourteen bits of the sum: 819 levels either side of zero for each."""
    config = EncryptionConfig(bits=14, num_sites=10)
    piece = len(encrypt_levels(np.zeros(SLOTS * 3, dtype=np.int64), keys.public, config))
    assert piece * config.num_ciphertexts(10**6) <= 2.7 * 4 * 10**6


def test_a_level_that_could_wrap_is_refused(keys):
    config = EncryptionConfig(bits=14, num_sites=10)
    with pytest.raises(InputError, match="10 sites with 14 bits allow levels up to 819, got 820"):
        encrypt_levels(np.array([0, -820], dtype=np.int64), keys.public, config)
    with pytest.raises(InputError, match="50 bits do not fit a slot beside the noise of 10 sites"):
        EncryptionConfig(bits=50, num_sites=10)


def test_one_site_more_than_the_headroom_is_refused(keys):
    config = EncryptionConfig(bits=14, num_sites=2)
    total = EncryptedSum(keys.public, config)
    update = encrypt_levels(np.arange(5), keys.public, config)
    total.add(update)
    total.add(update)
    with pytest.raises(EncryptionError, match="would hold 3 sites, its headroom is for 2"):
        total.add(update)
    assert decrypt_sum(total.to_bytes(), keys, config)[0].tolist() == [0, 2, 4, 6, 8]


def test_malformed_updates_are_refused_and_leave_the_sum_alone(keys):
    config = EncryptionConfig(bits=14, num_sites=3)
    update = encrypt_levels(np.arange(5), keys.public, config)
    total = EncryptedSum(keys.public, config)
    with pytest.raises(EncryptionError, match="nothing was added"):
        total.to_bytes()
    total.add(update)
    for wrong, message in (
        (b"", "0 bytes are less than a header"),
        (b"XXXX" + update[4:], "not one, or of another width"),
        (update[:-1], "cut short"),
        (update[:24], "expected 1 ciphertexts for 5 entries, got 0"),
        (update[:100] + bytes(200) + update[300:], "not a ciphertext of this key's parameters"),
        (encrypt_levels(np.arange(6), keys.public, config), "expected 5 entries, got 6"),
        (encrypt_levels(np.arange(5), keys.public, EncryptionConfig(bits=15, num_sites=3)), "expected 14 bits, got 15"),
    ):
        with pytest.raises(EncryptionError, match=message):
            total.add(wrong)
    assert decrypt_sum(total.to_bytes(), keys, config)[0].tolist() == [0, 1, 2, 3, 4]


def test_another_key_is_refused(keys):
    config = EncryptionConfig(bits=14, num_sites=3)
    other = make_keys()
    update = encrypt_levels(np.arange(5), other.public, config)
    with pytest.raises(EncryptionError, match="made with another public key"):
        EncryptedSum(keys.public, config).add(update)
    with pytest.raises(EncryptionError, match="key: not one of this scheme"):
        EncryptedSum(b"no key", config)
    forged = update[: 24 - 8] + encrypt_module.key_name(keys.public) + update[24:]
    with pytest.raises(EncryptionError, match=r"noise is larger|holds more than its digits"):
        decrypt_sum(forged, keys, config)


def test_the_public_key_opens_nothing_and_secrets_are_not_printed(keys):
    config = EncryptionConfig(bits=14, num_sites=3)
    update = encrypt_levels(np.arange(5), keys.public, config)
    with pytest.raises(EncryptionError, match="cannot be decrypted"):
        decrypt_sum(update, encrypt_module.EncryptionKeys(keys.public, keys.public), config)
    assert len(repr(keys)) < 60
    first, second = (encrypt_levels(np.arange(5), keys.public, config) for _ in range(2))
    assert first != second


def test_the_scale_leaves_forty_deviations():
    config = EncryptionConfig(bits=14, num_sites=10)
    assert math.isclose(0.5 * config.scale / (encrypt_module._NOISE_STDDEV * math.sqrt(10)), 40)
    assert 2 ** (config.bits * config.digits - 1) * config.scale < 2**59


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tenseal", None)
    with pytest.raises(MissingExtraError) as caught:
        make_keys()
    assert caught.value.hint == "pip install 'smallhold[he]'"
