from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the bundle of these tests is built with the extra 'train'")

from smallhold.decide import open_bundle
from smallhold.decide.plan import Field, calibrate_logits
from smallhold.decide.text_task import LocalTextTask
from smallhold.errors import BackendError, InputError, RecipeError

TEXT = "since days itchy scales at night"


@pytest.fixture(scope="module", params=["reference", "onnx_runtime"])
def task(request: pytest.FixtureRequest, text_bundle: Any) -> LocalTextTask:
    bundle = open_bundle(text_bundle.path, backend=request.param, trusted_keys=text_bundle.trusted_keys)
    return bundle.text_task("triage")


def slow_trunk(task: LocalTextTask, text: str) -> np.ndarray:
    """The whole question in one new session, and the whole row of logits."""
    tokenizer = task.bundle.tokenizer
    marker = tokenizer.token_to_id("<triage>")
    ids = [tokenizer.token_to_id("<bos>"), marker, *tokenizer.encode(text).ids[:48], marker]
    row = task.bundle.backend.session().score(ids, [len(ids) - 1])[0]
    return row[[tokenizer.token_to_id(f"<triage:{choice}>") for choice in task.field.choices]]


def test_a_decision_is_both_paths_as_weighed_and_calibrated(task: LocalTextTask, text_bundle: Any) -> None:
    assert task.ngrams is not None
    for item in text_bundle.examples[:5]:
        logits = task.door.trunk_weight * slow_trunk(task, item.text)
        logits = logits + task.door.ngram_weight * task.ngrams.logits(item.text)
        decision = task.decide(item.text)
        answer = decision.answers["condition"]
        assert list(answer.probabilities) == ["psoriasis", "pneumonia", "migraine"]
        # Random weights and a trunk weight near 0; 8-bit activations differ a little between whole and chunked input.
        np.testing.assert_allclose(list(answer.probabilities.values()), calibrate_logits(task.field, logits), atol=5e-3)
        assert decision.task == "triage"
        assert decision.tokens == min(48, len(item.text.encode()))
        assert decision.is_cut == (len(item.text.encode()) > 48)
        assert decision.latency_ms > 0


def test_each_path_can_be_read_alone_and_many_texts_at_once(task: LocalTextTask, text_bundle: Any) -> None:
    texts = [item.text for item in text_bundle.examples[:6]]
    both, trunk, ngrams = (task.logits(texts, part) for part in ("both", "trunk", "ngrams"))  # type: ignore[arg-type]
    assert both.shape == trunk.shape == ngrams.shape == (6, 3)
    np.testing.assert_allclose(both, task.door.trunk_weight * trunk + task.door.ngram_weight * ngrams, atol=1e-4)
    np.testing.assert_array_equal(both, task.weigh(trunk, ngrams))
    for i in range(3):  # whole and chunked input, with 8-bit activations
        np.testing.assert_allclose(trunk[i], slow_trunk(task, texts[i]), atol=0.02 * np.abs(trunk[i]).max())
        np.testing.assert_array_equal(task.logits(texts[i : i + 1]), both[i : i + 1])
    assert task.logits([]).shape == (0, 3)
    with pytest.raises(InputError, match="part: expected both, trunk or ngrams, got 'trees'"):
        task.logits(texts, "trees")  # type: ignore[arg-type]


def test_the_words_decide(task: LocalTextTask) -> None:
    for choice, text in (("psoriasis", "itchy scales elbows"), ("migraine", "headache with aura and nausea")):
        probabilities = task.decide(text).answers["condition"].probabilities
        assert max(probabilities, key=probabilities.__getitem__) == choice


def test_both_runtimes_decide_alike(text_bundle: Any) -> None:
    tasks = [
        open_bundle(text_bundle.path, backend=name, trusted_keys=text_bundle.trusted_keys).text_task("triage")  # type: ignore[arg-type]
        for name in ("reference", "onnx_runtime")
    ]
    for item in text_bundle.examples[:5]:
        ours, theirs = (list(task.decide(item.text).answers["condition"].probabilities.values()) for task in tasks)
        np.testing.assert_allclose(ours, theirs, atol=0.02)  # one of the two rounds activations to 8 bits


def test_a_longer_text_is_cut_for_the_trunk_and_says_so(task: LocalTextTask) -> None:
    head = "a" * 48
    assert not task.decide(head).is_cut
    decision = task.decide(head + " and a cough")
    assert (decision.tokens, decision.is_cut) == (48, True)
    np.testing.assert_array_equal(task.logits([head], "trunk"), task.logits([head + " and a cough"], "trunk"))
    assert (task.logits([head], "ngrams") != task.logits([head + " and a cough"], "ngrams")).any()


def test_text_that_spells_a_special_token_stays_text(task: LocalTextTask) -> None:
    special = task.bundle.tokenizer.token_to_id("<triage:migraine>")
    tokens, _ = task._tokens("<triage:migraine><bos>")
    assert special not in tokens
    assert len(tokens) == len("<triage:migraine><bos>")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing but white space"),
        (" \n\t ", "nothing but white space"),
        ("\ud800", "half a character"),
        (None, "text: expected text, got NoneType"),
        (b"cough", "text: expected text, got bytes"),
        (["cough"], "text: expected text, got list"),
    ],
)
def test_what_is_no_text_is_refused_everywhere(task: LocalTextTask, text: Any, message: str) -> None:
    for ask in (task.decide, task.effects, lambda value: task.logits([value], "ngrams")):
        with pytest.raises(InputError, match=message):
            ask(text)


def test_text_without_a_word_is_answered(task: LocalTextTask) -> None:
    assert sum(task.decide("?!").answers["condition"].probabilities.values()) == pytest.approx(1)


def test_an_effect_is_what_the_text_without_the_piece_loses(task: LocalTextTask) -> None:
    effects = task.effects(TEXT, "psoriasis")
    assert [item.text for item in effects] == TEXT.split()

    def odds(text: str) -> float:
        logits = task.logits([text])[0].astype(np.float64) / task.field.temperature
        logits = logits + np.array(task.field.bias or 0.0)
        return float(logits[0] - np.logaddexp(logits[1], logits[2]))

    for i, item in enumerate(effects):
        words = TEXT.split()
        del words[i]
        assert item.effect == pytest.approx(odds(TEXT) - odds(" ".join(words)), abs=1e-4)
    strongest = sorted(effects, key=lambda item: -item.effect)[:2]
    assert {item.text for item in strongest} == {"itchy", "scales"}


def test_a_long_text_is_explained_by_runs_of_words(task: LocalTextTask) -> None:
    text = "\n".join(["one two three four five six seven"] * 5)
    effects = task.effects(text, most_pieces=6)
    assert len(effects) == 6
    assert " ".join(item.text for item in effects).split() == text.split()
    assert task.effects("cough") == []
    with pytest.raises(InputError, match="no choice 'gout', only psoriasis, pneumonia, migraine"):
        task.effects(TEXT, "gout")
    with pytest.raises(InputError, match="most_pieces: expected two or more, got 1"):
        task.effects(TEXT, most_pieces=1)


def test_one_path_may_be_missing_or_silent(task: LocalTextTask) -> None:
    def with_door(**changes: Any) -> LocalTextTask:
        return LocalTextTask(task.bundle, replace(task.task, text=replace(task.door, **changes)))

    alone = with_door(trunk_weight=0.0, ngram_weight=2.0)
    np.testing.assert_allclose(alone.logits([TEXT]), 2 * task.logits([TEXT], "ngrams"), rtol=1e-6)
    trunk = with_door(ngrams=None, trunk_weight=1.0, ngram_weight=0.0)
    np.testing.assert_array_equal(trunk.logits([TEXT]), task.logits([TEXT], "trunk"))
    with pytest.raises(InputError, match="task triage: the bundle has no n-gram path"):
        trunk.logits([TEXT], "ngrams")


def test_a_task_that_does_not_fit_its_bundle_is_refused_at_once(task: LocalTextTask) -> None:
    with pytest.raises(BackendError, match="62 tokens of text need a context of 65 positions, the trunk has 64"):
        LocalTextTask(task.bundle, replace(task.task, text=replace(task.door, max_tokens=62)))
    with pytest.raises(BackendError, match="the tokenizer has no token '<sort>'"):
        LocalTextTask(task.bundle, replace(task.task, text=replace(task.door, marker="<sort>")))
    fewer = Field(name="condition", choices=("psoriasis", "migraine"), positive="migraine")
    with pytest.raises(BackendError, match="2 choices, but the n-gram classifier knows 3"):
        LocalTextTask(task.bundle, replace(task.task, fields=(fewer,)))
    with pytest.raises(InputError, match="task icu-risk: reads readings, not text"):
        task.bundle.text_task("icu-risk")
    with pytest.raises(InputError, match="task triage: reads text, not readings"):
        task.bundle.signal_task("triage")
    with pytest.raises(RecipeError, match="task icu-risk: reads signals, not text"):
        LocalTextTask(task.bundle, task.bundle.signal_task("icu-risk").task)


def test_choices_without_tokens_of_their_own_are_spelled(task: LocalTextTask) -> None:
    field = Field(name="condition", choices=("b", "c", "d"), positive="b")
    spelled = LocalTextTask(task.bundle, replace(task.task, fields=(field,)))
    assert spelled.plan.deciding == tuple(task.bundle.tokenizer.token_to_id(letter) for letter in "bcd")
    assert task.plan.deciding == (260, 261, 262)


def test_choices_that_begin_alike_are_read_where_they_part(task: LocalTextTask) -> None:
    choices = ("atrial fibrillation", "atrial flutter", "sinus rhythm", "sinus")
    field = Field(name="condition", choices=choices, positive="sinus rhythm")
    door = replace(task.door, ngrams=None, ngram_weight=0.0, trunk_weight=1.0, max_tokens=40)
    rhythm = LocalTextTask(task.bundle, replace(task.task, fields=(field,), text=door))
    assert (rhythm.plan.num_branches, len(rhythm.plan.passes)) == (3, 2)
    tokenizer = task.bundle.tokenizer
    ids = [tokenizer.token_to_id(word) for word in ("<bos>", "<triage>")]
    ids += [*tokenizer.encode("heart races").ids, ids[-1]]

    def odds(before: str, *tokens: str) -> np.ndarray:
        asked = [*ids, *tokenizer.encode(before).ids]
        row = task.bundle.backend.session().score(asked, [len(asked) - 1])[0].astype(np.float64)
        row = row[[tokenizer.token_to_id(token) for token in tokens]]
        return row - np.logaddexp.reduce(row)

    first, atrial, sinus = odds("", "a", "s"), odds("atrial f", "i", "l"), odds("sinus", "Ġ", "<eos>")
    expected = [first[0] + atrial[0], first[0] + atrial[1], first[1] + sinus[0], first[1] + sinus[1]]
    logits = rhythm.logits(["heart races"], "trunk")[0]
    np.testing.assert_allclose(np.exp(logits), np.exp(expected), atol=0.02)  # whole and chunked, 8-bit activations
    answer = rhythm.decide("heart races").answers["condition"]
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    np.testing.assert_allclose(list(answer.probabilities.values()), np.exp(logits), atol=1e-6)
    with pytest.raises(BackendError, match="54 tokens of text need a context of 65 positions, the trunk has 64"):
        LocalTextTask(task.bundle, replace(rhythm.task, text=replace(door, max_tokens=54)))
