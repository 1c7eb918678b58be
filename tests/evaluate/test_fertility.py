from __future__ import annotations

import re

import pytest
from tokenizers import Tokenizer

from smallhold.errors import DataError
from smallhold.evaluate.fertility import fertility
from smallhold.teach.vocabulary import byte_tokenizer, train_tokenizer


def test_single_bytes_by_hand() -> None:
    # "don" and "t" are two words, "œil" has four bytes; digits and punctuation are no words.
    cut = fertility(byte_tokenizer(), ["I don't: 42!", "œil"])
    assert cut.num_words == 4
    assert cut.tokens_per_word == (1 + 3 + 1 + 4) / 4
    assert cut.one_token_share == 2 / 4
    assert cut.bytes_per_token == 1.0


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_tokenizer(["the heart and the lung; сердце и лёгкое"] * 3, vocab_size=290)


@pytest.mark.parametrize("text", ["the heart and the lung", "the hearts, the lungs — and œdema!", "сердце\n\nи the x"])
def test_words_one_by_one_need_as_many_tokens(trained: Tokenizer, text: str) -> None:
    """Words are split apart before merging, so that a word alone, with its space, is cut as it is in the text."""
    words = re.findall(r"(?:^| )?[^\W\d_]+", text)
    # A space that no merge joined to the word is a token of its own, which does not touch the word.
    counts = [sum(token != "Ġ" for token in trained.encode(word).tokens) for word in words]
    cut = fertility(trained, [text])
    assert cut.num_words == len(words)
    assert cut.tokens_per_word == pytest.approx(sum(counts) / len(words))
    assert cut.one_token_share == pytest.approx(sum(count == 1 for count in counts) / len(words))
    assert cut.bytes_per_token == pytest.approx(len(text.encode()) / len(trained.encode(text).ids))


def test_text_without_words_is_refused() -> None:
    for texts in ([], ["42 !"]):
        with pytest.raises(DataError, match="expected at least one word"):
            fertility(byte_tokenizer(), texts)
