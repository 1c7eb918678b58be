import numpy as np
import pytest

from smallhold.sectors.hospital.parameters import INDEX, PARAMETERS


def test_there_are_the_37_of_the_challenge_in_order_of_their_names():
    names = [parameter.name for parameter in PARAMETERS]
    assert len(names) == 37
    assert names == sorted(names)
    assert [INDEX[name] for name in names] == list(range(37))


def test_codes_are_unique_and_look_like_loinc():
    codes = [parameter.loinc for parameter in PARAMETERS if parameter.loinc]
    assert len(codes) == len(set(codes)) == 36  # mechanical ventilation has none
    for code in codes:
        number, check = code.split("-")
        assert number.isdigit() and check == str(luhn(number)), code


def luhn(number):
    """LOINC's check digit is the mod 10 algorithm."""
    digits = [int(d) for d in reversed(number)]
    total = sum(d if i % 2 else sum(divmod(2 * d, 10)) for i, d in enumerate(digits))
    return -total % 10


@pytest.mark.parametrize("parameter", PARAMETERS, ids=lambda parameter: parameter.name)
def test_ranges_are_ranges_and_survive_single_precision(parameter):
    assert 0 <= parameter.plausible_low < parameter.plausible_high
    # Stays hold float32: a limit must not move inwards by rounding.
    assert float(np.float32(parameter.plausible_low)) >= parameter.plausible_low
    assert float(np.float32(parameter.plausible_high)) <= parameter.plausible_high


@pytest.mark.parametrize(
    ("name", "real", "impossible"),
    [
        ("HR", [28, 220], [0, -1, 400]),
        ("SysABP", [35, 290], [0, 400]),
        ("NIMAP", [20, 190], [0, 295]),
        ("Temp", [24.0, 42.2], [0, 17.8, -1, 98.6]),
        ("pH", [6.75, 7.7], [735, 0]),
        ("WBC", [0, 0.1, 528], [12_500]),
        ("AST", [23_950], [0]),
        ("Urine", [0, 8_000], [-1, 19_990]),
        ("FiO2", [0.21, 1.0], [40, 0]),
        ("Weight", [35, 300], [0]),
        ("Glucose", [8, 1_591], [0]),
        ("SaO2", [60, 100], [0, 101]),
    ],
)
def test_real_extremes_pass_and_artefacts_do_not(name, real, impossible):
    parameter = PARAMETERS[INDEX[name]]
    assert all(parameter.plausible_low <= value <= parameter.plausible_high for value in real)
    assert not any(parameter.plausible_low <= value <= parameter.plausible_high for value in impossible)
