from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallhold.errors import InputError
from smallhold.records import (
    ActionClass,
    Card,
    DeletionCheck,
    Effect,
    Evidence,
    Observation,
    Priority,
    Proposal,
    Provenance,
    Record,
    Score,
    ScoreSet,
    canonical_json,
    effect_rank,
    from_json,
    schema_name,
    to_json,
)

P = Provenance(trace_id="0" * 32, bundle="ab", simulated=True)
OBSERVATION = Observation(
    id="o1", patient="p1", code="8867-4", value=72.0, unit="/min", t_measured_ms=1, t_received_ms=2, provenance=P
)
PROPOSAL = Proposal(
    patient="p1",
    t_ms=5,
    condition="deterioration",
    action=ActionClass.A1,
    priority=Priority.HIGH,
    source="model",
    has_abstained=False,
    is_degraded=False,
    rationale="",
    evidence=(Evidence(code="HR", observations=("o1",), text="72 /min", effect=0.5),),
    provenance=P,
)


def test_an_observation_by_hand() -> None:
    value = to_json(OBSERVATION)
    assert value["schema"] == "smallhold.observation/1"
    assert value["provenance"] == {
        "trace_id": "0" * 32,
        "bundle": "ab",
        "profile": None,
        "clock": "utc",
        "simulated": True,
    }
    assert from_json(json.loads(canonical_json(value))) == OBSERVATION


def test_names_of_schemas_are_words() -> None:
    assert schema_name(ScoreSet) == "smallhold.score-set/1"
    assert schema_name(Observation) == "smallhold.observation/1"


@pytest.mark.parametrize("cls", get_args(Record), ids=lambda cls: cls.__name__)
def test_every_record_survives_its_json_form(cls: type) -> None:
    @settings(deadline=None, max_examples=25)
    @given(st.from_type(cls))
    def survives(record: Any) -> None:
        for value in numbers(record):
            if value != value or abs(value) == float("inf"):
                return  # no JSON form, and refused by canonical_json
        assert from_json(json.loads(json.dumps(to_json(record)))) == record

    survives()


def numbers(record: Any) -> list[float]:
    """Every float in a record, however deep."""
    if isinstance(record, float):
        return [record]
    if is_dataclass(record):
        return [n for item in fields(record) for n in numbers(getattr(record, item.name))]
    if isinstance(record, dict):
        return [n for value in record.values() for n in numbers(value)]
    if isinstance(record, tuple):
        return [n for value in record for n in numbers(value)]
    return []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "smallhold.observation/2"}, "unknown record schema 'smallhold.observation/2'"),
        ({"schema": None}, "unknown record schema None"),
        ({"surprise": 1}, r"unknown members \['surprise'\]"),
        ({"value": "72"}, r"smallhold.observation/1.value: expected .*float.*, got '72'"),
        ({"value": True}, "smallhold.observation/1.value: expected"),
        ({"t_measured_ms": 1.5}, "smallhold.observation/1.t_measured_ms: expected"),
        ({"t_measured_ms": True}, "smallhold.observation/1.t_measured_ms: expected"),
        ({"id": None}, "smallhold.observation/1.id: expected"),
        ({"provenance": None}, "smallhold.observation/1.provenance: expected an object, got NoneType"),
        (
            {"provenance": {"trace_id": "0"}},
            r"provenance: missing members \['bundle', 'clock', 'profile', 'simulated'\]",
        ),
    ],
)
def test_an_object_that_is_not_as_documented_is_refused(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_json({**to_json(OBSERVATION), **change})


@pytest.mark.parametrize("member", sorted(set(to_json(OBSERVATION)) - {"schema"}))
def test_a_missing_member_is_refused_by_name(member: str) -> None:
    value = to_json(OBSERVATION)
    del value[member]
    with pytest.raises(InputError, match=rf"missing members \['{member}'\]"):
        from_json(value)


def test_closed_values_and_nested_lists_are_checked() -> None:
    value = to_json(PROPOSAL)
    assert from_json(value) == PROPOSAL
    with pytest.raises(InputError, match=r"action: expected .*ActionClass.*, got 'A9'"):
        from_json({**value, "action": "A9"})
    with pytest.raises(InputError, match="evidence: expected"):
        from_json({**value, "evidence": "none"})
    with pytest.raises(InputError, match=r"evidence\[0\].effect: expected"):
        from_json({**value, "evidence": [{**value["evidence"][0], "effect": "much"}]})


def test_whole_numbers_are_read_where_a_float_is_expected() -> None:
    record = from_json({**to_json(OBSERVATION), "value": 72})
    assert isinstance(record, Observation)
    assert type(record.value) is float


def test_parts_of_a_score_are_kept() -> None:
    scores = ScoreSet(
        patient="p", t_ms=0, scores=(Score(name="news2", total=3, parts={"HR": 3}, band="low"),), provenance=P
    )
    assert from_json(to_json(scores)) == scores


def test_effects_are_ordered_from_auto_to_forbid() -> None:
    assert [effect_rank(effect) for effect in Effect] == [0, 1, 2, 3, 4]
    assert max(Effect, key=effect_rank) is Effect.FORBID


def test_a_card_of_an_older_journal_reads_as_before_and_keeps_its_bytes() -> None:
    old = {
        "schema": "smallhold.card/1",
        "patient": "p1",
        "t_ms": 5,
        "text": "",
        "evidence": [{"code": "HR", "observations": ["o1"], "text": "72 /min", "effect": 0.5}],
        "provenance": to_json(OBSERVATION)["provenance"],
    }
    card = from_json(old)
    assert isinstance(card, Card) and card.deletion is None and not card.is_verified
    assert card.evidence[0].value is None
    assert canonical_json(to_json(card)) == canonical_json(old)


def test_a_card_carries_how_its_evidence_stood_up_to_deletion() -> None:
    check = DeletionCheck(
        margin=0.5,
        margin_without=-1.0,
        margin_alone=0.4,
        risk_without=0.1,
        risk_alone=0.4,
        is_necessary=True,
        is_sufficient=True,
    )
    card = Card(patient="p", t_ms=1, text="", evidence=(), deletion=check, provenance=P)
    value = to_json(card)
    assert from_json(value) == card and card.is_verified
    with pytest.raises(InputError, match=r"card/1\.deletion: missing members"):
        from_json({**value, "deletion": {"margin": 1.0}})
    with pytest.raises(InputError, match=r"card/1\.deletion.is_necessary: expected"):
        from_json({**value, "deletion": {**value["deletion"], "is_necessary": 1}})
