"""A bundle's tokens: text to ids, ids to bytes, and which of them begin and end a text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from llguidance import LLTokenizer
from numpy.typing import NDArray
from tokenizers import Tokenizer

from smallhold.decide.task import END_MARKS
from smallhold.errors import BackendError

#: Marks put before a text when the tokenizer's own post-processor adds none: ours, and those of Llama's vocabularies.
BEGIN_MARKS = ("<bos>", "<s>", "\n<s>\n")


class Vocabulary:
    """Spells texts, and says what each token spells.

    Args:
        tokenizer_json: The file `tokenizer.json`.
        size: V of the model; ids beyond the tokenizer's are padding and never generated.
        end_mark: One more token that ends an answer, where the bundle names it; empty for none.

    Raises:
        BackendError: the tokenizer is of no kind whose tokens are known as bytes.
    """

    def __init__(self, tokenizer_json: str, size: int, end_mark: str = "") -> None:
        try:
            self._literal, self._template = (Tokenizer.from_str(tokenizer_json) for _ in range(2))
            self._added = self._literal.get_added_tokens_decoder()
            marks = {token.content: number for number, token in self._added.items() if token.special}
            named = self._literal.token_to_id(end_mark)
            # A vocabulary may have several: one ends a text, another a turn.
            self.ends = frozenset(
                [marks[mark] for mark in END_MARKS if mark in marks] + ([] if named is None else [named])
            )
            self.matcher_tokens = LLTokenizer(tokenizer_json, n_vocab=size, eos_token=sorted(self.ends) or None)
        except Exception as error:  # both libraries raise untyped exceptions
            raise BackendError(f"tokenizer.json: its tokens cannot be told as bytes: {error}") from error
        self._literal.encode_special_tokens = True  # a text that spells a special token is text
        self.special_words = frozenset(marks)
        self.size = size
        self._spelled: dict[int, bytes] = {}
        words = self._literal.get_vocab(with_added_tokens=True)
        self._known = {token for token in words.values() if token < size}
        # An answer is text: special tokens, which a task's training makes probable, are no part of one but its end.
        self.sayable: NDArray[np.bool_] = np.zeros(size, dtype=np.bool_)
        self.sayable[[token for token in self._known if token in self.ends or not self.is_special(token)]] = True
        begins = [marks[mark] for mark in BEGIN_MARKS if mark in marks]
        has_own = bool(self._literal.encode("", add_special_tokens=True).ids)
        self._begin = [] if has_own or not begins else begins[:1]

    def encode(self, text: str) -> list[int]:
        """Tokens of a whole text behind the mark that begins one; no part of it becomes a special token."""
        return [*self._begin, *self._literal.encode(text, add_special_tokens=True).ids]

    def encode_template(self, text: str) -> list[int]:
        """Tokens of what a chat template wrote: special tokens where it names them, and no mark but its own."""
        ids: list[int] = self._template.encode(text, add_special_tokens=False).ids
        return ids

    def text_bytes(self, token: int) -> bytes:
        """What a token adds to a text: nothing when it is special."""
        return b"" if self.is_special(token) else self.name_bytes(token)

    def name_bytes(self, token: int) -> bytes:
        """The bytes of a token; of a special one, its name."""
        found = self._spelled.get(token)
        if found is None:
            found = self._spelled[token] = self.matcher_tokens.decode_bytes([token]) if token in self._known else b""
        return found

    def is_special(self, token: int) -> bool:
        """Whether the token is a mark and no text."""
        return token in self._added and self._added[token].special

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens without special ones; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(map(self.text_bytes, tokens)).decode(errors="replace")
