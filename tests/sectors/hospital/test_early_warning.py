import pytest

from smallhold.errors import InputError
from smallhold.sectors.hospital.early_warning import mews, qsofa, sirs

CALM_QSOFA = {"resp_rate": 16, "systolic": 120, "gcs": 15}
CALM_SIRS = {"temperature": 37, "heart_rate": 70, "resp_rate": 16, "paco2": 40, "wbc": 8}
CALM_MEWS = {"systolic": 120, "pulse": 70, "resp_rate": 12, "temperature": 37, "avpu": "A"}


@pytest.mark.parametrize(
    ("name", "value", "points"),
    [("resp_rate", 21, 0), ("resp_rate", 22, 1), ("systolic", 101, 0), ("systolic", 100, 1), ("gcs", 14, 1)],
)
def test_qsofa_boundaries(name, value, points):
    score = qsofa(**(CALM_QSOFA | {name: value}))
    assert (score.parts[name], score.total) == (points, points)


def test_qsofa_is_positive_from_two():
    assert qsofa(resp_rate=22, systolic=120, gcs=15).band == "negative"
    assert qsofa(resp_rate=22, systolic=100, gcs=15).band == "positive"
    assert qsofa(resp_rate=22, systolic=100, gcs=3).total == 3


@pytest.mark.parametrize(
    ("part", "changes", "points"),
    [
        ("temperature", {"temperature": 38.0}, 0),
        ("temperature", {"temperature": 38.1}, 1),
        ("temperature", {"temperature": 36.0}, 0),
        ("temperature", {"temperature": 35.9}, 1),
        ("heart_rate", {"heart_rate": 90}, 0),
        ("heart_rate", {"heart_rate": 91}, 1),
        ("breathing", {"resp_rate": 20}, 0),
        ("breathing", {"resp_rate": 21}, 1),
        ("breathing", {"paco2": 32}, 0),
        ("breathing", {"paco2": 31.9}, 1),
        ("breathing", {"resp_rate": 30, "paco2": 20}, 1),
        ("breathing", {"resp_rate": None, "paco2": 20}, 1),
        ("wbc", {"wbc": 12}, 0),
        ("wbc", {"wbc": 12.1}, 1),
        ("wbc", {"wbc": 4}, 0),
        ("wbc", {"wbc": 3.9}, 1),
        ("wbc", {"bands_percent": 10}, 0),
        ("wbc", {"bands_percent": 10.5}, 1),
    ],
)
def test_sirs_boundaries(part, changes, points):
    score = sirs(**(CALM_SIRS | changes))
    assert (score.parts[part], score.total, score.missing) == (points, points, ())


def test_sirs_is_positive_from_two_and_reaches_four():
    assert sirs(**(CALM_SIRS | {"heart_rate": 91})).band == "negative"
    assert sirs(**(CALM_SIRS | {"heart_rate": 91, "wbc": 13})).band == "positive"
    assert sirs(temperature=39, heart_rate=120, resp_rate=30, paco2=None, wbc=2).total == 4


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("systolic", [(70, 3), (71, 2), (80, 2), (81, 1), (100, 1), (101, 0), (199, 0), (200, 2)]),
        ("pulse", [(40, 2), (41, 1), (50, 1), (51, 0), (100, 0), (101, 1), (110, 1), (111, 2), (129, 2), (130, 3)]),
        ("resp_rate", [(8, 2), (9, 0), (14, 0), (15, 1), (20, 1), (21, 2), (29, 2), (30, 3)]),
        ("temperature", [(34.9, 2), (35.0, 0), (38.4, 0), (38.44, 0), (38.45, 2), (38.5, 2)]),
        ("avpu", [("A", 0), ("V", 1), ("P", 2), ("U", 3)]),
    ],
)
def test_mews_boundaries(name, row):
    for value, points in row:
        score = mews(**(CALM_MEWS | {name: value}))
        assert (score.parts[name], score.total) == (points, points), (name, value)


def test_mews_is_critical_from_five_and_reaches_fourteen():
    assert mews(**(CALM_MEWS | {"systolic": 70, "resp_rate": 15})).band == "below"
    assert mews(**(CALM_MEWS | {"systolic": 70, "resp_rate": 21})).band == "critical"
    assert mews(systolic=60, pulse=140, resp_rate=35, temperature=34, avpu="U").total == 3 + 3 + 3 + 2 + 3


def test_mews_refuses_a_level_of_consciousness_that_it_does_not_know():
    with pytest.raises(InputError, match="MEWS, consciousness: expected one of A, V, P, U, got 'C'"):
        mews(**(CALM_MEWS | {"avpu": "C"}))


def test_missing_readings_are_named():
    assert qsofa(resp_rate=None, systolic=90, gcs=None).missing == ("resp_rate", "gcs")
    assert sirs(temperature=None, heart_rate=80, resp_rate=None, paco2=None, wbc=None).missing == (
        "temperature", "breathing", "wbc",
    )  # fmt: skip
    assert mews(systolic=None, pulse=None, resp_rate=None, temperature=None, avpu=None).total == 0
