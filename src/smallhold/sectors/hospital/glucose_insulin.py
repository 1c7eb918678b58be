"""SIMULATED glucose and insulin of many patients at once: Bergman's minimal model. Not a patient, not a forecast.

Source: Bergman, Phillips and Cobelli 1981, Journal of Clinical Investigation 68:1456-1467 (the model); Fisher 1991,
IEEE Transactions on Biomedical Engineering 38:57-61 (a patient without insulin of their own, and a meal as B exp(-kt)).
The nominal parameters are those commonly quoted from Fisher's paper and were not read again there. How patients differ,
what they eat and how the sensor errs is set by hand, and fitted to nobody.

With G glucose (mmol/L), X insulin action (1/min), I plasma insulin (mU/L) and u what is infused (mU/min)::

    dG/dt = -p1 (G - Gb) - X G + meals
    dX/dt = -p2 X + p3 (I - Ib)
    dI/dt = -n I + u / V1

Everybody gets the basal rate n Ib V1, which keeps I at Ib; a controller adds doses to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smallhold.errors import InputError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

DRUG = "insulin-regular"
LOW, HIGH = 3.9, 10.0  # mmol/L: 70 to 180 mg/dL, the consensus range of continuous glucose monitoring
STEP_MINUTES = 5
_SUBSTEPS = 20  # Euler steps of a quarter of a minute; the fastest rate is n, about 0.1 a minute
_MICRO = 1e-6


@dataclass(frozen=True, slots=True)
class MinimalModel:
    """Parameters; arrays have one entry per patient, (N,)."""

    p1: float = 0.0  # 1/min
    p2: float = 0.025  # 1/min
    p3: float | FloatArray = 1.3e-5  # L/(mU min^2)
    n: float | FloatArray = 5 / 54  # 1/min
    v1: float | FloatArray = 12.0  # L
    glucose_basal: float = 4.5  # mmol/L
    insulin_basal: float = 4.5  # mU/L


class SimulatedGlucose:
    """Patients under continuous glucose monitoring, who eat now and then.

    Args:
        num_patients: N.
        seed: Another seed gives other patients; patient i depends on it, on N and on i.
        hours: For how long meals are planned.
        sensor_gap: Minutes (from, to) during which the sensor is silent; None for never.
    """

    minutes = STEP_MINUTES
    low, high, unit, code = LOW, HIGH, "mmol/L", "Glucose"
    drugs: tuple[str, ...] = (DRUG,)
    is_simulated = True

    def __init__(
        self, num_patients: int, seed: int, *, hours: int = 12, sensor_gap: tuple[int, int] | None = None
    ) -> None:
        if num_patients < 1 or hours < 1:
            raise InputError(f"expected at least one patient and one hour, got {num_patients} and {hours}")
        random = np.random.default_rng([seed, 1])
        self.num_patients, self.hours = num_patients, hours
        self._noise = np.random.default_rng([seed, 2])
        self.model = MinimalModel(
            p3=1.3e-5 * np.exp(random.normal(0, 0.35, num_patients).clip(-0.7, 0.7)),
            n=5 / 54 * random.uniform(0.8, 1.2, num_patients),
            v1=12.0 * random.uniform(0.8, 1.2, num_patients),
        )
        self.glucose = random.uniform(6.0, 15.0, num_patients)
        self.action = np.zeros(num_patients)
        self.insulin = np.full(num_patients, self.model.insulin_basal)
        # Up to three meals; one of size B raises glucose by B/k when nothing takes it away.
        self._meal_minute = random.uniform(0, hours * 60, (3, num_patients))
        self._meal_size = random.uniform(0.1, 0.3, (3, num_patients)) * (random.random((3, num_patients)) < 0.7)
        self._meal_rate = 0.05  # k, 1/min
        self._gap = sensor_gap
        self.minute = 0

    def measure(self) -> FloatArray:
        """(N,) mmol/L with the sensor's error; NaN while it is silent."""
        if self._gap is not None and self._gap[0] <= self.minute < self._gap[1]:
            return np.full(self.num_patients, np.nan)
        return np.maximum(self.glucose * (1 + self._noise.normal(0, 0.04, self.num_patients)), 0.5)

    def truth(self) -> FloatArray:
        """(N,) what the sensor tries to see."""
        return self.glucose

    def step(self, doses: Mapping[str, IntArray]) -> None:
        """Go on for five minutes; a dose, in millionths of a unit, is infused evenly over them."""
        model, dt = self.model, self.minutes / _SUBSTEPS
        infused = doses[DRUG] * (_MICRO * 1000 / self.minutes)  # mU/min
        infused = infused + model.n * model.insulin_basal * model.v1
        for part in range(_SUBSTEPS):
            since = self.minute + part * dt - self._meal_minute
            meals = np.where(since >= 0, self._meal_size * np.exp(-self._meal_rate * np.maximum(since, 0)), 0).sum(0)
            excess = self.glucose - model.glucose_basal
            glucose = self.glucose + dt * (-model.p1 * excess - self.action * self.glucose + meals)
            action = self.action + dt * (-model.p2 * self.action + model.p3 * (self.insulin - model.insulin_basal))
            self.insulin = self.insulin + dt * (-model.n * self.insulin + infused / model.v1)
            self.glucose, self.action = np.maximum(glucose, 0.1), action
        self.minute += self.minutes


class GlucoseController:
    """Gives part of the insulin that the nominal patient would need, less what is still at work.

    One unit at work for good multiplies the nominal patient's glucose by exp(-1000 p3 / (p2 n V1)); how much of a dose
    is still to come after t minutes follows from the model's two rates.
    """

    target, gain, largest = 6.5, 0.25, 600_000

    def __init__(self, num_patients: int) -> None:
        model = MinimalModel()
        n, v1, p3 = 5 / 54, 12.0, 1.3e-5
        self._effect = 1000 * p3 / (model.p2 * n * v1)  # log-glucose per unit
        age = np.arange(0, 300, STEP_MINUTES)
        self._left = (n * np.exp(-model.p2 * age) - model.p2 * np.exp(-n * age)) / (n - model.p2)
        self._given = np.zeros((len(age), num_patients))

    def propose(self, reading: FloatArray) -> dict[str, IntArray]:
        """(N,) millionths of a unit for each patient, whole; 0 where the reading is missing."""
        known = np.where(np.isfinite(reading), reading, self.target)
        needed = np.log(np.maximum(known, 1.0) / self.target) / self._effect
        wanted = np.maximum(needed - self._left @ self._given, 0) * self.gain
        return {DRUG: np.minimum(wanted * 1e6, self.largest).astype(np.int64) // 10_000 * 10_000}

    def note(self, released: Mapping[str, IntArray]) -> None:
        """What was released of it."""
        self._given = np.roll(self._given, 1, axis=0)
        self._given[0] = released[DRUG] * _MICRO
