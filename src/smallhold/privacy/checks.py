"""One-line checks of arguments that the functions of this package share; each names the argument and its value."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from smallhold.errors import InputError, PrivacyError, ShapeError


def check_vector(vector: npt.NDArray[np.floating], name: str) -> npt.NDArray[np.floating]:
    """A non-empty flat array of finite floats, unchanged.

    Raises:
        ShapeError: not one-dimensional, empty, or not of floats.
        PrivacyError: NaN or an infinity inside: no bound on its influence exists, so it never leaves a site.
    """
    if not isinstance(vector, np.ndarray) or vector.ndim != 1 or vector.size == 0 or vector.dtype.kind != "f":
        got = f"{vector.dtype} {vector.shape}" if isinstance(vector, np.ndarray) else type(vector).__name__
        raise ShapeError(f"{name}: expected a flat, non-empty array of floats (P,), got {got}")
    finite = np.isfinite(vector)
    if not finite.all():
        raise PrivacyError(
            f"{name}: {int(vector.size - np.count_nonzero(finite))} of {vector.size} entries are NaN or infinite, "
            f"the first at {int(np.argmin(finite))}",
            hint="the local training diverged: lower its learning rate; this update was not sent",
        )
    return vector


def check_positive(value: float, name: str) -> float:
    """A finite number above zero, as a float.

    Raises:
        InputError: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise InputError(f"{name}: expected a finite number above 0, got {value!r}")
    return float(value)


def check_count(value: int, name: str, *, at_least: int = 1, at_most: int | None = None) -> int:
    """A whole number within bounds.

    Raises:
        InputError: anything else.
    """
    bounds = f"at least {at_least}" if at_most is None else f"from {at_least} to {at_most}"
    wrong_type = isinstance(value, bool) or not isinstance(value, int | np.integer)
    if wrong_type or value < at_least or (at_most is not None and value > at_most):
        raise InputError(f"{name}: expected a whole number {bounds}, got {value!r}")
    return int(value)
