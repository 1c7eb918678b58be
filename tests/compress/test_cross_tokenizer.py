"""A teacher that reads its own tokens, and a student that spells them with smaller ones."""

from __future__ import annotations

import json
from functools import cache

import pytest

pytest.importorskip("torch", reason="distillation needs torch, the extra 'train'")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from smallhold.compress.cross_tokenizer import CrossTokenizer, Reading
from smallhold.compress.token_bytes import TokenBytes
from smallhold.compress.trim_vocabulary import count_tokens, trim_tokenizer
from smallhold.errors import RecipeError
from smallhold.teach.vocabulary import byte_tokenizer

from .test_trim_vocabulary import BASE, TEXTS, byte_fallback_tokenizer


def marked(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a document behind its mark."""
    mark = next(i for name in ("<bos>", "<s>") if (i := tokenizer.token_to_id(name)) is not None)
    return [mark, *tokenizer.encode(text, add_special_tokens=False).ids]


@pytest.fixture(scope="module")
def base() -> Tokenizer:
    return Tokenizer.from_file(str(BASE / "tokenizer.json"))


@pytest.fixture(scope="module")
def small(base: Tokenizer) -> Tokenizer:
    return trim_tokenizer(base, count_tokens(base, TEXTS[:2]), vocab_size=1000).tokenizer


@pytest.fixture(scope="module")
def cross(base: Tokenizer, small: Tokenizer) -> CrossTokenizer:
    return CrossTokenizer(base, small)


def expected(cross: CrossTokenizer, base: Tokenizer, small: Tokenizer, window: list[int], teacher: torch.Tensor):
    """Targets by definition, one token of the text and one of the vocabulary at a time: (T, V), NaN where none."""
    of, own = TokenBytes(base), TokenBytes(small)
    spelled = {}
    for token, i in base.get_vocab(with_added_tokens=True).items():
        spelled[i] = (
            [small.token_to_id(token)] if of.is_mark(i) else [piece.id for piece in small.model.tokenize(token)]
        )
        assert b"".join(map(own.of, spelled[i])) == of.of(i)
    said = torch.full((len(window) - 1, cross.vocab_size), torch.nan)
    ids, _ = cross._teachers_tokens(window)
    at = 0  # pieces that the tokens so far are made of
    for k, token in enumerate(ids):
        pieces = spelled[token]
        if window[at : at + len(pieces)] != pieces:
            return said, at  # the student cuts elsewhere from here on
        for depth in range(len(pieces) if k else 0):
            chances = torch.zeros(cross.vocab_size, dtype=torch.float64)
            for other, chance in enumerate(teacher[k - 1].double().softmax(-1).tolist()):
                if spelled[other][:depth] == pieces[:depth] and len(spelled[other]) > depth:
                    chances[spelled[other][depth]] += chance
            said[at + depth - 1] = (chances / chances.sum()).log()
        at += len(pieces)
    return said, at


def said_by(cross: CrossTokenizer, reading: Reading, logits: torch.Tensor) -> torch.Tensor:
    """What a teacher says whose states are its logits: (B * T, V)."""
    return cross.logits(
        lambda states: states, reading.taken(logits).flatten(0, 1), *(part.flatten() for part in reading.aside)
    )


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_get_the_marginals_of_the_tokens_that_they_spell(
    cross: CrossTokenizer, base: Tokenizer, small: Tokenizer, text: str
) -> None:
    window = marked(small, text)
    reading = cross.read(torch.tensor([window]), context=999)
    assert reading.ids[0].tolist() == marked(base, text)[:-1]
    teacher = 3 * torch.randn(reading.ids.shape[1], base.get_vocab_size(), generator=torch.Generator().manual_seed(0))
    wanted, reached = expected(cross, base, small, window, teacher)
    assert reached > 0.5 * len(window)
    got = said_by(cross, reading, teacher[None])
    torch.testing.assert_close(got.exp().sum(-1), torch.ones(len(got)), atol=1e-4, rtol=0)
    known = ~wanted[:, 0].isnan()
    assert torch.equal(known[: reached - 1], reading.is_taught[0][: reached - 1])
    torch.testing.assert_close(got[known].exp(), wanted[known].exp().float(), atol=1e-5, rtol=1e-3)


def test_the_pieces_of_a_token_are_as_likely_as_the_token(cross: CrossTokenizer, base: Tokenizer) -> None:
    """A teacher that is sure of its next token is sure of each of its pieces."""
    text = "The patient was admitted with a headache."
    ids = marked(base, text)
    sure = torch.full((len(ids) - 1, base.get_vocab_size()), -300.0)
    sure[torch.arange(len(ids) - 1), torch.tensor(ids[1:])] = 300.0
    window = marked(cross.student, text)
    reading = cross.read(torch.tensor([window]), context=999)
    said = said_by(cross, reading, sure[None])
    assert said.argmax(-1).tolist() == window[1:]
    assert float(said.max(-1).values.exp().min()) > 0.999


def test_the_same_vocabulary_is_read_token_for_token(base: Tokenizer) -> None:
    cross = CrossTokenizer(base, base)
    window = torch.tensor([marked(base, TEXTS[0])])
    reading = cross.read(window, context=999)
    assert torch.equal(reading.ids, window[:, :-1])
    assert bool(reading.is_level.all())
    logits = torch.randn(window.shape[1] - 1, base.get_vocab_size())
    said = said_by(cross, reading, logits[None])
    torch.testing.assert_close(said, logits.log_softmax(-1), atol=1e-4, rtol=0)


def test_where_the_student_cuts_elsewhere_its_text_teaches(base: Tokenizer, small: Tokenizer) -> None:
    """Windows begin anywhere, and end anywhere; a student's own writing follows no tokenizer."""
    cross = CrossTokenizer(base, small)
    generator = torch.Generator().manual_seed(0)
    window = torch.randint(3, small.get_vocab_size(), (8, 40), generator=generator)
    reading = cross.read(window, context=999)
    assert 0.2 < float(reading.is_taught.float().mean()) < 1.0
    logits = torch.randn(*reading.ids.shape, base.get_vocab_size(), generator=generator)
    said = said_by(cross, reading, logits)
    silent = ~reading.is_taught.flatten()
    assert torch.equal(said[silent].argmax(-1), window[:, 1:].flatten()[silent])
    assert float(said[silent].exp().max(-1).values.min()) > 0.999
    assert bool(said.isfinite().all())


@cache
def spelled_by_bytes() -> CrossTokenizer:
    base = Tokenizer.from_file(str(BASE / "tokenizer.json"))
    return CrossTokenizer(base, trim_tokenizer(base, {}, vocab_size=946).tokenizer)


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=40), st.integers(0, 10))
def test_any_text_is_read_from_any_piece_on(text: str, start: int) -> None:
    cross = spelled_by_bytes()
    window = marked(cross.student, text)[start:]
    if len(window) < 2:
        return
    ids, _ = cross._teachers_tokens(window)
    of, own = TokenBytes(cross.teacher), TokenBytes(cross.student)
    assert b"".join(map(of.of, ids)) == b"".join(map(own.of, window))


def test_bytes_that_are_tokens_and_a_space_that_a_tokenizer_adds() -> None:
    teacher = byte_fallback_tokenizer()
    student = trim_tokenizer(teacher, count_tokens(teacher, ["the fever"])).tokenizer
    cross = CrossTokenizer(teacher, student)
    for text in ("the patient was ill", *TEXTS):
        reading = cross.read(torch.tensor([marked(student, text)]), context=999)
        assert reading.ids[0].tolist() == marked(teacher, text)[:-1]
        assert float(reading.is_taught.float().mean()) > 0.9


@pytest.mark.parametrize("scheme", ["first", "always"])
def test_spaces_that_a_tokenizer_adds_or_not(scheme: str) -> None:
    form = json.loads(byte_fallback_tokenizer().to_str())
    form["normalizer"] = None
    form["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}
    teacher = Tokenizer.from_str(json.dumps(form))
    student = trim_tokenizer(teacher, count_tokens(teacher, ["the fever"])).tokenizer
    cross = CrossTokenizer(teacher, student)
    of, own = TokenBytes(teacher), TokenBytes(student)
    for text in ("the fever", "  the patient was ill", "      the fever was high", "é the fever"):
        whole = marked(student, text)
        for start in range(len(whole) - 1):
            tokens, _ = cross._teachers_tokens(whole[start:])
            said, meant = b"".join(map(of.of, tokens)), b"".join(map(own.of, whole[start:]))
            assert said.replace(b" ", b"") == meant.replace(b" ", b"")
            assert said.count(b" ") - meant.count(b" ") in ((0,) if start == 0 else (0, 1)), (text, start)


def test_a_piece_that_the_teacher_all_but_excluded(cross: CrossTokenizer, base: Tokenizer) -> None:
    """The text goes on with it all the same."""
    window = marked(cross.student, TEXTS[0])
    reading = cross.read(torch.tensor([window]), context=999)
    elsewhere = torch.full((*reading.ids.shape, base.get_vocab_size()), -300.0)
    elsewhere[..., 0] = 300.0
    said = said_by(cross, reading, elsewhere)
    assert bool(said.isfinite().all())
    within = reading.depth[0] > 0
    assert bool(within.any())
    torch.testing.assert_close(said[within].exp().sum(-1), torch.ones(int(within.sum())))


def test_what_a_teacher_has_no_room_for_is_not_taught(cross: CrossTokenizer) -> None:
    window = torch.tensor([marked(cross.student, TEXTS[0])])
    whole, short = (cross.read(window, context=context) for context in (999, 5))
    assert short.ids.shape == (1, 5)
    assert int(short.place.max()) == 4
    taught = int(short.is_taught.sum())
    assert 0 < taught < int(whole.is_taught.sum())
    assert torch.equal(short.is_taught[0, :taught], whole.is_taught[0, :taught])


def test_a_vocabulary_that_cannot_spell_is_refused_with_advice(base: Tokenizer) -> None:
    poor = Tokenizer.from_str(byte_tokenizer().to_str().replace('"Ġ"', '"missing"'))
    with pytest.raises(RecipeError, match="of the teacher's tokens cannot be spelled with the student's") as caught:
        CrossTokenizer(base, poor)
    assert "let the teacher label or write texts" in str(caught.value.hint)
