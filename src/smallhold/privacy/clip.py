"""Bound what one update can weigh: scaling to an L2 norm."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from smallhold.privacy.checks import check_positive, check_vector

_SUM_MARGIN = 2.0**-40  # more than the float64 sums of squares below can be wrong by


def clip_update(update: npt.NDArray[np.floating], *, clip_norm: float) -> tuple[npt.NDArray[np.float32], float]:
    """Scale an update down to an L2 norm of at most `clip_norm`; a smaller one is left as it is.

    Source: Abadi et al. 2016, "Deep Learning with Differential Privacy", arXiv:1607.00133, algorithm 1; for whole
    updates McMahan et al. 2018, "Learning Differentially Private Recurrent Language Models", arXiv:1710.06963.

    Guarantees:
        - The float64 norm of the float32 array returned is at most `clip_norm`, rounding included.
        - An update whose norm is at most `clip_norm` comes back with the same values (as float32).
        - The direction is kept: the result is the update times one factor in (0, 1].

    Edge cases: a zero update stays zero. A norm that overflows float32 is computed in float64; one that overflows
    float64 cannot come from float32 entries. NaN and infinities are refused, since no factor bounds them.

    Args:
        update: (P,) floats.
        clip_norm: The bound, above 0.

    Returns:
        (P,) float32 and the norm before clipping. The norm is private: it must not leave the site without noise.

    Raises:
        ShapeError: not a flat array of floats.
        PrivacyError: NaN or an infinity inside.
        InputError: `clip_norm` is not a finite number above 0.
    """
    bound = check_positive(clip_norm, "clip_norm")
    check_vector(update, "update")
    with np.errstate(over="ignore"):
        rounded = update.astype(np.float32)
    check_vector(rounded, "update as float32")
    norm = l2_norm(rounded)
    if norm <= bound:
        return rounded, norm
    scaled = (rounded.astype(np.float64) * (bound / norm * (1 - _SUM_MARGIN))).astype(np.float32)
    if l2_norm(scaled) > bound:  # rounding to float32 moved it over: one step towards zero undoes that
        scaled = np.nextafter(scaled, np.float32(0))
    return scaled, norm


def l2_norm(vector: npt.NDArray[np.floating]) -> float:
    """The L2 norm, summed in float64 without overflow: the largest entry is factored out."""
    values = vector.astype(np.float64)
    largest = float(np.max(np.abs(values), initial=0.0))
    if largest == 0.0:
        return 0.0
    return largest * float(np.sqrt(np.sum((values / largest) ** 2)))
