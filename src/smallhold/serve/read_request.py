"""The bodies of requests: what is read, what is harmless, and what is refused because it would mean something else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from smallhold.serve.body import Body
from smallhold.serve.chat import Message
from smallhold.serve.generate import Order
from smallhold.serve.grammar import Form
from smallhold.serve.request_error import RequestError
from smallhold.serve.sampling import Sampling

MOST_ANSWERS = 8
MOST_PROMPTS = 64
MOST_STOPS, LONGEST_STOP = 16, 256
MOST_LOGPROBS = 20
DEFAULT_COMPLETION_TOKENS = 16  # as OpenAI documents it for /v1/completions
_MOST_TOKENS = 2**31

#: Accepted and not read: they are about accounting, storage or routing at a provider, or hints about speed.
HARMLESS = frozenset(
    (
        *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"),
        *("prompt_cache_retention", "prediction", "parallel_tool_calls"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What both kinds of request ask for.

    Attributes:
        order: For the generator.
        is_streamed: Answer token by token.
        includes_usage: End the stream with the counts.
    """

    order: Order
    is_streamed: bool
    includes_usage: bool


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """`POST /v1/chat/completions`."""

    messages: tuple[Message, ...]
    wanted: Wanted


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """`POST /v1/completions`; a prompt is a text, or tokens that are taken as they are."""

    prompts: tuple[str | tuple[int, ...], ...]
    echo: bool
    wanted: Wanted


@dataclass(frozen=True, slots=True)
class DecideRequest:
    """`POST /v1/decide`."""

    task: str
    text: str
    has_evidence: bool


def read_chat(members: Mapping[str, Any], model: str) -> ChatRequest:
    """Check a chat request.

    Args:
        members: The body.
        model: Name of the only model.

    Raises:
        RequestError: a member is wrong, or not known.
    """
    body = Body(members, HARMLESS)
    _check_model(body, model)
    messages = tuple(_message(value, i) for i, value in enumerate(body.require("messages", list)))
    if not messages:
        raise body.error("messages", "expected at least one message, got none")
    body.only("tools", [])
    body.only("functions", [])
    body.only("tool_choice", "none", "auto")
    body.only("modalities", ["text"])
    limits = [body.integer(name, None, 1, _MOST_TOKENS) for name in ("max_completion_tokens", "max_tokens")]
    has_logprobs, top = body.take("logprobs", bool, False), body.integer("top_logprobs", None, 0, MOST_LOGPROBS)
    if top is not None and not has_logprobs:
        raise body.error("top_logprobs", "needs logprobs to be true")
    wanted = _wanted(
        body,
        max_tokens=next((limit for limit in limits if limit is not None), None),
        top_logprobs=(top or 0) if has_logprobs else None,
    )
    body.finish()
    return ChatRequest(messages, wanted)


def read_completion(members: Mapping[str, Any], model: str) -> CompletionRequest:
    """Check a completion request; see `read_chat`."""
    body = Body(members, HARMLESS)
    _check_model(body, model)
    prompts = _prompts(body)
    echo = body.take("echo", bool, False)
    body.only("suffix", "")
    max_tokens = body.integer("max_tokens", DEFAULT_COMPLETION_TOKENS, 0 if echo else 1, _MOST_TOKENS)
    top = body.integer("logprobs", None, 0, MOST_LOGPROBS)
    best_of = body.integer("best_of", None, 1, MOST_ANSWERS)
    wanted = _wanted(body, max_tokens=max_tokens, top_logprobs=top, scores_prompt=echo and top is not None)
    if best_of not in (None, wanted.order.n):
        raise body.error("best_of", f"only n, which is {wanted.order.n}, is supported, got {best_of}")
    body.finish()
    return CompletionRequest(prompts, echo, wanted)


def read_decide(members: Mapping[str, Any], model: str) -> DecideRequest:
    """Check a decision request; see `read_chat`."""
    body = Body(members)
    _check_model(body, model)
    request = DecideRequest(body.require("task", str), body.require("text", str), body.take("evidence", bool, False))
    body.finish()
    return request


def _check_model(body: Body, model: str) -> None:
    asked = body.take("model", str, model)
    if asked != model:
        raise RequestError(
            f"The model {asked[:128]!r} does not exist; this server has {model!r}",
            status=404,
            param="model",
            code="model_not_found",
        )


def _wanted(body: Body, *, max_tokens: int | None, top_logprobs: int | None, scores_prompt: bool = False) -> Wanted:
    stops, form = _stops(body), _form(body)
    if stops and form is not None:
        raise body.error("stop", "cannot be combined with response_format: it would cut the answer's form")
    seed = body.integer("seed", None, -(2**63), 2**63 - 1)
    sampling = Sampling(
        temperature=body.number("temperature", 1.0, 0, 2),
        top_p=body.number("top_p", 1.0, 0, 1),
        top_k=max(body.integer("top_k", 0, -1, _MOST_TOKENS) or 0, 0),
        frequency_penalty=body.number("frequency_penalty", 0.0, -2, 2),
        presence_penalty=body.number("presence_penalty", 0.0, -2, 2),
        logit_bias=_logit_bias(body),
        seed=None if seed is None else seed % 2**64,
    )
    order = Order(
        max_tokens=max_tokens,
        n=body.integer("n", 1, 1, MOST_ANSWERS) or 1,
        sampling=sampling,
        stops=stops,
        form=form,
        top_logprobs=top_logprobs,
        scores_prompt=scores_prompt,
    )
    is_streamed = body.take("stream", bool, False)
    options = Body(body.take("stream_options", dict, {}), ("include_obfuscation",), "stream_options.")
    if not is_streamed and options.take("include_usage", bool) is not None:
        raise body.error("stream_options", "needs stream to be true")
    wanted = Wanted(
        order=order, is_streamed=is_streamed, includes_usage=options.take("include_usage", bool, False) and is_streamed
    )
    options.finish()
    return wanted


def _message(value: Any, number: int) -> Message:
    if not isinstance(value, dict):
        raise RequestError(f"messages[{number}]: expected an object", param="messages")
    body = Body(value, ("name", "refusal", "audio", "annotations"), f"messages[{number}].")
    role, content = body.require("role", str), body.require("content", (str, list))
    role = "system" if role == "developer" else role
    if role not in ("system", "user", "assistant"):
        raise body.error("role", f"expected system, developer, user or assistant, got {role[:32]!r}")
    body.only("tool_calls", [])
    body.finish()
    if isinstance(content, list):
        parts = [Body(part if isinstance(part, dict) else {}, (), f"messages[{number}].content.") for part in content]
        for part in parts:
            if part.require("type", str) != "text":
                raise part.error("type", "only parts of the type 'text' are supported")
        content = "".join(part.require("text", str) for part in parts)
        for part in parts:
            part.finish()
    return Message(role, content)


def _prompts(body: Body) -> tuple[str | tuple[int, ...], ...]:
    value = body.require("prompt", (str, list))
    if isinstance(value, str):
        return (value,)
    if value and all(type(item) is int for item in value):
        return (tuple(value),)
    if not 1 <= len(value) <= MOST_PROMPTS:
        raise body.error("prompt", f"expected 1 to {MOST_PROMPTS} prompts, got {len(value)}")
    if all(type(item) is str for item in value):
        return tuple(value)
    if all(type(item) is list and item and all(type(token) is int for token in item) for item in value):
        return tuple(map(tuple, value))
    raise body.error("prompt", "expected a text, a list of texts, a list of token ids or a list of such lists")


def _stops(body: Body) -> tuple[str, ...]:
    value = body.take("stop", (str, list), [])
    stops = [value] if isinstance(value, str) else value
    if len(stops) > MOST_STOPS or not all(type(stop) is str and 0 < len(stop) <= LONGEST_STOP for stop in stops):
        raise body.error("stop", f"expected up to {MOST_STOPS} texts of 1 to {LONGEST_STOP} characters")
    return tuple(stops)


def _logit_bias(body: Body) -> dict[int, float]:
    value = body.take("logit_bias", dict, {})
    problem = "expected token ids as texts, each with a number from -100 to 100"
    if not all(key.isascii() and key.isdigit() and len(key) < 10 for key in value):
        raise body.error("logit_bias", problem)
    if not all(type(bias) in (int, float) and -100 <= bias <= 100 for bias in value.values()):
        raise body.error("logit_bias", problem)
    return {int(key): float(bias) for key, bias in value.items()}


def _form(body: Body) -> Form | None:
    value = body.take("response_format", dict)
    if value is None:
        return None
    inner = Body(value, (), "response_format.")
    match inner.require("type", str):
        case "text":
            form = None
        case "json_object":
            form = Form("json_schema", {"type": "object"})
        case "json_schema":
            # `strict` false would allow an answer to break the schema; it is kept here in any case.
            wrapped = Body(inner.require("json_schema", dict), ("strict", "name", "description"), "response_format.")
            form = Form("json_schema", wrapped.require("schema", dict))
            wrapped.finish()
        case "regex":
            form = Form("regex", inner.require("pattern", str))
        case "grammar":
            form = Form("grammar", inner.require("grammar", str))
        case kind:
            raise inner.error(
                "type", f"expected text, json_object, json_schema, regex or grammar, got {str(kind)[:32]!r}"
            )
    inner.finish()
    return form
