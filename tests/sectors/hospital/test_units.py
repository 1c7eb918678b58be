import pytest

from smallhold.errors import InputError
from smallhold.sectors.hospital.parameters import INDEX, PARAMETERS
from smallhold.sectors.hospital.units import to_canonical, units_of


def converted(name, value, unit):
    return to_canonical(PARAMETERS[INDEX[name]], value, unit)


# Pairs that are printed in laboratory handbooks and textbooks, to the precision given there.
@pytest.mark.parametrize(
    ("name", "value", "unit", "expected", "tolerance"),
    [
        ("Temp", 98.6, "[degF]", 37.0, 1e-9),
        ("Temp", 212, "[degF]", 100.0, 1e-9),
        ("Temp", 310.15, "K", 37.0, 1e-9),
        ("PaCO2", 5.3, "kPa", 39.75, 0.01),
        ("PaO2", 13.3, "kPa", 99.76, 0.01),
        ("SysABP", 16, "kPa", 120.0, 0.02),
        ("MAP", 100, "mbar", 75.006, 0.001),
        ("NIMAP", 101_325, "Pa", 760.0, 0.01),
        ("DiasABP", 10, "cm[H2O]", 7.356, 0.001),
        ("Glucose", 5.55, "mmol/L", 100, 0.1),
        ("Creatinine", 88.4, "umol/L", 1.0, 0.001),
        ("Bilirubin", 17.1, "umol/L", 1.0, 0.001),
        ("BUN", 7.14, "mmol/L", 20.0, 0.01),
        ("Cholesterol", 5.17, "mmol/L", 200, 0.2),
        ("Lactate", 18, "mg/dL", 2.0, 0.002),
        ("Lactate", 2, "meq/L", 2.0, 1e-12),
        ("Mg", 0.82, "mmol/L", 1.993, 0.001),
        ("Mg", 1.64, "meq/L", 1.993, 0.001),
        ("Albumin", 35, "g/L", 3.5, 1e-9),
        ("Albumin", 3_500, "mg/dL", 3.5, 1e-9),
        ("FiO2", 40, "%", 0.4, 1e-12),
        ("HCT", 0.42, "L/L", 42, 1e-9),
        ("HCT", 0.42, "1", 42, 1e-9),
        ("SaO2", 0.97, "1", 97, 1e-9),
        ("K", 4.1, "meq/L", 4.1, 1e-12),
        ("Na", 140, "meq/L", 140, 1e-12),
        ("HCO3", 24, "meq/L", 24, 1e-12),
        ("K", 4_100, "umol/L", 4.1, 1e-9),
        ("Platelets", 250, "10*9/L", 250, 1e-12),
        ("Platelets", 250_000, "/uL", 250, 1e-9),
        ("Platelets", 250_000, "10*6/L", 250, 1e-9),
        ("WBC", 7.5, "10*9/L", 7.5, 1e-12),
        ("WBC", 7_500, "/mm3", 7.5, 1e-9),
        ("WBC", 7.5, "10*3/mm3", 7.5, 1e-12),
        ("WBC", 7.5, "10*6/mL", 7.5, 1e-12),
        ("ALT", 0.5, "ukat/L", 30, 1e-9),
        ("AST", 500, "nkat/L", 30, 1e-9),
        ("ALP", 80, "[IU]/L", 80, 1e-12),
        ("ALP", 0.08, "U/mL", 80, 1e-9),
        ("TroponinI", 40, "ng/L", 0.04, 1e-12),
        ("TroponinT", 0.04, "ng/mL", 0.04, 1e-12),
        ("TroponinT", 40, "pg/mL", 0.04, 1e-12),
        ("Weight", 154.3236, "[lb_av]", 70, 0.001),
        ("Weight", 16, "[oz_av]", 0.45359237, 1e-12),
        ("Weight", 70_000, "g", 70, 1e-9),
        ("Urine", 0.25, "L", 250, 1e-9),
        ("Urine", 2.5, "dL", 250, 1e-9),
        ("Urine", 250, "cm3", 250, 1e-12),
        ("HR", 1.5, "Hz", 90, 1e-12),
        ("RespRate", 0.25, "/s", 15, 1e-12),
        ("Glucose", 1.0, "g/L", 100, 1e-9),
        ("Creatinine", 10, "mg/L", 1.0, 1e-9),
        ("GCS", 15, "1", 15, 1e-12),
        ("pH", 7.4, "1", 7.4, 1e-12),
    ],
)
def test_factors_agree_with_handbooks(name, value, unit, expected, tolerance):
    assert converted(name, value, unit) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("parameter", PARAMETERS, ids=lambda parameter: parameter.name)
def test_canonical_unit_changes_nothing(parameter):
    assert to_canonical(parameter, 12.345678901234567, parameter.unit) == 12.345678901234567
    assert units_of(parameter)[0] == parameter.unit
    for unit in units_of(parameter):
        to_canonical(parameter, 1.0, unit)


@pytest.mark.parametrize("unit", ["{beats}/min", "1/min", "/min", "{Beats}/min", " /min"])
def test_annotations_and_spellings_of_a_reciprocal_mean_nothing(unit):
    assert converted("HR", 72, unit) == 72


@pytest.mark.parametrize("unit", ["{score}", "1", "{GCS score}"])
def test_an_annotation_alone_is_a_bare_number(unit):
    assert converted("GCS", 14, unit) == 14


def test_wrong_dimension_names_parameter_unit_and_what_is_expected():
    with pytest.raises(InputError, match=r"^HR: unit 'mm\[Hg\]' is not a unit of heart rate: expected one of /min"):
        converted("HR", 80, "mm[Hg]")


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("Temp", "F"),
        ("Temp", "%"),
        ("SysABP", "mmHg"),
        ("Creatinine", "meq/L"),
        ("BUN", "umol/L"),
        ("Albumin", "mmol/L"),
        ("FiO2", "mm[Hg]"),
        ("MechVent", "%"),
        ("K", "mg/dL"),
        ("HR", ""),
        ("WBC", "10*9"),
        ("WBC", "mg/dL"),
    ],
)
def test_what_is_not_listed_is_refused_not_guessed(name, unit):
    with pytest.raises(InputError, match=rf"^{name}: unit '.*' is not a unit of"):
        converted(name, 1.0, unit)
