from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smallhold.decide.conformal import Conformal, Group
from smallhold.decide.plan import (
    ABSTAINED,
    Field,
    FieldPlan,
    answer_field,
    calibrate_logits,
    choose,
    plan_field,
    validate_answer,
)
from smallhold.errors import DecisionError, RecipeError

YES_NO = Field(name="died", choices=("no", "yes"), positive="yes")
PROMISE_OF_TWO = Conformal(alpha=0.1, is_by_choice=True, groups=(Group(name="", least=(0.5, 0.1), counts=(50, 20)),))


def letters(text: str) -> list[int]:
    return list(text.encode())


def test_choices_that_differ_at_once_need_no_forced_token() -> None:
    plan = plan_field(YES_NO, letters)
    assert plan == FieldPlan((), (ord("n"), ord("y")))
    assert plan.at == -1


def test_a_common_beginning_is_forced_and_the_first_difference_decides() -> None:
    field = Field(name="level", choices=("risk low", "risk high", "risk medium"), positive="risk high")
    plan = plan_field(field, letters)
    assert bytes(plan.forced) == b"risk "
    assert bytes(plan.deciding) == b"lhm"
    assert plan.at == 4


@pytest.mark.parametrize(
    "choices",
    [
        ("high", "higher"),  # one is the beginning of the other
        ("ab", "ac", "ba"),  # two of three share the deciding token
        ("", "yes"),
    ],
)
def test_choices_that_one_token_cannot_tell_apart_are_refused(choices: tuple[str, ...]) -> None:
    field = Field(name="level", choices=choices, positive=choices[0])
    with pytest.raises(RecipeError, match="cannot be told apart by one token"):
        plan_field(field, letters)


@settings(deadline=None)
@given(
    shared=st.lists(st.integers(0, 5), max_size=4),
    firsts=st.lists(st.integers(6, 40), min_size=2, max_size=5, unique=True),
)
def test_forced_and_deciding_tokens_spell_every_choice(shared: list[int], firsts: list[int]) -> None:
    spelled = {str(first): [*shared, first, 7] for first in firsts}
    field = Field(name="f", choices=tuple(spelled), positive=str(firsts[0]))
    plan = plan_field(field, spelled.__getitem__)
    for choice, token in zip(field.choices, plan.deciding, strict=True):
        assert [*plan.forced, token, 7] == spelled[choice]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"choices": ("yes",)}, "at least two different choices"),
        ({"choices": ("yes", "yes")}, "at least two different choices"),
        ({"positive": "maybe"}, "positive 'maybe' is not one of"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"temperature": math.nan}, "temperature must be positive"),
        ({"temperature": math.inf}, "temperature must be positive"),
        ({"abstain_below": 1.5}, "thresholds in"),
        ({"alert_threshold": -0.1}, "thresholds in"),
        ({"bias": (0.0,)}, "bias: expected 2 finite numbers"),
        ({"bias": (0.0, math.nan)}, "bias: expected 2 finite numbers"),
        ({"knots": ((0.0, 0.0),)}, "two or more finite, rising pairs"),
        ({"knots": ((0.0, 0.0), (0.0, 1.0))}, "two or more finite, rising pairs"),
        ({"knots": ((0.0, 1.0), (1.0, 0.0))}, "two or more finite, rising pairs"),
        ({"knots": ((0.0, 1.0), (1.0, math.inf))}, "two or more finite, rising pairs"),
        ({"choices": ("no", "yes", "so"), "knots": ((0.0, 0.0), (1.0, 1.0))}, "got 3 choices"),
        ({"choices": ("no", "yes", "so"), "conformal": PROMISE_OF_TWO}, "conformal: expected 3 thresholds"),
    ],
)
def test_a_field_that_could_not_be_decided_is_refused(members: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Field(**{"name": "died", "choices": ("no", "yes"), "positive": "yes", **members})


def test_the_answer_by_hand() -> None:
    answer = answer_field(YES_NO, np.array([0.0, math.log(3)]))
    assert answer.choice == "yes"
    assert answer.probabilities == pytest.approx({"no": 0.25, "yes": 0.75})
    cooler = Field(name="died", choices=("no", "yes"), positive="yes", temperature=2.0)
    assert answer_field(cooler, np.array([0.0, math.log(9)])).probabilities["yes"] == pytest.approx(0.75)


def test_bias_and_knots_by_hand() -> None:
    biased = Field(name="died", choices=("no", "yes"), positive="yes", temperature=2.0, bias=(0.0, math.log(3)))
    assert answer_field(biased, np.array([0.0, 0.0])).probabilities["yes"] == pytest.approx(0.75)
    knots = ((-1.0, 0.0), (1.0, math.log(3)))
    for choices, sign in ((("no", "yes"), 1), (("yes", "no"), -1)):
        bent = Field(name="died", choices=choices, positive="yes", knots=knots)
        for margin, odds in ((-5.0, 1.0), (0.0, math.sqrt(3)), (5.0, 3.0)):
            answer = answer_field(bent, np.array([0.0, sign * margin]))
            assert answer.probabilities["yes"] == pytest.approx(odds / (1 + odds))


def with_promise(no: float, yes: float, alert: float = 1.0) -> Field:
    promise = Conformal(alpha=0.1, is_by_choice=True, groups=(Group(name="", least=(no, yes), counts=(50, 20)),))
    return Field(name="died", choices=("no", "yes"), positive="yes", conformal=promise, alert_threshold=alert)


@pytest.mark.parametrize(
    ("no", "yes", "alert", "risk", "prediction_set", "choice"),
    [
        # Of those who live 90 % are at .3 or below, of those who die 90 % at .1 or above; alerts from .25 on.
        (0.7, 0.1, 0.25, 0.05, ("no",), "no"),
        (0.7, 0.1, 0.25, 0.20, ("no", "yes"), None),
        (0.7, 0.1, 0.25, 0.28, ("no", "yes"), None),  # an alert is due and goes out, marked unsure
        (0.7, 0.1, 0.25, 0.35, ("yes",), "yes"),  # less likely than not, and on the side of the alert
        # The promise would let the model speak on the wrong side of the alert line: it stays silent.
        (0.8, 0.1, 0.30, 0.25, ("yes",), None),
        (0.5, 0.4, 0.30, 0.35, ("no",), None),
        # Better than promised: nothing reaches its threshold, and the most probable choice is kept.
        (0.9, 0.5, 0.30, 0.20, ("no",), "no"),
        # No alert was fitted: the promise alone decides.
        (0.8, 0.1, 1.00, 0.25, ("yes",), "yes"),
    ],
)
def test_what_each_prediction_set_means(
    no: float, yes: float, alert: float, risk: float, prediction_set: tuple[str, ...], choice: str | None
) -> None:
    field = with_promise(no, yes, alert)
    answer = answer_field(field, np.array([0.0, math.log(risk / (1 - risk))]))
    assert (answer.prediction_set, answer.choice, answer.has_abstained) == (prediction_set, choice, choice is None)
    validate_answer(field, answer.probabilities, choice)
    validate_answer(field, answer.probabilities, None)
    for other in {"no", "yes"} - {choice}:
        with pytest.raises(DecisionError, match=f"choice '{other}' is not what the promise allows"):
            validate_answer(field, answer.probabilities, other)


def test_without_a_promise_the_set_is_the_answer_or_everything() -> None:
    field = Field(name="died", choices=("no", "yes"), positive="yes", abstain_below=0.7)
    assert answer_field(field, np.array([0.0, 2.0])).prediction_set == ("yes",)
    assert answer_field(field, np.array([0.0, 0.1])).prediction_set == ("no", "yes")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    logits=st.lists(st.lists(st.floats(-20, 20), min_size=3, max_size=3), min_size=1, max_size=5),
    least=st.lists(st.floats(0, 1), min_size=3, max_size=3),
    alert=st.floats(0, 1),
)
def test_rows_are_chosen_together_as_one_by_one(logits: list, least: list[float], alert: float) -> None:
    promise = Conformal(alpha=0.1, is_by_choice=True, groups=(Group(name="6", least=tuple(least), counts=(9,) * 3),))
    field = Field(name="f", choices=("a", "b", "c"), positive="b", conformal=promise, alert_threshold=alert)
    chosen = choose(field, calibrate_logits(field, np.array(logits)), "6")
    for row, index in zip(logits, chosen, strict=True):
        answer = answer_field(field, np.array(row), "6")
        assert answer.choice == (None if index == ABSTAINED else field.choices[index])
        validate_answer(field, answer.probabilities, answer.choice, "6")
        assert answer.prediction_set
        if answer.choice is not None:
            assert answer.prediction_set == (answer.choice,)


def test_an_answer_at_the_threshold_is_given_and_below_it_withheld() -> None:
    def field(below: float) -> Field:
        return Field(name="died", choices=("no", "yes"), positive="yes", abstain_below=below)

    logits = np.array([0.0, 0.0])  # one half each, exactly
    assert answer_field(field(0.5), logits).choice == "no"
    withheld = answer_field(field(np.nextafter(0.5, 1)), logits)
    assert withheld.has_abstained
    assert withheld.choice is None
    assert sum(withheld.probabilities.values()) == pytest.approx(1)


@settings(deadline=None)
@given(
    logits=st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=6),
    temperature=st.floats(0.05, 20),
    below=st.floats(0, 1),
)
def test_every_answer_passes_its_own_validation(logits: list[float], temperature: float, below: float) -> None:
    choices = tuple(f"c{i}" for i in range(len(logits)))
    field = Field(name="f", choices=choices, positive="c0", temperature=temperature, abstain_below=below)
    answer = answer_field(field, np.array(logits))
    validate_answer(field, answer.probabilities, answer.choice)
    assert answer.has_abstained == (max(answer.probabilities.values()) < below)


@pytest.mark.parametrize("logits", [[0.0, math.nan], [math.inf, 0.0], [0.0], [0.0, 1.0, 2.0]])
def test_logits_that_are_no_answer_are_refused(logits: list[float]) -> None:
    with pytest.raises(DecisionError, match="field died: expected 2 finite logits"):
        answer_field(YES_NO, np.array(logits))


@pytest.mark.parametrize(
    ("probabilities", "choice", "message"),
    [
        ({"no": 1.0}, "no", "expected choices"),
        ({"no": 0.5, "maybe": 0.5}, "no", "expected choices"),
        ({"no": 0.6, "yes": 0.6}, "no", "no distribution"),
        ({"no": -0.1, "yes": 1.1}, "yes", "no distribution"),
        ({"no": math.nan, "yes": 1.0}, "yes", "no distribution"),
        ({"no": 0.9, "yes": 0.1}, "yes", "choice 'yes' is not the most probable one"),
        ({"no": 0.9, "yes": 0.1}, "maybe", "choice 'maybe' is not the most probable one"),
    ],
)
def test_an_answer_outside_the_schema_is_refused(probabilities: dict, choice: str, message: str) -> None:
    with pytest.raises(DecisionError, match=message):
        validate_answer(YES_NO, probabilities, choice)


def test_an_abstention_is_a_valid_answer() -> None:
    validate_answer(YES_NO, {"no": 0.5, "yes": 0.5}, None)
