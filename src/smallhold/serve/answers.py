"""The bodies of answers, whole or as a stream of server-sent events, as OpenAI's clients read them."""

from __future__ import annotations

import codecs
import json
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from smallhold.serve.generate import Order, Piece, Prefilled, Scored
from smallhold.serve.read_request import CompletionRequest
from smallhold.serve.request_error import RequestError
from smallhold.serve.service import Event, Service
from smallhold.serve.vocabulary import Vocabulary

_LAST_EVENT = b"data: [DONE]\n\n"


class Shape(Protocol):
    """What the two kinds of answers do differently."""

    name: str
    chunk_name: str
    id_prefix: str

    def opening(self, number: int, prompt: Prefilled, /) -> list[dict[str, Any]]:
        """What a stream says before the first step of a prompt's answers."""

    def step(self, number: int, piece: Piece, /) -> dict[str, Any] | None:
        """One step; None when it says nothing."""

    def whole(self, number: int, prompt: Prefilled, pieces: Sequence[Piece], /) -> dict[str, Any]:
        """One whole answer."""


class Answers:
    """All answers to one request, as they come in.

    Args:
        service: Whose answers they are.
        shape: The kind.
    """

    def __init__(self, service: Service, shape: Shape) -> None:
        self._shape = shape
        self._head = {
            "id": f"{shape.id_prefix}-{uuid.uuid4().hex}",
            "object": shape.name,
            "created": int(time.time()),
            "model": service.name,
            "system_fingerprint": service.fingerprint,
        }
        self._prompts: dict[int, Prefilled] = {}
        self._pieces: dict[tuple[int, int], list[Piece]] = defaultdict(list)
        self._completion_tokens = 0

    def add(self, event: Event) -> None:
        """Take in a step."""
        number, step = event
        if isinstance(step, Prefilled):
            self._prompts[number] = step
        else:
            self._pieces[number, step.index].append(step)
            self._completion_tokens += step.token is not None

    def counts(self) -> dict[str, int]:
        """For the metrics; a prompt counts once, however many answers it has."""
        hits = sum(prompt.cached_tokens > 0 for prompt in self._prompts.values())
        return {
            "prompt_tokens": sum(len(prompt.tokens) for prompt in self._prompts.values()),
            "cached_tokens": sum(prompt.cached_tokens for prompt in self._prompts.values()),
            "completion_tokens": self._completion_tokens,
            "prefix_cache_hits": hits,
            "prefix_cache_misses": len(self._prompts) - hits,
        }

    def whole(self) -> dict[str, Any]:
        """The body, when every step came in."""
        choices = [
            self._shape.whole(number, self._prompts[number], pieces) for (number, _), pieces in self._pieces.items()
        ]
        return {**self._head, "choices": choices, "usage": self._usage()}

    def chunks(self, event: Event, *, has_usage: bool) -> Iterator[bytes]:
        """Events that a step becomes; a step may say nothing."""
        number, step = event
        if isinstance(step, Prefilled):
            choices = self._shape.opening(number, step)
        else:
            choice = self._shape.step(number, step)
            choices = [] if choice is None else [choice]
        # When the counts come in the end, every event before has an empty place for them.
        usage: dict[str, Any] = {"usage": None} if has_usage else {}
        for choice in choices:
            yield _event({**self._head, "object": self._shape.chunk_name, "choices": [choice], **usage})

    def end(self, *, has_usage: bool) -> bytes:
        """What a stream ends with."""
        if not has_usage:
            return _LAST_EVENT
        body = {**self._head, "object": self._shape.chunk_name, "choices": [], "usage": self._usage()}
        return _event(body) + _LAST_EVENT

    def error(self, refusal: RequestError) -> bytes:
        """What a stream ends with when it fails."""
        return _event(refusal.body)

    def _usage(self) -> dict[str, Any]:
        counts = self.counts()
        return {
            "prompt_tokens": counts["prompt_tokens"],
            "completion_tokens": counts["completion_tokens"],
            "total_tokens": counts["prompt_tokens"] + counts["completion_tokens"],
            "prompt_tokens_details": {"cached_tokens": counts["cached_tokens"]},
        }


class ChatShape:
    """`/v1/chat/completions`."""

    name, chunk_name, id_prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __init__(self, vocabulary: Vocabulary, order: Order) -> None:
        self._vocabulary, self._n = vocabulary, order.n

    def opening(self, _number: int, _prompt: Prefilled) -> list[dict[str, Any]]:
        """See `Shape`."""
        delta = {"role": "assistant", "content": ""}
        return [{"index": i, "delta": delta, "logprobs": None, "finish_reason": None} for i in range(self._n)]

    def step(self, _number: int, piece: Piece) -> dict[str, Any] | None:
        """See `Shape`."""
        logprobs = self._logprobs([piece])
        if not piece.text and logprobs is None and piece.finish_reason is None:
            return None
        delta = {"content": piece.text} if piece.text else {}
        return {"index": piece.index, "delta": delta, "logprobs": logprobs, "finish_reason": piece.finish_reason}

    def whole(self, _number: int, _prompt: Prefilled, pieces: Sequence[Piece]) -> dict[str, Any]:
        """See `Shape`."""
        return {
            "index": pieces[0].index,
            "message": {"role": "assistant", "content": "".join(piece.text for piece in pieces), "refusal": None},
            "logprobs": self._logprobs(pieces),
            "finish_reason": pieces[-1].finish_reason,
        }

    def _logprobs(self, pieces: Sequence[Piece]) -> dict[str, Any] | None:
        scored = [piece.scored for piece in pieces if piece.scored is not None]
        if not scored:
            return None
        content = [
            {**self._entry(one.token, one.logprob), "top_logprobs": [self._entry(*best) for best in one.top]}
            for one in scored
        ]
        return {"content": content, "refusal": None}

    def _entry(self, token: int, logprob: float | None) -> dict[str, Any]:
        data = self._vocabulary.name_bytes(token)
        return {"token": data.decode(errors="replace"), "logprob": logprob, "bytes": list(data)}


class TextShape:
    """`/v1/completions`; the choices of all prompts are numbered through."""

    name = chunk_name = "text_completion"
    id_prefix = "cmpl"

    def __init__(self, vocabulary: Vocabulary, request: CompletionRequest) -> None:
        self._vocabulary, self._request = vocabulary, request
        self._n = request.wanted.order.n
        self._offsets: dict[int, _Offsets] = defaultdict(_Offsets)

    def opening(self, number: int, prompt: Prefilled) -> list[dict[str, Any]]:
        """See `Shape`."""
        if not self._request.echo:
            return []
        echo = self._echo(number, prompt)
        return [self._choice(self._n * number + i, echo, prompt.scored, None) for i in range(self._n)]

    def step(self, number: int, piece: Piece) -> dict[str, Any] | None:
        """See `Shape`."""
        if not piece.text and piece.scored is None and piece.finish_reason is None:
            return None
        scored = () if piece.scored is None else (piece.scored,)
        return self._choice(self._n * number + piece.index, piece.text, scored, piece.finish_reason)

    def whole(self, number: int, prompt: Prefilled, pieces: Sequence[Piece]) -> dict[str, Any]:
        """See `Shape`."""
        text = self._echo(number, prompt) + "".join(piece.text for piece in pieces)
        scored = [*prompt.scored, *(piece.scored for piece in pieces if piece.scored is not None)]
        return self._choice(self._n * number + pieces[0].index, text, scored, pieces[-1].finish_reason)

    def _echo(self, number: int, prompt: Prefilled) -> str:
        if not self._request.echo:
            return ""
        given = self._request.prompts[number]
        return given if isinstance(given, str) else self._vocabulary.text(prompt.tokens)

    def _choice(self, index: int, text: str, scored: Sequence[Scored], finish_reason: str | None) -> dict[str, Any]:
        logprobs = self._logprobs(index, scored) if scored else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}

    def _logprobs(self, index: int, scored: Sequence[Scored]) -> dict[str, Any]:
        offsets, vocabulary = self._offsets[index], self._vocabulary
        return {
            "tokens": [_name(one.token, vocabulary) for one in scored],
            "token_logprobs": [one.logprob for one in scored],
            "top_logprobs": [
                None if one.logprob is None else {_name(token, vocabulary): value for token, value in one.top}
                for one in scored
            ],
            "text_offset": [offsets.before(vocabulary.text_bytes(one.token)) for one in scored],
        }


class _Offsets:
    """Where each token begins in a text, in characters."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._length = 0

    def before(self, data: bytes) -> int:
        """Characters before these bytes, which come next."""
        length = self._length
        self._length += len(self._decoder.decode(data))
        return length


def _event(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def _name(token: int, vocabulary: Vocabulary) -> str:
    r"""A token as text; one that ends within a character as `bytes:\xe2\x80`, so that no two look the same."""
    data = vocabulary.name_bytes(token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
