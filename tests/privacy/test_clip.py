"""Clipping: what the docstring guarantees, sentence by sentence."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from smallhold.errors import InputError, PrivacyError, ShapeError
from smallhold.privacy.clip import clip_update, l2_norm


def test_a_three_four_five_triangle_is_scaled_to_its_bound():
    clipped, norm = clip_update(np.array([3.0, 4.0], dtype=np.float32), clip_norm=1.0)
    assert norm == 5.0
    np.testing.assert_allclose(clipped, [0.6, 0.8], rtol=1e-6)


def test_a_short_update_keeps_its_bits():
    update = np.array([0.1, -0.2, 0.0], dtype=np.float32)
    clipped, _ = clip_update(update, clip_norm=1.0)
    assert clipped.tobytes() == update.tobytes()


def test_zero_stays_zero():
    clipped, norm = clip_update(np.zeros(5, dtype=np.float32), clip_norm=1e-3)
    assert norm == 0.0
    assert not clipped.any()


@settings(deadline=None, max_examples=150)
@given(
    arrays(np.float32, st.integers(1, 40), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
    st.floats(1e-40, 1e30),
)
def test_the_norm_is_within_the_bound_and_the_direction_is_kept(update, bound):
    clipped, norm = clip_update(update, clip_norm=bound)
    assert clipped.dtype == np.float32
    assert l2_norm(clipped) <= bound
    if norm <= bound:
        np.testing.assert_array_equal(clipped, update)
    else:
        assert (np.sign(clipped) * np.sign(update) >= 0).all()
        # 2^-22 of an entry, or the smallest float32 where it is subnormal
        exact = update.astype(np.float64) * (bound / norm)
        np.testing.assert_allclose(clipped, exact, rtol=2.0**-22, atol=3e-45)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_no_factor_bounds_is_refused(bad):
    with pytest.raises(PrivacyError, match=r"update: 1 of 3 entries are NaN or infinite, the first at 1"):
        clip_update(np.array([1.0, bad, 2.0], dtype=np.float32), clip_norm=1.0)


def test_a_float64_beyond_float32_is_refused():
    with pytest.raises(PrivacyError, match="as float32"):
        clip_update(np.array([1e300]), clip_norm=1.0)


@pytest.mark.parametrize("bound", [0.0, -1.0, np.inf, np.nan, True])
def test_a_bound_must_be_a_number_above_zero(bound):
    with pytest.raises(InputError, match="clip_norm: expected a finite number above 0"):
        clip_update(np.ones(2, dtype=np.float32), clip_norm=bound)


@pytest.mark.parametrize("bad", [np.ones((2, 2), np.float32), np.ones(3, np.int64), np.empty(0, np.float32), [1.0]])
def test_only_flat_arrays_of_floats(bad):
    with pytest.raises(ShapeError, match="update: expected a flat, non-empty array of floats"):
        clip_update(bad, clip_norm=1.0)
