"""The floor that never sleeps: deterministic scores become proposals, with or without a model.

The rules are data that a sector passes in. A rule says how bad the condition is and how soon (`Harm`, `Onset`), and
IEC 60601-1-8's table makes the priority of it. The floor knows no clock, no model and no policy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from smallhold.assist.alarm import Harm, Onset, priority_of, urgency
from smallhold.assist.words import Words, load_words
from smallhold.errors import RecipeError
from smallhold.records import ActionClass, Counterfactual, Fact, Facts, Priority, Proposal, Provenance, Score, ScoreSet


class FloorState(Protocol):
    """A sector's running scores of one patient; see `sectors.hospital.floor`."""

    def observe(self, code: str, value: float, t_ms: int) -> None:
        """Take in one accepted reading in its canonical unit."""

    def scores(self, t_ms: int, provenance: Provenance) -> ScoreSet:
        """All scores at `t_ms`, from the readings that are still usable."""


@runtime_checkable
class Contrastive(Protocol):
    """A floor that also knows what would have made the difference."""

    def otherwise(self, t_ms: int, holds: Callable[[Score], bool]) -> Counterfactual:
        """The smallest change with which a limit would not be reached, from the tables of the score."""


@dataclass(frozen=True, slots=True)
class ScoreRule:
    """One threshold of one score: exactly one of the two limits is set.

    Attributes:
        score: Name of the score.
        harm: What happens if nobody responds.
        onset: How soon.
        total_at_least: Holds when the total reaches this.
        part_at_least: Holds when any single part reaches this.
    """

    score: str
    harm: Harm
    onset: Onset
    total_at_least: int | None = None
    part_at_least: int | None = None

    def __post_init__(self) -> None:
        """Refuse a rule without a limit, or with two."""
        if (self.total_at_least is None) == (self.part_at_least is None):
            raise RecipeError(f"floor rule of {self.score}: set either total_at_least or part_at_least")

    @property
    def priority(self) -> Priority:
        """From the table of IEC 60601-1-8."""
        return priority_of(self.harm, self.onset)

    def holds(self, score: Score) -> bool:
        """Whether the score reaches the limit."""
        if self.total_at_least is not None:
            return score.total >= self.total_at_least
        limit = self.part_at_least
        return limit is not None and any(points >= limit for points in score.parts.values())


@dataclass(frozen=True, slots=True)
class PartWords:
    """How a part of a score reads in a sentence.

    Attributes:
        title: For example `respiratory rate`.
        codes: Signals the part rests on; the newest reading of them is quoted.
        unit: Printed after the value, empty for none.
        is_quoted: False for a part whose number means little to a reader, such as a fraction of oxygen.
    """

    title: str
    codes: tuple[str, ...]
    unit: str = ""
    is_quoted: bool = True


@dataclass(frozen=True, slots=True)
class FloorRules:
    """What a sector's floor alarms on.

    Attributes:
        condition: Name of the alarm condition.
        titles: How each score is called in a sentence.
        rules: Any number; the most urgent one that holds wins.
        parts: Words for the parts of the scores; a part without words is named as it is.
    """

    condition: str
    titles: Mapping[str, str]
    rules: tuple[ScoreRule, ...]
    parts: Mapping[str, PartWords]


#: The newest accepted reading of every signal: code -> (value in the canonical unit, time measured).
Readings = Mapping[str, tuple[float, int]]


def propose(
    rules: FloorRules, scores: ScoreSet, readings: Readings, *, is_degraded: bool, words: Words | None = None
) -> Proposal | None:
    """What the floor makes of a set of scores.

    Args:
        rules: The sector's rules.
        scores: The scores of this moment; their time and provenance go onto the proposal.
        readings: Quoted in the rationale, never judged.
        is_degraded: The model was late, unsure, invalid or down, and the floor speaks alone.
        words: Of the rationale; default: English.

    Returns:
        An alert to a clinician (A1) with the priority of the most urgent rule that holds, None when no rule does.
    """
    held = loudest(rules, scores)
    if held is None:
        return None
    rule, score = held
    facts = score_facts(rules, score, readings)
    return Proposal(
        patient=scores.patient,
        t_ms=scores.t_ms,
        condition=rules.condition,
        action=ActionClass.A1,
        priority=rule.priority,
        source="floor",
        has_abstained=False,
        is_degraded=is_degraded,
        rationale=(words or load_words()).sentence(facts),
        facts=facts,
        provenance=scores.provenance,
    )


def with_otherwise(rules: FloorRules, proposal: Proposal, scores: ScoreSet, floor: FloorState) -> Proposal:
    """The proposal with the smallest change that would have taken its score below the limit, where the floor knows it.

    Args:
        rules: The sector's rules.
        proposal: Of these scores; its sentence is left as it was.
        scores: The scores of this moment.
        floor: Of the same moment.
    """
    held = loudest(rules, scores)
    if held is None or proposal.facts is None or not isinstance(floor, Contrastive):
        return proposal
    rule, score = held
    found = floor.otherwise(scores.t_ms, rule.holds)
    items: tuple[Fact, ...]
    if found.total is None:
        items = (Fact(key="otherwise_none", numbers={"below": float(rule.total_at_least or score.total)}),)
    else:
        items = (Fact(key="otherwise", numbers={"total": float(found.total)}), *_change_facts(rules, found))
    return replace(proposal, facts=replace(proposal.facts, items=(*proposal.facts.items, *items)))


def _change_facts(rules: FloorRules, found: Counterfactual) -> Iterator[Fact]:
    for code, value in zip(found.codes, found.values, strict=True):
        words = rules.parts.get(code)
        if words is None:  # a word of its own, such as `off_oxygen`
            yield Fact(key="change", texts={"code": code})
        else:
            yield Fact(key="change", numbers={"value": value}, texts={**_names(rules, code), "unit": words.unit})


def loudest(rules: FloorRules, scores: ScoreSet) -> tuple[ScoreRule, Score] | None:
    """The most urgent rule that holds, the first of equals, and the score that it holds for."""
    held = [(rule, score) for score in scores.scores for rule in rules.rules if rule.score == score.name]
    held = [(rule, score) for rule, score in held if rule.holds(score)]
    return max(held, key=lambda pair: urgency(pair[0].priority), default=None)


def score_facts(rules: FloorRules, score: Score, readings: Readings) -> Facts:
    """What a score says, the heaviest parts first, each with the newest reading behind it.

    In English: `NEWS2 8: respiratory rate 28 /min (+3), supplemental oxygen (+2); no reading of temperature`.
    """
    scored = sorted(((part, points) for part, points in score.parts.items() if points), key=lambda item: -item[1])
    return Facts(
        key="floor",
        numbers={"total": float(score.total)},
        texts={"score": score.name, "title": rules.titles.get(score.name, score.name)},
        items=(
            *(part_fact(rules, "part", part, readings, points=float(points)) for part, points in scored),
            *(Fact(key="missing", texts=_names(rules, part)) for part in score.missing),
        ),
    )


def part_fact(rules: FloorRules, key: str, part: str, readings: Readings, **numbers: float) -> Fact:
    """One part of a score with the newest reading behind it, where it is quoted and there is one."""
    texts, words = _names(rules, part), rules.parts.get(part)
    known = [] if words is None or not words.is_quoted else [readings[c] for c in words.codes if c in readings]
    if words is None or not known:
        return Fact(key=key, numbers=numbers, texts=texts)
    value = max(known, key=lambda reading: reading[1])[0]
    return Fact(key=key, numbers={"value": value, **numbers}, texts={**texts, "unit": words.unit})


def _names(rules: FloorRules, part: str) -> dict[str, str]:
    # A part that the catalogues know needs no title of its own.
    if part not in rules.parts or load_words().knows(part):
        return {"code": part}
    return {"code": part, "title": rules.parts[part].title}
