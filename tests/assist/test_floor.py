import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallhold.assist.alarm import Harm, Onset
from smallhold.assist.floor import FloorRules, PartWords, ScoreRule, propose, score_facts
from smallhold.assist.hospital import NEWS2_RULES
from smallhold.assist.words import load_words
from smallhold.errors import RecipeError
from smallhold.records import ActionClass, Priority, Proposal, Score, ScoreSet
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.news2 import Vitals, news2

from .small_ward import PROVENANCE


def suggest(score: Score, *, rules: FloorRules = NEWS2_RULES, is_degraded: bool = False) -> Proposal | None:
    scores = ScoreSet(patient="p", t_ms=7, scores=(score,), provenance=PROVENANCE)
    return propose(
        rules, scores, {"HR": (120.0, 3), "SysABP": (95.0, 1), "NISysABP": (88.0, 2)}, is_degraded=is_degraded
    )


def score(total: int, *parts: int) -> Score:
    return Score(name="news2", total=total, parts={f"part{n}": points for n, points in enumerate(parts)}, band="")


@pytest.mark.parametrize(
    ("given_score", "priority"),
    [
        (score(4, 2, 2), None),
        (score(3, 3), Priority.LOW),
        (score(4, 3, 1), Priority.LOW),
        (score(5, 2, 2, 1), Priority.MEDIUM),
        (score(6, 3, 3), Priority.MEDIUM),
        (score(7, 3, 3, 1), Priority.HIGH),
        (score(20, 3, 3, 3), Priority.HIGH),
        (score(0), None),
    ],
)
def test_news2_bands_become_priorities(given_score: Score, priority: Priority | None) -> None:
    proposal = suggest(given_score)
    assert (proposal.priority if proposal else None) is priority


def test_the_proposal_alerts_a_clinician_and_carries_the_moment() -> None:
    proposal = suggest(score(7, 3, 3, 1), is_degraded=True)
    assert proposal is not None
    assert (proposal.action, proposal.source, proposal.t_ms) == (ActionClass.A1, "floor", 7)
    assert proposal.is_degraded and not proposal.has_abstained and proposal.provenance is PROVENANCE


def test_the_rationale_quotes_the_newest_readings_heaviest_part_first() -> None:
    vitals = Vitals(resp_rate=None, spo2=None, on_oxygen=True, systolic=88, pulse=120, is_alert=True, temperature=37)
    proposal = suggest(news2(vitals))
    assert proposal is not None
    assert proposal.rationale == (
        "NEWS2 7: systolic pressure 88 mmHg (+3), supplemental oxygen (+2), pulse 120 /min (+2); "
        "no reading of respiratory rate, oxygen saturation"
    )


def test_words_that_are_missing_fall_back_to_names() -> None:
    bare = FloorRules("c", {}, (), {"b": PartWords("bee", ("B",))})
    facts = score_facts(bare, Score(name="s", total=3, parts={"a": 1, "b": 2}, band="", missing=("z",)), {})
    assert load_words().sentence(facts) == ("s 3: bee (+2), a (+1); no reading of z")


@given(st.lists(st.integers(0, 3), min_size=7, max_size=7))
def test_agrees_with_the_published_bands(parts: list[int]) -> None:
    total = sum(parts)
    expected = "high" if total >= 7 else "medium" if total >= 5 else "low" if 3 in parts else None
    proposal = suggest(score(total, *parts))
    assert (proposal.priority.value if proposal else None) == expected


def test_a_rule_needs_exactly_one_limit() -> None:
    with pytest.raises(RecipeError, match="floor rule of s: set either total_at_least or part_at_least"):
        ScoreRule("s", Harm.MINOR, Onset.PROMPT)
    with pytest.raises(RecipeError, match="floor rule of s"):
        ScoreRule("s", Harm.MINOR, Onset.PROMPT, total_at_least=1, part_at_least=1)


def test_floor_and_model_of_the_hospital_share_one_condition() -> None:
    assert NEWS2_RULES.condition == icu_risk.CONDITION
