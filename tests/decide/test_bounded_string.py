from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallhold.decide.bounded_string import GeneratedString, StringField, StringPlan, plan_string
from smallhold.errors import BackendError, DecisionError, RecipeError

END = 99
VOCABULARY = {"1": 0, "2": 1, "Ġ": 2, "12": 3, "Ġ21": 4, "m": 5, "1m": 6, "g": 7}


def letters(text: str) -> list[int]:
    return [1000 + byte for byte in text.encode()]


def plan_of(alphabet: str = "12", max_bytes: int = 8, prompt: str = "") -> StringPlan:
    field = StringField(name="dose", alphabet=alphabet, max_bytes=max_bytes, prompt=prompt)
    return plan_string(field, VOCABULARY, letters, END)


class Guesser:
    """A session whose logits are drawn by the tokens before."""

    def __init__(self, seed: int, before: tuple[int, ...] = (), scale: float = 2.0) -> None:
        self.seed, self.before, self.scale = seed, before, scale

    def fork(self) -> Guesser:
        return Guesser(self.seed, self.before, self.scale)

    def append(self, tokens: Sequence[int]) -> None:
        self.before = (*self.before, *tokens)

    def row(self, before: tuple[int, ...]) -> np.ndarray:
        logits = np.random.default_rng([self.seed, *before]).normal(scale=self.scale, size=END + 1)
        return logits.astype(np.float32)

    def score(self, inputs: Sequence[int], at: Sequence[int], rows: Sequence[int]) -> np.ndarray:
        assert (list(inputs), list(at)) == ([], [-1])
        return self.row(self.before)[None, list(rows)]


class Told(Guesser):
    """A session that wants these tokens, whatever was allowed before."""

    def __init__(self, wanted: Sequence[int], before: tuple[int, ...] = ()) -> None:
        super().__init__(0, before)
        self.wanted = wanted

    def fork(self) -> Told:
        return Told(self.wanted, self.before)

    def row(self, before: tuple[int, ...]) -> np.ndarray:
        logits = np.zeros(END + 1, dtype=np.float32)
        logits[self.wanted[len(before)]] = 9
        return logits


def test_only_tokens_within_the_alphabet_may_be_taken() -> None:
    assert plan_of().pieces == {0: "1", 1: "2", 3: "12", END: ""}
    assert plan_of("12 ").pieces == {0: "1", 1: "2", 2: " ", 3: "12", 4: " 21", END: ""}
    assert plan_of("12 ", max_bytes=2).pieces == {0: "1", 1: "2", 2: " ", 3: "12", END: ""}


def test_it_ends_at_the_end_mark() -> None:
    session = Told([3, 1, END])
    found = plan_of().write(session)  # type: ignore[arg-type]
    each = 9 - math.log(math.exp(9) + 3)  # of four that are allowed
    assert found == GeneratedString("122", pytest.approx(each), has_ended=True)
    assert found.is_generated
    assert session.before == ()


def test_it_ends_at_the_bound() -> None:
    found = plan_of(max_bytes=3).write(Told([3, 3, 3]))  # type: ignore[arg-type]
    # "12" no longer fits: of the three left, equally probable, the smallest id is taken.
    assert (found.text, found.has_ended) == ("121", False)
    assert found.mean_logprob == pytest.approx((9 - math.log(math.exp(9) + 3) - math.log(3)) / 2)


def test_it_may_be_empty_and_the_prompt_is_read_first() -> None:
    plan = plan_of(prompt="mg")
    assert (plan.prompt, plan.longest) == ((1109, 1103), 10)
    found = plan.write(Told([0, 0, END]))  # type: ignore[arg-type]
    assert (found.text, found.has_ended) == ("", True)


@settings(deadline=None)
@given(seed=st.integers(0, 1000), max_bytes=st.integers(1, 12), alphabet=st.sampled_from(["1", "12", "2 1", "gm12"]))
def test_it_is_the_greedy_text_under_the_mask(seed: int, max_bytes: int, alphabet: str) -> None:
    found = plan_of(alphabet, max_bytes).write(Guesser(seed))  # type: ignore[arg-type]
    assert len(found.text.encode()) <= max_bytes
    assert set(found.text) <= set(alphabet)
    # The slow twin: whole rows, every token of the vocabulary looked at anew.
    names = {number: name.replace("Ġ", " ") for name, number in VOCABULARY.items()} | {END: ""}
    before: tuple[int, ...] = ()
    text, logprobs = "", []
    while len(text) < max_bytes:
        row = Guesser(seed).row(before).astype(np.float64)
        allowed = [i for i in names if set(names[i]) <= set(alphabet) and len(text + names[i]) <= max_bytes]
        best = max(sorted(allowed), key=lambda i: row[i])
        logprobs.append(row[best] - math.log(sum(math.exp(row[i]) for i in allowed)))
        if best == END:
            break
        text, before = text + names[best], (*before, best)
    assert found == GeneratedString(text, pytest.approx(np.mean(logprobs)), has_ended=len(text) < max_bytes)


def test_a_runtime_that_has_failed_writes_nothing() -> None:
    with pytest.raises(DecisionError, match="string dose: expected 4 finite logits"):
        plan_of().write(Guesser(0, scale=math.inf))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "expected a name, and an alphabet"),
        ({"name": 7}, "name: expected text, got 7"),
        ({"alphabet": ""}, "alphabet of different printable ASCII characters, got ''"),
        ({"alphabet": "00"}, "alphabet of different printable ASCII characters, got '00'"),
        ({"alphabet": "é"}, "alphabet of different printable ASCII characters"),
        ({"alphabet": "a\n"}, "alphabet of different printable ASCII characters"),
        ({"alphabet": ["a"]}, r"alphabet: expected text, got \['a'\]"),
        ({"prompt": None}, "prompt: expected text, got None"),
        ({"max_bytes": 0}, "max_bytes: expected 1 to 256, got 0"),
        ({"max_bytes": 257}, "max_bytes: expected 1 to 256, got 257"),
        ({"max_bytes": 8.0}, "max_bytes: expected 1 to 256, got 8.0"),
        ({"max_bytes": True}, "max_bytes: expected 1 to 256, got True"),
    ],
)
def test_what_could_not_be_written_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        StringField(**{"name": "dose", "alphabet": "0123456789", "max_bytes": 8, **change})


def test_a_tokenizer_that_cannot_end_or_is_not_byte_level_is_refused() -> None:
    field = StringField(name="dose", alphabet="12", max_bytes=8)
    with pytest.raises(RecipeError, match="string dose: the tokenizer has no mark by which a text could end"):
        plan_string(field, VOCABULARY, letters, None)
    with pytest.raises(RecipeError, match="dose: expected a byte-level tokenizer, got one without 'Ġ', the space"):
        plan_string(field, {"1": 0, "▁1": 1}, letters, END)


@pytest.mark.parametrize("backend", ["reference", "onnx_runtime"])
def test_a_text_task_writes_beside_its_answer_and_the_answer_stays(backend: Any, text_bundle: Any) -> None:
    from smallhold.decide import open_bundle
    from smallhold.decide.text_task import LocalTextTask

    bundle = open_bundle(text_bundle.path, backend=backend, trusted_keys=text_bundle.trusted_keys)
    plain = bundle.text_task("triage")
    strings = tuple(
        StringField(name=name, alphabet=alphabet, max_bytes=6, prompt=f" {name}: ")
        for name, alphabet in (("mg", "0123456789."), ("word", "abcdefgh"))
    )
    task = LocalTextTask(bundle, replace(plain.task, strings=strings))
    text = "itchy scales"
    decision = task.decide(text)
    assert decision.answers == plain.decide(text).answers
    assert plain.decide(text).strings == {}
    assert list(decision.strings) == ["mg", "word"]
    for field in strings:
        written = decision.strings[field.name]
        assert set(written.text) <= set(field.alphabet)
        assert len(written.text) <= 6
        # The slow twin: the whole text again in a new session at each byte, which is a token here.
        marker = bundle.tokenizer.token_to_id("<triage>")
        ids = [bundle.tokenizer.token_to_id("<bos>"), marker]
        ids += [*bundle.tokenizer.encode(text).ids, marker, *bundle.tokenizer.encode(field.prompt).ids]
        names = [*field.alphabet, "<eos>"]
        rows = [bundle.tokenizer.token_to_id(name) for name in names]
        logprobs = []
        for character in [*written.text, *(["<eos>"] if written.has_ended else [])]:
            row = bundle.backend.session().score(ids, [len(ids) - 1], rows)[0].astype(np.float64)
            assert row[names.index(character)] > row.max() - 0.1  # whole and chunked, 8-bit activations
            logprobs.append(row[names.index(character)] - np.logaddexp.reduce(row))
            ids.append(rows[names.index(character)])
        assert written.mean_logprob == pytest.approx(np.mean(logprobs), abs=0.05)
    silent = replace(task.door, trunk_weight=0.0)
    assert LocalTextTask(bundle, replace(task.task, text=silent)).decide(text).strings == decision.strings
    with pytest.raises(BackendError, match="48 tokens of text need a context of 71 positions, the trunk has 64"):
        LocalTextTask(bundle, replace(plain.task, strings=(replace(strings[0], prompt="", max_bytes=20),)))
