"""What a hospital bed needs from the hospital sector, in the words of this stage. Nothing else here names a sector."""

from __future__ import annotations

from smallhold.assist.alarm import Harm, Onset
from smallhold.assist.floor import FloorRules, PartWords, ScoreRule
from smallhold.assist.gate import Tolerances
from smallhold.sectors.hospital import news2
from smallhold.sectors.hospital.parameters import INDEX, PARAMETERS
from smallhold.sectors.hospital.units import to_canonical

_HOUR_MS = 3_600_000


class HospitalLimits:
    """Units and plausible ranges of the hospital's parameters, for the gate; codes are parameter names."""

    def plausible_range(self, code: str) -> tuple[float, float] | None:
        """Lowest and highest possible value in the canonical unit; None for an unknown code."""
        if code not in INDEX:
            return None
        parameter = PARAMETERS[INDEX[code]]
        return parameter.plausible_low, parameter.plausible_high

    def unit(self, code: str) -> str:
        """The canonical unit of a known code, UCUM."""
        return PARAMETERS[INDEX[code]].unit

    def to_canonical(self, code: str, value: float, unit: str) -> float:
        """The value of a known code in its canonical unit; InputError when `unit` cannot measure it."""
        return to_canonical(PARAMETERS[INDEX[code]], value, unit)


#: NEWS2's bands as alarm conditions. Emergency response at 7; urgent review within the hour at 5 or 6; a single
#: parameter at 3 asks for a look by the ward's team. Harm and onset are this project's reading of those responses.
NEWS2_RULES = FloorRules(
    condition="deterioration",  # the same as `icu_risk.CONDITION`: floor and model share one alert
    titles={news2.NAME: "NEWS2"},
    rules=(
        ScoreRule(news2.NAME, Harm.DEATH_OR_IRREVERSIBLE, Onset.PROMPT, total_at_least=7),
        ScoreRule(news2.NAME, Harm.REVERSIBLE, Onset.PROMPT, total_at_least=5),
        ScoreRule(news2.NAME, Harm.REVERSIBLE, Onset.DELAYED, part_at_least=3),
    ),
    parts={
        "resp_rate": PartWords("respiratory rate", ("RespRate",), "/min"),
        "spo2": PartWords("oxygen saturation", ("SaO2",), "%"),
        "on_oxygen": PartWords("supplemental oxygen", ("FiO2", "MechVent"), is_quoted=False),
        "systolic": PartWords("systolic pressure", ("SysABP", "NISysABP"), "mmHg"),
        "pulse": PartWords("pulse", ("HR",), "/min"),
        "is_alert": PartWords("Glasgow Coma Scale", ("GCS",)),
        "temperature": PartWords("temperature", ("Temp",), "°C"),
    },
)

#: A heart rate is charted at least hourly in intensive care; four hours without one is a fault or a patient elsewhere.
WATCHED_MS = {"HR": 4 * _HOUR_MS}

#: Recorded stays have minutes for clocks and no times of arrival, so what arrives is never late.
RECORDED_TOLERANCES = Tolerances(clock_back_ms=0, clock_future_ms=0, max_age_ms=0)

#: A result of the laboratory carries the time of its sample; half a day is the longest that one is waited for.
LABORATORY_MAX_AGE_MS = dict.fromkeys(
    (
        *("ALP", "ALT", "AST", "Albumin", "BUN", "Bilirubin", "Cholesterol", "Creatinine", "Glucose", "HCO3", "HCT"),
        *("K", "Lactate", "Mg", "Na", "PaCO2", "PaO2", "Platelets", "TroponinI", "TroponinT", "WBC", "pH"),
    ),
    12 * _HOUR_MS,
)
