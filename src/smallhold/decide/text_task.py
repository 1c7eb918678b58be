"""A closed question about a text: the trunk reads it token by token, the n-gram path at a glance, and both are weighed.

::

    task = smallhold.open("hospital.bundle").task("triage")
    decision = task.decide("Red, itchy patches on both elbows for a month.")
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from smallhold.decide.bounded_string import GeneratedString
from smallhold.decide.ngrams import MOST_CHARACTERS, NGramClassifier
from smallhold.decide.plan import Answer, answer_field, validate_answer
from smallhold.decide.task import BOS, Task, TextDoor
from smallhold.device.backends import Session
from smallhold.errors import BackendError, InputError, RecipeError

if TYPE_CHECKING:
    from smallhold.decide.local import LocalBundle

FloatArray = NDArray[np.float32]
Part = Literal["both", "trunk", "ngrams"]


@dataclass(frozen=True, slots=True)
class TextDecision:
    """What a text task answers.

    Attributes:
        task: Name of the task.
        tokens: Tokens of the text that the trunk read.
        is_cut: The text was longer: the rest had no part, or only a part by its n-grams.
        answers: Field name to answer.
        latency_ms: Wall time from the text to the answer.
        strings: Name of a string of the task to what the trunk wrote; no part of the answer.
    """

    task: str
    tokens: int
    is_cut: bool
    answers: dict[str, Answer]
    latency_ms: float
    strings: dict[str, GeneratedString] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TextEffect:
    """What a piece of a text does to the answer.

    Attributes:
        text: The piece, as it stands in the text.
        effect: Log-odds that the choice loses without it.
    """

    text: str
    effect: float


class LocalTextTask:
    """A text task ready to be asked; every text is a question of its own."""

    def __init__(self, bundle: LocalBundle, task: Task) -> None:
        if task.text is None:
            raise RecipeError(f"task {task.name}: reads signals, not text")
        self.bundle, self.task = bundle, task
        self.door: TextDoor = task.text
        (self.field,) = task.fields
        self.plan = bundle.plan(task, self.field)
        self.ngrams: NGramClassifier | None = None
        if self.door.ngrams is not None:
            self.ngrams = NGramClassifier.from_bytes(bundle.read(self.door.ngrams))
            if len(self.ngrams.bias) != len(self.field.choices):
                raise BackendError(
                    f"task {task.name}: {len(self.field.choices)} choices, but the n-gram classifier knows "
                    f"{len(self.ngrams.bias)}"
                )
        self._marker = self._token(self.door.marker)
        self.strings = {item.name: bundle.string_plan(item) for item in task.strings}
        longest = max([self.plan.longest, *(plan.longest for plan in self.strings.values())])
        needed = 3 + self.door.max_tokens + longest
        if bundle.backend.context_length < needed:
            raise BackendError(
                f"task {task.name}: {self.door.max_tokens} tokens of text need a context of {needed} positions, the "
                f"trunk has {bundle.backend.context_length}"
            )
        # What every question begins with is computed once.
        self._prefix = bundle.backend.session()
        self._prefix.append([self._token(BOS), self._marker])

    def decide(self, text: str) -> TextDecision:
        """Answer the question of one text.

        Raises:
            InputError: no text, nothing but white space, or half a character.
            DecisionError: the runtime gave something that is no answer.
        """
        begun = time.perf_counter()
        _require_text(text)
        tokens, is_cut = self._tokens(text)
        asked = self._asked(tokens) if self.door.trunk_weight or self.strings else None
        answer = answer_field(self.field, self._weighed(text, asked))
        validate_answer(self.field, answer.probabilities, answer.choice)
        strings = {} if asked is None else {name: plan.write(asked) for name, plan in self.strings.items()}
        latency_ms = (time.perf_counter() - begun) * 1e3
        return TextDecision(self.task.name, len(tokens), is_cut, {self.field.name: answer}, latency_ms, strings)

    def logits(self, texts: Sequence[str], part: Part = "both") -> FloatArray:
        """Deciding logits of many texts; for evaluation.

        Args:
            texts: N texts.
            part: `both` as they are weighed for a decision, or one path alone, unweighed.

        Returns:
            (N, K) in the order of the choices.

        Raises:
            InputError: see `decide`; or the bundle has no n-gram path.
        """
        if part not in ("both", "trunk", "ngrams"):
            raise InputError(f"part: expected both, trunk or ngrams, got {part!r}")
        rows = []
        for text in texts:
            _require_text(text)
            if part == "ngrams":
                rows.append(self._by_ngrams(text))
            elif part == "trunk":
                rows.append(self.plan.logits(self._asked(self._tokens(text)[0])))
            else:
                rows.append(self._weighed(text, self._asked(self._tokens(text)[0]) if self.door.trunk_weight else None))
        return np.array(rows, dtype=np.float32).reshape(len(rows), len(self.field.choices))

    def weigh(self, trunk: FloatArray, ngrams: FloatArray) -> FloatArray:
        """Deciding logits from those of each path alone.

        Args:
            trunk: (N, K) or (K,).
            ngrams: The same.

        Returns:
            Of the same shape, bit for bit what `logits` says of both parts.
        """
        return np.float32(self.door.trunk_weight) * trunk + np.float32(self.door.ngram_weight) * ngrams

    def effects(self, text: str, choice: str | None = None, *, most_pieces: int = 24) -> list[TextEffect]:
        """What each piece of a text does to one choice, by deletion, through both paths.

        A piece is a word; in a text of more than `most_pieces` words, a run of neighbouring words.

        Args:
            text: The text.
            choice: Default: the most probable one.
            most_pieces: Each piece costs one more decision.

        Returns:
            Every piece in the order of the text; none for a text of one word.

        Raises:
            InputError: see `decide`; or no such choice.
        """
        if choice is not None and choice not in self.field.choices:
            raise InputError(f"field {self.field.name}: no choice {choice!r}, only {', '.join(self.field.choices)}")
        if most_pieces < 2:
            raise InputError(f"most_pieces: expected two or more, got {most_pieces}")
        _require_text(text)
        words = text[:MOST_CHARACTERS].split()
        count = min(len(words), most_pieces)
        if count < 2:
            return []
        edges = [round(Fraction(i * len(words), count)) for i in range(count + 1)]  # a half to the even neighbour
        texts = [text, *(" ".join(words[:start] + words[end:]) for start, end in pairwise(edges))]
        logits = self.logits(texts).astype(np.float64) / self.field.temperature + np.array(self.field.bias or 0.0)
        k = int(np.argmax(logits[0])) if choice is None else self.field.choices.index(choice)
        odds = logits[:, k] - np.logaddexp.reduce(np.delete(logits, k, axis=1), axis=1)
        return [
            TextEffect(" ".join(words[start:end]), float(odds[0] - without))
            for (start, end), without in zip(pairwise(edges), odds[1:], strict=True)
        ]

    def _weighed(self, text: str, asked: Session | None) -> FloatArray:
        # A path without weight is not asked.
        silent = np.zeros(len(self.field.choices), dtype=np.float32)
        return self.weigh(
            self.plan.logits(asked) if asked is not None and self.door.trunk_weight else silent,
            self._by_ngrams(text) if self.door.ngram_weight else silent,
        )

    def _asked(self, tokens: list[int]) -> Session:
        """A session behind <bos>, marker, text and marker."""
        asked = self._prefix.fork()
        asked.append([*tokens, self._marker])
        return asked

    def _by_ngrams(self, text: str) -> FloatArray:
        if self.ngrams is None:
            raise InputError(f"task {self.task.name}: the bundle has no n-gram path")
        return self.ngrams.logits(text)

    def _tokens(self, text: str) -> tuple[list[int], bool]:
        """Tokens that the trunk reads, and whether something was left out."""
        read = text[:MOST_CHARACTERS]
        tokens: list[int] = self.bundle.tokenizer.encode(read, add_special_tokens=False).ids
        is_cut = len(tokens) > self.door.max_tokens or len(read) < len(text)
        return tokens[: self.door.max_tokens], is_cut

    def _token(self, word: str) -> int:
        token = self.bundle.tokenizer.token_to_id(word)
        if token is None:
            raise BackendError(f"task {self.task.name}: the tokenizer has no token {word!r}")
        return int(token)


def _require_text(text: str) -> None:
    if not isinstance(text, str):
        raise InputError(f"text: expected text, got {type(text).__name__}")
    if not text.strip():
        raise InputError("text: expected at least one word, got nothing but white space")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError("text: expected Unicode, got half a character (a lone surrogate)") from error
