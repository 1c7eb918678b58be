"""From a row to a request, and from a response to a label with its reason and probabilities."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smallhold.sectors.data_sets import Privacy
from smallhold.sectors.text_task import TextTask
from smallhold.teach.endpoint.client import Question
from smallhold.teach.endpoint.presets import Preset
from smallhold.teach.endpoint.recipe import AskChoice

#: Least share of the probability that must fall on choices. Below it the model meant to say something else, and only a
#: grammar on the server's side, which log-probabilities often leave out, made it say a label.
LEAST_MASS = 0.5
_LABEL = re.compile(rb'"label"\s*:\s*"')
_WITH_REASON = 'Answer with a JSON object: {"rationale": "one short sentence", "label": "the choice"}'
_LABEL_ALONE = 'Answer with a JSON object: {"label": "the choice"}'


@dataclass(frozen=True, slots=True)
class Sample:
    """One usable answer.

    Attributes:
        choice: Place of the label among the choices.
        rationale: The reason that was given; may be empty.
        probabilities: (K,) of the choices, where log-probabilities were asked for.
    """

    choice: int
    rationale: str
    probabilities: NDArray[np.float64] | None


@dataclass(frozen=True, slots=True)
class Piece:
    """One generated token.

    Attributes:
        text: Its bytes.
        logprob: Natural logarithm of its probability.
        others: Bytes and log-probability of the alternatives.
    """

    text: bytes
    logprob: float
    others: tuple[tuple[bytes, float], ...]


def make_question(
    task: TextTask, ask: AskChoice, settings: Preset, model: str, text: str, privacy: Privacy, sample: int
) -> Question:
    """The request for one sample of one row."""
    user = ask.fill(question=task.question, choices=task.choices, text=text)
    user = f"{user}\n\n{_WITH_REASON if ask.rationale else _LABEL_ALONE}"
    body: dict[str, Any] = {
        "model": model,
        "temperature": ask.temperature,
        "seed": ask.seed + sample,
        settings.max_tokens_key: ask.max_tokens,
    }
    if ask.api == "completions":
        body["prompt"] = f"{ask.system}\n\n{user}\n\nAnswer: "
        if ask.soft == "logprobs":
            body["logprobs"] = ask.top_logprobs
        return Question(path="/completions", body=body, sample=sample, privacy=privacy)
    body["messages"] = [{"role": "system", "content": ask.system}, {"role": "user", "content": user}]
    if ask.soft == "logprobs":
        body |= {"logprobs": True, "top_logprobs": ask.top_logprobs}
    if settings.json_schema:
        body["response_format"] = {"type": "json_schema", "json_schema": answer_schema(task.choices, ask.rationale)}
    return Question(path="/chat/completions", body=body, sample=sample, privacy=privacy)


def answer_schema(choices: Sequence[str], rationale: bool) -> dict[str, Any]:
    """The schema of an answer. The reason comes first, so that the label can follow from it."""
    label = {"type": "string", "enum": list(choices)}
    members = {"rationale": {"type": "string"}, "label": label} if rationale else {"label": label}
    schema = {"type": "object", "properties": members, "required": list(members), "additionalProperties": False}
    return {"name": "label", "strict": True, "schema": schema}


def read_sample(response: dict[str, Any], choices: Sequence[str], ask: AskChoice) -> Sample | str:
    """What a response says.

    Args:
        response: As it came, with at least one choice.
        choices: Of the task.
        ask: How it was asked.

    Returns:
        The label, or the name of what is wrong: `cut`, `filtered`, `no_text`, `not_json`, `unknown_label`,
        `no_logprobs`, or `mass_elsewhere` (see `LEAST_MASS`).
    """
    chosen = response["choices"][0]
    message = chosen.get("message")
    content = message.get("content") if isinstance(message, dict) else chosen.get("text")
    if chosen.get("finish_reason") in ("length", "content_filter"):
        return "cut" if chosen["finish_reason"] == "length" else "filtered"
    if not isinstance(content, str) or not content.strip():
        return "no_text"
    read = _read_content(content, choices, ask.rationale)
    if isinstance(read, str):
        return read
    choice, rationale, is_json = read
    probabilities = None
    if ask.soft == "logprobs":
        found = _probabilities(content, chosen.get("logprobs"), choices, choice, is_json)
        if found is None or found[1] < LEAST_MASS:
            return "no_logprobs" if found is None else "mass_elsewhere"
        probabilities = found[0]
    return Sample(choice, rationale, probabilities)


def _read_content(content: str, choices: Sequence[str], rationale: bool) -> tuple[int, str, bool] | str:
    """(choice, rationale, whether it was JSON): exactly the object that was asked for, or the bare label."""
    if not rationale and content.strip() in choices:
        return choices.index(content.strip()), "", False
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return "not_json"
    expected = {"rationale", "label"} if rationale else {"label"}
    if not isinstance(value, dict) or set(value) != expected or not isinstance(value.get("rationale", ""), str):
        return "not_json"
    if value["label"] not in choices:
        return "unknown_label"
    reason = str(value.get("rationale", "")).encode("utf-8", "replace").decode()  # half a character is no text
    return choices.index(value["label"]), reason.strip(), True


def _probabilities(
    content: str, logprobs: Any, choices: Sequence[str], chosen: int, is_json: bool
) -> tuple[NDArray[np.float64], float] | None:
    pieces = read_pieces(logprobs)
    raw = content.encode("utf-8", "replace")
    if pieces is None or b"".join(piece.text for piece in pieces) != raw:
        return None
    if not is_json:
        start, spelled = len(raw) - len(raw.lstrip()), [choice.encode() for choice in choices]
    else:
        match = _LABEL.search(raw)
        # As JSON spells it, up to the closing quotation mark: no choice is then the beginning of another.
        start = match.end() if match else 0
        spelled = [json.dumps(choice, ensure_ascii=False)[1:].encode() for choice in choices]
    if not raw[start:].startswith(spelled[chosen]):
        return None  # spelled in another way, with \u escapes for example
    return choice_probabilities(pieces, start, spelled, chosen)


def read_pieces(logprobs: Any) -> list[Piece] | None:
    """The tokens of a response with their alternatives, in either API's form; None when they are not there."""
    try:
        if logprobs.get("content"):
            return [
                Piece(
                    _bytes(item),
                    float(item["logprob"]),
                    tuple((_bytes(other), float(other["logprob"])) for other in item.get("top_logprobs") or []),
                )
                for item in logprobs["content"]
            ]
        tops = logprobs.get("top_logprobs") or [{}] * len(logprobs["tokens"])
        return [
            Piece(
                token.encode(),
                float(logprob),
                tuple((other.encode(), float(value)) for other, value in (top or {}).items()),
            )
            for token, logprob, top in zip(logprobs["tokens"], logprobs["token_logprobs"], tops, strict=True)
        ]
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return None


def _bytes(item: dict[str, Any]) -> bytes:
    raw = item.get("bytes")
    return bytes(raw) if isinstance(raw, list) else str(item["token"]).encode()


def choice_probabilities(
    pieces: Sequence[Piece], start: int, spelled: Sequence[bytes], chosen: int
) -> tuple[NDArray[np.float64], float]:
    """Probabilities of all choices from one generated answer and the alternatives of its tokens.

    Along the generated path each alternative begins other choices: its probability, times that of the path so far, is
    theirs, in equal parts where it fits several. What fits no choice, and what is not among the alternatives, is left
    out, and the rest is scaled to 1. Exact when every alternative fits one choice at most and none is missing.

    Args:
        pieces: Generated tokens from the beginning of the answer.
        start: Bytes in front of the label.
        spelled: K choices as bytes, with what closes them.
        chosen: Which one was generated.

    Returns:
        (K,) at least 0, sum 1; and the share of the probability that they stand for before they were scaled.
    """
    mass = np.zeros(len(spelled))
    path, text = 1.0, b""
    before = b"".join(piece.text for piece in pieces)[:start]
    for piece in pieces:
        if len(text) + len(piece.text) > start:
            for other, logprob in piece.others:
                whole = text + other
                if other == piece.text or len(whole) <= start or not whole.startswith(before):
                    continue
                fits = _fitting(whole[start:], spelled)
                mass[fits] += path * math.exp(min(0.0, logprob)) / max(1, len(fits))
            path *= math.exp(min(0.0, piece.logprob))
        text += piece.text
        if len(text) > start and len(_fitting(text[start:], spelled)) == 1:
            break
    mass[chosen] += path
    total = float(mass.sum())
    if not math.isfinite(total) or total <= 0:  # a path of probability 0 was generated: the server's numbers are wrong
        return np.asarray(np.arange(len(spelled)) == chosen, dtype=np.float64), 0.0
    return np.asarray(mass / total, dtype=np.float64), total


def _fitting(part: bytes, spelled: Sequence[bytes]) -> list[int]:
    return [k for k, whole in enumerate(spelled) if whole.startswith(part) or part.startswith(whole)]
