"""A task file: everything that a device needs to ask one question, `tasks/<task>.json` in a bundle."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from smallhold.decide.plan import Field
from smallhold.decide.signal import SignalSpec
from smallhold.errors import RecipeError
from smallhold.records import canonical_json

FORMAT = "smallhold.task/1"


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
class Task:
    """One question to one base.

    Attributes:
        name: For example `icu-risk`.
        sector: Folder under `sectors/`.
        question: The question in words.
        fields: Decision schema.
        signal: The signal door.
        num_bins: Bins that the task answers for; the prefix comes before them.
        horizons: Bins at which the task is measured.
        encoder: Path of the signal encoder in the bundle.
        baseline: Path of the baseline trees in the bundle, or None.
        comparators: Other model or score to hour (as text, JSON's keys) to fitted comparator.
        condition: What the task watches for, as an alert names it.
    """

    name: str
    sector: str
    question: str
    fields: tuple[Field, ...]
    signal: SignalSpec
    num_bins: int
    horizons: tuple[int, ...]
    encoder: str
    baseline: str | None
    comparators: dict[str, dict[str, Comparator]]
    condition: str

    def __post_init__(self) -> None:
        """Refuse members of the wrong type and hours that the task does not answer for."""
        texts = {name: getattr(self, name) for name in ("name", "sector", "question", "encoder", "condition")}
        if self.baseline is not None:
            texts["baseline"] = self.baseline
        for name, text in texts.items():
            if not isinstance(text, str):
                raise RecipeError(f"task file: {name}: expected text, got {text!r}")
        if type(self.num_bins) is not int or self.num_bins < 1:
            raise RecipeError(f"task {self.name}: num_bins: expected a positive integer, got {self.num_bins!r}")
        if any(type(hour) is not int or not 1 <= hour <= self.num_bins for hour in self.horizons):
            raise RecipeError(
                f"task {self.name}: horizons: expected integers in [1, {self.num_bins}], got {list(self.horizons)}"
            )
        if not self.fields or len({item.name for item in self.fields}) != len(self.fields):
            raise RecipeError(f"task {self.name}: expected one or more fields with different names")

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
            value["fields"] = tuple(
                Field(**{**item, "choices": _tuple(item["choices"])}) for item in _tuple(value["fields"])
            )
            value["signal"] = SignalSpec.from_json(value["signal"])
            value["horizons"] = _tuple(value["horizons"])
            value["comparators"] = {
                model: {hour: Comparator(**item) for hour, item in hours.items()}
                for model, hours in value["comparators"].items()
            }
            return cls(**value)
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise RecipeError(f"task file: malformed: {error!r}") from error


def _tuple(value: Any) -> tuple[Any, ...]:
    """A JSON list; text would pass for a list of letters."""
    if not isinstance(value, list):
        raise TypeError(f"expected a list, got {value!r}")
    return tuple(value)
