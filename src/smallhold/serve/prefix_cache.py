"""Sessions of recent prompts, so that what a new prompt shares with one of them is not computed again.

An answer must not depend on what was asked before. With 8-bit activations a position computed alone differs in the
last digits from one computed among others (decision 2), so prompts are cut into blocks at fixed places, and only
whole blocks of prompts, never generated tokens, are kept: a reused block is bit for bit what computing it gives.
"""

from __future__ import annotations

from collections.abc import Sequence

from smallhold.device.backends import Backend, Session

#: Positions that one pass computes; also how often a prefill looks whether it was cancelled.
BLOCK = 32


class PrefixCache:
    """The sessions, most recently used last; for one thread.

    Args:
        backend: Opens sessions.
        capacity: Most sessions that are kept; each may take the cache of a whole context.
    """

    def __init__(self, backend: Backend, capacity: int) -> None:
        self._backend, self._capacity = backend, capacity
        self._kept: list[tuple[tuple[int, ...], Session]] = []

    def take(self, prompt: Sequence[int]) -> Session:
        """A session that holds the longest known beginning of a prompt; at least the last token is left to append."""
        reach = [min(_shared(tokens, prompt), len(prompt) - 1) // BLOCK * BLOCK for tokens, _ in self._kept]
        length = max(reach, default=0)
        if length == 0:
            return self._backend.session()
        at = reach.index(length)
        tokens, kept = self._kept.pop(at)
        if len(tokens) == length:
            return kept
        session = kept.fork()
        session.rewind(length)
        self._kept.append((tokens, kept))
        return session

    def put(self, prompt: Sequence[int], session: Session) -> None:
        """Keep a session; the caller no longer uses it.

        Args:
            prompt: What the session holds, block by block from the beginning; generated tokens may follow.
            session: The session.
        """
        length = min(session.length, len(prompt)) // BLOCK * BLOCK
        if length == 0 or self._capacity == 0:
            return
        session.rewind(length)
        tokens = tuple(prompt[:length])
        self._kept = [(held, kept) for held, kept in self._kept if held != tokens]
        self._kept.append((tokens, session))
        del self._kept[: -self._capacity]


def _shared(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two sequences have in common from the beginning."""
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
