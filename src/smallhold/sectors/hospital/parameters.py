"""The 37 time-varying parameters of the PhysioNet/CinC Challenge 2012, their units and what is possible.

Names are the challenge's own (physionet.org/content/challenge-2012/1.0.0), units are UCUM, codes are LOINC.

The plausible range is what a living adult can show and a working device can report. It refuses artefacts, never
illness: upper limits stand above the highest values in case reports and above the tail of real ICU data, and a
reading refused here is refused alike in training and at the bedside. A pressure, heart rate or temperature of
zero is a disconnected sensor (asystole is the monitor's own alarm to raise); an hour with zero urine is real.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Parameter:
    """One thing that is measured again and again.

    Attributes:
        name: The challenge's name; the code of an observation whose system is `physionet2012`.
        title: In words.
        unit: The canonical unit, UCUM.
        loinc: LOINC code, empty where no term fits.
        plausible_low: Lowest value that is accepted, in `unit`.
        plausible_high: Highest value that is accepted, in `unit`.
    """

    name: str
    title: str
    unit: str
    loinc: str
    plausible_low: float
    plausible_high: float


PARAMETERS: tuple[Parameter, ...] = (
    Parameter("ALP", "alkaline phosphatase", "U/L", "6768-6", 1, 10_000),
    # Shock liver and paracetamol poisoning reach 20,000 U/L and more.
    Parameter("ALT", "alanine aminotransferase", "U/L", "1742-6", 1, 30_000),
    Parameter("AST", "aspartate aminotransferase", "U/L", "1920-8", 1, 30_000),
    Parameter("Albumin", "albumin", "g/dL", "1751-7", 0.3, 8),
    Parameter("BUN", "blood urea nitrogen", "mg/dL", "3094-0", 1, 350),
    # Below the detection limit is reported as 0.
    Parameter("Bilirubin", "bilirubin, total", "mg/dL", "1975-2", 0, 100),
    Parameter("Cholesterol", "cholesterol", "mg/dL", "2093-3", 10, 2_000),
    Parameter("Creatinine", "creatinine", "mg/dL", "2160-0", 0.05, 60),
    # Arterial lines read 250-300 while they are flushed; a diastolic pressure above 220 has not been seen otherwise.
    Parameter("DiasABP", "diastolic arterial pressure, invasive", "mm[Hg]", "76213-8", 5, 220),
    # Air is 0.2095 and usually written 0.21.
    Parameter("FiO2", "fraction of inspired oxygen", "1", "3150-0", 0.2, 1),
    Parameter("GCS", "Glasgow Coma Scale", "{score}", "9269-2", 3, 15),
    # Hyperosmolar crises pass 2,000 mg/dL.
    Parameter("Glucose", "glucose", "mg/dL", "2345-7", 5, 3_000),
    Parameter("HCO3", "bicarbonate", "mmol/L", "1963-8", 1, 70),
    Parameter("HCT", "haematocrit", "%", "20570-8", 4, 75),
    # Conducted 1:1, atrial flutter reaches 300 /min.
    Parameter("HR", "heart rate", "/min", "8867-4", 10, 300),
    # Survived extremes lie near 1 and 14 mmol/L; more is a haemolysed sample.
    Parameter("K", "potassium", "mmol/L", "2823-3", 1, 15),
    Parameter("Lactate", "lactate", "mmol/L", "2524-7", 0.05, 50),
    # Above 250 an arterial line is being flushed.
    Parameter("MAP", "mean arterial pressure, invasive", "mm[Hg]", "76214-6", 10, 250),
    # 1 = ventilated. The data set never writes 0; a bedside source may.
    Parameter("MechVent", "mechanical ventilation", "1", "", 0, 1),
    # The challenge's page says mmol/L, but the values (median 2.0) are mg/dL.
    Parameter("Mg", "magnesium", "mg/dL", "19123-9", 0.2, 40),
    Parameter("NIDiasABP", "diastolic arterial pressure, cuff", "mm[Hg]", "76535-4", 5, 220),
    Parameter("NIMAP", "mean arterial pressure, cuff", "mm[Hg]", "76536-2", 10, 250),
    Parameter("NISysABP", "systolic arterial pressure, cuff", "mm[Hg]", "76534-7", 20, 320),
    Parameter("Na", "sodium", "mmol/L", "2951-2", 80, 220),
    Parameter("PaCO2", "arterial carbon dioxide pressure", "mm[Hg]", "2019-8", 5, 300),
    # Pure oxygen at sea level cannot give more than about 670.
    Parameter("PaO2", "arterial oxygen pressure", "mm[Hg]", "2703-7", 10, 700),
    Parameter("Platelets", "platelets", "10*3/uL", "777-3", 0, 4_000),
    Parameter("RespRate", "respiratory rate", "/min", "9279-1", 1, 100),
    Parameter("SaO2", "oxygen saturation", "%", "2708-6", 20, 100),
    Parameter("SysABP", "systolic arterial pressure, invasive", "mm[Hg]", "76215-3", 20, 320),
    # Deep accidental hypothermia is rare but real; a probe in air reads below 25 Cel only outside the patient.
    Parameter("Temp", "temperature", "Cel", "8310-5", 20, 45),
    Parameter("TroponinI", "troponin I", "ug/L", "10839-9", 0, 1_000),
    Parameter("TroponinT", "troponin T", "ug/L", "6598-7", 0, 200),
    # One entry sums what was measured since the one before: several litres after a diuretic or an obstruction.
    Parameter("Urine", "urine output since the last entry", "mL", "9187-6", 0, 12_000),
    # Leukaemia reaches several hundred; below 0.1 is reported as 0.
    Parameter("WBC", "white blood cells", "10*3/uL", "6690-2", 0, 750),
    Parameter("Weight", "body weight", "kg", "29463-7", 20, 500),
    # 6.3 is the lowest pH known to have been survived; 700 and the like are missing decimal points.
    Parameter("pH", "arterial pH", "[pH]", "2744-1", 6.3, 8.0),
)
"""In order of their names, capitals first: the order of every array with one entry a parameter."""

INDEX: dict[str, int] = {parameter.name: position for position, parameter in enumerate(PARAMETERS)}
"""Position of a parameter in `PARAMETERS` by its name."""
