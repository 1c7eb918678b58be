"""From the codes of monitors and laboratories to our parameters: LOINC, IEEE 11073-10101 (MDC), MDC units to UCUM.

A code is listed only where it means the same quantity as the parameter; nothing is guessed. Arterial and cuff pressures
stay apart. A pressure whose method is not said (LOINC 8480-6, 8462-4, 8478-0) counts as one of the cuff: that is what
it is outside intensive care, and NEWS2 takes either. Total carbon dioxide is not bicarbonate, and venous pH is not
arterial pH: they are not listed.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

from smallhold.errors import InputError, RecipeError
from smallhold.sectors.hospital.parameters import INDEX, PARAMETERS
from smallhold.sectors.hospital.stays import SYSTEM

LOINC, MDC = "loinc", "mdc"

#: What messages call a code system: HL7 table 0396, the URIs of FHIR, our own words.
SYSTEMS: dict[str, str] = {
    "loinc": LOINC,
    "LN": LOINC,
    "http://loinc.org": LOINC,
    "mdc": MDC,
    "MDC": MDC,
    "urn:iso:std:iso:11073:10101": MDC,
    SYSTEM: SYSTEM,
    f"99{SYSTEM}": SYSTEM,
    f"urn:smallhold:{SYSTEM}": SYSTEM,
}

#: Terms for the same quantity, beside the one of each parameter.
_MORE_LOINC: dict[str, str] = {
    "8480-6": "NISysABP",
    "8462-4": "NIDiasABP",
    "8478-0": "NIMAP",
    "59408-5": "SaO2",  # by pulse oximetry
    "8889-8": "HR",  # by pulse oximetry
    "8328-7": "Temp",  # axillary
    "8329-5": "Temp",  # core
    "8331-1": "Temp",  # oral
    "8332-9": "Temp",  # rectal
    "2339-0": "Glucose",  # in blood, as the five below
    "2947-0": "Na",
    "6298-4": "K",
    "6299-2": "BUN",
    "38483-4": "Creatinine",
    "32693-4": "Lactate",
    "4544-3": "HCT",  # automated count
    "26464-8": "WBC",
    "26515-7": "Platelets",
}

_MDC: tuple[tuple[str, str, str], ...] = (  # reference identifier, code in HL7 messages, parameter
    ("MDC_ECG_HEART_RATE", "147842", "HR"),
    ("MDC_ECG_CARD_BEAT_RATE", "", "HR"),
    ("MDC_PULS_OXIM_PULS_RATE", "149530", "HR"),
    ("MDC_PULS_RATE_NON_INV", "149546", "HR"),
    ("MDC_PULS_RATE", "", "HR"),
    ("MDC_PULS_OXIM_SAT_O2", "150456", "SaO2"),
    ("MDC_RESP_RATE", "151562", "RespRate"),
    ("MDC_TTHOR_RESP_RATE", "151578", "RespRate"),
    ("MDC_CO2_RESP_RATE", "151594", "RespRate"),
    ("MDC_TEMP", "150344", "Temp"),
    ("MDC_TEMP_BODY", "150364", "Temp"),
    ("MDC_TEMP_CORE", "150368", "Temp"),
    ("MDC_PRESS_CUFF_SYS", "150301", "NISysABP"),
    ("MDC_PRESS_CUFF_DIA", "150302", "NIDiasABP"),
    ("MDC_PRESS_CUFF_MEAN", "150303", "NIMAP"),
    ("MDC_PRESS_BLD_NONINV_SYS", "150021", "NISysABP"),
    ("MDC_PRESS_BLD_NONINV_DIA", "150022", "NIDiasABP"),
    ("MDC_PRESS_BLD_NONINV_MEAN", "150023", "NIMAP"),
    ("MDC_PRESS_BLD_ART_SYS", "150033", "SysABP"),
    ("MDC_PRESS_BLD_ART_DIA", "150034", "DiasABP"),
    ("MDC_PRESS_BLD_ART_MEAN", "150035", "MAP"),
    ("MDC_PRESS_BLD_ART_ABP_SYS", "150037", "SysABP"),
    ("MDC_PRESS_BLD_ART_ABP_DIA", "150038", "DiasABP"),
    ("MDC_PRESS_BLD_ART_ABP_MEAN", "150039", "MAP"),
)

_UNITS: tuple[tuple[str, str, str], ...] = (  # reference identifier, code in HL7 messages, UCUM
    ("MDC_DIM_BEAT_PER_MIN", "264864", "/min"),
    ("MDC_DIM_RESP_PER_MIN", "264928", "/min"),
    ("MDC_DIM_MMHG", "266016", "mm[Hg]"),
    ("MDC_DIM_KILO_PASCAL", "265987", "kPa"),
    ("MDC_DIM_PERCENT", "262688", "%"),
    ("MDC_DIM_DEGC", "268192", "Cel"),
    ("MDC_DIM_FAHR", "266560", "[degF]"),
    ("MDC_DIM_KILO_G", "263875", "kg"),
)

_BY_SYSTEM: dict[str, dict[str, str]] = {
    LOINC: {parameter.loinc: parameter.name for parameter in PARAMETERS if parameter.loinc} | _MORE_LOINC,
    MDC: {key: name for refid, number, name in _MDC for key in (refid, number) if key},
    SYSTEM: {name: name for name in INDEX},
}
_UCUM = {key: unit for refid, number, unit in _UNITS for key in (refid, number)}
_MDC_OF = {name: (number, refid) for refid, number, name in reversed(_MDC) if number}
_MDC_UNIT_OF = {unit: (number, refid) for refid, number, unit in reversed(_UNITS)}
_NAMES = ", ".join(INDEX)
_LOINC_SHAPE = re.compile(r"[0-9]{1,7}-[0-9]", re.ASCII)
_MDC_SHAPE = re.compile(r"MDC_[A-Z0-9_]+|[0-9]{5,6}", re.ASCII)


class HospitalCodes:
    """What the hospital knows about the codes of others; see `smallhold.assist.sources.intake.Codes`.

    Args:
        local_codes: (code system as messages call it, code) -> parameter, for codes of one's own; they go first.
        local_units: Unit as messages spell it -> UCUM.

    Raises:
        InputError: a code stands for no parameter.
    """

    system = SYSTEM

    def __init__(
        self,
        local_codes: Mapping[tuple[str, str], str] | None = None,
        local_units: Mapping[str, str] | None = None,
    ) -> None:
        self._local_codes = dict(local_codes or {})
        self._local_units = dict(local_units or {})
        for (system, code), name in self._local_codes.items():
            if name not in INDEX:
                raise InputError(f"code {code!a} of {system!a}: {name!a} is no parameter: expected one of {_NAMES}")

    @classmethod
    def from_file(cls, path: Path) -> HospitalCodes:
        """Codes and units of one's own from a TOML file: tables `[units]` and `[codes."SYSTEM"]`.

        Raises:
            RecipeError: the file is missing, is not TOML, or has an entry that is not documented.
            InputError: a code stands for no parameter.
        """
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RecipeError(f"{path}: cannot be read as TOML: {error}") from error
        units = tables.pop("units", {})
        systems = tables.pop("codes", {})
        if tables or not isinstance(systems, dict) or not _is_words(units) or not all(map(_is_words, systems.values())):
            raise RecipeError(f'{path}: expected tables [units] and [codes."SYSTEM"] of strings alone')
        return cls({(system, code): name for system, words in systems.items() for code, name in words.items()}, units)

    def name_of(self, system: str, code: str) -> str | None:
        """The parameter that a code means, None when it means none that is known.

        Args:
            system: As the message calls it; empty where a protocol has no word for it: then the shape of the code
                tells, `8867-4` LOINC, `MDC_ECG_HEART_RATE` and `147842` MDC, anything else a parameter's own name.
            code: As received.

        >>> HospitalCodes().name_of("http://loinc.org", "8867-4"), HospitalCodes().name_of("", "150456")
        ('HR', 'SaO2')
        """
        if (system, code) in self._local_codes:
            return self._local_codes[system, code]
        known = SYSTEMS.get(system or _system_by_shape(code))
        return None if known is None else _BY_SYSTEM[known].get(code)

    def unit_of(self, unit: str) -> str:
        """A unit of one's own or of MDC as UCUM; every other unit as it is, for the gate to judge."""
        return self._local_units.get(unit) or _UCUM.get(unit, unit)


def mdc_of(name: str) -> tuple[str, str] | None:
    """Code and reference identifier of IEEE 11073-10101 that a parameter is sent under, None where it has none."""
    return _MDC_OF.get(name)


def mdc_unit_of(unit: str) -> tuple[str, str] | None:
    """Code and reference identifier of a UCUM unit in IEEE 11073-10101, None where it is not listed."""
    return _MDC_UNIT_OF.get(unit)


def _is_words(table: object) -> bool:
    return isinstance(table, dict) and all(isinstance(word, str) for word in table.values())


def _system_by_shape(code: str) -> str:
    if _LOINC_SHAPE.fullmatch(code):
        return LOINC
    return MDC if _MDC_SHAPE.fullmatch(code) else SYSTEM
