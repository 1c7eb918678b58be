from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallhold.errors import InputError
from smallhold.sectors.hospital.onsets import NO_EVENT, QUESTIONS, Asked, question, series
from smallhold.sectors.hospital.parameters import INDEX
from smallhold.sectors.hospital.stays import Stay

Readings = list[tuple[float, str, float]]


def stay(readings: Readings) -> Stay:
    """Invented readings (hour, parameter, value)."""
    ordered = sorted(readings, key=lambda item: item[0])
    return Stay(
        record_id="p", age=60.0, sex="F", height_cm=None, icu_type="medical", saps1=None, died=False,
        minute=np.array([round(60 * hour) for hour, _, _ in ordered], dtype=np.int32),
        code=np.array([INDEX[name] for _, name, _ in ordered], dtype=np.int16),
        value=np.array([value for _, _, value in ordered], dtype=np.float32),
        data_set="invented", is_simulated=True,
    )  # fmt: skip


def at(name: str, readings: Readings, hour: int) -> tuple[bool, float | None]:
    """Whether the hour is asked, and the hour at which it begins."""
    asked = question(name).asked_at(stay(readings))
    minute = int(asked.event_minute[hour - 1])
    return bool(asked.is_asked[hour - 1]), None if minute == NO_EVENT else minute / 60


def test_creatinine_that_rises_by_three_tenths_begins_an_injury() -> None:
    readings: Readings = [(1, "Creatinine", 1.0), (20, "Creatinine", 1.3), (40, "Creatinine", 2.0)]
    assert at("kidney-injury", readings, 6) == (True, 20.0)
    assert at("kidney-injury", readings, 20) == (False, None)  # it has begun


@pytest.mark.parametrize(
    ("values", "onset"),
    [((1.0, 1.29), None), ((0.4, 0.6), 20.0), ((3.9, 4.1), None), ((3.9, 4.2), 20.0)],
)
def test_both_criteria_of_creatinine(values: tuple[float, float], onset: float | None) -> None:
    readings: Readings = [(1, "Creatinine", values[0]), (20, "Creatinine", values[1])]
    assert at("kidney-injury", readings, 6) == (True, onset)


def test_a_kidney_that_is_not_measured_again_is_not_taken_for_a_healthy_one() -> None:
    assert at("kidney-injury", [(1, "Creatinine", 1.0)], 6) == (False, None)
    assert at("kidney-injury", [(1, "Creatinine", 1.0), (40, "Creatinine", 1.0)], 6) == (False, None)
    assert at("kidney-injury", [(1, "Creatinine", 5.0), (20, "Creatinine", 9.0)], 6) == (False, None)


def test_a_fall_of_the_coma_scale_by_two_points_counts_from_its_newest_value() -> None:
    readings: Readings = [(1, "GCS", 15), (5, "GCS", 13), (9, "GCS", 12), (11, "GCS", 11)]
    assert at("consciousness-loss", readings, 4) == (True, 5.0)
    assert at("consciousness-loss", readings, 6) == (True, 11.0)
    assert at("consciousness-loss", readings, 9) == (True, None)


def test_a_ventilated_patient_or_a_coma_is_not_asked_about() -> None:
    readings: Readings = [(1, "GCS", 10), (5, "GCS", 6)]
    assert at("consciousness-loss", [*readings, (1.5, "MechVent", 1)], 4) == (False, None)
    assert at("consciousness-loss", [*readings, (1.5, "MechVent", 0)], 4) == (True, 5.0)
    assert at("consciousness-loss", [(1, "GCS", 4), (5, "GCS", 3)], 4) == (False, None)
    assert at("consciousness-loss", [(1, "GCS", 15), (20, "GCS", 3)], 12) == (False, None)  # charted too long ago


def test_pressure_is_low_when_two_readings_one_after_the_other_are() -> None:
    calm: Readings = [(4, "MAP", 80.0), (7, "MAP", 55.0), (8, "NIMAP", 70.0), (9, "MAP", 58.0)]
    assert at("hypotension", calm, 5) == (True, None)
    assert at("hypotension", [*calm, (9.5, "NIMAP", 59.0)], 5) == (True, 9.5)
    assert at("hypotension", [*calm, (4.5, "MAP", 64.0)], 5) == (False, None)  # low already
    assert at("hypotension", [(4, "MAP", 80.0), (7, "MAP", 55.0)], 5) == (False, None)  # one reading shows nothing


_READING = st.tuples(
    st.floats(0, 48, width=32), st.sampled_from(["Creatinine", "GCS", "MAP", "NIMAP", "MechVent"]), st.integers(0, 9)
)
_SCALE = {"Creatinine": 0.4, "GCS": 1.5, "MAP": 10.0, "NIMAP": 10.0, "MechVent": 0.12}
_LOWEST = {"Creatinine": 0.4, "GCS": 3.0, "MAP": 30.0, "NIMAP": 30.0, "MechVent": 0.0}


@settings(max_examples=60, deadline=None)
@given(st.lists(_READING, max_size=30), st.sampled_from([item.name for item in QUESTIONS]))
def test_an_onset_lies_in_its_window_and_the_past_alone_decides_who_is_asked(raw: Readings, name: str) -> None:
    asked_of = question(name)
    readings = [(hour, code, _LOWEST[code] + _SCALE[code] * level) for hour, code, level in raw]
    whole = stay(readings)
    asked = asked_of.asked_at(whole)
    assert asked.is_asked.shape == asked.event_minute.shape == (asked_of.num_bins,)
    for t in range(asked_of.num_bins):
        minute = int(asked.event_minute[t])
        if minute != NO_EVENT:
            assert 60 * (t + 1) < minute <= 60 * (t + 1 + asked_of.window_h)
            assert minute in whole.minute and asked.is_asked[t]
        # What lies behind the window changes nothing.
        end = 60 * (t + 1 + asked_of.window_h)
        near = whole.minute <= end
        cut = replace(whole, minute=whole.minute[near], code=whole.code[near], value=whole.value[near])
        assert at_position(asked_of.asked_at(cut), t) == at_position(asked, t)


def at_position(asked: Asked, t: int) -> tuple[bool, int]:
    return bool(asked.is_asked[t]), int(asked.event_minute[t])


def test_two_parameters_are_read_as_one_series() -> None:
    minutes, values = series(stay([(2, "NIMAP", 70.0), (1, "MAP", 80.0), (3, "HR", 90.0)]), "MAP", "NIMAP")
    assert minutes.tolist() == [60, 120] and values.tolist() == [80.0, 70.0]


def test_an_unknown_question_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"expected one of kidney-injury, .* got 'sepsis'"):
        question("sepsis")
