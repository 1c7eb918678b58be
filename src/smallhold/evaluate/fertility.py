"""How a vocabulary cuts text: tokens for each word, and bytes for each token."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from smallhold.errors import DataError

# Runs of letters: an apostrophe parts two words, as it does in French and in our tokenizer.
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fertility:
    """How a vocabulary cuts text.

    Attributes:
        tokens_per_word: Mean number of tokens that touch a word; 1 is the least.
        one_token_share: Share of the words that are one token, 0 to 1.
        bytes_per_token: UTF-8 bytes for each token, over everything, punctuation and spaces included.
        num_words: How many words were seen.
    """

    tokens_per_word: float
    one_token_share: float
    bytes_per_token: float
    num_words: int


def fertility(tokenizer: Tokenizer, texts: Sequence[str]) -> Fertility:
    """Tokens for each word, and bytes for each token, of texts of one language.

    A word is a run of letters. A token counts for a word when it covers a part of it, so that the space before a
    word costs nothing when it shares its token, and punctuation never counts.

    Source: Rust et al. 2021, arXiv:2012.15613, section 3 (fertility and the share of continued words).

    Raises:
        DataError: the texts have no word.
    """
    pieces: list[NDArray[np.int64]] = []
    num_tokens = 0
    for encoding, text in zip(tokenizer.encode_batch(list(texts), add_special_tokens=False), texts, strict=True):
        num_tokens += len(encoding.ids)
        starts = [start for start, _ in encoding.offsets]
        ends = [end for _, end in encoding.offsets]
        words = (match.span() for match in _WORD.finditer(text))
        # Tokens that begin before the word's end, less those that end before its begin; both lists rise.
        pieces.append(np.array([bisect_left(starts, b) - bisect_left(ends, a + 1) for a, b in words], np.int64))
    counts = np.concatenate(pieces) if pieces else np.zeros(0, np.int64)
    if not counts.size:
        raise DataError(f"fertility: expected at least one word, got {len(texts)} texts without any")
    return Fertility(
        tokens_per_word=float(counts.mean()),
        one_token_share=float((counts == 1).mean()),
        bytes_per_token=sum(len(text.encode()) for text in texts) / num_tokens,
        num_words=counts.size,
    )
