"""Scaled rotary positions: each variant divides the angular frequencies of a head by a vector.

Sources: RoPE, Su et al. 2021, arXiv:2104.09864; linear, Chen et al. 2023, arXiv:2306.15595; YaRN, Peng et al. 2023,
arXiv:2309.00071, section 3; LongRoPE, Ding et al. 2024, arXiv:2402.13753; llama3, the reference code of Llama 3.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smallhold.errors import RecipeError

ROPE_TYPES = ("linear", "llama3", "yarn", "longrope")


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """How rotary positions differ from the plain ones, in the words of Hugging Face's `rope_parameters`.

    Attributes:
        rope_type: `linear`, `llama3`, `yarn` or `longrope`.
        factor: How many times longer the context became; not used by `longrope`.
        original_max_position_embeddings: Positions before it did; not used by `linear`.
        low_freq_factor: `llama3`: original context / this = wavelength from which on `factor` divides fully.
        high_freq_factor: `llama3`: original context / this = wavelength below which nothing changes.
        beta_fast: `yarn`: frequencies with more turns than this in the original context stay as they are.
        beta_slow: `yarn`: those with fewer are divided by `factor`.
        truncate: `yarn`: whether the two limits are rounded to whole frequencies.
        short_factor: `longrope`: the divisors (rotary_dim / 2,) for contexts up to the original one.
        attention_factor: Multiplies cosines and sines.

    Raises:
        RecipeError: another type, or a number that its type needs is absent.
    """

    rope_type: str
    factor: float = 1.0
    original_max_position_embeddings: int = 0
    low_freq_factor: float = 0.0
    high_freq_factor: float = 0.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    short_factor: tuple[float, ...] = ()
    attention_factor: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what no formula covers."""
        if self.rope_type not in ROPE_TYPES:
            raise RecipeError(
                f"config.json: rope_type: expected one of default, {', '.join(ROPE_TYPES)}, got {self.rope_type!r}"
            )
        if self.factor <= 0:
            raise RecipeError(f"config.json: rope factor: expected more than 0, got {self.factor}")
        if self.rope_type == "llama3" and not 0 < self.low_freq_factor < self.high_freq_factor:
            raise RecipeError(
                "config.json: rope_type llama3: expected 0 < low_freq_factor < high_freq_factor, got "
                f"{self.low_freq_factor} and {self.high_freq_factor}"
            )
        if self.rope_type == "longrope" and not all(factor > 0 for factor in self.short_factor or (0,)):
            raise RecipeError("config.json: rope_type longrope: expected a short_factor of numbers above 0")
        if self.rope_type != "linear" and self.original_max_position_embeddings < 1:
            raise RecipeError(f"config.json: rope_type {self.rope_type}: original_max_position_embeddings is missing")

    def divisors(self, theta: float, rotary_dim: int) -> NDArray[np.float64]:
        """What divides each frequency theta^(-2 i / rotary_dim), (rotary_dim / 2,).

        Raises:
            RecipeError: `short_factor` has another length.
        """
        count = rotary_dim // 2
        frequency = theta ** (-np.arange(0, rotary_dim, 2) / rotary_dim)
        match self.rope_type:
            case "longrope":
                if len(self.short_factor) != count:
                    raise RecipeError(
                        f"config.json: short_factor: expected {count} numbers, got {len(self.short_factor)}"
                    )
                return np.array(self.short_factor)
            case "llama3":
                turns = self.original_max_position_embeddings * frequency / (2 * math.pi)
                kept = np.asarray((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor))
            case "yarn":
                low, high = self._yarn_limits(theta, rotary_dim)
                kept = np.asarray(1 - (np.arange(count) - low) / (high - low))
            case _:
                kept = np.zeros(count)
        share = np.clip(kept, 0.0, 1.0)  # of a frequency that is not divided
        divisors: NDArray[np.float64] = 1 / (share + (1 - share) / self.factor)
        return divisors

    def _yarn_limits(self, theta: float, rotary_dim: int) -> tuple[float, float]:
        """Indices of the frequencies between which YaRN's ramp runs."""
        low, high = (
            rotary_dim * math.log(self.original_max_position_embeddings / (turns * 2 * math.pi)) / (2 * math.log(theta))
            for turns in (self.beta_fast, self.beta_slow)
        )
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, rotary_dim - 1)
        return low, high if high != low else high + 0.001
