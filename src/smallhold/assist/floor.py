"""The floor that never sleeps: deterministic scores become proposals, with or without a model.

The rules are data that a sector passes in. A rule says how bad the condition is and how soon (`Harm`, `Onset`), and
IEC 60601-1-8's table makes the priority of it. The floor knows no clock, no model and no policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from smallhold.assist.alarm import Harm, Onset, priority_of, urgency
from smallhold.errors import RecipeError
from smallhold.records import ActionClass, Priority, Proposal, Provenance, Score, ScoreSet


class FloorState(Protocol):
    """A sector's running scores of one patient; see `sectors.hospital.floor`."""

    def observe(self, code: str, value: float, t_ms: int) -> None:
        """Take in one accepted reading in its canonical unit."""

    def scores(self, t_ms: int, provenance: Provenance) -> ScoreSet:
        """All scores at `t_ms`, from the readings that are still usable."""


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


def propose(rules: FloorRules, scores: ScoreSet, readings: Readings, *, is_degraded: bool) -> Proposal | None:
    """What the floor makes of a set of scores.

    Args:
        rules: The sector's rules.
        scores: The scores of this moment; their time and provenance go onto the proposal.
        readings: Quoted in the rationale, never judged.
        is_degraded: The model was late, unsure, invalid or down, and the floor speaks alone.

    Returns:
        An alert to a clinician (A1) with the priority of the most urgent rule that holds, None when no rule does.
    """
    held = [(rule, score) for score in scores.scores for rule in rules.rules if rule.score == score.name]
    held = [(rule, score) for rule, score in held if rule.holds(score)]
    if not held:
        return None
    rule, score = max(held, key=lambda pair: urgency(pair[0].priority))
    return Proposal(
        patient=scores.patient,
        t_ms=scores.t_ms,
        condition=rules.condition,
        action=ActionClass.A1,
        priority=rule.priority,
        source="floor",
        has_abstained=False,
        is_degraded=is_degraded,
        rationale=rationale(rules, score, readings),
        provenance=scores.provenance,
    )


def rationale(rules: FloorRules, score: Score, readings: Readings) -> str:
    """The score in one line, the heaviest parts first.

    For example `NEWS2 8: respiratory rate 28 /min (+3), supplemental oxygen (+2); no reading of temperature`.
    """
    scored = sorted(((part, points) for part, points in score.parts.items() if points), key=lambda item: -item[1])
    text = f"{rules.titles.get(score.name, score.name)} {score.total}"
    if scored:
        text += ": " + ", ".join(f"{_part(rules, part, readings)} (+{points})" for part, points in scored)
    if score.missing:
        text += "; no reading of " + ", ".join(_title(rules, part) for part in score.missing)
    return text


def _title(rules: FloorRules, part: str) -> str:
    return rules.parts[part].title if part in rules.parts else part


def _part(rules: FloorRules, part: str, readings: Readings) -> str:
    words = rules.parts.get(part)
    if words is None or not words.is_quoted:
        return _title(rules, part)
    known = [readings[code] for code in words.codes if code in readings]
    if not known:
        return words.title
    value = max(known, key=lambda reading: reading[1])[0]
    return f"{words.title} {value:g}{' ' if words.unit else ''}{words.unit}"
