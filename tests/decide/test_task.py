from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from smallhold.decide.bounded_string import StringField
from smallhold.decide.conformal import Conformal, Group
from smallhold.decide.plan import Field
from smallhold.decide.signal import RankGauss, SignalSpec
from smallhold.decide.task import Comparator, Task, TextDoor
from smallhold.decide.words import WordSpec
from smallhold.errors import RecipeError

TASK = Task(
    name="icu-risk",
    sector="hospital",
    question="Will this patient die before leaving hospital?",
    fields=(Field(name="died", choices=("no", "yes"), positive="yes", temperature=1.25, abstain_below=0.6),),
    signal=SignalSpec(("HR",), (RankGauss((40.0, 80.5), (-1.0, 1.0)),), 60, ("age",)),
    num_bins=48,
    horizons=(6, 48),
    encoder="gguf/icu-risk.encoder.gguf",
    baseline=None,
    comparators={"news2": {"6": Comparator(0.4, -3.0, 0.25)}},
    condition="deterioration",
)


def test_a_task_survives_its_file_and_the_file_is_canonical() -> None:
    data = TASK.to_bytes()
    assert Task.from_bytes(data) == TASK
    assert Task.from_bytes(data).to_bytes() == data
    assert b"\n" not in data
    with_trees = replace(TASK, baseline="baseline/trees.npz")
    assert Task.from_bytes(with_trees.to_bytes()) == with_trees


TEXT_TASK = Task(
    name="triage",
    sector="hospital",
    question="Which condition fits best?",
    fields=(Field(name="condition", choices=("acne", "asthma", "gout"), positive="asthma"),),
    condition="a complaint",
    text=TextDoor(marker="<triage>", max_tokens=200, ngrams="baseline/triage.ngrams.npz", ngram_weight=0.75),
)


def test_a_text_task_survives_its_file_and_holds_nothing_of_a_signal() -> None:
    data = TEXT_TASK.to_bytes()
    assert Task.from_bytes(data) == TEXT_TASK
    assert Task.from_bytes(data).to_bytes() == data
    assert set(json.loads(data)) == {"format", "name", "sector", "question", "fields", "condition", "text"}
    assert "text" not in json.loads(TASK.to_bytes())


def test_strings_survive_the_file_and_have_names_of_their_own() -> None:
    dose = StringField(name="dose", alphabet="0123456789", max_bytes=6, prompt="dose: ")
    task = replace(TEXT_TASK, strings=(dose, replace(dose, name="days")))
    data = task.to_bytes()
    assert Task.from_bytes(data) == task
    assert Task.from_bytes(data).to_bytes() == data
    for strings in ((dose, dose), (replace(dose, name="condition"),)):
        with pytest.raises(RecipeError, match="task triage: strings: expected names of their own"):
            replace(TEXT_TASK, strings=strings)
    with pytest.raises(RecipeError, match="task icu-risk: strings: expected none in a task that reads signals"):
        replace(TASK, strings=(dose,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strings": {}}, "malformed"),
        ({"strings": [{"name": "dose", "max_bytes": 6}]}, "malformed"),
        ({"strings": [{"name": "dose", "max_bytes": 6, "alphabet": "aa"}]}, "different printable ASCII characters"),
        ({"text": {}}, "malformed"),
        ({"text": None}, "malformed"),
        ({"text": {"marker": "", "max_tokens": 9}}, "text door: marker: expected text, got ''"),
        ({"text": {"marker": "<t>", "max_tokens": 0}}, "text door: max_tokens: expected a positive integer, got 0"),
        ({"text": {"marker": "<t>", "max_tokens": 9, "ngrams": 7}}, "text door: ngrams: expected text, got 7"),
        ({"text": {"marker": "<t>", "max_tokens": 9, "trunk_weight": -1}}, "expected two weights of 0 or more"),
        ({"text": {"marker": "<t>", "max_tokens": 9, "trunk_weight": 0}}, "expected two weights of 0 or more"),
        ({"text": {"marker": "<t>", "max_tokens": 9, "trunk_weight": math.nan}}, "expected two weights of 0 or more"),
        ({"text": {"marker": "<t>", "max_tokens": 9, "ngram_weight": 1}}, "needs an n-gram classifier"),
        ({"text": {"marker": "<t>", "max_tokens": 9, "mood": 1}}, "malformed"),
        ({"encoder": "x"}, "a text task has no num_bins, horizons, encoder, baseline, comparators"),
        ({"signal": json.loads(TASK.to_bytes())["signal"]}, "malformed"),
        (
            {"fields": json.loads(TASK.to_bytes())["fields"] * 2},
            "one or more fields with different names|has one field",
        ),
        ({"surprise": 1}, "malformed"),
    ],
)
def test_a_text_task_file_that_is_not_as_documented_is_refused(change: dict, message: str) -> None:
    value = {**json.loads(TEXT_TASK.to_bytes()), **change}
    with pytest.raises(RecipeError, match=message):
        Task.from_bytes(json.dumps(value).encode())


def test_a_task_has_exactly_one_door() -> None:
    with pytest.raises(RecipeError, match="task icu-risk: expected exactly one door, signal or text"):
        replace(TASK, text=TEXT_TASK.text)
    with pytest.raises(RecipeError, match="task triage: expected exactly one door, signal or text"):
        replace(TEXT_TASK, text=None)


def test_fields_are_found_by_name() -> None:
    assert TASK.field("died") is TASK.fields[0]
    with pytest.raises(RecipeError, match="task icu-risk: no field 'lived', only died"):
        TASK.field("lived")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "smallhold.task/2"}, "expected format smallhold.task/1"),
        ({"surprise": 1}, "malformed"),
        ({"name": 7}, "name: expected text, got 7"),
        ({"baseline": 7}, "baseline: expected text, got 7"),
        ({"num_bins": "48"}, "num_bins: expected a positive integer, got '48'"),
        ({"num_bins": 0}, "num_bins: expected a positive integer, got 0"),
        ({"horizons": [49]}, r"horizons: expected integers in \[1, 48\], got \[49\]"),
        ({"horizons": ["6"]}, "horizons: expected integers"),
        ({"horizons": "6"}, "expected a list, got '6'"),
        ({"fields": []}, "expected one or more fields with different names"),
        ({"fields": None}, "expected a list"),
        ({"fields": [{"name": "died", "choices": "no", "positive": "n"}]}, "expected a list, got 'no'"),
        ({"fields": [{"name": "died", "choices": ["no", "yes"], "positive": "yes", "mood": 1}]}, "malformed"),
        ({"fields": [{"name": "died", "choices": ["no", "yes"], "positive": "yes", "temperature": "1"}]}, "malformed"),
        ({"comparators": {"news2": {"6": {"scale": 1}}}}, "malformed"),
        (
            {"comparators": {"news2": {"6": {"scale": math.inf, "offset": 0, "threshold": 0}}}},
            "expected finite numbers",
        ),
        ({"signal": {}}, "malformed"),
    ],
)
def test_a_task_file_that_is_not_as_documented_is_refused(change: dict, message: str) -> None:
    value = {**json.loads(TASK.to_bytes()), **change}
    with pytest.raises(RecipeError, match=message):
        Task.from_bytes(json.dumps(value).encode())


@pytest.mark.parametrize("name", sorted(json.loads(TASK.to_bytes())))
def test_a_task_file_without_one_of_its_members_is_refused(name: str) -> None:
    value = json.loads(TASK.to_bytes())
    del value[name]
    with pytest.raises(RecipeError, match="task file"):
        Task.from_bytes(json.dumps(value).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"7", b"{", b"\xff\xfe", b"[" * 100_000, TASK.to_bytes()[:-40]])
def test_bytes_that_are_no_task_file_are_refused(data: bytes) -> None:
    with pytest.raises(RecipeError, match="task file: malformed"):
        Task.from_bytes(data)


def test_a_task_in_words_has_fields_of_its_own_or_those_of_the_signal_door_without_their_promise() -> None:
    promise = Conformal(alpha=0.1, is_by_choice=True, groups=(Group(name="6", least=(0.7, 0.1), counts=(90, 10)),))
    fitted = replace(TASK.fields[0], conformal=promise)
    spoken = replace(TASK, words=WordSpec(("HR",), ("age",)), fields=(fitted,))
    assert "word_fields" not in json.loads(spoken.to_bytes())  # as files were before
    assert spoken.fields_in_words == TASK.fields
    own = replace(fitted, temperature=0.7, alert_threshold=0.4)
    both = replace(spoken, word_fields=(own,))
    assert both.fields_in_words == (own,)
    assert Task.from_bytes(both.to_bytes()) == both
    assert Task.from_bytes(both.to_bytes()).to_bytes() == both.to_bytes()


def test_fields_in_words_that_answer_something_else_are_refused() -> None:
    spoken, field = replace(TASK, words=WordSpec(("HR",), ("age",))), TASK.fields[0]
    wrong = (replace(field, name="lived"), replace(field, choices=("yes", "no")), replace(field, positive="no"))
    for items in ((wrong[0],), (wrong[1],), (wrong[2],), (field, replace(field, name="second"))):
        with pytest.raises(RecipeError, match="word_fields: expected `words`, and the choices of `fields` again"):
            replace(spoken, word_fields=items)
    with pytest.raises(RecipeError, match="word_fields: expected `words`"):
        replace(TASK, word_fields=(field,))
    with pytest.raises(RecipeError, match="a text task has no"):
        replace(TEXT_TASK, word_fields=TEXT_TASK.fields)
    value = json.loads(replace(spoken, word_fields=(field,)).to_bytes())
    for broken in ("x", {}, [{}], [1]):
        with pytest.raises(RecipeError, match="malformed"):
            Task.from_bytes(json.dumps({**value, "word_fields": broken}).encode())


def test_task_files_of_before_are_read_and_nothing_is_added_to_them() -> None:
    files = sorted((Path(__file__).resolve().parents[2]).glob("conformance/*/bundle/tasks/*.json"))
    assert files
    for file in files:
        task = Task.from_bytes(file.read_bytes())
        assert "word_fields" not in json.loads(task.to_bytes())
        assert task.fields_in_words == tuple(replace(item, conformal=None) for item in task.fields)
