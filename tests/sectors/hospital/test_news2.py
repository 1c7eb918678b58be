import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallhold.sectors.hospital.news2 import MAXIMUM, Vitals, news2, observation_interval_h, round_half_up

NORMAL = {
    "resp_rate": 16,
    "spo2": 98,
    "on_oxygen": False,
    "systolic": 120,
    "pulse": 70,
    "is_alert": True,
    "temperature": 37.0,
}

# Every boundary of every row of chart 1: the last value of a box and the first of the next.
ROWS = {
    "resp_rate": [(0, 3), (8, 3), (9, 1), (11, 1), (12, 0), (20, 0), (21, 2), (24, 2), (25, 3), (60, 3)],
    "spo2": [(50, 3), (91, 3), (92, 2), (93, 2), (94, 1), (95, 1), (96, 0), (100, 0)],
    "on_oxygen": [(False, 0), (True, 2)],
    "systolic": [(50, 3), (90, 3), (91, 2), (100, 2), (101, 1), (110, 1), (111, 0), (219, 0), (220, 3), (280, 3)],
    "pulse": [
        (20, 3),
        (40, 3),
        (41, 1),
        (50, 1),
        (51, 0),
        (90, 0),
        (91, 1),
        (110, 1),
        (111, 2),
        (130, 2),
        (131, 3),
        (200, 3),
    ],
    "is_alert": [(True, 0), (False, 3)],
    "temperature": [
        (30.0, 3),
        (35.0, 3),
        (35.1, 1),
        (36.0, 1),
        (36.1, 0),
        (38.0, 0),
        (38.1, 1),
        (39.0, 1),
        (39.1, 2),
        (42.0, 2),
    ],
}
SCALE_2_ON_AIR = [(83, 3), (84, 2), (85, 2), (86, 1), (87, 1), (88, 0), (92, 0), (93, 0), (96, 0), (97, 0), (100, 0)]
SCALE_2_ON_OXYGEN = [
    (83, 3),
    (84, 2),
    (85, 2),
    (86, 1),
    (87, 1),
    (88, 0),
    (92, 0),
    (93, 1),
    (94, 1),
    (95, 2),
    (96, 2),
    (97, 3),
    (100, 3),
]


def scored(*, is_hypercapnic=False, **changes):
    return news2(Vitals(**(NORMAL | changes)), is_hypercapnic=is_hypercapnic)


@pytest.mark.parametrize(("name", "value", "points"), [(n, v, p) for n, row in ROWS.items() for v, p in row])
def test_every_boundary_of_the_chart(name, value, points):
    score = scored(**{name: value})
    assert score.parts[name] == points
    assert score.total == points
    assert score.missing == ()


@pytest.mark.parametrize(("spo2", "points"), SCALE_2_ON_AIR)
def test_second_saturation_scale_on_air(spo2, points):
    assert scored(spo2=spo2, is_hypercapnic=True).parts["spo2"] == points


@pytest.mark.parametrize(("spo2", "points"), SCALE_2_ON_OXYGEN)
def test_second_saturation_scale_on_oxygen(spo2, points):
    score = scored(spo2=spo2, on_oxygen=True, is_hypercapnic=True)
    assert score.parts["spo2"] == points
    assert score.total == points + 2


def test_the_maximum_of_twenty_is_reached():
    worst = {"resp_rate": 30, "spo2": 80, "on_oxygen": True, "systolic": 80, "pulse": 140, "is_alert": False}
    assert scored(**worst, temperature=34.0).total == MAXIMUM == 20


@pytest.mark.parametrize(
    ("changes", "total", "band", "interval_h"),
    [
        ({}, 0, "low", 12),
        ({"pulse": 95}, 1, "low", 4),
        ({"pulse": 115, "resp_rate": 22}, 4, "low", 4),
        ({"systolic": 220}, 3, "low-medium", 1),
        ({"systolic": 90, "pulse": 95}, 4, "low-medium", 1),
        ({"pulse": 115, "resp_rate": 22, "spo2": 95}, 5, "medium", 1),
        ({"systolic": 90, "pulse": 135}, 6, "medium", 1),
        ({"systolic": 90, "pulse": 135, "spo2": 95}, 7, "high", 0),
    ],
)
def test_bands_and_observation_intervals(changes, total, band, interval_h):
    score = scored(**changes)
    assert (score.total, score.band, observation_interval_h(score)) == (total, band, interval_h)


@pytest.mark.parametrize(
    ("name", "value", "points"),
    [
        ("temperature", 35.04, 3),
        ("temperature", 35.05, 1),
        ("temperature", 38.049, 0),
        ("temperature", 38.05, 1),
        ("temperature", 39.0499, 1),
        ("temperature", 39.05, 2),
        ("pulse", 90.4, 0),
        ("pulse", 90.5, 1),
        ("spo2", 91.49, 3),
        ("spo2", 91.5, 2),
        ("systolic", 219.4, 0),
        ("systolic", 219.5, 3),
        ("resp_rate", 24.5, 3),
    ],
)
def test_readings_are_rounded_half_up_before_scoring(name, value, points):
    assert scored(**{name: value}).parts[name] == points


def test_single_precision_does_not_change_the_rounding():
    numpy = pytest.importorskip("numpy")
    for tenth in range(300, 430):
        assert round_half_up(float(numpy.float32(tenth / 10)), 10) == tenth
        assert round_half_up(float(numpy.float32(tenth / 10 + 0.05)), 10) == tenth + 1


def test_missing_readings_score_nothing_and_are_named():
    score = news2(Vitals())
    assert score.total == 0
    assert set(score.missing) == set(NORMAL)
    assert set(score.parts) == set(NORMAL)
    score = scored(spo2=None, pulse=float("nan"), temperature=float("inf"))
    assert set(score.missing) == {"spo2", "pulse", "temperature"}
    assert score.total == 0


def slow_points(name, value):
    """The chart read as sentences, without tables."""
    if name == "resp_rate":
        return 3 if value <= 8 or value >= 25 else 1 if value <= 11 else 2 if value >= 21 else 0
    if name == "spo2":
        return 3 if value <= 91 else 2 if value <= 93 else 1 if value <= 95 else 0
    if name == "systolic":
        return 3 if value <= 90 or value >= 220 else 2 if value <= 100 else 1 if value <= 110 else 0
    if value <= 40 or value >= 131:
        return 3
    return 1 if value <= 50 or 91 <= value <= 110 else 2 if value >= 111 else 0


@given(
    st.fixed_dictionaries(
        {"resp_rate": st.integers(0, 80), "spo2": st.integers(0, 100), "systolic": st.integers(0, 300)}
        | {"pulse": st.integers(0, 300)}
    )
)
def test_agrees_with_the_chart_read_as_sentences(values):
    score = scored(**values)
    assert {name: score.parts[name] for name in values} == {name: slow_points(name, v) for name, v in values.items()}
    assert score.total == sum(score.parts.values())
