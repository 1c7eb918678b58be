"""Noise that the sites share: each adds a little, the sum has enough, and nobody sees less than the sum.

Source: Kairouz, Liu, Steinke 2021, "The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
Aggregation", arXiv:2102.06387.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from smallhold.errors import PrivacyError
from smallhold.privacy.checks import check_count, check_positive
from smallhold.privacy.fixed_point import round_levels
from smallhold.privacy.noise import discrete_gaussian
from smallhold.privacy.randomness import Int64, Random, SecureRandom

_TRIES = 64


def local_stddev(stddev: float, *, min_survivors: int) -> float:
    """What each site adds so that the sum of the fewest permitted survivors has the standard deviation `stddev`."""
    check_positive(stddev, "stddev")
    return stddev / math.sqrt(check_count(min_survivors, "min_survivors"))


def rounded_norm_bound(clip_norm: float, num_parameters: int, *, beta: float = math.exp(-0.5)) -> float:
    """The L2 norm that a clipped vector may have after stochastic rounding to whole numbers.

    Source: the paper's equation 1 (and algorithm 1, line "conditional rounding"), in units of the rounding step.

    Args:
        clip_norm: L2 norm before rounding, in steps.
        num_parameters: P.
        beta: Rounding is drawn again with at most this probability; a smaller one loosens the bound.
    """
    check_positive(clip_norm, "clip_norm")
    root = math.sqrt(check_count(num_parameters, "num_parameters"))
    worst = clip_norm + root
    likely = clip_norm**2 + num_parameters / 4 + math.sqrt(2 * math.log(1 / beta)) * (clip_norm + root / 2)
    return min(worst, math.sqrt(likely))


def round_conditionally(values: npt.NDArray[np.float64], *, norm_bound: float, random: Random | None = None) -> Int64:
    """Round stochastically to whole numbers, again and again until the L2 norm is within `norm_bound`.

    Args:
        values: (P,) float64, in steps.
        norm_bound: From `rounded_norm_bound`.
        random: Source of uniform words; default: a fresh `SecureRandom`.

    Raises:
        PrivacyError: no rounding fits: the vector is longer than the bound was made for.
    """
    source = SecureRandom() if random is None else random
    for _ in range(_TRIES):
        levels = round_levels(values, source)
        if math.sqrt(float(np.sum(levels.astype(np.float64) ** 2))) <= norm_bound:
            return levels
    raise PrivacyError(
        f"values: no rounding out of {_TRIES} has an L2 norm within {norm_bound:g}; before rounding it is "
        f"{float(np.linalg.norm(values)):g}",
        hint="clip to the norm that the bound was computed for",
    )


def noise_share(count: int, *, stddev: float, min_survivors: int, random: Random | None = None) -> Int64:
    """One site's part of the noise: discrete Gaussian, in steps.

    Args:
        count: P.
        stddev: Standard deviation that the sum must have, in steps.
        min_survivors: The fewest sites whose sum is ever opened.
        random: Source of uniform words; default: a fresh `SecureRandom`.
    """
    return discrete_gaussian(count, stddev=local_stddev(stddev, min_survivors=min_survivors), random=random)


def effective_noise_multiplier(
    *, sensitivity: float, num_parameters: int, stddev: float, min_survivors: int, num_sites: int
) -> float:
    """The noise multiplier of a Gaussian mechanism with the same concentrated DP as the sum of the sites' shares.

    Source: the paper's theorem 1, its second bound. A sum of discrete Gaussians is not one; tau bounds the difference
    and vanishes when each share is wider than a few steps. Concentrated DP is what the RDP accountant composes: charge
    the result to a ledger as Gaussian, without subsampling.

    Args:
        sensitivity: L2 norm of one site's levels (`rounded_norm_bound`), in steps.
        num_parameters: P.
        stddev: Of the noise on the sum of `min_survivors` sites, in steps.
        min_survivors: The fewest sites whose sum is ever opened.
        num_sites: The most.
    """
    check_positive(sensitivity, "sensitivity")
    share = local_stddev(stddev, min_survivors=min_survivors)
    check_count(num_sites, "num_sites", at_least=min_survivors)
    tau = 10 * sum(math.exp(-2 * math.pi**2 * share**2 * k / (k + 1)) for k in range(1, num_sites))
    return 1 / (sensitivity / stddev + tau * math.sqrt(num_parameters))
