"""The body of a simulated patient: how illness moves vital signs and laboratory values together.

Everything here is a rough textbook direction and size, chosen so that the numbers look and move like a ward's; it
was not fitted to patients and proves nothing about them. Three relations are exact, so that values agree with
each other: Henderson-Hasselbalch (pH from bicarbonate and carbon dioxide), Severinghaus (saturation from oxygen
pressure) and mean pressure = diastolic + a third of the pulse pressure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

STEP_MINUTES = 10
"""Distance of the time grid on which the hidden state lives."""

EPISODES = ("sepsis", "respiratory failure", "haemorrhage", "cardiac failure", "renal failure")
CONDITIONS = ("lung disease", "heart disease", "kidney disease", "liver disease")


@dataclass(frozen=True, slots=True)
class Signal:
    """One hidden quantity.

    Attributes:
        mean: Typical value; its logarithm is meant when `is_log`.
        between: Standard deviation between patients.
        within: Standard deviation within a patient, drifting over some hours.
        lag_h: How slowly it follows an episode.
        is_log: Changes multiply instead of adding.
        episodes: Change at the height of each of `EPISODES`.
        conditions: Change at full extent of each of `CONDITIONS`.
    """

    name: str
    mean: float
    between: float
    within: float
    lag_h: float
    is_log: bool
    episodes: tuple[float, float, float, float, float]
    conditions: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)


_FAST, _HOURS, _SLOW = 0.5, 4.0, 14.0
_SUPPORT = 0.75  # part of a vital sign's change that treatment takes away in the end

# Columns of `episodes`: sepsis, respiratory failure, haemorrhage, cardiac failure, renal failure;
# of `conditions`: lung, heart, kidney, liver.
SIGNALS: tuple[Signal, ...] = (
    Signal("heart rate", 82, 15, 6, _FAST, False, (36, 20, 42, 24, 6), (4, 4, 0, 3)),
    Signal("systolic", 124, 19, 10, _FAST, False, (-34, -4, -42, -36, 8), (0, -6, 10, -8)),
    Signal("diastolic", 61, 9, 5, _FAST, False, (-19, -2, -18, -12, 4), (0, -2, 4, -4)),
    Signal("temperature", 36.9, 0.35, 0.2, _HOURS, False, (1.9, 0.3, -0.9, -0.3, -0.1)),
    Signal("respiratory rate", 17, 3.2, 2.2, _FAST, False, (10, 15, 7, 10, 5), (3, 1, 0, 0)),
    Signal("oxygen ratio", 370, 60, 25, _HOURS, False, (-110, -250, -40, -130, -30), (-90, -25, 0, -10)),
    Signal("carbon dioxide", 40, 3.5, 2, _FAST, False, (-4, 20, -4, 4, -4), (9, 0, 0, -2)),
    Signal("bicarbonate", 24.5, 2, 0.8, _HOURS, False, (-7, 1, -7, -5, -8), (5, 1, -3, -1)),
    Signal("consciousness", 15.4, 0.5, 0.3, _FAST, False, (-4.5, -4, -3, -3, -2.5), (0, 0, 0, -1.5)),
    Signal("urine flow", 75, 0.35, 0.25, _HOURS, True, (-1.1, -0.2, -1.1, -1.1, -1.9), (0, -0.2, -0.5, -0.1)),
    Signal("ALP", 80, 0.4, 0.05, _SLOW, True, (0.4, 0, 0, 0.1, 0), (0, 0, 0, 0.7)),
    Signal("ALT", 30, 0.6, 0.1, _SLOW, True, (0.9, 0.1, 1.0, 1.5, 0), (0, 0, 0, 0.9)),
    Signal("AST", 38, 0.6, 0.1, _SLOW, True, (1.1, 0.1, 1.2, 1.8, 0), (0, 0.1, 0, 1.1)),
    Signal("Albumin", 3.2, 0.45, 0.06, _SLOW, False, (-0.8, -0.2, -0.7, -0.2, -0.2), (0, -0.1, -0.2, -0.7)),
    Signal("BUN", 17, 0.4, 0.05, _SLOW, True, (0.6, 0.1, 0.4, 0.5, 1.1), (0, 0.25, 1.0, 0.1)),
    Signal("Bilirubin", 0.8, 0.4, 0.08, _SLOW, True, (0.8, 0, 0.2, 0.4, 0), (0, 0, 0, 1.4)),
    Signal("Cholesterol", 160, 35, 3, _SLOW, False, (-25, 0, -10, 0, 0), (0, 15, 0, -20)),
    Signal("Creatinine", 0.9, 0.28, 0.06, _SLOW, True, (0.8, 0.05, 0.5, 0.6, 1.7), (0, 0.15, 1.3, 0.1)),
    Signal("Glucose", 130, 0.22, 0.12, _HOURS, True, (0.35, 0.1, 0.2, 0.2, 0.05), (0.05, 0.1, 0.1, -0.05)),
    Signal("HCT", 33, 4.2, 0.7, _HOURS, False, (-2, 0, -12, -1, -2), (2, 0, -3, -2)),
    Signal("K", 4.1, 0.35, 0.15, _HOURS, False, (0.4, 0.1, 0.2, 0.4, 1.9), (0, 0.1, 0.4, 0)),
    Signal("Lactate", 1.3, 0.3, 0.12, _HOURS, True, (1.5, 0.3, 1.5, 1.3, 0.3), (0, 0, 0, 0.35)),
    Signal("Mg", 2.0, 0.22, 0.08, _SLOW, False, (-0.1, 0, -0.2, 0, 0.6), (0, 0, 0.2, -0.1)),
    Signal("Na", 139, 3, 1, _SLOW, False, (1, 0, 1, -3, -4), (0, -2, 0, -3)),
    Signal("Platelets", 215, 0.38, 0.06, _SLOW, True, (-0.9, 0, -0.7, -0.1, -0.2), (0, 0, 0, -0.5)),
    Signal("TroponinI", 0.25, 0.6, 0.1, _HOURS, True, (0.8, 0.2, 0.5, 3.2, 0.3), (0, 0.6, 0.5, 0)),
    Signal("TroponinT", 0.03, 0.6, 0.1, _HOURS, True, (0.8, 0.2, 0.5, 3.2, 0.3), (0, 0.6, 0.7, 0)),
    Signal("WBC", 10.5, 0.32, 0.1, _HOURS, True, (0.75, 0.25, 0.25, 0.2, 0.05), (0.05, 0, 0, -0.1)),
)


@dataclass(frozen=True, slots=True)
class Episode:
    """One bout of deterioration.

    Attributes:
        kind: Position in `EPISODES`.
        onset_h: Hours since admission; negative when it is what brought the patient in.
        ramp_h: Hours from onset to its height.
        peak: Intensity at its height, about 0-1.
        treated_h: Hours from onset until treatment begins to work; infinite when it never does.
        recovery_h: Time constant of the recovery.
    """

    kind: int
    onset_h: float
    ramp_h: float
    peak: float
    treated_h: float
    recovery_h: float


def grid_hours(hours: int) -> FloatArray:
    """(T,) hours since admission of the time grid, both ends included."""
    return np.arange(hours * 60 // STEP_MINUTES + 1, dtype=np.float64) * (STEP_MINUTES / 60)


def intensities(episodes: tuple[Episode, ...], hours: int) -> FloatArray:
    """(T, 5) intensity of each kind of episode; two of one kind add up."""
    time = grid_hours(hours)
    out = np.zeros((time.size, len(EPISODES)))
    for episode in episodes:
        since = time - episode.onset_h
        ramp = np.clip(since / episode.ramp_h, 0.0, 1.0)
        course = ramp * ramp * (3 - 2 * ramp)
        after = np.maximum(since - episode.treated_h, 0.0)
        course *= np.exp(-after / episode.recovery_h)
        if not np.isfinite(episode.treated_h):
            course *= np.minimum(1.0 + 0.012 * np.maximum(since - episode.ramp_h, 0.0), 1.4)
        out[:, episode.kind] += episode.peak * course
    return out


def hidden_signals(
    rng: np.random.Generator, intensity: FloatArray, conditions: FloatArray, hours: int
) -> dict[str, FloatArray]:
    """Draw one patient's hidden quantities.

    Args:
        rng: The patient's own generator.
        intensity: (T, 5) from `intensities`.
        conditions: (4,) extent of each chronic condition, 0-1.
        hours: Length of the stay.

    Returns:
        Name of each of `SIGNALS` -> (T,), in its own units.
    """
    constants = _constants()
    patient = constants.mean + constants.between * rng.standard_normal(len(SIGNALS)) + constants.conditions @ conditions
    drift = _smoothing(hours, 3.0, unit_variance=True) @ rng.standard_normal((intensity.shape[0], len(SIGNALS)))
    level = patient + constants.within * drift
    # Fluids, vasopressors and the ventilator hide within hours what the laboratory goes on showing.
    support = _SUPPORT * (_smoothing(hours, _HOURS, unit_variance=False) @ intensity)
    for lag, effect in constants.effects.items():
        seen = intensity - support if lag == _FAST else intensity
        level = level + (_smoothing(hours, lag, unit_variance=False) @ seen) @ effect
    # Night and day: lowest at about four in the morning; admission falls on any hour.
    clock = 2 * np.pi * (grid_hours(hours) + rng.uniform(0, 24)) / 24
    wave = np.cos(clock)
    out = {signal.name: level[:, i] for i, signal in enumerate(SIGNALS)}
    out["heart rate"] = out["heart rate"] + 3.0 * wave
    out["systolic"] = out["systolic"] + 4.0 * wave
    out["temperature"] = out["temperature"] + 0.2 * wave
    return {signal.name: np.exp(out[signal.name]) if signal.is_log else out[signal.name] for signal in SIGNALS}


def saturation_of(oxygen: FloatArray) -> FloatArray:
    """Oxygen saturation in % from oxygen pressure in mm[Hg].

    Source: Severinghaus, J Appl Physiol 1979.

    >>> saturation_of(np.array([27.0, 60.0, 100.0])).round(0).tolist()
    [50.0, 91.0, 98.0]
    """
    pressure = np.maximum(oxygen, 1.0)
    return np.asarray(100.0 / (23400.0 / (pressure**3 + 150.0 * pressure) + 1.0))


def ph_of(bicarbonate: FloatArray, carbon_dioxide: FloatArray) -> FloatArray:
    """Blood pH by Henderson-Hasselbalch, pK 6.1 and solubility 0.0307 mmol/L for each mm[Hg].

    >>> ph_of(np.array([24.0]), np.array([40.0])).round(2).tolist()
    [7.39]
    """
    return np.asarray(6.1 + np.log10(np.maximum(bicarbonate, 2.0) / (0.0307 * np.maximum(carbon_dioxide, 8.0))))


@dataclass(frozen=True, slots=True, eq=False)
class _Constants:
    mean: FloatArray  # (S,)
    between: FloatArray  # (S,)
    within: FloatArray  # (S,)
    conditions: FloatArray  # (S, 4)
    effects: dict[float, FloatArray]  # lag -> (5, S), zero for the signals of another lag


@lru_cache(maxsize=1)
def _constants() -> _Constants:
    lags = sorted({signal.lag_h for signal in SIGNALS})
    effects = {
        lag: np.array([signal.episodes if signal.lag_h == lag else (0.0,) * len(EPISODES) for signal in SIGNALS]).T
        for lag in lags
    }
    return _Constants(
        mean=np.array([np.log(signal.mean) if signal.is_log else signal.mean for signal in SIGNALS]),
        between=np.array([signal.between for signal in SIGNALS]),
        within=np.array([signal.within for signal in SIGNALS]),
        conditions=np.array([signal.conditions for signal in SIGNALS]),
        effects=effects,
    )


@lru_cache(maxsize=16)
def _smoothing(hours: int, time_constant_h: float, *, unit_variance: bool) -> FloatArray:
    """(T, T) lower triangular: exponential smoothing of what came before.

    With `unit_variance` white noise becomes AR(1) noise of variance 1 from the first step on. Otherwise a constant
    input is reproduced in the end, and the time before admission counts as no illness.
    """
    steps = grid_hours(hours).size
    decay = math.exp(-STEP_MINUTES / 60 / time_constant_h)
    distance = np.arange(steps)[:, None] - np.arange(steps)[None, :]
    kernel: FloatArray = np.tril(decay ** np.maximum(distance, 0).astype(np.float64))
    if unit_variance:
        kernel[:, 1:] *= math.sqrt(1 - decay**2)
        return kernel
    kernel *= 1 - decay
    return kernel
