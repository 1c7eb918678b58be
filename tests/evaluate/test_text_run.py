"""A text task on a real bundle of random weights: rows, baselines, promise, and the command line."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smallhold.decide.local import open_bundle
from smallhold.errors import DataError, InputError
from smallhold.evaluate.report import render_report
from smallhold.evaluate.tables import format_table
from smallhold.evaluate.text_quality import (
    Answers,
    Texts,
    class_rows,
    language_rows,
    read_answers,
    texts_of,
    top_confusions,
)
from smallhold.evaluate.text_run import TextRequest, evaluate_text
from smallhold.sectors.splits import Split, split_of


def silent(caption: str, done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def local(text_bundle: Any) -> Any:
    return open_bundle(text_bundle.path, trusted_keys=text_bundle.trusted_keys).text_task("triage")


@pytest.fixture(scope="module")
def request_of(complaints: list[Any]) -> Any:
    def make(**changes: Any) -> TextRequest:
        request = TextRequest(
            examples=complaints[60:], training=complaints[:60], split="test", seed=0, num_resamples=50,
            measure_device=False, command="smallhold evaluate",
        )  # fmt: skip
        return replace(request, **changes)

    return make


@pytest.fixture(scope="module")
def result(local: Any, request_of: Any) -> Any:
    return evaluate_text(local, request_of(measure_device=True), progress=silent)


def test_every_model_has_a_row_and_calibrated_ones_a_likelihood(result: Any) -> None:
    rows = {row["model"]: row for row in result["rows"]}
    assert set(rows) == {"majority", "tfidf", "ngrams", "trunk", "shipped"}
    for model, row in rows.items():
        assert row["n"] == 60
        assert 0 <= row["accuracy"]["low"] <= row["accuracy"]["value"] <= row["accuracy"]["high"] <= 1
        assert ("nll" in row) is (model in ("tfidf", "shipped")) is ("ece_noise" in row)
        assert ("coverage" in row) is (model == "shipped")
    # Words that give the answer away: both readers of words find them, the commonest label does not.
    assert min(rows[model]["accuracy"]["value"] for model in ("tfidf", "ngrams", "shipped")) > 0.75
    assert rows["majority"]["accuracy"]["value"] < 0.5


def test_each_path_is_asked_once(local: Any, request_of: Any) -> None:
    said: list[tuple[str, int, int]] = []
    evaluate_text(local, request_of(), progress=lambda *what: said.append(what))
    assert [caption for caption, done, total in said if done == total == 60] == ["texts, ngrams", "texts, trunk"]


def test_the_shipped_row_is_what_the_device_answers(local: Any, result: Any, complaints: list[Any]) -> None:
    # Slow twin: one text at a time, as on a device.
    answers = [local.decide(item.text).answers["condition"] for item in complaints[60:]]
    truth = [item.label for item in complaints[60:]]
    (row,) = [row for row in result["rows"] if row["model"] == "shipped"]
    best = [max(answer.probabilities, key=answer.probabilities.get) for answer in answers]
    assert row["accuracy"]["value"] == pytest.approx(np.mean([a == b for a, b in zip(best, truth, strict=True)]))
    surprise = [-np.log(answer.probabilities[label]) for answer, label in zip(answers, truth, strict=True)]
    assert row["nll"]["value"] == pytest.approx(np.mean(surprise), rel=1e-4)
    assert row["coverage"]["value"] == pytest.approx(np.mean([not answer.has_abstained for answer in answers]))


def test_the_majority_is_that_of_the_training_texts(result: Any, complaints: list[Any]) -> None:
    commonest = Counter(item.label for item in complaints[:60]).most_common(1)[0][0]
    (row,) = [row for row in result["rows"] if row["model"] == "majority"]
    assert row["accuracy"]["value"] == pytest.approx(np.mean([item.label == commonest for item in complaints[60:]]))


def test_differences_promise_and_cost_are_there(result: Any) -> None:
    assert [item["models"][1] for item in result["differences"]] == ["tfidf", "majority", "ngrams", "trunk"]
    assert all({"accuracy", "macro_f1"} <= item.keys() for item in result["differences"])
    assert sum(row["n"] for row in result["promise"]["rows"]) == 60
    assert result["cold_start_s"] > 0 and result["latency"]["append_decide_ms"]["n"] == 60
    assert "patient_bytes" not in result


def test_a_page_and_a_table_are_made_of_it(result: Any) -> None:
    pytest.importorskip("matplotlib", reason="the report's pictures need matplotlib, the extra 'report'")
    page, table = render_report(result), format_table(result)
    assert "TF-IDF" in page.split("</h1>")[0] and "patients" not in page.split("<main>")[1].split("</main>")[0]
    assert table.splitlines()[2].startswith("triage: 60 texts, made_up")
    assert max(map(len, table.splitlines())) <= 100


def test_without_training_texts_nothing_simple_is_compared_and_it_says_so(local: Any, request_of: Any) -> None:
    result = evaluate_text(local, request_of(training=[]), progress=silent)
    assert {row["model"] for row in result["rows"]} == {"ngrams", "trunk", "shipped"}
    assert "--train-data" in result["remarks"][0]
    assert "not compared with TF-IDF" in format_table(result)


def test_another_bundle_answers_the_same_texts(local: Any, request_of: Any) -> None:
    result = evaluate_text(local, request_of(besides={"its twin": local}), progress=silent)
    rows = {row["model"]: row for row in result["rows"]}
    assert {**rows["its twin"], "model": "shipped"} == rows["shipped"]
    with pytest.raises(InputError, match="taken by the TF-IDF"):
        evaluate_text(local, request_of(besides={"tfidf": local}), progress=silent)


def test_labels_that_the_bundle_does_not_know_are_refused(local: Any, request_of: Any, complaints: list[Any]) -> None:
    with pytest.raises(DataError, match="expected the 3 choices of the bundle's task, got gout as well"):
        evaluate_text(local, request_of(examples=[replace(complaints[0], label="gout")]), progress=silent)
    with pytest.raises(DataError, match="no texts to evaluate"):
        evaluate_text(local, request_of(examples=[]), progress=silent)


def test_languages_are_told_apart_and_a_rare_one_says_nothing(local: Any, complaints: list[Any]) -> None:
    examples = [replace(item, language="ru" if i < 4 else "en") for i, item in enumerate(complaints[60:])]
    texts = texts_of(examples, local.field.choices)
    said = read_answers(local.field, local.logits([item.text for item in examples]).astype(float))
    rows = {row["subgroup"]: row for row in language_rows(texts, said, num_resamples=20, seed=0)}
    assert (rows["ru"]["n"], rows["ru"]["is_too_small"]) == (4, True) and "accuracy" not in rows["ru"]
    assert rows["en"]["accuracy"]["value"] == pytest.approx((said.choice == texts.truth)[4:].mean())
    english = texts_of(complaints[60:], local.field.choices)
    assert language_rows(english, said, num_resamples=20, seed=0) == []


def test_labels_and_confusions_by_hand() -> None:
    truth = np.array([0] * 12 + [1] * 3)
    choice = np.array([0] * 9 + [1] * 3 + [1, 1, 0])
    texts = Texts(choices=("a", "b"), truth=truth, groups=truth.astype(str), languages=np.full(15, "en"))
    rows = class_rows(texts, Answers(choice=choice))
    assert rows[0] == {"label": "a", "n": 12, "precision": 0.9, "recall": 0.75, "f1": 18 / 22}
    assert rows[1] == {"label": "b", "n": 3, "precision": None, "recall": None, "f1": None}
    assert top_confusions(texts, Answers(choice=choice)) == [{"truth": "a", "answer": "b", "n": 3}]


SECTOR = """
format = "smallhold.sector/1"
name = "hospital"
about = "A ward of three conditions."

[[text_task]]
name = "triage"
question = "Which of these conditions fits the complaint best?"
field_name = "condition"
condition = "a complaint"
intended_use = "Testing."
known_limits = "Made up."
choices = ["psoriasis", "pneumonia", "migraine"]

[[text_task.source]]
data_set = "made_up"
text = ["text"]
label = "label"
group = "id"
language = "en"
"""


def test_the_command_measures_a_text_task(
    smallhold: Any, text_bundle: Any, complaints: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMALLHOLD_HOME", str(tmp_path / "home"))
    (tmp_path / "sector.toml").write_text(SECTOR)
    (tmp_path / "data" / "made_up").mkdir(parents=True)
    rows = [{"id": item.group, "text": item.text, "label": item.label} for item in complaints]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "data" / "made_up" / "rows.jsonl").write_text(lines)
    words = (
        "evaluate", text_bundle.path, "--task", "triage", "--sector", tmp_path, "--data", tmp_path / "data",
        "--trusted-keys", text_bundle.trusted_keys, "--resamples", 20, "--quality-only", "--json",
    )  # fmt: skip
    done = smallhold(*words, "--split", "test")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["num_texts"] == sum(split_of("made_up", item.group) is Split.TEST for item in complaints)
    assert {row["model"] for row in result["rows"]} == {"majority", "tfidf", "ngrams", "trunk", "shipped"}
    assert result["intended_use"] == "Testing."
    whole = smallhold(*words, "--split", "all", "--beside", f"twin={text_bundle.path}")
    result = json.loads(whole.out)
    assert result["num_texts"] == 120 and "--train-data" in result["remarks"][0]
    assert [beside["name"] for beside in result["besides"]] == ["twin"]
    refused = smallhold(*words, "--run", tmp_path)
    assert refused.code == 1 and "a text task has no teacher" in refused.err
