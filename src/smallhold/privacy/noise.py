"""Noise for differential privacy: an exact discrete Gaussian, and noise on floats that leaks nothing by its bits.

Noise drawn as a float is not Gaussian: which floats can come out depends on the value underneath, so the lowest
bits give a record away (Mironov 2012, "On Significance of the Least Significant Bits for Differential Privacy"). So
all noise here is a whole number of grid steps, added to a value that was rounded to the same grid first.
"""

from __future__ import annotations

import decimal
import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from smallhold.errors import InputError, PrivacyError
from smallhold.privacy.checks import check_count, check_positive, check_vector
from smallhold.privacy.randomness import Int64, Random, SecureRandom, UInt64, uniform_below

MIN_STDDEV, MAX_STDDEV = 2.0**-10, 2.0**40
# Grid steps to a standard deviation of `add_gaussian_noise`. Rounding to the grid adds sqrt(P) / 2 steps to an L2
# sensitivity: with P = 2^30 that is 2^-16 of one standard deviation.
GRID_STEPS = 2**30
# The float64 probabilities below are wrong by less than 2^-38 (argued in _exponential_coin); this is their window.
_WINDOW = 2.0**-30


def discrete_gaussian(count: int, *, stddev: float, random: Random | None = None) -> Int64:
    """Exact samples of the discrete Gaussian: P[X = x] proportional to exp(-x^2 / (2 stddev^2)) on the integers.

    Source: Canonne, Kamath, Steinke 2020, "The Discrete Gaussian for Differential Privacy", arXiv:2004.00010,
    algorithms 2 and 3, vectorised. A query of L2 sensitivity `s` with this noise on each integer coordinate satisfies
    the same concentrated DP as with continuous Gaussian noise: s^2 / (2 stddev^2)-zCDP (theorem 14).

    Exact: no probability is ever replaced by its float64 value. A coin of probability p is a comparison of a uniform
    real U, of which the first 64 bits are drawn, with p. Where float64 with a proven error bound cannot tell which is
    smaller (once in 2^29 coins), more bits of U are drawn and p is computed to as many digits as it takes.

    Args:
        count: How many.
        stddev: Parameter sigma, 2^-10 to 2^40 (the first gives zeros, in effect); the float is
            taken as the exact fraction that it is.
        random: Source of uniform words; default: a fresh `SecureRandom`.

    Raises:
        InputError: `stddev` or `count` is out of range.
    """
    check_count(count, "count", at_least=0)
    if not MIN_STDDEV <= check_positive(stddev, "stddev") <= MAX_STDDEV:
        raise InputError(f"stddev: expected 2^-10 to 2^40 grid steps, got {stddev!r}")
    source = SecureRandom() if random is None else random
    out = np.empty(count, dtype=np.int64)
    filled = 0
    while filled < count:
        # Algorithm 3 accepts .7 of the candidates or more; a little surplus saves a second small batch.
        batch = min(max(64, int((count - filled) * 1.45)), 2**20)
        taken = _gaussian_candidates(batch, Fraction(stddev), source)[: count - filled]
        out[filled : filled + taken.size] = taken
        filled += taken.size
    return out


def discrete_laplace(count: int, *, scale: int, random: Random) -> Int64:
    """Exact samples with P[X = x] proportional to exp(-|x| / scale).

    Source: Canonne, Kamath, Steinke 2020, algorithm 2.

    Args:
        count: How many.
        scale: A whole number from 1 to 2^41.
        random: Source of uniform words.
    """
    parts: list[Int64] = []
    missing = count
    while missing > 0:
        batch = int(missing * 1.7) + 16  # 1 - 1/e are accepted, less the negative zeros
        offset = uniform_below(scale, batch, random)
        offset = offset[_exponential_coin(_Ratio(offset, scale), random)]
        value = offset + scale * _geometric(offset.size, random)
        is_negative = (random.words(value.size) & np.uint64(1)).astype(bool)
        keep = ~(is_negative & (value == 0))
        part = np.where(is_negative, -value, value)[keep][:missing]
        parts.append(part)
        missing -= part.size
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def add_gaussian_noise(
    vector: npt.NDArray[np.floating], *, stddev: float, random: Random | None = None
) -> npt.NDArray[np.float64]:
    """Add Gaussian noise to each entry, on a grid of 2^30 steps to a standard deviation.

    Entries are rounded to the grid, and the noise is an exact discrete Gaussian on it. Guaranteed: with L2 sensitivity
    `s` of the vector, the result is (s')^2 / (2 stddev^2)-zCDP for s' = s + `grid_sensitivity(P, stddev)`, with no
    assumption about floating point. Account s' (it differs from s in the fifth digit at most).

    Args:
        vector: (P,) finite floats.
        stddev: Standard deviation of the noise, above 0, in the vector's unit (noise_multiplier times clip_norm).
        random: Source of uniform words; default: a fresh `SecureRandom`.

    Returns:
        (P,) float64, exact multiples of the grid step.

    Raises:
        PrivacyError: NaN or an infinity inside, or an entry beyond 2^21 standard deviations, where float64 has no
            grid point of its own.
        InputError: `stddev` is out of range.
    """
    check_vector(vector, "vector")
    step = grid_step(stddev)
    in_steps = vector.astype(np.float64) / step
    largest = float(np.max(np.abs(in_steps)))
    if largest > 2.0**51:
        raise PrivacyError(
            f"vector: an entry is {largest / GRID_STEPS:.3g} standard deviations of the noise, expected at most 2^21",
            hint="clip the update first, and check the unit of stddev",
        )
    noise = discrete_gaussian(vector.size, stddev=stddev / step, random=random)
    return (np.rint(in_steps).astype(np.int64) + noise).astype(np.float64) * step


def grid_step(stddev: float) -> float:
    """The grid of `add_gaussian_noise`: a power of two, so that dividing and multiplying by it is exact."""
    check_positive(stddev, "stddev")
    _, exponent = math.frexp(stddev / GRID_STEPS)
    step = math.ldexp(1.0, exponent - 1)
    if step < 2.0**-1000:
        raise InputError(f"stddev: expected a standard deviation above 2^-970, got {stddev!r}")
    return step


def grid_sensitivity(num_parameters: int, stddev: float) -> float:
    """What rounding to the grid adds at most to the L2 distance of two neighbouring vectors of P entries."""
    return math.sqrt(num_parameters) * grid_step(stddev)


class _Ratio:
    """Non-negative rational numbers num / den, one for each entry: in float64 for speed, exact on request.

    Args:
        numerator: (n,) whole numbers, below 2^53 in absolute value.
        denominator: A whole number.
        square: The value is the square of `numerator / denominator - shift`, over `divisor`.
        shift: Exact.
        divisor: Exact.
    """

    def __init__(
        self,
        numerator: Int64,
        denominator: int = 1,
        *,
        square: bool = False,
        shift: Fraction = Fraction(0),
        divisor: Fraction = Fraction(1),
    ) -> None:
        self._numerator, self._denominator = numerator, denominator
        self._is_square, self._shift, self._divisor = square, shift, divisor

    def floats(self) -> npt.NDArray[np.float64]:
        """(n,) float64."""
        value = self._numerator.astype(np.float64) / float(self._denominator)
        if self._is_square:
            value = (value - float(self._shift)) ** 2 / float(self._divisor)
        return value

    def exact(self, index: int) -> Fraction:
        """The exact value of one entry."""
        value = Fraction(int(self._numerator[index]), self._denominator)
        return (value - self._shift) ** 2 / self._divisor if self._is_square else value


def _gaussian_candidates(count: int, stddev: Fraction, random: Random) -> Int64:
    """Those of `count` Laplace candidates that algorithm 3 accepts."""
    scale = math.floor(stddev) + 1
    variance = stddev * stddev
    candidate = discrete_laplace(count, scale=scale, random=random)
    distance = _Ratio(np.abs(candidate), square=True, shift=variance / scale, divisor=2 * variance)
    return candidate[_exponential_coin(distance, random)]


def _geometric(count: int, random: Random) -> Int64:
    """How many coins of probability 1/e come up before the first that does not."""
    value = np.zeros(count, dtype=np.int64)
    running = np.arange(count)
    while running.size:
        running = running[_exponential_coin(_Ratio(np.ones(running.size, dtype=np.int64)), random)]
        value[running] += 1
    return value


def _exponential_coin(exponent: _Ratio, random: Random) -> npt.NDArray[np.bool_]:
    """(n,) True with probability exactly exp(-exponent), independently.

    Why the window suffices: every input is a whole number below 2^53 or rounded once, so that a plain ratio y is wrong
    by 2^-51 of itself, and exp(-y) by 2^-51 y exp(-y) < 2^-52. For a square, let x be the difference in standard
    deviations. Candidate and shift are rounded once each, which moves x by at most 2^-51 (x + 2) for a stddev of 1 or
    more, and by 2^-51 / stddev <= 2^-41 for a smaller one. y = x^2 / 2 then moves by x times that, exp(-y) by
    x (x + 2) exp(-x^2 / 2) 2^-41 < 2^-39. numpy's exp is within 4 units in the last place, a uniform's float64 within
    2^-53. Together that is under 2^-38; the window is 2^-30.
    """
    probability = np.exp(-exponent.floats())
    words = random.words(probability.size)
    uniform = words.astype(np.float64) * 2.0**-64
    heads = uniform < probability
    for index in np.flatnonzero(np.abs(uniform - probability) < _WINDOW):
        heads[index] = _exact_coin(exponent.exact(int(index)), int(words[index]), random)
    return heads


def _exact_coin(exponent: Fraction, word: int, random: Random) -> bool:
    """Whether the real number that begins with the bits of `word` is below exp(-exponent); draws more to tell."""
    uniform, bits = word, 64
    while True:
        low, high = _exponential_bounds(exponent, bits)
        if Fraction(uniform + 1, 2**bits) <= low:
            return True
        if Fraction(uniform, 2**bits) >= high:
            return False
        more: UInt64 = random.words(1)
        uniform, bits = (uniform << 64) | int(more[0]), bits + 64


def _exponential_bounds(exponent: Fraction, bits: int) -> tuple[Fraction, Fraction]:
    """Lower and upper bounds of exp(-exponent), closer than 2^-bits; decimal's exp is correctly rounded."""
    if exponent == 0:
        return Fraction(1), Fraction(1)
    digits = int(bits * 0.302) + 10
    context = decimal.Context(prec=digits, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX)
    quotient = context.divide(decimal.Decimal(exponent.numerator), decimal.Decimal(exponent.denominator))
    value = Fraction(context.exp(-quotient))
    # The quotient is wrong by 10^-(digits-1) of itself at most, the result by as much again.
    error = (exponent + 1) * value * Fraction(4, 10 ** (digits - 1))
    return value - error, value + error
