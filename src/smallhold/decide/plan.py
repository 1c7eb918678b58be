"""From a decision schema to a plan that a runtime can score in one pass.

Every closed choice is spelled by the tokenizer. Tokens that all choices share at the start are forced: they are
appended without being asked for. The first token in which the choices differ decides; its logits are read, and what
would follow is forced again. Nothing is generated.

Probabilities are softmax(logits / temperature + bias) over the choices (Guo et al. 2017, arXiv:1706.04599, section
4.2; with a bias: Alexandari et al. 2020, arXiv:1901.06852), or for two choices a line through knots. What follows from
them, a choice or an abstention, is in `choose`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smallhold.decide.conformal import Conformal
from smallhold.errors import DecisionError, RecipeError

#: What `choose` gives where no choice is given.
ABSTAINED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One typed field of a decision, with what was fitted on the calibration split.

    Attributes:
        name: Name of the field.
        choices: Every allowed value.
        positive: The choice that an alert is about.
        temperature: Divides the logits before the softmax; 1 until fitted.
        abstain_below: The field abstains when no choice is at least this probable; 0 when that is not asked.
        alert_threshold: An alert is due when the positive choice is at least this probable; 1 until fitted.
        bias: (K,) added to the divided logits; empty for none.
        knots: For two choices: rising (log-odds of the positive choice, calibrated log-odds) pairs, straight between
            them and constant outside; they then stand in for temperature and bias. Empty for none.
        conformal: What the prediction sets promise; None until fitted.
    """

    name: str
    choices: tuple[str, ...]
    positive: str
    temperature: float = 1.0
    abstain_below: float = 0.0
    alert_threshold: float = 1.0
    bias: tuple[float, ...] = ()
    knots: tuple[tuple[float, float], ...] = ()
    conformal: Conformal | None = None

    def __post_init__(self) -> None:
        """Refuse a field that could not be decided; take lists and objects, as JSON gives them."""
        object.__setattr__(self, "bias", tuple(self.bias))
        object.__setattr__(self, "knots", tuple((float(x), float(y)) for x, y in self.knots))
        if isinstance(self.conformal, Mapping):
            object.__setattr__(self, "conformal", Conformal.from_json(self.conformal))
        if len(self.choices) < 2 or len(set(self.choices)) != len(self.choices):
            raise RecipeError(f"field {self.name}: expected at least two different choices, got {list(self.choices)}")
        if self.positive not in self.choices:
            raise RecipeError(f"field {self.name}: positive {self.positive!r} is not one of {list(self.choices)}")
        if not 0 < self.temperature < np.inf or not 0 <= self.abstain_below <= 1 or not 0 <= self.alert_threshold <= 1:
            raise RecipeError(
                f"field {self.name}: temperature must be positive and thresholds in [0, 1], got {self.temperature}, "
                f"{self.abstain_below}, {self.alert_threshold}"
            )
        self._check_map()

    def _check_map(self) -> None:
        if len(self.bias) not in (0, len(self.choices)) or not all(np.isfinite(value) for value in self.bias):
            raise RecipeError(f"field {self.name}: bias: expected {len(self.choices)} finite numbers, got {self.bias}")
        if self.knots:
            grid = np.array(self.knots)
            is_rising = len(grid) > 1 and (np.diff(grid[:, 0]) > 0).all() and (np.diff(grid[:, 1]) >= 0).all()
            if len(self.choices) != 2 or not np.isfinite(grid).all() or not is_rising:
                raise RecipeError(
                    f"field {self.name}: knots: expected two choices and two or more finite, rising pairs, "
                    f"got {len(self.choices)} choices and {self.knots}"
                )
        if self.conformal is not None and len(self.conformal.least) != len(self.choices):
            raise RecipeError(
                f"field {self.name}: conformal: expected {len(self.choices)} thresholds, got {self.conformal.least}"
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
        choice: What `choose` chose, or None when abstained.
        probabilities: Calibrated, one for each choice.
        has_abstained: No choice was given.
        prediction_set: Every choice that cannot be excluded at the promised error, never none at all.
            Without a promise it is the choice alone, or all of them after an abstention.
    """

    choice: str | None
    probabilities: dict[str, float]
    has_abstained: bool
    prediction_set: tuple[str, ...] = ()


def calibrate_logits(field: Field, logits: NDArray[Any]) -> NDArray[np.float64]:
    """Calibrated probabilities, (..., K), of deciding logits (..., K) in the order of the choices."""
    scaled = logits.astype(np.float64)
    if field.knots:
        positive = field.choices.index(field.positive)
        margin = scaled[..., positive] - scaled[..., 1 - positive]
        scaled = np.zeros_like(scaled)
        scaled[..., positive] = np.interp(margin, *np.array(field.knots).T)
    else:
        scaled = scaled / field.temperature + np.array(field.bias or 0.0)
    weight = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    probabilities: NDArray[np.float64] = weight / weight.sum(axis=-1, keepdims=True)
    return probabilities


def choose(field: Field, probabilities: NDArray[np.float64], group: str | None = None) -> NDArray[np.int64]:
    """The choice that is given, or an abstention.

    Without a promise the most probable choice is given when it reaches `abstain_below`. With one, a choice is given
    when it is the only one that cannot be excluded and, where an alert threshold was fitted, says the same as the
    alert: `positive` only where an alert is due, another choice only where none is. An answer therefore never
    contradicts an alert, and an abstention never withholds one: the threshold alone decides about alerts.

    Args:
        field: The field.
        probabilities: (..., K) calibrated.
        group: Group of the promise; None keeps it in every group.

    Returns:
        (...,) index of the choice, `ABSTAINED` (-1) where none is given.
    """
    best = np.argmax(probabilities, axis=-1)
    is_given = probabilities.max(axis=-1) >= field.abstain_below
    if field.conformal is not None:
        sets = field.conformal.sets(probabilities, group)
        best = np.argmax(sets, axis=-1)
        is_given = is_given & (sets.sum(axis=-1) == 1)
        if field.alert_threshold < 1:
            positive = field.choices.index(field.positive)
            is_given = is_given & ((best == positive) == (probabilities[..., positive] >= field.alert_threshold))
    return np.where(is_given, best, ABSTAINED)


def answer_field(field: Field, logits: NDArray[Any], group: str | None = None) -> Answer:
    """Turn the deciding logits into a calibrated answer, or an abstention.

    Args:
        field: The field with what was fitted.
        logits: (K,) in the order of the choices.
        group: Group of the promise, for example the hour; None keeps it in every group.

    Raises:
        DecisionError: the logits are not finite or not K of them; a runtime has failed.
    """
    if logits.shape != (len(field.choices),) or not np.isfinite(logits).all():
        raise DecisionError(f"field {field.name}: expected {len(field.choices)} finite logits, got {logits}")
    probabilities = calibrate_logits(field, logits)
    chosen = int(choose(field, probabilities, group))
    choice = None if chosen == ABSTAINED else field.choices[chosen]
    if field.conformal is None:
        prediction_set = field.choices if choice is None else (choice,)
    else:
        within = field.conformal.sets(probabilities, group)
        prediction_set = tuple(name for name, is_in in zip(field.choices, within, strict=True) if is_in)
    return Answer(
        choice,
        dict(zip(field.choices, probabilities.tolist(), strict=True)),
        choice is None,
        prediction_set,
    )


def validate_answer(
    field: Field, probabilities: Mapping[str, float], choice: str | None, group: str | None = None
) -> None:
    """Check an answer again from the outside, whoever made it.

    Raises:
        DecisionError: a choice outside the schema, probabilities that are no distribution, or a choice that is not
            the most probable one or, where sets are promised, not the one that `choose` gives.
    """
    if set(probabilities) != set(field.choices):
        raise DecisionError(f"field {field.name}: expected choices {list(field.choices)}, got {sorted(probabilities)}")
    values = list(probabilities.values())
    if not all(0 <= p <= 1 for p in values) or abs(sum(values) - 1) > 1e-6:  # NaN fails the first test
        raise DecisionError(f"field {field.name}: probabilities are no distribution: {values}")
    if choice is None:
        return
    if field.conformal is None:
        if probabilities.get(choice, -1.0) < max(values):
            raise DecisionError(f"field {field.name}: choice {choice!r} is not the most probable one")
        return
    chosen = int(choose(field, np.array([probabilities[name] for name in field.choices]), group))
    if chosen == ABSTAINED or field.choices[chosen] != choice:
        expected = "an abstention" if chosen == ABSTAINED else repr(field.choices[chosen])
        raise DecisionError(f"field {field.name}: choice {choice!r} is not what the promise allows: {expected}")
