from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from smallhold.decide.plan import Field
from smallhold.decide.signal import RankGauss, SignalSpec
from smallhold.decide.task import Comparator, Task
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
