"""The hospital's parameters and scores in the code systems that others read: LOINC, SNOMED CT, IEEE 11073-10101.

NEWS2 has no LOINC term for its total here: 88330-6, which circulates for it, is "Mobility - admission performance"
(CMS). The total carries our own code, and 1104051000000101 of SNOMED CT's United Kingdom edition.
"""

from __future__ import annotations

from smallhold.sectors.hospital.codes import mdc_of, mdc_unit_of
from smallhold.sectors.hospital.parameters import INDEX, PARAMETERS
from smallhold.sectors.hospital.stays import SYSTEM

LOINC_URI = "http://loinc.org"
SNOMED_URI = "http://snomed.info/sct"
PARAMETER_URI = f"urn:smallhold:{SYSTEM}"
SCORE_URI = "urn:smallhold:score"
PART_URI = "urn:smallhold:score-part"

#: Those whose code and unit are the ones that FHIR's vital signs profiles fix. A pressure stands there as a component
#: of a panel, and ours stand alone: they are left without a category rather than breaking the profile.
_VITAL = frozenset({"HR", "RespRate", "Temp", "SaO2", "Weight"})
_BEDSIDE = frozenset({*_VITAL, "GCS", "FiO2", "MechVent", "Urine"}) | frozenset(
    {"SysABP", "DiasABP", "MAP", "NISysABP", "NIDiasABP", "NIMAP"}
)
_SCORES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "news2": (
        (
            SNOMED_URI,
            "1104051000000101",
            "Royal College of Physicians NEWS2 (National Early Warning Score 2) total score",
        ),
    )
}


class HospitalTerms:
    """See `smallhold.assist.interop.terms.Terms`; codings are (system, code, display)."""

    def parameter(self, code: str) -> tuple[tuple[str, str, str], ...]:
        """Our own name, and LOINC where a term fits."""
        own = (PARAMETER_URI, code, self.title(code))
        loinc = PARAMETERS[INDEX[code]].loinc if code in INDEX else ""
        return (own, (LOINC_URI, loinc, "")) if loinc else (own,)

    def title(self, code: str) -> str:
        """In words; the code itself where it is unknown."""
        return PARAMETERS[INDEX[code]].title if code in INDEX else code

    def category(self, code: str) -> str:
        """`vital-signs` where FHIR's profile is met, `laboratory`, else empty."""
        if code in _VITAL:
            return "vital-signs"
        return "laboratory" if code in INDEX and code not in _BEDSIDE else ""

    def score(self, name: str) -> tuple[tuple[str, str, str], ...]:
        """Our own code, and others that are known for sure."""
        return ((SCORE_URI, name, ""), *_SCORES.get(name, ()))

    def part(self, name: str, part: str) -> tuple[tuple[str, str, str], ...]:
        """Our own code alone."""
        return ((PART_URI, f"{name}.{part}", part.replace("_", " ")),)

    def mdc(self, code: str) -> tuple[str, str] | None:
        """The first code of the table that means this parameter."""
        return mdc_of(code)

    def mdc_unit(self, unit: str) -> tuple[str, str] | None:
        """The unit of dimension."""
        return mdc_unit_of(unit)
