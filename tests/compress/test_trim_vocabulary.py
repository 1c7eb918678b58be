from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="compression needs torch, the extra 'train'")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from smallhold.compress.selection import Selection, take
from smallhold.compress.trim_vocabulary import count_tokens, trim_model, trim_tokenizer
from smallhold.errors import RecipeError
from smallhold.learn.checkpoint import load_signal_model

from .small_models import logits_of, make_trunk

BASE = Path(__file__).parents[2] / "models" / "base"
TEXTS = [
    "The patient's blood pressure was 120/80 mmHg; temperature 38.5 °C.",
    "Пациент жалуется на сильную головную боль и тошноту. Ёж, щёлочь!",
    "Le patient était déjà très fatigué; on a noté une fièvre à l'hôpital, ça va?",
    "emoji 🚑🩺 👩‍⚕️ and 数字, tabs\tand\n\nlines   of  blanks",
    "naïve café — “quotes” … 1/2 ½ µg",
]


@pytest.fixture(scope="module")
def base() -> Tokenizer:
    return Tokenizer.from_file(str(BASE / "tokenizer.json"))


def test_every_language_is_read_back_after_trimming_hard(base: Tokenizer) -> None:
    words = len(json.loads(base.to_str())["added_tokens"])
    trimmed = trim_tokenizer(base, count_tokens(base, TEXTS[:1]), vocab_size=words + 256 + 20)
    assert trimmed.tokenizer.get_vocab_size() <= words + 276
    for text in TEXTS:
        assert trimmed.tokenizer.decode(trimmed.tokenizer.encode(text).ids) == text
    assert trimmed.tokenizer.encode("<bos><ALP:03>").ids == [1, trimmed.tokenizer.token_to_id("<ALP:03>")]


@cache
def hard_trimmed() -> Tokenizer:
    base = Tokenizer.from_file(str(BASE / "tokenizer.json"))
    return trim_tokenizer(base, count_tokens(base, TEXTS[:2]), vocab_size=1100).tokenizer


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=60))
def test_any_text_is_read_back(text: str) -> None:
    ids = hard_trimmed().encode(text, add_special_tokens=False).ids
    assert hard_trimmed().decode(ids, skip_special_tokens=False) == text


def test_counted_texts_keep_their_tokens(base: Tokenizer) -> None:
    trimmed = trim_tokenizer(base, count_tokens(base, TEXTS))
    assert trimmed.tokenizer.get_vocab_size() < 0.2 * base.get_vocab_size()
    for text in TEXTS:
        assert trimmed.tokenizer.encode(text).tokens == base.encode(text).tokens
        assert [trimmed.kept[i] for i in trimmed.tokenizer.encode(text).ids] == base.encode(text).ids


def test_ids_are_contiguous_and_in_the_old_order(base: Tokenizer) -> None:
    trimmed = trim_tokenizer(base, count_tokens(base, TEXTS), min_count=2)
    vocabulary = trimmed.tokenizer.get_vocab(with_added_tokens=True)
    assert sorted(vocabulary.values()) == list(range(len(trimmed.kept)))
    assert list(trimmed.kept) == sorted(trimmed.kept)
    for token, i in vocabulary.items():
        assert base.token_to_id(token) == trimmed.kept[i]
    form = json.loads(trimmed.tokenizer.to_str())
    for left, right in form["model"]["merges"]:
        assert {left, right, left + right} <= set(form["model"]["vocab"])


def test_trimming_nothing_changes_nothing(base: Tokenizer) -> None:
    everything = dict.fromkeys(range(base.get_vocab_size()), 1)
    trimmed = trim_tokenizer(base, everything)
    assert json.loads(trimmed.tokenizer.to_str()) == json.loads(base.to_str())
    model = load_signal_model(BASE)
    ids = torch.tensor([base.encode(TEXTS[0]).ids])
    same = trim_model(model, trimmed)
    torch.testing.assert_close(logits_of(same, ids), logits_of(model, ids), rtol=0, atol=1e-5)


def test_a_trimmed_model_gives_every_kept_token_its_old_logit(base: Tokenizer) -> None:
    model = load_signal_model(BASE)
    trimmed = trim_tokenizer(base, count_tokens(base, TEXTS))
    small = trim_model(model, trimmed)
    assert small.trunk.config.vocab_size == len(trimmed.kept)
    for text in TEXTS:
        old, new = (torch.tensor([t.encode(text).ids]) for t in (base, trimmed.tokenizer))
        whole = logits_of(model, old)[..., list(trimmed.kept)]
        torch.testing.assert_close(logits_of(small, new), whole, rtol=0, atol=1e-5)


def byte_fallback_tokenizer() -> Tokenizer:
    """BPE on characters whose rare ones fall back to bytes, with marks added by a post-processor, as Llama 2 has."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fallback = [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<unk>", "<s>", "</s>", *fallback], show_progress=False
    )
    tokenizer.train_from_iterator(["the patient was ill and the fever was high " * 3, "hier et demain"], trainer)
    form = json.loads(tokenizer.to_str())
    form["added_tokens"] = form["added_tokens"][:3]  # the bytes are ordinary tokens
    tokenizer = Tokenizer.from_str(json.dumps(form))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return tokenizer


def test_byte_fallback_and_marks_of_a_post_processor_survive() -> None:
    tokenizer = byte_fallback_tokenizer()
    trimmed = trim_tokenizer(tokenizer, count_tokens(tokenizer, ["the fever"]))
    assert trimmed.tokenizer.get_vocab_size() < tokenizer.get_vocab_size()
    for text in ["the fever", "the patient was ill", *TEXTS]:
        ids = trimmed.tokenizer.encode(text).ids
        assert (ids[0], ids[-1]) == (1, 2)
        assert trimmed.tokenizer.decode(ids) == text
    assert trimmed.tokenizer.encode("the fever").tokens == tokenizer.encode("the fever").tokens


def test_what_cannot_be_trimmed_is_refused(base: Tokenizer) -> None:
    with pytest.raises(RecipeError, match="expected BPE on bytes or with byte fallback, got WordLevel"):
        trim_tokenizer(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")), {})
    with pytest.raises(RecipeError, match="vocab_size 300 has no room for 946 bytes, marks and added words"):
        trim_tokenizer(base, {}, vocab_size=300)
    suffixed = Tokenizer(models.BPE({"a</w>": 0}, [], end_of_word_suffix="</w>"))
    suffixed.pre_tokenizer = pre_tokenizers.ByteLevel()
    with pytest.raises(RecipeError, match="subword prefixes or word suffixes"):
        trim_tokenizer(suffixed, {})


def test_an_untied_head_loses_the_same_rows() -> None:
    trunk, kept = make_trunk("untied"), torch.arange(0, 96, 3)
    small = take(trunk, Selection(vocabulary=kept))
    ids = torch.arange(10)[None]
    torch.testing.assert_close(logits_of(small, ids), logits_of(trunk, kept[ids])[..., kept], rtol=0, atol=1e-5)
