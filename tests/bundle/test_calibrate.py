from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="calibration needs scikit-learn, the extra 'train'")

from smallhold.bundle.calibrate import calibrate, calibrate_field, calibrate_margins, fit_comparator, summarize
from smallhold.bundle.calibration_map import fit_isotonic
from smallhold.decide.plan import ABSTAINED, Field, answer_field, calibrate_logits, choose, validate_answer
from smallhold.decide.signal import RankGauss, SignalSpec
from smallhold.decide.task import Task
from smallhold.decide.words import WordSpec
from smallhold.errors import DataError, InputError
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


YES_NO = TASK.fields[0]


def rows_of(margin: np.ndarray) -> np.ndarray:
    return np.stack([np.zeros_like(margin), margin], axis=-1)


def exchangeable(rng: np.random.Generator, n: int, choices: int = 3) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.integers(0, choices, n)
    return 1.5 * np.eye(choices)[labels] + rng.normal(size=(n, choices)), labels


def test_a_field_of_many_choices_keeps_its_promise_on_new_rows() -> None:
    field = Field(name="f", choices=("a", "b", "c"), positive="a")
    for is_by_choice in (None, True):
        covered, wrong = [], []
        for seed in range(8):
            rng = np.random.default_rng(seed)
            fitted = calibrate_field(field, *exchangeable(rng, 300), alpha=0.1, is_by_choice=is_by_choice)
            seen = summarize(fitted, *exchangeable(rng, 600))
            covered.append([item.coverage for item in seen.kept])
            wrong.append(seen.error * seen.coverage)
        assert fitted.conformal is not None
        assert fitted.conformal.is_by_choice is bool(is_by_choice)
        assert fitted.alert_threshold == 1.0  # nobody asked for an alert about one of three
        assert (np.mean(covered, axis=0) >= 0.86).all()  # two standard errors below 0.9
        assert np.mean(wrong) <= 0.1


def test_choices_too_rare_for_the_promise_are_named_and_never_excluded() -> None:
    field = Field(name="f", choices=("a", "b", "c"), positive="a")
    logits, labels = exchangeable(np.random.default_rng(0), 200)
    few = (labels != 2) | (np.cumsum(labels == 2) <= 5)
    fitted = calibrate_field(field, logits[few], labels[few], alpha=0.05, is_by_choice=True)
    seen = summarize(fitted, logits[few], labels[few])
    assert not seen.is_feasible
    assert any("smallest of its groups has 5 and can promise 0.833 at most" in line for line in seen.lines())
    assert any(
        line == "not feasible: 0.95 needs 19 of each; a choice with fewer is never excluded" for line in seen.lines()
    )
    p = np.array([[0.98, 0.01, 0.01]])
    assert fitted.conformal is not None
    assert fitted.conformal.sets(p)[0, 2]
    assert choose(fitted, p) == ABSTAINED


def test_a_calibrated_field_survives_the_task_file() -> None:
    rng = np.random.default_rng(5)
    labels = (rng.random(400) < 0.3).astype(int)
    groups = np.where(rng.random(400) < 0.5, "6", "24")
    bent = np.where(rng.random(400) < 0.5, 1.0, 3.0) * (2 * labels - 1) + rng.normal(size=400)
    field = calibrate_field(YES_NO, rows_of(bent), labels, alpha=0.1, groups=groups)
    with_knots = fit_isotonic(field, rows_of(bent), labels)
    assert with_knots.knots
    for item in (field, with_knots):
        task = replace(TASK, fields=(item,))
        assert Task.from_bytes(task.to_bytes()) == task
    value = json.loads(TASK.to_bytes())
    for member in ("bias", "knots", "conformal"):  # a file of before
        del value["fields"][0][member]
    assert Task.from_bytes(json.dumps(value).encode()) == TASK


def test_rows_that_cannot_be_calibrated_are_refused() -> None:
    with pytest.raises(DataError, match="two or more different labels"):
        calibrate_field(YES_NO, np.zeros((30, 2)), np.zeros(30, int), alpha=0.1)
    with pytest.raises(InputError, match=r"expected finite logits \(30, 2\), got \(30, 3\)"):
        calibrate_field(YES_NO, np.zeros((30, 3)), np.arange(30) % 2, alpha=0.1)


def test_an_answer_never_contradicts_the_alert_and_no_alert_is_lost() -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        labels = (rng.random(500) < 0.14).astype(int)
        logits = rows_of(1.5 * labels - 2 + rng.normal(size=500))
        for alpha in (0.02, 0.3):
            field = calibrate_field(YES_NO, logits, labels, alpha=alpha)
            answers = [answer_field(field, row) for row in logits]
            for answer in answers:
                is_due = answer.probabilities["yes"] >= field.alert_threshold
                assert answer.choice in (("yes", None) if is_due else ("no", None))
                assert answer.choice is None or answer.prediction_set == (answer.choice,)
                validate_answer(field, answer.probabilities, answer.choice)


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
    promise = fitted.task.fields[0].conformal
    assert promise is not None
    assert [(group.name, group.counts) for group in promise.groups] == [("6", (150, 50)), ("48", (150, 50))]
    assert all(item.coverage >= 0.9 for item in fitted.summary.kept)  # on the rows it was fitted on, by construction
    assert 0 < fitted.task.fields[0].alert_threshold < 1
    # The shipped model is read by its field alone, as at the bed.
    assert {name: set(hours) for name, hours in fitted.task.comparators.items()} == {"saps1": {"48"}}
    assert fitted.is_feasible
    assert Task.from_bytes(fitted.task.to_bytes()) == fitted.task


def test_the_answer_that_a_threshold_was_read_from_still_alerts() -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        died = rng.random(300) < 0.2
        numbers = Predictions(died, (6,), {"shipped": np.where(died, 0.5, -0.5)[:, None] + rng.normal(size=(300, 1))})
        field = calibrate(TASK, numbers, max_error=0.1).task.fields[0]
        p = calibrate_logits(field, rows_of(numbers.numbers["shipped"][:, 0]))[:, 1]
        assert event1(died, p >= field.alert_threshold) == pytest.approx(event1_best(died, p), abs=1e-12)


def test_a_promise_that_cannot_be_made_is_said_and_the_rare_choice_is_never_excluded() -> None:
    died = np.arange(200) % 4 == 0
    fitted = calibrate(TASK, predictions(died), max_error=0.01)  # 50 deaths can promise 1 - 1 / 51
    assert not fitted.is_feasible
    # Nobody is told that they will live; of the others, some are told that they will die.
    died_said = {item.choice: item.answered for item in fitted.summary.kept if item.group == "48"}
    assert all(item.wrong == 0 for item in fitted.summary.kept if item.choice == 1)
    assert died_said[0] <= 0.01 < died_said[1]
    assert any("has 50 and can promise 0.980 at most" in line for line in fitted.summary.lines())


def test_a_coin_is_silent_but_keeps_its_promise() -> None:
    died = np.random.default_rng(4).random(2000) < 0.5
    coin = Predictions(died, (6, 48), {"shipped": np.random.default_rng(5).normal(size=(2000, 2))})
    fitted = calibrate(TASK, coin, max_error=0.1)
    assert fitted.is_feasible
    assert fitted.coverage < 0.25
    assert any(
        "would be wrong: a rule with 10.0% wrong answers abstains on 4" in line for line in fitted.summary.lines()
    )
    assert all(item.wrong <= 0.1 for item in fitted.summary.kept)


@pytest.mark.parametrize("deaths", [0, 9, 191])
def test_too_few_patients_of_an_outcome_are_refused(deaths: int) -> None:
    died = np.arange(200) < deaths
    with pytest.raises(DataError, match=f"expected at least 10 patients of either outcome, got {deaths} who died and"):
        calibrate(TASK, predictions(died), max_error=0.1)


def test_observation_words_get_a_field_of_their_own() -> None:
    died = np.arange(200) % 4 == 0
    said = predictions(died)
    in_words = 0.4 * said.numbers["shipped"] - 0.5
    task = replace(TASK, words=WordSpec(("HR",), ()))
    fitted = calibrate(task, replace(said, numbers={**said.numbers, "words": in_words}), max_error=0.1).task
    plain = calibrate(TASK, said, max_error=0.1).task
    assert fitted.word_fields == (calibrate_margins(TASK.fields[0], in_words, died, (6, 48), alpha=0.1),)
    assert fitted.word_fields[0].temperature != fitted.fields[0].temperature
    # The signal door is fitted as if there were no words, and neither is a comparator.
    assert (fitted.fields, fitted.comparators) == (plain.fields, plain.comparators)
    assert plain.word_fields == ()
    assert Task.from_bytes(fitted.to_bytes()) == fitted
    # A model that never learnt words loses what an earlier one had.
    assert calibrate(replace(fitted, word_fields=fitted.fields), said, max_error=0.1).task.word_fields == ()
