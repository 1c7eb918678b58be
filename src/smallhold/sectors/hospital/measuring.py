"""What a unit writes down about a simulated patient: when each thing is measured, how exactly, and what goes wrong."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smallhold.sectors.hospital.parameters import INDEX
from smallhold.sectors.hospital.physiology import STEP_MINUTES, ph_of, saturation_of

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_HEART_SURGERY = "cardiac surgery recovery"
_AIR = 0.21
_HOUR = 60

# Artefacts: the probability that a reading becomes one, and what it then reads, as real records show it.
_CUFF_FAILS = 0.002  # 0
_LINE_FAILS = 0.004  # 0, while blood is drawn from the line
_LINE_FLUSHED = 0.0005  # 295
_PROBE_OFF = 0.001
_PROBE_OFF_READS = (-1.0, 17.8, 4.2)  # the missing marker, the room, nothing
_LEADS_OFF = 0.0001  # 0
_POINT_LOST = 0.0005  # 735 for a pH of 7.35

# Name, error as a fraction of the value, decimals, lowest and highest value that the laboratory reports.
_PANEL = (
    ("BUN", 0.03, 0, 2, 200),
    ("Creatinine", 0.04, 1, 0.2, 20),
    ("Glucose", 0.05, 0, 20, 1_200),
    ("HCT", 0.02, 1, 12, 60),
    ("K", 0.02, 1, 1.8, 9.5),
    ("Mg", 0.04, 1, 0.7, 8),
    ("Na", 0.007, 0, 105, 175),
    ("Platelets", 0.05, 0, 6, 1_200),
    ("WBC", 0.05, 1, 0.1, 150),
)
_LIVER_PANEL = (
    ("ALP", 0.04, 0, 12, 2_000),
    ("ALT", 0.05, 0, 4, 12_000),
    ("AST", 0.05, 0, 6, 18_000),
    ("Albumin", 0.03, 1, 1, 5.2),
    ("Bilirubin", 0.05, 1, 0.1, 60),
)


class _Sheet:
    """Collects one patient's readings."""

    def __init__(self, rng: np.random.Generator, minutes: int) -> None:
        self._rng = rng
        self._grid = np.arange(0, minutes + 1, STEP_MINUTES)
        self._minute: list[IntArray] = []
        self._code: list[int] = []
        self._value: list[FloatArray] = []

    @property
    def minutes(self) -> int:
        """Length of the stay."""
        return int(self._grid[-1])

    def at(self, signal: FloatArray, minute: IntArray) -> FloatArray:
        """(E,) the hidden signal at some minutes."""
        return np.interp(minute, self._grid, signal)

    def chance(self, minute: IntArray, probability: float | FloatArray) -> NDArray[np.bool_]:
        """(E,) True with the given probability, drawn for each minute."""
        return np.asarray(self._rng.random(minute.size) < probability)

    def write(
        self,
        name: str,
        minute: IntArray,
        true: FloatArray,
        *,
        error: float | FloatArray,
        digits: int,
        shown: tuple[float, float],
        spoilt: tuple[NDArray[np.bool_], float] | None = None,
    ) -> None:
        """Enter readings.

        Args:
            name: The parameter.
            minute: (E,) when.
            true: (E,) what an ideal device would read.
            error: Standard deviation of the device's error.
            digits: Decimals that are written down.
            shown: What the device or the laboratory can report at all.
            spoilt: Which readings are artefacts, and what they read instead.
        """
        value = true + error * self._rng.standard_normal(minute.size)
        np.minimum(np.maximum(value, shown[0], out=value), shown[1], out=value)
        value = np.rint(value * 10**digits) / 10**digits
        if spoilt is not None:
            value[spoilt[0]] = spoilt[1]
        self._minute.append(minute)
        self._code.append(INDEX[name])
        self._value.append(value)

    def arrays(self) -> tuple[NDArray[np.int32], NDArray[np.int16], NDArray[np.float32]]:
        """(E,) minutes, codes and values in order of minute, then of code."""
        minute = np.concatenate(self._minute)
        code = np.repeat(np.array(self._code, dtype=np.int16), [part.size for part in self._minute])
        order = np.lexsort((code, minute))
        value = np.concatenate(self._value)[order]
        return minute[order].astype(np.int32), code[order], value.astype(np.float32)


def measure(
    rng: np.random.Generator,
    signals: dict[str, FloatArray],
    intensity: FloatArray,
    icu_type: str,
    height_cm: float,
    hours: int,
) -> tuple[NDArray[np.int32], NDArray[np.int16], NDArray[np.float32]]:
    """Measure one patient's hidden signals as a unit would.

    Args:
        rng: The patient's own generator.
        signals: (T,) each, from `physiology.hidden_signals`.
        intensity: (T, 5) from `physiology.intensities`; the sicker, the more is measured.
        icu_type: One of `stays.ICU_TYPES`.
        height_cm: For the weight.
        hours: Length of the stay.

    Returns:
        (E,) minutes, positions in `PARAMETERS` and values, sorted by minute, artefacts included.
    """
    minutes = hours * _HOUR
    severity = intensity.sum(axis=1)
    sheet = _Sheet(rng, minutes)
    is_heart_surgery = icu_type == _HEART_SURGERY
    is_ventilated = _ventilation(rng, signals, intensity, is_heart_surgery)
    has_line = is_heart_surgery or rng.random() < 0.35 + 0.5 * min(float(severity.max()), 1.0)

    rounds = _times(rng, minutes, every=60)
    rounds = rounds[~sheet.chance(rounds, 0.07)]
    if is_heart_surgery:  # the first hours after the operation are watched closely
        rounds = np.union1d(rounds, _times(rng, min(minutes, 5 * _HOUR), every=15))
    _circulation(sheet, signals, rounds, has_line)
    _breathing_and_mind(rng, sheet, signals, rounds, is_ventilated)
    _blood_gases(rng, sheet, signals, is_ventilated, severity, has_line)
    _laboratory(rng, sheet, signals, severity, icu_type)
    _urine_and_weight(rng, sheet, signals, height_cm)
    return sheet.arrays()


def _times(rng: np.random.Generator, minutes: int, *, every: float) -> IntArray:
    """(E,) distinct minutes about `every` minutes apart, the first within the first interval."""
    gaps = every * rng.uniform(0.75, 1.25, round(minutes / every * 1.4) + 2)
    time = np.cumsum(gaps) - every * rng.uniform(0.3, 0.9)
    return np.unique(time[(time >= 0) & (time <= minutes)].astype(np.int64))


def _ventilation(
    rng: np.random.Generator, signals: dict[str, FloatArray], intensity: FloatArray, is_heart_surgery: bool
) -> NDArray[np.bool_]:
    """(T,) on a ventilator: for failing lungs, shock or coma, and for the first hours after heart surgery."""
    need = (intensity[:, 1] > 0.35) | (intensity.sum(axis=1) > 0.6) | (signals["consciousness"] < 9.5)
    is_offered = rng.random() < 0.85
    hold = round(float(rng.uniform(8, 20)) * _HOUR / STEP_MINUTES)  # weaning takes its time
    is_ventilated = (np.convolve(need, np.ones(hold))[: need.size] > 0) & is_offered
    if is_heart_surgery:
        until = round(float(np.clip(rng.lognormal(2.1, 0.6), 2, 40)) * _HOUR / STEP_MINUTES)
        is_ventilated[:until] |= rng.random() < 0.9
    return np.asarray(is_ventilated)


def _circulation(sheet: _Sheet, signals: dict[str, FloatArray], rounds: IntArray, has_line: bool) -> None:
    rate = sheet.at(signals["heart rate"], rounds)
    sheet.write("HR", rounds, rate, error=2, digits=0, shown=(20, 220), spoilt=(sheet.chance(rounds, _LEADS_OFF), 0))
    cuff = rounds[sheet.chance(rounds, 0.2 if has_line else 0.97)]
    _pressures(sheet, signals, cuff, ("NISysABP", "NIDiasABP", "NIMAP"), error=5, fails=_CUFF_FAILS)
    if has_line:
        _pressures(sheet, signals, rounds, ("SysABP", "DiasABP", "MAP"), error=2.5, fails=_LINE_FAILS)
    warm = rounds[sheet.chance(rounds, 0.45)]
    off = (sheet.chance(warm, _PROBE_OFF), _PROBE_OFF_READS[warm.size % len(_PROBE_OFF_READS)])
    sheet.write(
        "Temp", warm, sheet.at(signals["temperature"], warm), error=0.15, digits=1, shown=(30, 42.5), spoilt=off
    )


def _pressures(
    sheet: _Sheet,
    signals: dict[str, FloatArray],
    minute: IntArray,
    names: tuple[str, str, str],
    *,
    error: float,
    fails: float,
) -> None:
    systolic = sheet.at(signals["systolic"], minute)
    diastolic = np.minimum(sheet.at(signals["diastolic"], minute), systolic - 12)
    failed = (sheet.chance(minute, fails), 0.0)  # a failed measurement spoils its upper and lower value together
    flushed = (sheet.chance(minute, _LINE_FLUSHED), 295.0)
    mean = diastolic + (systolic - diastolic) / 3
    sheet.write(names[0], minute, systolic, error=error, digits=0, shown=(30, 260), spoilt=failed)
    sheet.write(names[1], minute, diastolic, error=0.6 * error, digits=0, shown=(12, 160), spoilt=failed)
    sheet.write(names[2], minute, mean, error=0.6 * error, digits=0, shown=(15, 200), spoilt=flushed)


def _breathing_and_mind(
    rng: np.random.Generator,
    sheet: _Sheet,
    signals: dict[str, FloatArray],
    rounds: IntArray,
    is_ventilated: NDArray[np.bool_],
) -> None:
    own = signals["respiratory rate"]
    breaths = np.where(is_ventilated, 9 + 0.4 * own, own)  # the machine sets the pace
    sheet.write("RespRate", rounds, sheet.at(breaths, rounds), error=1.5, digits=0, shown=(4, 60))
    checks = rounds[sheet.chance(rounds, 0.3)]
    mind = signals["consciousness"] - np.where(is_ventilated, rng.uniform(2, 9), 0.0)  # sedated
    sheet.write("GCS", checks, sheet.at(mind, checks), error=0.4, digits=0, shown=(3, 15))


def _blood_gases(
    rng: np.random.Generator,
    sheet: _Sheet,
    signals: dict[str, FloatArray],
    is_ventilated: NDArray[np.bool_],
    severity: FloatArray,
    has_line: bool,
) -> None:
    minutes = sheet.minutes
    ratio = np.maximum(signals["oxygen ratio"], 45.0)
    wanted = np.clip(95.0 / ratio, _AIR, 1.0)  # enough oxygen for a pressure of about 95
    given = np.where(is_ventilated, np.maximum(wanted + 0.1, 0.4), np.where(wanted > 0.26, wanted, _AIR))
    given = np.where(given > _AIR, np.minimum(np.ceil(given * 20) / 20, 1.0), _AIR)
    settings = _times(rng, minutes, every=3.5 * _HOUR)
    on = settings[sheet.at(is_ventilated.astype(float), settings) > 0.5]
    sheet.write("MechVent", on, np.ones(on.size), error=0, digits=0, shown=(1, 1))
    is_noted = sheet.chance(settings, np.where(np.isin(settings, on), 1.0, 0.6))
    noted = settings[is_noted & (sheet.at(given, settings) > _AIR)]
    sheet.write("FiO2", noted, sheet.at(given, noted), error=0, digits=2, shown=(_AIR, 1))

    oxygen = ratio * given
    watched = _times(rng, minutes, every=2 * _HOUR)
    sheet.write("SaO2", watched, sheet.at(saturation_of(oxygen), watched), error=0.8, digits=0, shown=(50, 100))
    draws = _times(rng, minutes, every=3 * _HOUR)
    wish = 0.25 + 0.5 * sheet.at(severity, draws) + 0.35 * sheet.at(is_ventilated.astype(float), draws)
    draws = draws[sheet.chance(draws, wish if has_line else 0.25 * wish)]
    acid = ph_of(signals["bicarbonate"], signals["carbon dioxide"])
    lost = (sheet.chance(draws, _POINT_LOST), 735.0)
    sheet.write("pH", draws, sheet.at(acid, draws), error=0.01, digits=2, shown=(6.8, 7.8), spoilt=lost)
    sheet.write("PaCO2", draws, sheet.at(signals["carbon dioxide"], draws), error=1, digits=0, shown=(12, 130))
    sheet.write("PaO2", draws, sheet.at(oxygen, draws), error=8, digits=0, shown=(25, 600))
    acids = draws[sheet.chance(draws, 0.5)]
    lactate = sheet.at(signals["Lactate"], acids)
    sheet.write("Lactate", acids, lactate, error=0.05 * lactate, digits=1, shown=(0.4, 30))


def _laboratory(
    rng: np.random.Generator, sheet: _Sheet, signals: dict[str, FloatArray], severity: FloatArray, icu_type: str
) -> None:
    minutes = sheet.minutes
    panels = _times(rng, minutes, every=6 * _HOUR)
    wish = np.clip(0.22 + 0.35 * sheet.at(severity, panels), 0, 0.9)
    wish[:1] = 0.95  # on admission nearly everybody is bled
    panels = panels[sheet.chance(panels, wish)]
    for name, error, digits, low, high in _PANEL:
        true = sheet.at(signals[name], panels)
        sheet.write(name, panels, true, error=error * true, digits=digits, shown=(low, high))
    bicarbonate = sheet.at(signals["bicarbonate"], panels)
    sheet.write("HCO3", panels, bicarbonate, error=0.7, digits=0, shown=(4, 48))

    is_liver_asked = rng.random() < 0.3 + 0.3 * min(float(severity.max()), 1.0)
    liver = panels[::2] if is_liver_asked else panels[:0]
    for name, error, digits, low, high in _LIVER_PANEL:
        true = sheet.at(signals[name], liver)
        sheet.write(name, liver, true, error=error * true, digits=digits, shown=(low, high))

    is_heart_asked = rng.random() < (0.8 if icu_type == "coronary care" else 0.15)
    troponin = "TroponinT" if rng.random() < 0.8 else "TroponinI"
    heart = _times(rng, min(minutes, 24 * _HOUR), every=8 * _HOUR) if is_heart_asked else panels[:0]
    true = sheet.at(signals[troponin], heart)
    digits, low = (2, 0.01) if troponin == "TroponinT" else (1, 0.3)
    sheet.write(troponin, heart, true, error=0.05 * true, digits=digits, shown=(low, 50))
    fats = panels[:1] if rng.random() < 0.08 else panels[:0]
    sheet.write("Cholesterol", fats, sheet.at(signals["Cholesterol"], fats), error=3, digits=0, shown=(30, 400))


def _urine_and_weight(
    rng: np.random.Generator, sheet: _Sheet, signals: dict[str, FloatArray], height_cm: float
) -> None:
    minutes = sheet.minutes
    has_catheter = rng.random() < 0.9
    entries = _times(rng, minutes, every=70 if has_catheter else 5 * _HOUR)
    since = np.diff(entries, prepend=0) / _HOUR
    volume = np.minimum(sheet.at(signals["urine flow"], entries) * since, 1_500)
    volume = np.where(volume < 4, 0, 5 * np.round(volume / 5))
    sheet.write("Urine", entries, volume, error=0, digits=0, shown=(0, 1_500))
    mass = rng.normal(27.5, 5.5) * (height_cm / 100) ** 2
    daily = _times(rng, minutes, every=20 * _HOUR)
    daily = daily[sheet.chance(daily, 0.8)]
    sheet.write("Weight", daily, np.full(daily.size, mass), error=0.5, digits=1, shown=(32, 260))
