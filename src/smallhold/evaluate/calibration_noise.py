"""How large the expected calibration error of a perfect model would be on so few patients.

With n patients in fifteen bins the observed shares scatter even when every probability is right, so the expected
calibration error is never 0. A model is found miscalibrated only where its error exceeds what chance alone gives.

Source: the resampling of Broecker and Smith 2007, doi:10.1175/WAF993.1 (consistency bars), applied to the error.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike

from smallhold.evaluate.metrics import checked_probabilities, probability_bin

_DRAWS = 1000


class NoiseJson(TypedDict):
    """Expected calibration error that a perfectly calibrated model would show: mean, and exceeded in 5 of 100."""

    mean: float
    q95: float


def calibration_noise(p: ArrayLike, *, seed: int, bins: int = 15, num_draws: int = _DRAWS) -> NoiseJson:
    """The expected calibration error of a model whose probabilities are exactly right.

    Outcomes are drawn from the probabilities themselves, row by row, and the error is measured on each draw.

    Args:
        p: (n,) probabilities, 0 to 1.
        seed: Of the draws.
        bins: As for `expected_calibration_error`.
        num_draws: How many sets of outcomes are drawn.

    Returns:
        Mean and 95 % quantile over the draws.

    Raises:
        InputError: NaN, an empty array, or p outside [0, 1].
    """
    _, probability = checked_probabilities(np.zeros(np.size(p)), p)
    generator = np.random.default_rng(seed)
    in_bin = probability_bin(probability, bins)
    gap = np.zeros((num_draws, bins))
    for index in np.unique(in_bin):
        mine = probability[in_bin == index]
        # Bin by bin, so that no array is larger than (num_draws, rows of the bin).
        gap[:, index] = (generator.random((num_draws, mine.size), dtype=np.float32) < mine).sum(axis=1) - mine.sum()
    errors = np.abs(gap).sum(axis=1) / probability.size
    return {"mean": float(errors.mean()), "q95": float(np.quantile(errors, 0.95))}
