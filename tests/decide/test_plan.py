from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallhold.decide.plan import Field, FieldPlan, answer_field, plan_field, validate_answer
from smallhold.errors import DecisionError, RecipeError

YES_NO = Field(name="died", choices=("no", "yes"), positive="yes")


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
