"""Tokens in, tokens and text out: one prompt, one or several answers, on the session of a bundle.

The same order gives the same answer, whatever was asked before (`prefix_cache.py` says how).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from smallhold.device.backends import Backend, Session
from smallhold.serve.grammar import Form, Matcher
from smallhold.serve.prefix_cache import BLOCK, PrefixCache
from smallhold.serve.request_error import RequestError, context_error
from smallhold.serve.sampling import FloatArray, Sampler, Sampling, log_softmax
from smallhold.serve.text_stream import TextStream
from smallhold.serve.vocabulary import Vocabulary

#: Raises when the work is no longer wanted; asked before every pass of the model.
Check = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to generate. Checked where the request is read.

    Attributes:
        max_tokens: Most tokens of one answer; None = as many as the context holds.
        n: How many answers.
        sampling: How tokens are chosen.
        stops: Texts that end an answer.
        form: What the answer has to look like.
        top_logprobs: Log-probabilities of so many most probable tokens beside the chosen one; None = of none at all.
        scores_prompt: Log-probabilities of the prompt's tokens too.
    """

    max_tokens: int | None = None
    n: int = 1
    sampling: Sampling = field(default_factory=Sampling)
    stops: tuple[str, ...] = ()
    form: Form | None = None
    top_logprobs: int | None = None
    scores_prompt: bool = False


@dataclass(frozen=True, slots=True)
class Scored:
    """One token and how probable the model found it, before penalties, grammar and temperature.

    Attributes:
        token: Its id.
        logprob: Natural logarithm; None for the first token of a prompt, which nothing precedes.
        top: The most probable tokens at this place, best first.
    """

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Prefilled:
    """The prompt was read.

    Attributes:
        tokens: The prompt.
        cached_tokens: How many of them were not computed again.
        scored: The prompt's tokens, when they were asked for.
    """

    tokens: tuple[int, ...]
    cached_tokens: int
    scored: tuple[Scored, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """A step of one answer.

    Attributes:
        index: Number of the answer.
        text: What is certain to follow now; the pieces of an answer, joined, are its text.
        token: The token generated; None for the step that only ends.
        scored: The same with its log-probability, when that was asked for.
        finish_reason: `stop` or `length` in the last piece.
    """

    index: int
    text: str
    token: int | None = None
    scored: Scored | None = None
    finish_reason: str | None = None


class Generator:
    """Answers orders, one after the other, from one thread.

    Args:
        backend: Opens sessions.
        vocabulary: Its tokens.
        context_length: Positions of prompt and answer together.
        cached_prompts: Prompts whose sessions are kept.
    """

    def __init__(self, backend: Backend, vocabulary: Vocabulary, *, context_length: int, cached_prompts: int) -> None:
        self.vocabulary, self.context_length = vocabulary, context_length
        self._cache = PrefixCache(backend, cached_prompts)
        self._backend = backend

    def run(self, prompt: Sequence[int], order: Order, check: Check) -> Iterator[Prefilled | Piece]:
        """Read the prompt, then generate the answers one by one.

        Raises:
            RequestError: the prompt is empty or does not fit, a token does not exist, or the form cannot be had.
        """
        room = self._room(prompt, order)
        matcher = None if order.form is None else Matcher(order.form, self.vocabulary)
        session = self._backend.session() if order.scores_prompt else self._cache.take(prompt)
        try:
            cached, scored = session.length, [Scored(prompt[0], None)] if order.scores_prompt else []
            for start in range(cached, len(prompt), BLOCK):
                check()
                block = prompt[start : start + BLOCK]
                if order.scores_prompt:
                    rows = session.score(block, range(len(block)))
                    following = prompt[start + 1 : start + len(block) + 1]
                    scored += [self._scored(row, token, order) for row, token in zip(rows, following, strict=False)]
                session.append(block)
            yield Prefilled(tuple(prompt), cached, tuple(scored))
            for index in range(order.n):
                branch = session.fork() if order.n > 1 else session
                yield from self._answer(branch, index, order, room, matcher and matcher.copy(), check)
        finally:
            self._cache.put(prompt, session)

    def _room(self, prompt: Sequence[int], order: Order) -> int:
        """Most tokens of one answer."""
        if not prompt:
            raise RequestError("prompt: expected at least one token, got none", param="prompt")
        if unknown := [token for token in prompt if not 0 <= token < self.vocabulary.size]:
            raise RequestError(
                f"prompt: token ids must lie in [0, {self.vocabulary.size}), got {unknown[0]}", param="prompt"
            )
        if unknown := [token for token in order.sampling.logit_bias if not 0 <= token < self.vocabulary.size]:
            raise RequestError(
                f"logit_bias: token ids must lie in [0, {self.vocabulary.size}), got {unknown[0]}", param="logit_bias"
            )
        left = self.context_length - len(prompt)
        wanted = max(left, 1) if order.max_tokens is None else order.max_tokens
        if wanted > left:
            raise context_error(len(prompt), wanted, self.context_length)
        return wanted

    def _answer(
        self, session: Session, index: int, order: Order, room: int, matcher: Matcher | None, check: Check
    ) -> Iterator[Piece]:
        sampler, stream = Sampler(order.sampling, index), TextStream(order.stops)
        for left in range(room, 0, -1):
            check()
            logits = session.score([], [-1])[0]
            sayable = self.vocabulary.sayable
            allowed = sayable if matcher is None else sayable & matcher.allowed()
            token = sampler.choose(logits, allowed)
            if token in self.vocabulary.ends:
                yield Piece(index, stream.finish(), finish_reason="stop")
                return
            text = stream.push(self.vocabulary.text_bytes(token))
            if matcher is not None:
                matcher.accept(token)
            is_stopped = stream.is_stopped or (matcher is not None and matcher.is_finished)
            reason = "stop" if is_stopped else "length" if left == 1 else None
            if reason is not None:
                text += stream.finish()
            scored = None if order.top_logprobs is None else self._scored(logits, token, order)
            yield Piece(index, text, token, scored, reason)
            if reason is not None:
                return
            session.append([token])
        yield Piece(index, "", finish_reason="length")  # an answer of no token was asked for

    def _scored(self, logits: FloatArray, token: int, order: Order) -> Scored:
        logprobs, k = log_softmax(logits), order.top_logprobs or 0
        best = np.argsort(-logprobs, kind="stable")[:k].tolist() if k else []
        return Scored(token, float(logprobs[token]), tuple((one, float(logprobs[one])) for one in best))
