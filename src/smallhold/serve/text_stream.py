"""From the bytes of tokens to text that may be sent: whole characters, and nothing that could begin a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Takes bytes piece by piece; what it gives, joined, does not depend on where the pieces end.

    A token of a byte-level vocabulary may end within a character, and a stop string may be spread over tokens. Bytes
    that are no UTF-8 become U+FFFD, as `bytes.decode(errors="replace")` writes them.

    Args:
        stops: Texts that end the answer and are no part of it; the first one to be complete counts.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = tuple(stops)
        self._held = ""
        self.is_stopped = False

    def push(self, data: bytes) -> str:
        """Text that is certain now."""
        return self._release(self._decoder.decode(data))

    def finish(self) -> str:
        """The rest: half a character as U+FFFD, and what was held back in vain."""
        text = self._release(self._decoder.decode(b"", final=True)) + self._held
        self._held = ""
        return text

    def _release(self, decoded: str) -> str:
        if self.is_stopped:
            return ""
        self._held += decoded
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            text, self._held = self._held[: min(found)[1]], ""
            return text
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        text, self._held = self._held[:cut], self._held[cut:]
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`, not the whole of it."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
