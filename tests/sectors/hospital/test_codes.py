from __future__ import annotations

import pytest

from smallhold.sectors.hospital import codes
from smallhold.sectors.hospital.codes import HospitalCodes
from smallhold.sectors.hospital.parameters import INDEX, PARAMETERS
from smallhold.sectors.hospital.units import units_of

CODES = HospitalCodes()


@pytest.mark.parametrize(
    ("system", "code", "name"),
    [
        ("http://loinc.org", "8867-4", "HR"),
        ("LN", "59408-5", "SaO2"),
        ("MDC", "150456", "SaO2"),
        ("MDC", "MDC_PULS_OXIM_SAT_O2", "SaO2"),
        ("urn:iso:std:iso:11073:10101", "150301", "NISysABP"),
        ("MDC", "150037", "SysABP"),
        ("99physionet2012", "MechVent", "MechVent"),
        ("", "8310-5", "Temp"),
        ("", "151562", "RespRate"),
        ("", "Urine", "Urine"),
        ("LN", "147842", None),  # a code of another system
        ("MDC", "8867-4", None),
        ("-", "8867-4", None),
        ("", "", None),
        ("LN", "", None),
    ],
)
def test_a_code_means_one_parameter_in_its_own_system_alone(system: str, code: str, name: str | None) -> None:
    assert CODES.name_of(system, code) == name


def test_every_parameter_with_a_term_of_loinc_is_found_by_it_and_every_code_leads_to_a_parameter() -> None:
    assert {CODES.name_of("LN", p.loinc) for p in PARAMETERS if p.loinc} == {p.name for p in PARAMETERS if p.loinc}
    assert all(name in INDEX for table in codes._BY_SYSTEM.values() for name in table.values())
    numbers = [number for _, number, _ in codes._MDC if number]
    assert len(set(numbers)) == len(numbers)


def test_every_unit_of_mdc_is_one_that_some_parameter_takes() -> None:
    known = {unit for parameter in PARAMETERS for unit in units_of(parameter)}
    assert all(unit in known for _, _, unit in codes._UNITS)
    assert CODES.unit_of("266016") == CODES.unit_of("MDC_DIM_MMHG") == "mm[Hg]"
    assert CODES.unit_of("furlong") == "furlong"
