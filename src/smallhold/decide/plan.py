"""From a decision schema to a plan that a runtime can score in one pass.

Every closed choice is spelled by the tokenizer. Tokens that all choices share at the start are forced: they are
appended without being asked for. The first token in which the choices differ decides; its logits are read, and what
would follow is forced again. Nothing is generated.

Probabilities are softmax(logits / temperature) over the choices (Guo et al. 2017, arXiv:1706.04599, section 4.2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smallhold.errors import DecisionError, RecipeError


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One typed field of a decision, with what was fitted on the calibration split.

    Attributes:
        name: Name of the field.
        choices: Every allowed value.
        positive: The choice that an alert is about.
        temperature: Divides the logits before the softmax; 1 until fitted.
        abstain_below: The field abstains when no choice is at least this probable; 0 until fitted.
        alert_threshold: An alert is due when the positive choice is at least this probable; 1 until fitted.
    """

    name: str
    choices: tuple[str, ...]
    positive: str
    temperature: float = 1.0
    abstain_below: float = 0.0
    alert_threshold: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a field that could not be decided."""
        if len(self.choices) < 2 or len(set(self.choices)) != len(self.choices):
            raise RecipeError(f"field {self.name}: expected at least two different choices, got {list(self.choices)}")
        if self.positive not in self.choices:
            raise RecipeError(f"field {self.name}: positive {self.positive!r} is not one of {list(self.choices)}")
        if not 0 < self.temperature < np.inf or not 0 <= self.abstain_below <= 1 or not 0 <= self.alert_threshold <= 1:
            raise RecipeError(
                f"field {self.name}: temperature must be positive and thresholds in [0, 1], got {self.temperature}, "
                f"{self.abstain_below}, {self.alert_threshold}"
            )


@dataclass(frozen=True, slots=True)
class FieldPlan:
    """How one field is read.

    Attributes:
        forced: (F,) tokens appended first; empty when the choices differ at once.
        deciding: (K,) one token a choice; their logits, after the forced tokens, decide.
    """

    forced: tuple[int, ...]
    deciding: tuple[int, ...]

    @property
    def at(self) -> int:
        """Index for `Session.score`: the last forced token, or the last appended position."""
        return len(self.forced) - 1


def plan_field(field: Field, spell: Callable[[str], Sequence[int]]) -> FieldPlan:
    """Compile a field.

    Args:
        field: The field.
        spell: Text to token ids.

    Raises:
        RecipeError: two choices do not differ where the first difference lies, so that one token cannot decide.
    """
    spelled = [tuple(spell(choice)) for choice in field.choices]
    shared = 0
    while all(len(ids) > shared for ids in spelled) and len({ids[shared] for ids in spelled}) == 1:
        shared += 1
    deciding = tuple(ids[shared] if len(ids) > shared else -1 for ids in spelled)
    if len(set(deciding)) != len(deciding) or -1 in deciding:
        raise RecipeError(
            f"field {field.name}: choices {list(field.choices)} cannot be told apart by one token; "
            "give them different first letters or words"
        )
    return FieldPlan(spelled[0][:shared], deciding)


@dataclass(frozen=True, slots=True)
class Answer:
    """One field answered.

    Attributes:
        choice: The most probable choice, or None when abstained.
        probabilities: Calibrated, one for each choice.
        has_abstained: No choice was probable enough.
    """

    choice: str | None
    probabilities: dict[str, float]
    has_abstained: bool


def answer_field(field: Field, logits: NDArray[Any]) -> Answer:
    """Turn the deciding logits into a calibrated answer, or an abstention.

    Args:
        field: The field with its fitted temperature and threshold.
        logits: (K,) in the order of the choices.

    Raises:
        DecisionError: the logits are not finite or not K of them; a runtime has failed.
    """
    if logits.shape != (len(field.choices),) or not np.isfinite(logits).all():
        raise DecisionError(f"field {field.name}: expected {len(field.choices)} finite logits, got {logits}")
    scaled = logits.astype(np.float64) / field.temperature
    weight = np.exp(scaled - scaled.max())
    probabilities = weight / weight.sum()
    best = int(np.argmax(probabilities))
    has_abstained = bool(probabilities[best] < field.abstain_below)
    return Answer(
        None if has_abstained else field.choices[best],
        dict(zip(field.choices, probabilities.tolist(), strict=True)),
        has_abstained,
    )


def validate_answer(field: Field, probabilities: Mapping[str, float], choice: str | None) -> None:
    """Check an answer again from the outside, whoever made it.

    Raises:
        DecisionError: a choice outside the schema, probabilities that are no distribution, or a choice that is not
            the most probable one.
    """
    if set(probabilities) != set(field.choices):
        raise DecisionError(f"field {field.name}: expected choices {list(field.choices)}, got {sorted(probabilities)}")
    values = list(probabilities.values())
    if not all(0 <= p <= 1 for p in values) or abs(sum(values) - 1) > 1e-6:  # NaN fails the first test
        raise DecisionError(f"field {field.name}: probabilities are no distribution: {values}")
    if choice is not None and probabilities.get(choice, -1.0) < max(values):
        raise DecisionError(f"field {field.name}: choice {choice!r} is not the most probable one")
