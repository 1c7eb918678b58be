from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("sklearn", reason="calibration needs scikit-learn, the extra 'train'")

from smallhold.bundle.calibrate import calibrate, fit_abstention, fit_comparator, fit_temperature
from smallhold.decide.plan import Field
from smallhold.decide.signal import RankGauss, SignalSpec
from smallhold.decide.task import Task
from smallhold.errors import DataError
from smallhold.evaluate.metrics import event1, event1_best
from smallhold.evaluate.predict import Predictions

TASK = Task(
    name="t",
    sector="hospital",
    question="?",
    fields=(Field(name="died", choices=("no", "yes"), positive="yes"),),
    signal=SignalSpec(("HR",), (RankGauss((0.0,), (0.0,)),), 60, ()),
    num_bins=48,
    horizons=(6, 48),
    encoder="e",
    baseline=None,
    comparators={},
    condition="c",
)


def logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_the_temperature_that_made_the_outcomes_is_found(true: float) -> None:
    rng = np.random.default_rng(0)
    margin = rng.normal(size=40_000) * 3
    outcome = rng.random(40_000) < logistic(margin / true)
    assert fit_temperature(margin, outcome) == pytest.approx(true, rel=0.05)


def test_no_temperature_on_a_grid_is_more_likely() -> None:
    rng = np.random.default_rng(1)
    margin = rng.normal(size=300) * 2
    outcome = rng.random(300) < logistic(margin / 1.7)

    def loss(temperature: float) -> float:
        return float(np.mean(np.logaddexp(0, margin / temperature) - outcome * margin / temperature))

    best = loss(fit_temperature(margin, outcome))
    assert all(best <= loss(temperature) + 1e-9 for temperature in np.geomspace(0.05, 20, 400))


def test_abstention_by_hand() -> None:
    probability = np.array([0.95, 0.9, 0.8, 0.7, 0.6, 0.55])
    outcome = np.array([True, True, True, False, True, False])  # wrong at .7 and at .55
    # All six: 2/6 wrong. Five: 1/5. Four: 1/4. Three: none.
    assert fit_abstention(probability, outcome, 0.2) == (0.6, 5 / 6, 0.2)
    threshold, coverage, error = fit_abstention(probability, outcome, 0.1)
    assert (threshold, coverage, error) == (0.8, 0.5, 0.0)
    assert fit_abstention(probability, outcome, 0.4) == (0.0, 1.0, 2 / 6)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(st.sampled_from([0.05, 0.2, 0.4, 0.5, 0.6, 0.93]), st.booleans()), min_size=2, max_size=40),
    st.sampled_from([0.05, 0.2, 0.5]),
)
def test_the_threshold_gives_what_it_says(rows: list[tuple[float, bool]], max_error: float) -> None:
    probability, outcome = np.array([p for p, _ in rows]), np.array([y for _, y in rows])
    threshold, coverage, error = fit_abstention(probability, outcome, max_error)
    confidence = np.maximum(probability, 1 - probability)
    given_answers = confidence >= threshold
    assert coverage == pytest.approx(given_answers.mean())
    assert coverage >= 0.5
    assert error == pytest.approx((((probability >= 0.5) != outcome)[given_answers]).mean())
    lower = [c for c in np.unique(confidence) if c < threshold]  # any lower threshold answers wrongly too often
    if error <= max_error:
        assert all((((probability >= 0.5) != outcome)[confidence >= c]).mean() > max_error for c in lower)


def test_a_comparator_recovers_the_line_behind_the_outcomes() -> None:
    rng = np.random.default_rng(2)
    number = rng.normal(size=30_000) * 4
    outcome = rng.random(30_000) < logistic(0.5 * number - 1)
    fitted = fit_comparator(number, outcome)
    assert (fitted.scale, fitted.offset) == pytest.approx((0.5, -1.0), abs=0.05)
    assert 0 < fitted.threshold < 1


def predictions(died: np.ndarray) -> Predictions:
    rng = np.random.default_rng(3)
    margin = np.where(died[:, None], 2.0, -2.0) + rng.normal(size=(len(died), 2))
    saps = np.stack([np.full(len(died), np.nan), rng.normal(size=len(died))], axis=1)
    return Predictions(died, (6, 48), {"shipped": margin, "saps1": saps})


def test_everything_is_fitted_and_a_number_that_does_not_apply_is_left_out() -> None:
    died = np.arange(200) % 4 == 0
    fitted = calibrate(TASK, predictions(died), max_error=0.1)
    assert fitted.task.fields[0].temperature != 1.0
    assert 0 < fitted.task.fields[0].alert_threshold < 1
    # The shipped model is read by its field alone, as at the bed.
    assert {name: set(hours) for name, hours in fitted.task.comparators.items()} == {"saps1": {"48"}}
    assert fitted.is_feasible
    assert Task.from_bytes(fitted.task.to_bytes()) == fitted.task


def test_the_answer_that_a_threshold_was_read_from_still_alerts() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        died = rng.random(300) < 0.2
        numbers = Predictions(died, (6,), {"shipped": np.where(died, 0.5, -0.5)[:, None] + rng.normal(size=(300, 1))})
        field = calibrate(TASK, numbers, max_error=0.1).task.fields[0]
        p = 1 / (1 + np.exp(-numbers.numbers["shipped"][:, 0] / field.temperature))
        assert event1(died, p >= field.alert_threshold) == pytest.approx(event1_best(died, p), abs=1e-12)


def test_an_error_that_cannot_be_reached_is_said() -> None:
    died = np.random.default_rng(4).random(400) < 0.5
    coin = Predictions(died, (6, 48), {"shipped": np.random.default_rng(5).normal(size=(400, 2))})
    fitted = calibrate(TASK, coin, max_error=0.01)
    assert not fitted.is_feasible
    assert fitted.coverage >= 0.5


@pytest.mark.parametrize("deaths", [0, 9, 191])
def test_too_few_patients_of_an_outcome_are_refused(deaths: int) -> None:
    died = np.arange(200) < deaths
    with pytest.raises(DataError, match=f"expected at least 10 patients of either outcome, got {deaths} who died and"):
        calibrate(TASK, predictions(died), max_error=0.1)
