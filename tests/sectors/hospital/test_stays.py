import json
import os
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from smallhold.errors import DataError, ShapeError
from smallhold.records import Provenance
from smallhold.sectors.hospital.parameters import INDEX, PARAMETERS
from smallhold.sectors.hospital.stays import (
    Refused,
    Stay,
    observations,
    plausible_height,
    read_physionet2012,
    readings,
    sift,
    stay_of_row,
)

ROW = {
    "record_id": "1",
    "set": "a",
    "age": 54.0,
    "sex": "F",
    "height_cm": None,
    "icu_type": "surgical",
    "saps1": 6,
    "sofa": 1,
    "los_days": 5,
    "survival_days": -1,
    "died_in_hospital": 0,
    "events": [[7, "HR", 73], [7, "Temp", 36.6], [37, "NISysABP", 0], [37, "HR", 77.5], [37, "HR", 77.5]],
}
PROVENANCE = Provenance(trace_id="0" * 32, clock="stay")


def folder_of(tmp_path, *rows):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def names(stay):
    return [PARAMETERS[code].name for code in stay.code]


def test_a_row_becomes_arrays(tmp_path):
    (stay,) = read_physionet2012(folder_of(tmp_path, ROW))
    assert (stay.record_id, stay.age, stay.sex, stay.height_cm, stay.icu_type) == ("1", 54.0, "F", None, "surgical")
    assert (stay.saps1, stay.died, stay.data_set, stay.is_simulated) == (6.0, False, "physionet2012_icu", False)
    assert stay.minute.tolist() == [7, 7, 37, 37]
    assert names(stay) == ["HR", "Temp", "HR", "HR"]  # two equal readings of one minute both stay
    assert stay.value.tolist() == [73.0, np.float32(36.6), 77.5, 77.5]
    assert (stay.minute.dtype, stay.code.dtype, stay.value.dtype) == (np.int32, np.int16, np.float32)
    assert stay.refused == (Refused(2, 37, INDEX["NISysABP"], 0.0),)


def test_outcomes_and_scores_do_not_leave_the_reader():
    assert not {"los_days", "survival_days", "sofa"} & set(Stay.__dataclass_fields__)
    unlike = stay_of_row(ROW | {"los_days": 99, "survival_days": 3, "sofa": 20}, where="here")
    like = stay_of_row(ROW, where="here")
    for name in Stay.__dataclass_fields__:
        assert np.array_equal(getattr(unlike, name), getattr(like, name))


@pytest.mark.parametrize(
    ("member", "given", "name", "expected"),
    [
        ("saps1", -1, "saps1", None),
        ("saps1", None, "saps1", None),
        ("saps1", 0, "saps1", 0.0),
        ("died_in_hospital", 1, "died", True),
        ("died_in_hospital", None, "died", None),
        ("sex", None, "sex", None),
        ("age", None, "age", None),
        ("age", 90, "age", 90.0),
        ("icu_type", None, "icu_type", "unknown"),
        ("height_cm", 175.3, "height_cm", 175.3),
        ("height_cm", 1.8, "height_cm", None),
        ("height_cm", 431.8, "height_cm", None),
        ("simulated", True, "data_set", "simulated_ward"),
        ("simulated", True, "is_simulated", True),
        ("events", [], "refused", ()),
    ],
)
def test_members_are_read_as_documented(member, given, name, expected):
    assert getattr(stay_of_row(ROW | {member: given}, where="here"), name) == expected


def test_unsorted_events_are_sorted_and_equal_minutes_keep_their_order():
    events = [[9, "HR", 90], [2, "K", 4.0], [9, "GCS", 15], [2, "HR", 80], [9, "HR", 91]]
    stay = stay_of_row(ROW | {"events": events}, where="here")
    assert stay.minute.tolist() == [2, 2, 9, 9, 9]
    assert names(stay) == ["K", "HR", "HR", "GCS", "HR"]


def test_missing_markers_and_impossible_values_are_set_aside():
    events = [[0, "Temp", -1], [1, "Temp", 37], [2, "pH", 735], [2, "Urine", 0], [3, "HR", 0], [3, "HR", 55]]
    stay = stay_of_row(ROW | {"events": events}, where="here")
    assert names(stay) == ["Temp", "Urine", "HR"]
    assert [(r.minute, PARAMETERS[r.code].name, r.value) for r in stay.refused] == [
        (0, "Temp", -1.0),
        (2, "pH", 735.0),
        (3, "HR", 0.0),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"record_id": 7}, "member 'record_id': expected a non-empty string, got int"),
        ({"record_id": ""}, "member 'record_id': expected a non-empty string"),
        ({"sex": "female"}, "member 'sex': expected \"F\", \"M\" or null, got 'female'"),
        ({"icu_type": "burns"}, "member 'icu_type': expected one of medical, surgical, .*, got 'burns'"),
        ({"died_in_hospital": 2}, "member 'died_in_hospital': expected 0, 1 or null, got 2"),
        ({"died_in_hospital": "no"}, "member 'died_in_hospital': expected 0, 1 or null"),
        ({"died_in_hospital": []}, "member 'died_in_hospital': expected 0, 1 or null"),
        ({"simulated": "yes"}, "member 'simulated': expected true or false"),
        ({"age": "54"}, "member 'age': expected a number or null, got str"),
        ({"height_cm": True}, "member 'height_cm': expected a number or null, got bool"),
        ({"saps1": [1]}, "member 'saps1': expected a number or null, got list"),
        ({"events": {}}, "member 'events': expected an array, got dict"),
        ({"events": [[1, "HR"]]}, r"member 'events\[0\]': expected \[minute, parameter, value\]"),
        ({"events": [[1, "HR", 70], 5]}, r"member 'events\[1\]': expected \[minute, parameter, value\]"),
        ({"events": [[1.5, "HR", 70]]}, r"member 'events\[0\]': expected a whole minute .* got 1\.5"),
        ({"events": [[-1, "HR", 70]]}, r"member 'events\[0\]': expected a whole minute .* got -1"),
        ({"events": [["1", "HR", 70]]}, r"member 'events\[0\]': expected a whole minute"),
        ({"events": [[2**40, "HR", 70]]}, r"member 'events\[0\]': expected a whole minute"),
        ({"events": [[2**80, "HR", 70]]}, r"member 'events\[0\]': expected a whole minute"),
        ({"events": [[1, "Pulse", 70]]}, r"member 'events\[0\]': unknown parameter 'Pulse': expected one of ALP, "),
        ({"events": [[1, ["HR"], 70]]}, r"member 'events\[0\]': unknown parameter \['HR'\]"),
        ({"events": [[1, "HR", 70], [1, "HR", "71"]]}, r"member 'events\[1\]': expected a number, got str"),
        ({"events": [[1, "HR", None]]}, r"member 'events\[0\]': expected a number, got NoneType"),
    ],
)
def test_a_bad_row_names_file_line_and_member(tmp_path, change, message):
    folder = folder_of(tmp_path, ROW | {"record_id": "0"}, ROW | change)
    with pytest.raises(DataError, match=rf"rows\.jsonl, line 2, {message}"):
        read_physionet2012(folder)


@pytest.mark.parametrize("member", ["record_id", "sex", "events"])
def test_a_missing_member_is_named(tmp_path, member):
    row = {name: value for name, value in ROW.items() if name != member}
    with pytest.raises(DataError, match=rf"line 1, member '{member}': missing"):
        read_physionet2012(folder_of(tmp_path, row))


def test_one_stay_must_not_be_there_twice(tmp_path):
    with pytest.raises(DataError, match="line 2: record_id occurs twice"):
        read_physionet2012(folder_of(tmp_path, ROW, ROW))


def test_files_of_any_name_are_read_in_order(tmp_path):
    for name, record in (("z.jsonl", "3"), ("a.jsonl", "1"), ("m.jsonl", "2")):
        (tmp_path / name).write_text(json.dumps(ROW | {"record_id": record}) + "\n")
    assert [stay.record_id for stay in read_physionet2012(tmp_path)] == ["1", "2", "3"]


def test_a_file_that_was_cut_is_refused(tmp_path):
    text = json.dumps(ROW) + "\n" + json.dumps(ROW | {"record_id": "2"})
    (tmp_path / "rows.jsonl").write_text(text[:-30])
    with pytest.raises(DataError, match=r"rows\.jsonl, line 2: the file is cut short"):
        read_physionet2012(tmp_path)


def test_readings_give_back_what_was_received():
    source = random.Random(4)
    limits = {"HR": (-1, 0, 60, 400), "Temp": (-1, 36.5, 98.6), "pH": (7.25, 735, 0), "Urine": (0, 40)}
    for _ in range(50):
        events = [
            [minute, name, source.choice(limits[name])]
            for minute in sorted(source.choices(range(30), k=source.randint(0, 25)))
            for name in [source.choice(sorted(limits))]
        ]
        stay = stay_of_row(ROW | {"events": events}, where="here")
        received = [[minute, PARAMETERS[code].name, value] for minute, code, value in readings(stay)]
        assert received == [[minute, name, pytest.approx(value)] for minute, name, value in events]


def test_sifting_agrees_with_one_reading_at_a_time():
    rng = np.random.default_rng(5)
    minute = np.sort(rng.integers(0, 500, 400)).astype(np.int32)
    code = rng.integers(0, 37, 400).astype(np.int16)
    value = rng.choice([-1, 0, 0.5, 3, 7.4, 36, 90, 500, 1e5], 400).astype(np.float32)
    kept_minute, kept_code, kept_value, refused = sift(minute, code, value)
    expected = [
        (m, c, v)
        for m, c, v in zip(minute, code, value, strict=True)
        if np.float32(PARAMETERS[c].plausible_low) <= v <= np.float32(PARAMETERS[c].plausible_high)
    ]
    assert list(zip(kept_minute, kept_code, kept_value, strict=True)) == expected
    assert len(refused) + len(expected) == 400


def test_observations_are_records_in_canonical_units_artefacts_included():
    stay = stay_of_row(ROW, where="here")
    seen = list(observations(stay, PROVENANCE))
    assert [(o.code, o.value, o.unit, o.t_measured_ms) for o in seen[:3]] == [
        ("HR", 73.0, "/min", 420_000),
        ("Temp", pytest.approx(36.6), "Cel", 420_000),
        ("NISysABP", 0.0, "mm[Hg]", 2_220_000),
    ]
    assert len({o.id for o in seen}) == len(seen) == 5
    for o in seen:
        assert (o.patient, o.system, o.t_received_ms, o.provenance) == (
            "1", "physionet2012", o.t_measured_ms, PROVENANCE,
        )  # fmt: skip


def test_arrays_of_unequal_length_are_refused():
    empty = np.zeros(0, np.int16)
    with pytest.raises(ShapeError, match="stay 9: expected equally many minutes, codes and values, got 1, 0, 0"):
        Stay("9", None, None, None, "unknown", None, None, np.zeros(1, np.int32), empty, empty, "x", False)


@pytest.mark.parametrize(
    ("height", "expected"), [(None, None), (119.9, None), (120, 120), (230, 230), (231, None), (float("nan"), None)]
)
def test_impossible_heights_count_as_unknown(height, expected):
    assert plausible_height(height) == expected


@pytest.mark.data
@pytest.mark.skipif("SMALLHOLD_DATA" not in os.environ, reason="SMALLHOLD_DATA is not set: no real stays to read")
def test_real_stays_have_the_documented_shape():
    folder = Path(os.environ["SMALLHOLD_DATA"]) / "physionet2012_icu"
    stays = read_physionet2012(folder)
    assert len(stays) > 1_000
    assert 0.10 < np.mean([stay.died for stay in stays]) < 0.18
    assert Counter(stay.data_set for stay in stays) == {"physionet2012_icu": len(stays)}
    assert max(stay.minute.max(initial=0) for stay in stays) <= 48 * 60
    num_refused = sum(len(stay.refused) for stay in stays)
    num_kept = sum(len(stay.minute) for stay in stays)
    assert num_refused / num_kept < 0.003


@pytest.mark.parametrize("record_id", ["\x1b[31mred", "two\nlines", "\ud800"])
def test_a_record_id_that_could_forge_a_line_on_a_terminal_is_refused(record_id: str) -> None:
    row = {"record_id": record_id, "sex": None, "events": []}
    with pytest.raises(DataError, match="member 'record_id': expected printable characters"):
        stay_of_row(row, where="rows.jsonl, line 1")


def test_an_age_that_nobody_has_counts_as_unknown_and_a_number_without_end_is_refused() -> None:
    row = {"record_id": "a", "sex": None, "events": []}
    assert stay_of_row({**row, "age": -5}, where="x").age is None
    assert stay_of_row({**row, "age": 0}, where="x").age == 0
    for age in (10**400, float("inf"), float("nan")):
        with pytest.raises(DataError, match="member 'age': expected a number that a person can have"):
            stay_of_row({**row, "age": age}, where="x")
