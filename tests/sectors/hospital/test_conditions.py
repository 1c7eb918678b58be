from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallhold.errors import RecipeError
from smallhold.sectors.hospital.conditions import (
    AdmissionRecord,
    ConditionGroup,
    condition_groups,
    parse_conditions,
)
from smallhold.sectors.hospital.onsets import QUESTIONS


def groups_of(**record: Any) -> list[str]:
    made = AdmissionRecord(**record)
    return [group.name for group in condition_groups() if group.reasons(made)]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"admission": "Sepsis, renal/UTI (including bladder)"}, ["nephrology", "infectious"]),
        ({"admission": "CVA, cerebrovascular accident/stroke"}, ["neurology"]),
        ({"admission": "Head only trauma"}, ["neurology", "trauma"]),
        ({"admission": "S/P MOTORCYCLE ACCIDENT"}, ["trauma"]),
        ({"admission": "Diabetic ketoacidosis"}, []),
        # What stands in brackets is a hint to whoever coded it: this one names the heart and the liver.
        ({"admission": "Coma (for hepatic see GI, if related to cardiac arrest, see CV)"}, ["neurology"]),
        ({"diagnoses": ("renal|disorder of kidney|acute renal failure",)}, ["nephrology"]),
        # A path belongs where it begins, whatever words it holds further on.
        ({"diagnoses": ("gastrointestinal|abdominal|renal colic",)}, []),
        ({"icd9": ("584.9",)}, ["nephrology"]),
        ({"icd9": ("5849", "E8120", "V4582")}, ["nephrology", "trauma"]),
        ({"icd9": ("58",)}, []),
        ({"icd10": ("M32.1",)}, ["autoimmune"]),
        ({"icd10": ("S06.5X0A",)}, ["neurology", "trauma"]),
        ({"icu_type": "coronary care"}, ["cardiovascular"]),
        ({"specialties": ("Nephrology", "Surgery")}, ["nephrology"]),
        ({}, []),
    ],
)
def test_a_record_names_its_groups(record: dict[str, Any], expected: list[str]) -> None:
    assert groups_of(**record) == expected


def test_every_match_is_named_once_and_says_where_it_stood() -> None:
    nephrology = next(group for group in condition_groups() if group.name == "nephrology")
    record = AdmissionRecord(admission="Renal failure, acute", icd9=("584.9", "584.9"), specialties=("Nephrology",))
    assert nephrology.reasons(record) == (
        "admission 'Renal failure, acute' holds 'renal failure'",
        "ICD-9 584.9",
        "note filed under 'Nephrology'",
    )


@settings(max_examples=40, deadline=None)
@given(st.text(alphabet="abcdefghij klmnop", max_size=20), st.sampled_from(["stroke", "sepsis", "trauma"]))
def test_a_word_counts_only_where_it_begins_a_word(before: str, word: str) -> None:
    glued = AdmissionRecord(admission=f"{before}x{word}")
    apart = AdmissionRecord(admission=f"{before} {word}")
    group = ConditionGroup(name="g", title="g", task="t", admission=(word,))
    assert bool(group.reasons(glued)) == (f" {word}" in f" {before}")
    assert group.reasons(apart)


def test_groups_with_a_task_name_one_that_there_is_and_the_others_say_why_not() -> None:
    tasks = {item.name for item in QUESTIONS}
    assert {group.task for group in condition_groups() if group.task} == tasks
    assert [group.name for group in condition_groups() if group.reason] == ["infectious", "autoimmune", "trauma"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected format = 'smallhold.conditions/1'"),
        ("format = 1", "expected format"),
        ("[", "not TOML"),
        ('format = "smallhold.conditions/1"', "one or more groups"),
        ('format = "smallhold.conditions/1"\nx = 3', "x: expected a table"),
        ('format = "smallhold.conditions/1"\n[x]\ntitle="x"\nwho=[]', "unknown entry 'who'"),
        ('format = "smallhold.conditions/1"\n[x]\ntitle="x"\ntask="t"\nicd9="584"', "icd9: expected a list of texts"),
        ('format = "smallhold.conditions/1"\n[x]\ntitle="x"\ntask="t"\nicd9=["58"]', "icd9: expected a category"),
        ('format = "smallhold.conditions/1"\n[x]\ntitle="x"\nicd9=["584"]', "expected a task, or else the reason"),
        ('format = "smallhold.conditions/1"\n[x]\ntitle="x"\ntask="t"', "nobody can belong to it"),
        ('format = "smallhold.conditions/1"\n[x]\ntitle="x"\ntask="t"\nicu_types=["attic"]', "icu_types"),
    ],
)
def test_what_is_no_definition_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_conditions(text, where="mine.toml")
