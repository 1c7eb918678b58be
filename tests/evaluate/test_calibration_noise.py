"""The error that chance alone gives, against drawing outcomes one by one."""

from __future__ import annotations

import numpy as np
import pytest

from smallhold.errors import InputError
from smallhold.evaluate.calibration_noise import calibration_noise
from smallhold.evaluate.metrics import expected_calibration_error


@pytest.mark.parametrize("num_rows", [30, 400])
def test_it_is_the_error_of_outcomes_drawn_from_the_probabilities(num_rows: int) -> None:
    generator = np.random.default_rng(3)
    p = generator.beta(1, 5, num_rows)
    slow = [expected_calibration_error(generator.random(num_rows) < p, p) for _ in range(3000)]
    found = calibration_noise(p, seed=0, num_draws=3000)
    # Three thousand draws place a mean within a hundredth of itself, a 95 % quantile within a thirtieth.
    assert found["mean"] == pytest.approx(np.mean(slow), rel=0.02)
    assert found["q95"] == pytest.approx(np.quantile(slow, 0.95), rel=0.05)


def test_more_patients_are_quieter_and_certainty_is_silent() -> None:
    few, many = (calibration_noise(np.full(n, 0.2), seed=0) for n in (50, 5000))
    assert many["q95"] < few["mean"] / 3
    assert calibration_noise([0.0, 1.0, 1.0], seed=0) == {"mean": 0.0, "q95": 0.0}


def test_what_is_no_probability_is_refused() -> None:
    with pytest.raises(InputError, match="p must hold probabilities"):
        calibration_noise([0.2, 1.2], seed=0)
