"""From the unit that a hospital sends to the canonical unit of a parameter.

Units are UCUM codes (ucum.org). Every conversion is `canonical = factor * value + offset`, with factors derived
from definitions and molar masses (IUPAC standard atomic weights), not from rounded tables. Nothing is guessed: a unit
that is not listed for the parameter is refused.
"""

from __future__ import annotations

import re
from functools import lru_cache

from smallhold.errors import InputError
from smallhold.sectors.hospital.parameters import PARAMETERS, Parameter

# Molar masses in g/mol.
GLUCOSE_MASS = 180.156  # C6H12O6
CREATININE_MASS = 113.120  # C4H7N3O
BILIRUBIN_MASS = 584.673  # C33H36N4O6
CHOLESTEROL_MASS = 386.664  # C27H46O
LACTATE_MASS = 90.078  # C3H6O3: laboratories report lactate as lactic acid
MAGNESIUM_MASS = 24.305  # Mg, two charges: 1 mmol = 2 meq
UREA_NITROGEN_MASS = 2 * 14.007  # both nitrogens of one urea

MM_HG_PASCAL = 133.322  # UCUM's own value of mm[Hg]
CM_H2O_PASCAL = 98.0665  # UCUM's own value of cm[H2O]
POUND_KG = 0.45359237  # exact, international avoirdupois pound
ENZYME_UNITS_PER_MICROKATAL = 60.0  # 1 U = 1 umol/min, 1 kat = 1 mol/s

_Line = tuple[float, float]  # factor, offset


def _scaled(factors: dict[str, float]) -> dict[str, _Line]:
    return {unit: (factor, 0.0) for unit, factor in factors.items()}


def _from_molar(mass: float) -> dict[str, _Line]:
    """To mg/dL: 1 mmol/L is `mass` mg in a litre, a tenth of it in a decilitre."""
    return _scaled({"mmol/L": mass / 10, "umol/L": mass / 10_000, "g/L": 100.0, "mg/L": 0.1})


_PRESSURE = _scaled(
    {
        "kPa": 1000 / MM_HG_PASCAL,
        "Pa": 1 / MM_HG_PASCAL,
        "mbar": 100 / MM_HG_PASCAL,
        "cm[H2O]": CM_H2O_PASCAL / MM_HG_PASCAL,
    }
)
_ENZYME = _scaled(
    {
        "[IU]/L": 1.0,
        "U/mL": 1000.0,
        "ukat/L": ENZYME_UNITS_PER_MICROKATAL,
        "nkat/L": ENZYME_UNITS_PER_MICROKATAL / 1000,
    }
)
# Equivalents are moles for an ion of one charge.
_UNIVALENT = _scaled({"meq/L": 1.0, "umol/L": 0.001})
_CELL_COUNT = _scaled({"10*9/L": 1.0, "10*3/mm3": 1.0, "10*6/mL": 1.0, "/uL": 0.001, "/mm3": 0.001, "10*6/L": 0.001})
_PERCENT_FROM_FRACTION = _scaled({"1": 100.0, "L/L": 100.0})
_TROPONIN = _scaled({"ng/mL": 1.0, "ng/L": 0.001, "pg/mL": 0.001})

# Beside the canonical unit itself.
_OTHERS: dict[str, dict[str, _Line]] = {
    "ALP": _ENZYME,
    "ALT": _ENZYME,
    "AST": _ENZYME,
    "Albumin": _scaled({"g/L": 0.1, "mg/dL": 0.001}),
    # mmol/L of urea. A mass of *urea* is another quantity with another LOINC code: it must not be sent as BUN.
    "BUN": _scaled({"mmol/L": UREA_NITROGEN_MASS / 10}),
    "Bilirubin": _from_molar(BILIRUBIN_MASS),
    "Cholesterol": _from_molar(CHOLESTEROL_MASS),
    "Creatinine": _from_molar(CREATININE_MASS),
    "DiasABP": _PRESSURE,
    "FiO2": _scaled({"%": 0.01}),
    "GCS": _scaled({"1": 1.0}),
    "Glucose": _from_molar(GLUCOSE_MASS),
    "HCO3": _UNIVALENT,
    "HCT": _PERCENT_FROM_FRACTION,
    "HR": _scaled({"Hz": 60.0, "/s": 60.0}),
    "K": _UNIVALENT,
    "Lactate": _scaled({"mg/dL": 10 / LACTATE_MASS, "meq/L": 1.0}),
    "MAP": _PRESSURE,
    "Mg": _from_molar(MAGNESIUM_MASS) | _scaled({"meq/L": MAGNESIUM_MASS / 20}),
    "NIDiasABP": _PRESSURE,
    "NIMAP": _PRESSURE,
    "NISysABP": _PRESSURE,
    "Na": _UNIVALENT,
    "PaCO2": _PRESSURE,
    "PaO2": _PRESSURE,
    "Platelets": _CELL_COUNT,
    "RespRate": _scaled({"Hz": 60.0, "/s": 60.0}),
    "SaO2": _PERCENT_FROM_FRACTION,
    "SysABP": _PRESSURE,
    "Temp": {"[degF]": (5 / 9, -160 / 9), "K": (1.0, -273.15)},
    "TroponinI": _TROPONIN,
    "TroponinT": _TROPONIN,
    "Urine": _scaled({"L": 1000.0, "dL": 100.0, "cm3": 1.0}),
    "WBC": _CELL_COUNT,
    "Weight": _scaled({"g": 0.001, "[lb_av]": POUND_KG, "[oz_av]": POUND_KG / 16}),
    "pH": _scaled({"1": 1.0}),
}


def to_canonical(parameter: Parameter, value: float, unit: str) -> float:
    """Convert a reading to the parameter's canonical unit.

    Args:
        parameter: What was measured.
        value: The number as received.
        unit: UCUM code as received. Annotations in braces mean nothing in UCUM and are ignored: `{beats}/min`
            is `/min`.

    Returns:
        The value in `parameter.unit`; unchanged when that is the unit it came in.

    Raises:
        InputError: not a unit of this parameter; the message lists those that are.

    >>> from smallhold.sectors.hospital.parameters import INDEX
    >>> round(to_canonical(PARAMETERS[INDEX["Temp"]], 98.6, "[degF]"), 6)
    37.0
    """
    if unit == parameter.unit:
        return value
    line = _lines_of(parameter.name).get(_bare(unit))
    if line is None:
        raise InputError(
            f"{parameter.name}: unit {unit!r} is not a unit of {parameter.title}: "
            f"expected one of {', '.join(units_of(parameter))}"
        )
    return line[0] * value + line[1]


def units_of(parameter: Parameter) -> tuple[str, ...]:
    """Every accepted unit, the canonical one first."""
    return (parameter.unit, *_OTHERS.get(parameter.name, {}))


@lru_cache(maxsize=len(PARAMETERS))
def _lines_of(name: str) -> dict[str, _Line]:
    canonical = next(parameter.unit for parameter in PARAMETERS if parameter.name == name)
    return {_bare(canonical): (1.0, 0.0)} | _OTHERS.get(name, {})


@lru_cache(maxsize=1024)
def _bare(unit: str) -> str:
    """Without annotations, and with the two spellings of a bare number and of a reciprocal made one."""
    bare = re.sub(r"\{[^{}]*\}", "", unit.strip())
    return bare.removeprefix("1") if bare.startswith("1/") else bare or "1"
