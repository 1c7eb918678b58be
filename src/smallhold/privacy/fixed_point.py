"""Floats as whole numbers modulo 2^bits, so that a sum over sites is exact and cannot wrap around."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from smallhold.errors import InputError, PrivacyError, ShapeError
from smallhold.privacy.checks import check_count, check_positive, check_vector
from smallhold.privacy.packing import UInt, word_type
from smallhold.privacy.randomness import Int64, Random, unit_floats

# A noise sum beyond this many standard deviations has probability below 2^-70, at 2^30 parameters below 2^-40 in all.
NOISE_TAIL = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPoint:
    """How floats become whole numbers: value = level * step, |level| <= max_level, sums of `num_sites` fit in `bits`.

    Attributes:
        bits: Width of the field; sums are taken modulo 2^bits. 4 to 62.
        value_range: Largest absolute value of one site's entry, above 0.
        num_sites: How many sites may be summed.
        noise_stddev: Standard deviation, in levels, of the noise that the whole sum carries; 0 for none.
    """

    bits: int
    value_range: float
    num_sites: int
    noise_stddev: float = 0.0

    def __post_init__(self) -> None:
        """Check the headroom once; afterwards no sum of valid vectors can wrap."""
        check_count(self.bits, "bits", at_least=4, at_most=62)
        check_count(self.num_sites, "num_sites")
        check_positive(self.value_range, "value_range")
        if not 0 <= self.noise_stddev < math.inf:
            raise InputError(f"noise_stddev: expected a finite number, 0 or more, got {self.noise_stddev!r}")
        if self.max_level < 1:
            raise InputError(
                f"bits: the sum of {self.num_sites} sites with noise of {self.noise_stddev:g} levels does not fit in "
                f"{self.bits} bits",
                hint="take more bits, fewer sites, or coarser levels",
            )

    @property
    def max_level(self) -> int:
        """The largest level of one site: `num_sites` of it, plus the noise's tail, stay below 2^(bits - 1)."""
        half: int = 2 ** (self.bits - 1) - 1
        return (half - math.ceil(NOISE_TAIL * self.noise_stddev)) // self.num_sites

    @property
    def step(self) -> float:
        """What one level is worth."""
        return self.value_range / self.max_level

    def with_noise(self, stddev: float) -> FixedPoint:
        """The same with room for noise of this standard deviation, in the unit of the values, on the sum.

        The step depends on the room and the room, counted in steps, on the step: solved in closed form.
        """
        if not 0 <= stddev < math.inf:
            raise InputError(f"stddev: expected a finite number, 0 or more, got {stddev!r}")
        half = 2 ** (self.bits - 1) - 1
        # levels * num_sites + tail * stddev / (value_range / levels) = half
        levels = (half - 1) / (self.num_sites + NOISE_TAIL * stddev / self.value_range)
        return replace(self, noise_stddev=stddev * levels / self.value_range)

    def quantize(
        self, values: npt.NDArray[np.floating], *, stochastic: Random | None = None, saturate: bool = False
    ) -> Int64:
        """Round values to levels.

        Args:
            values: (P,) finite floats.
            stochastic: Round up with the probability of the fraction, by words from this source: the mean is then
                exact. Default: to the nearest, ties to even.
            saturate: Entries beyond `value_range` become the nearest level in range; by default they are refused.

        Returns:
            (P,) int64 levels, |level| <= max_level. |value - level * step| is at most step / 2 (step, if stochastic),
            and up to 2^-52 of the value, for entries in range.

        Raises:
            PrivacyError: NaN, an infinity, or an entry out of range.
        """
        check_vector(values, "values")
        exact = values.astype(np.float64)
        outside = np.count_nonzero(np.abs(exact) > self.value_range)
        if outside and not saturate:
            raise PrivacyError(
                f"values: {outside} of {values.size} entries lie beyond value_range {self.value_range:g}, the largest "
                f"is {float(np.max(np.abs(exact))):g}",
                hint="clip the update first (an L2 norm bounds every entry), or saturate on purpose",
            )
        return round_levels(exact / self.step, stochastic).clip(-self.max_level, self.max_level)

    def to_field(self, levels: Int64) -> UInt:
        """Levels, with or without noise, modulo 2^bits; negative ones in two's complement.

        Returns:
            (P,) of the smallest unsigned type that holds `bits` bits.
        """
        if levels.dtype != np.int64 or levels.ndim != 1:
            raise ShapeError(f"levels: expected a flat int64 array, got {levels.dtype} {levels.shape}")
        return (levels.view(np.uint64) & np.uint64(2**self.bits - 1)).astype(word_type(self.bits))

    def from_field(self, total: UInt) -> Int64:
        """The sum of levels from the sum modulo 2^bits: exact as long as at most `num_sites` were added."""
        sign_bit = 2 ** (self.bits - 1)
        value = total.astype(np.int64)
        return np.where(value >= sign_bit, value - 2**self.bits, value)

    def to_floats(self, levels: Int64) -> npt.NDArray[np.float64]:
        """Levels, or a sum of them, in the unit of the values."""
        return levels.astype(np.float64) * self.step


def round_levels(values: npt.NDArray[np.float64], stochastic: Random | None = None) -> Int64:
    """Whole numbers near `values`: the nearest, or by a coin whose mean is the value."""
    if stochastic is None:
        return np.rint(values).astype(np.int64)
    low = np.floor(values)
    return (low + (unit_floats(values.size, stochastic) < values - low)).astype(np.int64)
