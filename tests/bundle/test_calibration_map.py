from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="calibration needs scikit-learn, the extra 'train'")

from smallhold.bundle.calibration_map import fit_bias, fit_isotonic, fit_map, fit_temperature, surprise
from smallhold.decide.plan import Field, calibrate_logits

YES_NO = Field(name="died", choices=("no", "yes"), positive="yes")
FOUR = Field(name="f", choices=("a", "b", "c", "d"), positive="a")


def drawn(rng: np.random.Generator, logits: np.ndarray) -> np.ndarray:
    """Labels from softmax(logits)."""
    return np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)


def rows_of(margin: np.ndarray) -> np.ndarray:
    return np.stack([np.zeros_like(margin), margin], axis=-1)


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("field", [YES_NO, FOUR], ids=["two", "four"])
def test_the_temperature_that_made_the_labels_is_found(field: Field, true: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(40_000, len(field.choices))) * 3
    assert fit_temperature(field, logits, drawn(rng, logits / true)).temperature == pytest.approx(true, rel=0.05)


def test_the_bias_that_made_the_labels_is_found() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(40_000, 4)) * 2
    bias = np.array([1.5, -0.5, 0.0, -1.0])
    fitted = fit_bias(FOUR, logits, drawn(rng, logits / 0.7 + bias))
    assert fitted.temperature == pytest.approx(0.7, rel=0.05)
    assert fitted.bias == pytest.approx(bias, abs=0.06)


def test_no_parameters_on_a_grid_are_more_likely() -> None:
    rng = np.random.default_rng(2)
    logits = rows_of(rng.normal(size=300) * 2)
    labels = drawn(rng, logits / 1.7 + [0.4, -0.4])

    def loss(temperature: float, bias: float) -> float:
        field = Field(name="f", choices=("no", "yes"), positive="yes", temperature=temperature, bias=(-bias, bias))
        return surprise(field, logits, labels).mean()

    warm, biased = fit_temperature(YES_NO, logits, labels), fit_bias(YES_NO, logits, labels)
    grid = np.geomspace(0.05, 20, 100)
    assert all(surprise(warm, logits, labels).mean() <= loss(t, 0) + 1e-9 for t in grid)
    # The prior costs a little of the likelihood.
    best = surprise(biased, logits, labels).mean()
    assert all(best <= loss(t, b) + 1e-4 for t in grid for b in np.linspace(-2, 2, 21))


def test_a_choice_that_the_rows_lack_stays_possible() -> None:
    logits = np.random.default_rng(3).normal(size=(50, 4))
    fitted = fit_bias(FOUR, logits, drawn(np.random.default_rng(3), logits[:, :3]))
    assert calibrate_logits(fitted, logits)[:, 3].min() > 1e-6


def test_the_isotonic_map_rises_is_never_certain_and_finds_a_bend() -> None:
    rng = np.random.default_rng(4)
    margin = rng.normal(size=5000) * 3
    true = 1 / (1 + np.exp(-np.where(margin > 0, 0.3 * margin, 2 * margin)))
    labels = (rng.random(5000) < true).astype(int)
    field = fit_isotonic(YES_NO, rows_of(margin), labels)
    grid = np.linspace(-20, 20, 500)
    yes = calibrate_logits(field, rows_of(grid))[:, 1]
    assert (np.diff(yes) >= 0).all()
    assert 0 < yes[0] < yes[-1] < 1
    assert np.abs(calibrate_logits(field, rows_of(margin))[:, 1] - true).mean() < 0.03


def test_separable_rows_and_single_blocks_give_a_usable_map() -> None:
    labels = np.array([0] * 10 + [1] * 10)
    apart = fit_isotonic(YES_NO, rows_of(np.linspace(-1, 1, 20)), labels)
    assert calibrate_logits(apart, np.array([0.0, 1.0]))[1] == pytest.approx(10.5 / 11)
    falling = fit_isotonic(YES_NO, rows_of(np.linspace(1, -1, 20)), labels)
    assert not falling.knots  # one block: temperature stands in


@pytest.mark.parametrize(
    ("scale", "bias", "expected"), [(1.0, 0.0, "temperature"), (2.0, 0.0, "temperature"), (1.0, 1.5, "bias")]
)
def test_the_simplest_map_that_is_right_is_chosen(scale: float, bias: float, expected: str) -> None:
    rng = np.random.default_rng(6)
    logits = rows_of(rng.normal(size=1000) * 2)
    chosen = fit_map(YES_NO, logits, drawn(rng, logits * scale + [0, bias]))
    assert chosen.name == expected
    assert set(chosen.losses) == {"temperature", "bias", "isotonic"}
    assert all(loss > 0 for loss in chosen.losses.values())


def test_a_bend_calls_for_the_isotonic_map_and_four_choices_have_none() -> None:
    rng = np.random.default_rng(7)
    margin = rng.normal(size=8000) * 3
    labels = (rng.random(8000) < np.where(margin > 0, 0.9, 0.1)).astype(int)
    assert fit_map(YES_NO, rows_of(margin), labels).name == "isotonic"
    logits = rng.normal(size=(400, 4))
    assert set(fit_map(FOUR, logits, drawn(rng, logits)).losses) == {"temperature", "bias"}


def test_rows_of_a_patient_stay_in_one_fold() -> None:
    # Forty patients repeated fifty times: judged by rows, the isotonic map would learn each of them by heart.
    rng = np.random.default_rng(8)
    margin = rng.normal(size=40)
    labels = (rng.random(40) < 1 / (1 + np.exp(-margin))).astype(int)
    units = np.repeat(np.arange(40), 50)
    logits, repeated = rows_of(margin)[units], labels[units]
    leaking = fit_map(YES_NO, logits, repeated).losses["isotonic"]
    honest = fit_map(YES_NO, logits, repeated, units=units).losses["isotonic"]
    assert leaking < honest - 0.05


def test_rows_without_a_mistake_do_not_make_certain() -> None:
    field = Field(name="f", choices=("a", "b", "c"), positive="a")
    labels = np.arange(30) % 3
    fitted = fit_temperature(field, 2.0 * np.eye(3)[labels], labels)
    top = calibrate_logits(fitted, 2.0 * np.eye(3)[labels]).max(axis=1)
    np.testing.assert_allclose(top, 31 / 32, atol=1e-4)
