"""Fewer bytes: top-k with error feedback, 8 and 4 bits, coded positions; sizes to the byte."""

import numpy as np
import pytest

from smallhold.errors import InputError, PrivacyError, ShapeError
from smallhold.privacy.quantize_update import QuantizedUpdate, encoded_size, quantize_update
from smallhold.privacy.randomness import UnsafeSeededRandom
from smallhold.privacy.sorted_indices import decode_indices, encode_indices, indices_size
from smallhold.privacy.sparsify import keep_largest, sparse_from_bytes, sparse_size, sparse_to_bytes


def some_update(size, seed=0):
    return np.random.default_rng(seed).normal(scale=1e-3, size=size).astype(np.float32)


def test_a_group_of_known_numbers():
    update = np.array([7, -7, 3, 0, 1, -2, 0, 5], dtype=np.float32)
    quantized = quantize_update(update, bits=4, group_size=8)
    assert quantized.scales.tolist() == [1.0]
    assert (quantized.codes.astype(int) - 8).tolist() == [7, -7, 3, 0, 1, -2, 0, 5]  # whole levels: no coin decides
    np.testing.assert_array_equal(quantized.to_floats(), update)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("size", [1, 7, 255, 256, 257, 5000])
@pytest.mark.parametrize("group_size", [8, 256])
def test_values_come_back_within_a_scale_and_sizes_are_exact(bits, size, group_size):
    update = some_update(size)
    quantized = quantize_update(update, bits=bits, group_size=group_size)
    data = quantized.to_bytes()
    assert len(data) == encoded_size(size, bits=bits, group_size=group_size)
    back = QuantizedUpdate.from_bytes(data)
    np.testing.assert_array_equal(back.to_floats(), quantized.to_floats())
    scale = np.repeat(quantized.scales, group_size)[:size]
    assert (np.abs(back.to_floats() - update) <= scale * (1 + 1e-6)).all()
    assert scale.max() <= np.abs(update).max() / (2 ** (bits - 1) - 1) * (1 + 1e-6)


def test_eight_bits_are_four_times_smaller_and_four_bits_almost_eight():
    assert 4 * 10**6 / encoded_size(10**6, bits=8) > 3.93
    assert 4 * 10**6 / encoded_size(10**6, bits=4) > 7.75


def test_rounding_is_right_on_average():
    update = np.full(256, 0.35, dtype=np.float32)
    update[0] = 7.0
    source = UnsafeSeededRandom(1)
    mean = np.mean([quantize_update(update, bits=4, random=source).to_floats() for _ in range(300)], axis=0)
    assert abs(mean[1:].mean() - 0.35) < 0.01
    assert mean[0] == 7.0


@pytest.mark.parametrize("value", [0.0, 1e-45, -3e-42, 3.4e38])
def test_groups_of_zeros_and_extremes_survive(value):
    update = np.full(16, value, dtype=np.float32)
    back = QuantizedUpdate.from_bytes(quantize_update(update, bits=8, group_size=8).to_bytes()).to_floats()
    np.testing.assert_allclose(back, update, rtol=1e-2, atol=3e-45)


def test_malformed_quantized_updates_are_refused():
    data = quantize_update(some_update(20), bits=4, group_size=8).to_bytes()
    for wrong, message in (
        (b"", "0 bytes are less than a header"),
        (b"XXXX" + data[4:], "does not begin as one"),
        (data[:-1], f"{len(data) - 1} bytes, expected {len(data)}"),
        (data[:4] + b"\x05" + data[5:], "bits: expected 4 or 8, got 5"),
        (data[:5] + b"\xff" + data[6:], "group_size: expected a power of two"),
        (data[:16] + np.float32(np.nan).tobytes() + data[20:], "a scale is negative, infinite or NaN"),
        (data[:-1] + b"\0", "a code is 0"),
    ):
        with pytest.raises(PrivacyError, match=message):
            QuantizedUpdate.from_bytes(wrong)
    with pytest.raises(InputError, match="bits: expected 4 or 8, got 3"):
        quantize_update(some_update(3), bits=3)


def test_top_two_of_five_and_the_rest_is_remembered():
    update = np.array([1, -5, 2, 4, -4], dtype=np.float32)
    sparse, residual = keep_largest(update, None, count=2)
    assert (sparse.indices.tolist(), sparse.values.tolist()) == ([1, 3], [-5, 4])  # a tie goes to the lower position
    assert residual.tolist() == [1, 0, 2, 0, -4]
    sparse, residual = keep_largest(np.zeros(5, dtype=np.float32), residual, count=2)
    assert sparse.to_dense().tolist() == [0, 0, 2, 0, -4]
    assert residual.tolist() == [1, 0, 0, 0, 0]


@pytest.mark.parametrize("count", [1, 10, 999, 1000])
def test_what_is_kept_and_what_is_left_add_up_and_agree_with_sorting(count):
    update, before = some_update(1000), some_update(1000, seed=1)
    sparse, residual = keep_largest(update, before, count=count)
    np.testing.assert_array_equal(sparse.to_dense() + residual, update + before)
    twin = sorted(range(1000), key=lambda at: (-abs(update[at] + before[at]), at))[:count]
    assert sparse.indices.tolist() == sorted(twin)


def test_with_feedback_everything_arrives_in_the_end():
    """The same update every round: what arrived approaches what was meant; without the memory most never comes."""
    update = some_update(200)
    arrived, residual = np.zeros(200), None
    for _ in range(200):
        sparse, residual = keep_largest(update, residual, count=20)
        data, lost = sparse_to_bytes(sparse, bits=4, random=UnsafeSeededRandom(1))
        residual[sparse.indices] += lost
        arrived += sparse_from_bytes(data).to_dense()
    with_memory = np.linalg.norm(arrived / 200 - update) / np.linalg.norm(update)
    without = np.linalg.norm(keep_largest(update, None, count=20)[0].to_dense() - update) / np.linalg.norm(update)
    assert with_memory < 0.1 < 0.6 < without


@pytest.mark.parametrize("universe", [1, 2, 9, 1000, 2**20])
@pytest.mark.parametrize("fraction", [0.001, 0.01, 0.3, 1.0])
def test_positions_come_back_and_take_few_bits(universe, fraction):
    count = max(1, int(universe * fraction))
    indices = np.sort(np.random.default_rng(universe).choice(universe, size=count, replace=False)).astype(np.int64)
    data = encode_indices(indices, universe)
    assert len(data) == indices_size(count, universe)
    assert len(data) * 8 <= count * (2 + np.log2(universe / count)) + 24
    np.testing.assert_array_equal(decode_indices(data, count, universe), indices)


def test_positions_out_of_order_are_refused():
    data = encode_indices(np.array([1, 5, 9], dtype=np.int64), 16)
    with pytest.raises(PrivacyError, match="expected 2 bytes for 3 of 16, got 1"):
        decode_indices(data[:-1], 3, 16)
    with pytest.raises(PrivacyError, match="not strictly increasing below 15"):
        decode_indices(encode_indices(np.array([1, 5, 15], dtype=np.int64), 16), 3, 15)
    with pytest.raises(PrivacyError, match="not strictly increasing below 16"):
        decode_indices(encode_indices(np.array([1, 5, 5], dtype=np.int64), 16), 3, 16)
    with pytest.raises(PrivacyError, match="expected 3, found 0"):
        decode_indices(bytes(len(data)), 3, 16)


@pytest.mark.parametrize("bits", [4, 8, 32])
def test_sparse_updates_come_back_from_the_wire(bits):
    sparse, _ = keep_largest(some_update(10_000), None, count=100)
    data, lost = sparse_to_bytes(sparse, bits=bits)
    assert len(data) == sparse_size(10_000, 100, bits=bits)
    back = sparse_from_bytes(data)
    np.testing.assert_array_equal(back.indices, sparse.indices)
    np.testing.assert_allclose(back.values + lost, sparse.values, rtol=1e-6)
    assert back.size == 10_000


def test_malformed_sparse_updates_are_refused():
    sparse, _ = keep_largest(some_update(100), None, count=10)
    data, _ = sparse_to_bytes(sparse)
    for wrong in (
        b"",
        data[:10],
        data[:30],
        data[:-1],
        data + b"\0",
        b"SHQ1" + data[4:],
        data[:4] + b"\x07" + data[5:],
    ):
        with pytest.raises(PrivacyError, match="not a sparse update"):
            sparse_from_bytes(wrong)
    huge = data[:16] + (2**39).to_bytes(8, "little") + data[24:]
    with pytest.raises(PrivacyError, match="number of values: expected a whole number from 1 to 100"):
        sparse_from_bytes(huge)
    infinite = data[:-4] + np.float32(np.inf).tobytes()
    with pytest.raises(PrivacyError, match="a value is NaN or infinite"):
        sparse_from_bytes(infinite)


def test_a_residual_of_another_shape_is_refused():
    with pytest.raises(ShapeError, match=r"residual: expected \(5,\) like the update, got \(4,\)"):
        keep_largest(np.ones(5, np.float32), np.ones(4, np.float32), count=1)
    with pytest.raises(InputError, match="count: expected a whole number from 1 to 5, got 6"):
        keep_largest(np.ones(5, np.float32), None, count=6)
