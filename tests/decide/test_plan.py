from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smallhold.decide.conformal import Conformal, Group
from smallhold.decide.plan import (
    ABSTAINED,
    MOST_BRANCHES,
    Branch,
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


END = 256


def plan_of(*choices: str, end: int | None = END) -> FieldPlan:
    return plan_field(Field(name="level", choices=choices, positive=choices[0]), letters, end)


class Guesser:
    """A session whose logits are drawn by the tokens before, and which counts what it is asked."""

    def __init__(self, scale: float = 3.0) -> None:
        self.scale, self.passes = scale, 0

    def row(self, before: Sequence[int]) -> np.ndarray:
        return np.random.default_rng([7, *before]).normal(scale=self.scale, size=END + 1).astype(np.float32)

    def score(self, inputs: Sequence[int], at: Sequence[int], rows: Sequence[int]) -> np.ndarray:
        self.passes += 1
        return np.stack([self.row(inputs[: index + 1])[list(rows)] for index in at])


def brute_force(told: list[list[int]], session: Guesser) -> np.ndarray:
    """Each choice on its own, token by token, among the tokens by which any choice goes on."""
    found = []
    for ids in told:
        total = 0.0
        for depth in range(len(ids)):
            allowed = {other[depth] for other in told if other[:depth] == ids[:depth] and len(other) > depth}
            row = session.row(ids[:depth]).astype(np.float64)
            total += math.log(math.exp(row[ids[depth]]) / sum(math.exp(row[token]) for token in allowed))
        found.append(total)
    return np.array(found)


def test_choices_that_differ_at_once_need_no_forced_token() -> None:
    plan = plan_field(YES_NO, letters)
    assert plan == FieldPlan(((Branch((), (ord("n"), ord("y")), (0, 1), (0, 1)),),))
    assert (plan.forced, plan.deciding, plan.longest, plan.is_direct) == ((), (ord("n"), ord("y")), 0, True)


def test_a_common_beginning_is_forced_and_the_first_difference_decides() -> None:
    plan = plan_of("risk low", "risk high", "risk medium", end=None)
    assert bytes(plan.forced) == b"risk "
    assert bytes(plan.deciding) == b"lhm"
    assert (plan.longest, plan.num_branches, plan.is_direct) == (5, 1, False)


def test_of_one_branch_the_raw_logits_are_handed_on() -> None:
    for plan in (plan_field(YES_NO, letters), plan_of("risk low", "risk high")):
        session = Guesser()
        expected = session.row(plan.forced)[list(plan.deciding)]
        np.testing.assert_array_equal(plan.logits(session), expected)  # type: ignore[arg-type]
        assert session.passes == 1


def test_where_choices_part_twice_both_places_are_read_in_one_pass() -> None:
    plan = plan_of("ab", "ac", "ba")
    assert plan.passes == (
        (Branch((), tuple(b"ab"), (0, 1, 2), (0, 0, 1)), Branch(tuple(b"a"), tuple(b"bc"), (0, 1), (0, 1))),
    )
    session = Guesser()
    at_once, behind = session.row([]), session.row([97])
    a, b = math.exp(at_once[97]), math.exp(at_once[98])
    ab, ac = math.exp(behind[98]), math.exp(behind[99])
    expected = [a / (a + b) * ab / (ab + ac), a / (a + b) * ac / (ab + ac), b / (a + b)]
    np.testing.assert_allclose(np.exp(plan.logits(session)), expected, rtol=1e-6)  # type: ignore[arg-type]
    assert session.passes == 1
    with pytest.raises(RecipeError, match="expected choices that part at one place, got 2 places"):
        _ = plan.deciding


def test_a_choice_that_begins_another_ends_by_the_end_mark() -> None:
    plan = plan_of("high", "higher", "low")
    assert plan.passes[0][1] == Branch(tuple(b"high"), (END, ord("e")), (0, 1), (0, 1))
    assert plan_of("", "yes").deciding == (END, ord("y"))


@pytest.mark.parametrize(
    ("spelled", "end", "message"),
    [
        ([[1, 2], [1, 2, 3]], None, "the choice '0' is the beginning of '1', and the tokenizer has no mark by which"),
        ([[1, 2], [3], [1, 2]], 9, "the tokenizer spells '0' and '2' alike; rename one"),
        ([[1], [1, 9, 3]], 9, "'0' and '1' cannot be told apart: the end mark is part of one"),
        ([[1], [1, 9]], 9, "'0' and '1' cannot be told apart: the end mark is part of one"),
    ],
)
def test_choices_that_cannot_be_told_apart_are_refused(spelled: list[list[int]], end: int | None, message: str) -> None:
    choices = tuple(str(i) for i in range(len(spelled)))
    field = Field(name="level", choices=choices, positive="0")
    with pytest.raises(RecipeError, match=f"field level: .*{message}"):
        plan_field(field, lambda choice: spelled[int(choice)], end)


def test_choices_may_part_at_so_many_places_and_no_more() -> None:
    choices = [f"{i:013b}" for i in range(MOST_BRANCHES + 2)]
    assert plan_of(*choices[:-1]).num_branches == MOST_BRANCHES
    with pytest.raises(RecipeError, match="part at 4096 places at most, got more in 4098 choices"):
        plan_of(*choices)


def test_a_runtime_that_has_failed_gives_no_answer() -> None:
    field = Field(name="level", choices=("ab", "ac", "ba"), positive="ba")
    with pytest.raises(DecisionError, match="expected 3 finite logits"):
        answer_field(field, plan_field(field, letters).logits(Guesser(math.inf)))  # type: ignore[arg-type]


@settings(deadline=None)
@given(spelled=st.lists(st.lists(st.integers(0, 3), max_size=6).map(tuple), min_size=2, max_size=40, unique=True))
def test_any_choices_are_weighed_as_one_by_one(spelled: list[tuple[int, ...]]) -> None:
    field = Field(name="f", choices=tuple(map(str, spelled)), positive=str(spelled[0]))
    plan = plan_field(field, dict(zip(field.choices, spelled, strict=True)).__getitem__, END)
    session = Guesser()
    logits = plan.logits(session)  # type: ignore[arg-type]
    assert session.passes == len(plan.passes) <= plan.num_branches < len(spelled)
    begins = [any(other != ids and other[: len(ids)] == ids for other in spelled) for ids in spelled]
    told = [[*ids, END] if is_begun else list(ids) for ids, is_begun in zip(spelled, begins, strict=True)]
    expected = brute_force(told, session)
    if plan.num_branches == 1:
        logits = logits - np.logaddexp.reduce(logits)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    assert calibrate_logits(field, logits) == pytest.approx(np.exp(expected), abs=1e-6)
    assert np.exp(expected).sum() == pytest.approx(1)
    for along in plan.passes:
        for branch, deeper in pairwise(along):
            assert deeper.path[: len(branch.path)] == branch.path


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
