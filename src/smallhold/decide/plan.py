"""From a decision schema to a plan by which a runtime scores every choice.

Every closed choice is spelled by the tokenizer, and the spelled choices form a trie (Fredkin 1960,
doi:10.1145/367390.367400). Where all choices below a node go on alike, the token is forced: it is read without being
asked for. Where they part, the logits of what may follow are read once. Nothing is generated.

Where choices part at one place, the logits there decide as they are. Where they part at several, a choice's logit is
its log-probability among the choices: the sum, over the places on its path, of the log-softmax over what may follow.

Probabilities are softmax(logits / temperature + bias) over the choices (Guo et al. 2017, arXiv:1706.04599, section
4.2; with a bias: Alexandari et al. 2020, arXiv:1901.06852), or for two choices a line through knots. What follows from
them, a choice or an abstention, is in `choose`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smallhold.decide.conformal import Conformal
from smallhold.device.backends import Inputs, Session
from smallhold.errors import DecisionError, RecipeError

FloatArray = NDArray[np.float32]

#: What `choose` gives where no choice is given.
ABSTAINED = -1
#: Places where the choices of a field may part: each may take a pass of the trunk at every decision.
MOST_BRANCHES = 4096


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
class Branch:
    """A place where choices part.

    Attributes:
        path: (F,) tokens from the first of a choice to here, the same in all N choices that come by; may be empty.
        tokens: (M,) what may follow, two and more, all different.
        choices: (N,) places among the field's choices of those that come by, rising.
        follows: (N,) place in `tokens` of what each of them goes on with.
    """

    path: tuple[int, ...]
    tokens: tuple[int, ...]
    choices: tuple[int, ...]
    follows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FieldPlan:
    """How one field is read.

    Attributes:
        passes: What is read at once: branches on one path, each before those that lie deeper. Together the passes hold
            every branch of the trie once; the first branch of the first pass is the one that all choices come by.
    """

    passes: tuple[tuple[Branch, ...], ...]

    @property
    def forced(self) -> tuple[int, ...]:
        """(F,) tokens that all choices begin with; empty when the choices part at once."""
        return self.passes[0][0].path

    @property
    def longest(self) -> int:
        """Most tokens that are read behind the question."""
        return max(len(along[-1].path) for along in self.passes)

    @property
    def num_branches(self) -> int:
        """Places where choices part."""
        return sum(map(len, self.passes))

    @property
    def is_direct(self) -> bool:
        """One token decides, and none is forced before it: the answer lies in the logits behind the question itself."""
        return self.num_branches == 1 and not self.forced

    @property
    def deciding(self) -> tuple[int, ...]:
        """(K,) one token a choice; their logits, behind `forced`, decide.

        Raises:
            RecipeError: one token does not decide.
        """
        if self.num_branches > 1:
            raise RecipeError(
                f"expected choices that part at one place, got {self.num_branches} places; give each choice a token of "
                "its own, or another first letter"
            )
        return self.passes[0][0].tokens

    def logits(self, session: Session) -> FloatArray:
        """Deciding logits behind a question, one pass of the runtime a pass of the plan.

        Args:
            session: Behind the question, just appended; it stays as it is.

        Returns:
            (K,) in the order of the choices. Of one branch the raw logits; of several log-probabilities, so that
            softmax gives each choice its probability among all of them.

        Raises:
            CapacityError: the context has no room for the longest path.
        """
        if self.num_branches == 1:
            raw: FloatArray = session.score(list(self.forced), [len(self.forced) - 1], self.deciding)[0]
            return raw
        found = np.zeros(len(self.passes[0][0].choices))
        for along in self.passes:
            asked = [token for branch in along for token in branch.tokens]
            scores = session.score(list(along[-1].path), [len(branch.path) - 1 for branch in along], asked)
            start = 0
            for row, branch in zip(scores.astype(np.float64), along, strict=True):
                logits = row[start : start + len(branch.tokens)]
                start += len(branch.tokens)
                with np.errstate(invalid="ignore"):  # what is not finite is refused by `answer_field`
                    found[list(branch.choices)] += (logits - np.logaddexp.reduce(logits))[list(branch.follows)]
        return found.astype(np.float32)

    def logits_along(self, session: Session, inputs: Inputs, at: Sequence[int]) -> FloatArray:
        """Deciding logits behind several positions, as `logits` reads them one by one; for evaluation.

        Args:
            session: Stays as it is.
            inputs: Positions to try behind it, (T,) tokens or (T, D) embeddings.
            at: Indices into `inputs`.

        Returns:
            (len(at), K).
        """
        if self.is_direct:
            return session.score(inputs, at, self.deciding)
        trial, read = session.fork(), 0
        found = {}
        for index in sorted(set(at)):
            trial.append(inputs[read : index + 1])
            read = index + 1
            found[index] = self.logits(trial)
        return np.array([found[index] for index in at], dtype=np.float32)


def plan_field(field: Field, spell: Callable[[str], Sequence[int]], end: int | None = None) -> FieldPlan:
    """Compile a field.

    Args:
        field: The field.
        spell: Text to token ids.
        end: The mark that ends a text. A choice that is the beginning of another ends by it.

    Raises:
        RecipeError: two choices are spelled alike, one is the beginning of another and there is no end mark, or they
            part at more than `MOST_BRANCHES` places.
    """
    spelled = _told_apart(field, [tuple(spell(choice)) for choice in field.choices], end)
    passes: list[tuple[Branch, ...]] = []
    along: list[Branch] = []
    num_branches = 0
    below = [(0, list(range(len(spelled))))]  # depth, and the choices that begin alike so far
    while below:
        depth, choices = below.pop()
        going: dict[int, list[int]] = {}
        for choice in choices:
            going.setdefault(spelled[choice][depth], []).append(choice)
        deeper = [(depth + 1, group) for group in going.values() if len(group) > 1]
        below += reversed(deeper)
        if len(going) == 1:
            continue
        num_branches += 1
        if num_branches > MOST_BRANCHES:
            raise RecipeError(
                f"field {field.name}: expected choices that part at {MOST_BRANCHES} places at most, got more in "
                f"{len(spelled)} choices; give each a token of its own, or ask in two steps"
            )
        place = {token: i for i, token in enumerate(going)}
        follows = tuple(place[spelled[choice][depth]] for choice in choices)
        along.append(Branch(spelled[choices[0]][:depth], tuple(going), tuple(choices), follows))
        if not deeper:  # otherwise the next branch lies on the same path
            passes.append(tuple(along))
            along = []
    return FieldPlan(tuple(passes))


def _told_apart(field: Field, spelled: list[tuple[int, ...]], end: int | None) -> list[tuple[int, ...]]:
    """The spelled choices with an end mark where one is the beginning of another: none is any longer."""
    told = list(spelled)
    for first, second in _beginnings(spelled):
        one, other = field.choices[first], field.choices[second]
        if spelled[first] == spelled[second]:
            raise RecipeError(
                f"field {field.name}: the tokenizer spells {one!r} and {other!r} alike; rename one of them"
            )
        if end is None:
            raise RecipeError(
                f"field {field.name}: the choice {one!r} is the beginning of {other!r}, and the tokenizer has no mark "
                "by which it could end; rename one of them, or give each choice a token of its own"
            )
        told[first] = (*spelled[first], end)
    for first, second in _beginnings(told):
        raise RecipeError(
            f"field {field.name}: the choices {field.choices[first]!r} and {field.choices[second]!r} cannot be told "
            "apart: the end mark is part of one; rename it"
        )
    return told


def _beginnings(spelled: Sequence[tuple[int, ...]]) -> list[tuple[int, int]]:
    """Pairs of which the first is the beginning of the second."""
    # Sorted, what begins another begins its next neighbour: whatever stands between them begins so too.
    order = sorted(range(len(spelled)), key=spelled.__getitem__)
    return [(a, b) for a, b in pairwise(order) if spelled[b][: len(spelled[a])] == spelled[a]]


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
