from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallhold.assist.roster import read_roster
from smallhold.assist.router import record_from, route
from smallhold.errors import InputError, RecipeError
from smallhold.sectors.hospital.conditions import AdmissionRecord, condition_groups

ALL = {"icu-risk", "kidney-injury", "consciousness-loss", "hypotension"}


def test_a_record_that_names_nothing_goes_to_the_general_task_alone() -> None:
    found = route(AdmissionRecord(), ALL, general="icu-risk")
    assert found.tasks == ("icu-risk",) and not found.unwatched
    assert found.lines() == ("icu-risk: watches every patient",)


def test_several_specialists_may_watch_and_each_says_why() -> None:
    record = AdmissionRecord(admission="Cardiac arrest", icd9=("584.9",), icu_type="coronary care")
    found = route(record, ALL, general="icu-risk")
    assert found.tasks == ("icu-risk", "kidney-injury", "hypotension")
    assert found.lines()[1:] == (
        "kidney-injury (nephrology): ICD-9 584.9",
        "hypotension (cardiovascular): admission 'Cardiac arrest' holds 'cardiac'; unit 'coronary care'",
    )


def test_a_group_that_nobody_watches_is_said_aloud() -> None:
    found = route(AdmissionRecord(admission="Sepsis, pulmonary"), ALL, general="icu-risk")
    assert found.tasks == ("icu-risk",)
    assert [gap.group for gap in found.unwatched] == ["infectious"]
    assert (
        "no specialist for infectious (admission 'Sepsis, pulmonary' holds 'sepsis'): the open data"
        in (found.lines()[1])
    )


def test_a_specialist_that_is_not_in_the_bundle_leaves_its_group_to_the_general_task() -> None:
    found = route(AdmissionRecord(icd9=("584.9",)), {"icu-risk"}, general="icu-risk")
    assert found.tasks == ("icu-risk",)
    assert found.unwatched[0].reason == "the bundle has no task 'kidney-injury'"


def test_without_the_general_task_there_is_no_route() -> None:
    with pytest.raises(InputError, match="has no task 'icu-risk', only hypotension"):
        route(AdmissionRecord(), {"hypotension"}, general="icu-risk")


_WORDS = sorted({word for group in condition_groups() for word in group.admission})


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(_WORDS), max_size=6), st.sets(st.sampled_from(sorted(ALL))))
def test_more_on_record_never_loses_a_watcher(words: list[str], speaking: set[str]) -> None:
    speaking |= {"icu-risk"}
    before: set[str] = {"icu-risk"}
    for count in range(len(words) + 1):
        record = AdmissionRecord(diagnoses=tuple(words[:count]))
        found = route(record, speaking, general="icu-risk")
        assert found == route(record, speaking, general="icu-risk")
        assert before <= set(found.tasks) <= speaking and found.tasks[0] == "icu-risk"
        assert len(set(found.tasks)) == len(found.tasks)
        before = set(found.tasks)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"admission": ["x"]}, "admission: expected text"),
        ({"icd9": "584"}, "icd9: expected a list of texts, got str"),
        ({"icd9": [584]}, "icd9: expected a list of texts"),
        ({"who": "x"}, "unknown entry 'who'"),
        ({"diagnoses": ["x"] * 201}, "at most 200 entries"),
        ({"admission": "x" * 2001}, "2000 characters"),
    ],
)
def test_a_record_of_another_shape_is_refused_without_what_it_holds(item: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        record_from(item, where="bed-7")


def test_a_roster_says_who_watches_whom(tmp_path: Path) -> None:
    path = tmp_path / "roster.toml"
    path.write_text(
        'format = 1\n[patients.bed-7]\nage = 71\nadmission = "CVA"\nicd10 = ["N17.9"]\nicu_type = "medical"\n'
        "[patients.bed-8]\nage = 40\n"
    )
    roster = read_roster(path)
    routes = {name: route(item.record, ALL, general="icu-risk").tasks for name, item in roster.items()}
    assert routes == {"bed-7": ("icu-risk", "consciousness-loss", "kidney-injury"), "bed-8": ("icu-risk",)}


def test_a_roster_with_a_wrong_diagnosis_names_the_patient_and_the_entry(tmp_path: Path) -> None:
    path = tmp_path / "roster.toml"
    path.write_text("format = 1\n[patients.bed-7]\ndiagnoses = [3]\n")
    with pytest.raises((InputError, RecipeError), match="bed-7: diagnoses: expected a list of texts"):
        read_roster(path)
