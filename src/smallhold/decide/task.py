"""A task file: everything that a device needs to ask one question, `tasks/<task>.json` in a bundle."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from dataclasses import field as dataclass_field
from typing import Any

from smallhold.decide.bounded_string import StringField
from smallhold.decide.plan import Field
from smallhold.decide.signal import SignalSpec
from smallhold.decide.words import WordSpec
from smallhold.errors import RecipeError
from smallhold.records import canonical_json

FORMAT = "smallhold.task/1"
_SIGNAL_MEMBERS = ("signal", "num_bins", "horizons", "encoder", "baseline", "comparators")

#: The signal door of a task that has none.
NO_SIGNAL = SignalSpec((), (), 60, ())

#: Token that everything begins with that is given as tokens.
BOS = "<bos>"

#: Special tokens that end a text or a turn: ours, and those of widespread vocabularies.
END_MARKS = (
    "<eos>",
    "</s>",
    "\n</s>\n",
    "<|endoftext|>",
    "<|end|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<end_of_turn>",
)


def marker_of(task: str) -> str:
    """The token that opens and closes a text, for example `<triage>`."""
    return f"<{task}>"


def choice_token(task: str, choice: str) -> str:
    """The token that stands for an answer, for example `<triage:Acne>`."""
    return f"<{task}:{choice}>"


@dataclass(frozen=True, slots=True)
class Comparator:
    """How another model's or score's number at one hour becomes a probability and a yes or no.

    Both were fitted on the calibration split: the probability by logistic regression on the number (Platt 1999),
    the threshold by the best event 1, min(sensitivity, PPV).

    Attributes:
        scale: Slope; probability = sigmoid(scale * number + offset).
        offset: Intercept.
        threshold: Positive when the probability is at least this.
    """

    scale: float
    offset: float
    threshold: float

    def __post_init__(self) -> None:
        """Refuse what is no number."""
        if not all(math.isfinite(value) for value in (self.scale, self.offset, self.threshold)):
            raise RecipeError(f"comparator: expected finite numbers, got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDoor:
    """How a text reaches the two paths of a task, and how much each path says.

    The trunk reads <bos>, the marker, the text's tokens and the marker again; the logits are read there. The
    deciding logits are trunk_weight * trunk + ngram_weight * n-grams, with weights fitted on the calibration split.

    Attributes:
        marker: Special token of the tokenizer, for example `<triage>`.
        max_tokens: Tokens of the text that the trunk reads; a longer text is cut behind them.
        ngrams: Path of the n-gram classifier in the bundle, or None.
        trunk_weight: 0 or more; at 0 the trunk is not run.
        ngram_weight: 0 or more; 0 without a classifier.
    """

    marker: str
    max_tokens: int
    ngrams: str | None = None
    trunk_weight: float = 1.0
    ngram_weight: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a door that leads nowhere."""
        for name, text in (("marker", self.marker), ("ngrams", self.ngrams)):
            if not (isinstance(text, str) and text) and not (name == "ngrams" and text is None):
                raise RecipeError(f"text door: {name}: expected text, got {text!r}")
        if type(self.max_tokens) is not int or self.max_tokens < 1:
            raise RecipeError(f"text door: max_tokens: expected a positive integer, got {self.max_tokens!r}")
        weights = (self.trunk_weight, self.ngram_weight)
        if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
            raise RecipeError(f"text door: expected two weights of 0 or more, not both 0, got {weights}")
        if self.ngrams is None and self.ngram_weight:
            raise RecipeError(f"text door: an n-gram weight of {self.ngram_weight} needs an n-gram classifier")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One question to one base, through exactly one door: readings (`signal`) or a text (`text`).

    Attributes:
        name: For example `icu-risk`.
        sector: Folder under `sectors/`.
        question: The question in words.
        fields: Decision schema.
        condition: What the task watches for, as an alert names it.
        text: The text door; None when the task reads signals.
        strings: Short texts that the trunk writes beside the answer, each under a name of its own; of a text task.
        signal: The signal door; `NO_SIGNAL` when the task reads text, and what follows is then left at its default.
        num_bins: Bins that the task answers for; the prefix comes before them.
        horizons: Bins at which the task is measured.
        words: How the same readings are written in observation words, for a runtime that takes token ids alone; None
            when the trunk never learnt them.
        word_fields: The same fields with what was fitted on answers in words; empty when nothing was.
        encoder: Path of the signal encoder in the bundle.
        baseline: Path of the baseline trees in the bundle, or None.
        comparators: Other model or score to hour (as text, JSON's keys) to fitted comparator.
    """

    name: str
    sector: str
    question: str
    fields: tuple[Field, ...]
    condition: str
    text: TextDoor | None = None
    strings: tuple[StringField, ...] = ()
    signal: SignalSpec = NO_SIGNAL
    num_bins: int = 0
    horizons: tuple[int, ...] = ()
    words: WordSpec | None = None
    word_fields: tuple[Field, ...] = ()
    encoder: str = ""
    baseline: str | None = None
    comparators: dict[str, dict[str, Comparator]] = dataclass_field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse members of the wrong type, two doors or none, and hours that the task does not answer for."""
        texts = {name: getattr(self, name) for name in ("name", "sector", "question", "encoder", "condition")}
        if self.baseline is not None:
            texts["baseline"] = self.baseline
        for name, text in texts.items():
            if not isinstance(text, str):
                raise RecipeError(f"task file: {name}: expected text, got {text!r}")
        if (self.text is None) != bool(self.signal.parameters):
            raise RecipeError(f"task {self.name}: expected exactly one door, signal or text")
        if self.text is not None:
            if (
                self.words
                or self.word_fields
                or any(getattr(self, item.name) for item in fields(self) if item.name in _SIGNAL_MEMBERS[1:])
            ):
                raise RecipeError(f"task {self.name}: a text task has no {', '.join(_SIGNAL_MEMBERS[1:])}")
            if len(self.fields) != 1:
                raise RecipeError(f"task {self.name}: a text task has one field, got {len(self.fields)}")
        elif type(self.num_bins) is not int or self.num_bins < 1:
            raise RecipeError(f"task {self.name}: num_bins: expected a positive integer, got {self.num_bins!r}")
        if any(type(hour) is not int or not 1 <= hour <= self.num_bins for hour in self.horizons):
            raise RecipeError(
                f"task {self.name}: horizons: expected integers in [1, {self.num_bins}], got {list(self.horizons)}"
            )
        self._check_strings()
        if not self.fields or len({item.name for item in self.fields}) != len(self.fields):
            raise RecipeError(f"task {self.name}: expected one or more fields with different names")
        if self.word_fields and (self.words is None or _schema(self.word_fields) != _schema(self.fields)):
            raise RecipeError(f"task {self.name}: word_fields: expected `words`, and the choices of `fields` again")

    def _check_strings(self) -> None:
        if self.strings and self.text is None:
            raise RecipeError(f"task {self.name}: strings: expected none in a task that reads signals")
        names = [item.name for item in self.fields] + [item.name for item in self.strings]
        if self.strings and len(set(names)) < len(names):
            raise RecipeError(f"task {self.name}: strings: expected names of their own, got {names}")

    @property
    def fields_in_words(self) -> tuple[Field, ...]:
        """How answers in observation words are read.

        By what was fitted on them. Where nothing was: by the probabilities of the signal door, and without its
        promise, which was not fitted on words.
        """
        return self.word_fields or tuple(replace(item, conformal=None) for item in self.fields)

    def field(self, name: str) -> Field:
        """The field of that name.

        Raises:
            RecipeError: there is none.
        """
        for item in self.fields:
            if item.name == name:
                return item
        raise RecipeError(f"task {self.name}: no field {name!r}, only {', '.join(f.name for f in self.fields)}")

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        value = {
            "format": FORMAT,
            **{item.name: getattr(self, item.name) for item in fields(self)},
            "fields": [asdict(item) for item in self.fields],
            "signal": self.signal.to_json(),
            "comparators": {
                model: {hour: asdict(item) for hour, item in hours.items()} for model, hours in self.comparators.items()
            },
        }
        if self.words is None:
            del value["words"]
        else:
            value["words"] = self.words.to_json()
        if self.word_fields:
            value["word_fields"] = [asdict(item) for item in self.word_fields]
        else:
            del value["word_fields"]
        if self.strings:
            value["strings"] = [asdict(item) for item in self.strings]
        else:
            del value["strings"]
        if self.text is None:
            del value["text"]
        else:
            value = {name: item for name, item in value.items() if name not in _SIGNAL_MEMBERS}
            value["text"] = asdict(self.text)
        return canonical_json(value)

    @classmethod
    def from_bytes(cls, data: bytes) -> Task:
        """Read what `to_bytes` wrote.

        Raises:
            RecipeError: another format, or a member is missing, extra or of the wrong type.
        """
        try:
            value: dict[str, Any] = json.loads(data)
            if value.pop("format") != FORMAT:
                raise RecipeError(f"task file: expected format {FORMAT}")
            value["fields"] = _fields(value["fields"])
            if "strings" in value:
                value["strings"] = tuple(StringField(**item) for item in _tuple(value["strings"]))
            if "text" in value:
                return cls(**{**value, "text": TextDoor(**value["text"])})
            if absent := [name for name in _SIGNAL_MEMBERS if name not in value]:
                raise RecipeError(f"task file: malformed: lacks {', '.join(absent)}")
            value["signal"] = SignalSpec.from_json(value["signal"])
            value["horizons"] = _tuple(value["horizons"])
            if "words" in value:
                value["words"] = WordSpec.from_json(value["words"])
            if "word_fields" in value:
                value["word_fields"] = _fields(value["word_fields"])
            value["comparators"] = {
                model: {hour: Comparator(**item) for hour, item in hours.items()}
                for model, hours in value["comparators"].items()
            }
            return cls(**value)
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise RecipeError(f"task file: malformed: {error!r}") from error


def _schema(items: tuple[Field, ...]) -> list[tuple[str, tuple[str, ...], str]]:
    return [(item.name, item.choices, item.positive) for item in items]


def _fields(value: Any) -> tuple[Field, ...]:
    return tuple(Field(**{**item, "choices": _tuple(item["choices"])}) for item in _tuple(value))


def _tuple(value: Any) -> tuple[Any, ...]:
    """A JSON list; text would pass for a list of letters."""
    if not isinstance(value, list):
        raise TypeError(f"expected a list, got {value!r}")
    return tuple(value)
