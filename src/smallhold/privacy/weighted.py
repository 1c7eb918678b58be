"""A weighted mean out of a plain sum: the weights travel inside it, as whole numbers that cannot wrap.

A secure sum opens only sums. So each site sends its update times its share of the largest permitted weight, and its
number of examples in digits behind it; the quotient of the two sums is the weighted mean, and nobody's weight shows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from smallhold.errors import InputError, PrivacyError, ShapeError
from smallhold.privacy.checks import check_count, check_vector
from smallhold.privacy.fixed_point import FixedPoint
from smallhold.privacy.randomness import Int64, Random

_COUNT_BITS = 40  # sums of up to 10^12 examples


def encode_weighted(
    update: npt.NDArray[np.floating],
    num_examples: int,
    *,
    max_examples: int,
    fixed_point: FixedPoint,
    stochastic: Random | None = None,
) -> Int64:
    """Levels of the weighted update, and the digits of its weight.

    Args:
        update: (P,) finite floats within the range of `fixed_point`.
        num_examples: The weight, 1 to `max_examples`.
        max_examples: The largest weight that the job permits; a site with more counts as this many.
        fixed_point: How floats become levels; its `num_sites` bounds the sum.
        stochastic: See `FixedPoint.quantize`.

    Returns:
        (P + weight_digits(fixed_point),) int64.

    Raises:
        InputError: a weight out of range.
        PrivacyError: as `FixedPoint.quantize`.
    """
    check_vector(update, "update")
    check_count(max_examples, "max_examples", at_most=2**_COUNT_BITS // fixed_point.num_sites)
    weight = min(check_count(num_examples, "num_examples"), max_examples)
    levels = fixed_point.quantize(update.astype(np.float64) * (weight / max_examples), stochastic=stochastic)
    base_bits = _digit_bits(fixed_point)
    digits = [(weight >> (base_bits * j)) & (2**base_bits - 1) for j in range(weight_digits(fixed_point))]
    return np.concatenate([levels, np.array(digits, dtype=np.int64)])


def decode_weighted(total: Int64, *, max_examples: int, fixed_point: FixedPoint) -> tuple[npt.NDArray[np.float64], int]:
    """The weighted mean and the number of examples behind it, from the sum of what the sites encoded.

    Args:
        total: (P + weight_digits(fixed_point),) int64, from `FixedPoint.from_field`.
        max_examples: As the sites had it.
        fixed_point: As the sites had it.

    Raises:
        PrivacyError: the weights sum to less than one example: what was summed were not encoded updates.
    """
    count = weight_digits(fixed_point)
    if total.ndim != 1 or total.size <= count:
        raise ShapeError(f"total: expected more than {count} entries in a flat array, got {total.shape}")
    base_bits = _digit_bits(fixed_point)
    num_examples = sum(int(digit) << (base_bits * j) for j, digit in enumerate(total[-count:]))
    if not 1 <= num_examples <= max_examples * fixed_point.num_sites or np.any(total[-count:] < 0):
        raise PrivacyError(f"total: its weights sum to {num_examples} examples, which no set of sites could have sent")
    return fixed_point.to_floats(total[:-count]) * (max_examples / num_examples), num_examples


def weight_digits(fixed_point: FixedPoint) -> int:
    """How many entries a weight takes behind an update."""
    return -(-_COUNT_BITS // _digit_bits(fixed_point))


def _digit_bits(fixed_point: FixedPoint) -> int:
    """Bits of one digit: the sum over all sites stays below the sign bit."""
    largest: int = (2 ** (fixed_point.bits - 1) - 1) // fixed_point.num_sites
    if largest < 1:
        raise InputError(
            f"bits: a field of {fixed_point.bits} bits has no room for the weights of {fixed_point.num_sites} sites",
            hint="take more bits",
        )
    return (largest + 1).bit_length() - 1
