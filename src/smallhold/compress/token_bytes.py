"""What tokens stand for, in bytes: the one measure that two tokenizers of the same text share."""

from __future__ import annotations

import json
import re

from tokenizers import Tokenizer

from smallhold.compress.trim_vocabulary import is_byte_level

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class TokenBytes:
    """The bytes of every token of BPE on bytes or with byte fallback."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._marks = {i: token.content for i, token in tokenizer.get_added_tokens_decoder().items()}
        form = json.loads(tokenizer.to_str())
        of_character = _byte_of_character() if is_byte_level(form) else None
        has_fallback = bool(form["model"].get("byte_fallback"))
        self._bytes = {
            i: self._marks[i].encode() if i in self._marks else _bytes_of(token, of_character, has_fallback)
            for token, i in tokenizer.get_vocab(with_added_tokens=True).items()
        }
        self._of_byte = {value[0]: i for i, value in self._bytes.items() if len(value) == 1 and i not in self._marks}

    def of(self, token: int) -> bytes:
        """What a token stands for; of an added one, its name."""
        return self._bytes[token]

    def is_mark(self, token: int) -> bool:
        """Whether a token was added to those of the texts."""
        return token in self._marks

    def of_byte(self, value: int) -> int:
        """The token of one byte.

        Raises:
            KeyError: there is none.
        """
        return self._of_byte[value]


def _bytes_of(token: str, of_character: dict[str, int] | None, has_fallback: bool) -> bytes:
    if of_character is not None:
        return b"".join(bytes([of_character[c]]) if c in of_character else c.encode() for c in token)
    if has_fallback and (found := _BYTE.fullmatch(token)):
        return bytes.fromhex(found[1])
    return token.replace("▁", " ").encode()


def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: a printable byte is its own character, the others follow 255 in order."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [value for value in range(256) if value not in printable]
    return {chr(value): value for value in printable} | {chr(256 + n): value for n, value in enumerate(others)}
