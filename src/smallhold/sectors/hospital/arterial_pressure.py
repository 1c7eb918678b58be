"""SIMULATED mean arterial pressure of many patients in shock, with a vasopressor and fluids. Not a patient.

Source of the drug's form: Slate and Sheppard 1982, IEE Proceedings A 129:639-645: the pressure follows an infusion
through a dead time and a first-order lag, and patients differ by an order of magnitude in how strongly. They described
nitroprusside, which lowers the pressure; here a vasopressor raises it. For fluids: the rise flattens as the heart fills
(Frank and Starling), and the volume leaves the vessels within an hour or so. All sizes are set by hand, and fitted to
nobody.

With P pressure (mmHg), d the drug's part, v the extra volume (mL), u the infusion (ug/min), T dead time, tau lag::

    P = baseline(t) + d + Pmax (1 - exp(-v / v0)) + disturbance
    dd/dt = (K u(t - T) - d) / tau
    dv/dt = inflow - v / tau_leak
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from smallhold.errors import InputError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

VASOPRESSOR, FLUID = "norepinephrine", "ringer-lactate"
LOW, HIGH = 65.0, 85.0  # mmHg
STEP_MINUTES = 1
_SUBSTEPS = 6  # of ten seconds; the shortest lag is 30 s
_MICRO = 1e-6
_GAIN = 2.0  # K, mmHg for each ug/min, nominal
_LAG = 60.0  # tau, s
_LEAK_MINUTES = 60.0


class SimulatedPressure:
    """Patients whose pressure falls, with an arterial line.

    Args:
        num_patients: N.
        seed: Another seed gives other patients.
        hours: Length; the fall is somewhere in the first third.
        sensor_gap: Minutes (from, to) during which the line is silent; None for never.
    """

    minutes = STEP_MINUTES
    low, high, unit, code = LOW, HIGH, "mm[Hg]", "MAP"
    drugs: tuple[str, ...] = (VASOPRESSOR, FLUID)
    is_simulated = True

    def __init__(
        self, num_patients: int, seed: int, *, hours: int = 6, sensor_gap: tuple[int, int] | None = None
    ) -> None:
        if num_patients < 1 or hours < 1:
            raise InputError(f"expected at least one patient and one hour, got {num_patients} and {hours}")
        random = np.random.default_rng([seed, 3])
        self.num_patients, self.hours = num_patients, hours
        self._noise = np.random.default_rng([seed, 4])
        self._gain = _GAIN * np.exp(random.normal(0, 0.5, num_patients).clip(-1.15, 1.15))  # 0.3 to 3 times
        self._lag = random.uniform(30, 90, num_patients)
        self._delay = random.integers(2, 7, num_patients)  # substeps: 20 to 60 s
        self._before = random.uniform(72, 82, num_patients)
        self._fall = random.uniform(15, 28, num_patients)
        self._fall_minute = random.uniform(5, hours * 20, num_patients)
        self._recovers = random.uniform(0, 0.6, num_patients)  # share of the fall, by the end
        self._volume_effect = random.uniform(4, 12, num_patients)  # Pmax
        self._drug = np.zeros(num_patients)
        self._volume = np.zeros(num_patients)
        self._disturbance = np.zeros(num_patients)
        self._infused = np.zeros((8, num_patients))  # ug/min of the newest substeps
        self._gap = sensor_gap
        self.minute = 0

    def truth(self) -> FloatArray:
        """(N,) mmHg, what the line tries to see."""
        since = self.minute - self._fall_minute
        fallen = self._fall / (1 + np.exp(-since / 8)) * (1 - self._recovers * self.minute / (self.hours * 60))
        filled = self._volume_effect * (1 - np.exp(-self._volume / 500))
        pressure: FloatArray = self._before - fallen + self._drug + filled + self._disturbance
        return np.maximum(pressure, 20.0)

    def measure(self) -> FloatArray:
        """(N,) mmHg with the line's error; NaN while it is silent."""
        if self._gap is not None and self._gap[0] <= self.minute < self._gap[1]:
            return np.full(self.num_patients, np.nan)
        return self.truth() + self._noise.normal(0, 1.0, self.num_patients)

    def step(self, doses: Mapping[str, IntArray]) -> None:
        """Go on for a minute; doses (millionths of ug, of mL) are infused evenly over it."""
        dt = 60.0 / _SUBSTEPS
        patients = np.arange(self.num_patients)
        for _ in range(_SUBSTEPS):
            self._infused = np.roll(self._infused, 1, axis=0)
            self._infused[0] = doses[VASOPRESSOR] * (_MICRO / self.minutes)
            arriving = self._infused[self._delay, patients]
            self._drug = self._drug + dt / self._lag * (self._gain * arriving - self._drug)
        self._volume = self._volume + doses[FLUID] * _MICRO - self._volume / _LEAK_MINUTES
        self._disturbance = 0.9 * self._disturbance + self._noise.normal(0, 0.8, self.num_patients)
        self.minute += self.minutes


class PressureController:
    """A cautious integral controller for the vasopressor, and a bolus of fluid when the pressure is far too low."""

    target, largest, bolus, bolus_minutes = 72.0, 15_000_000, 250_000_000, 30

    def __init__(self, num_patients: int) -> None:
        self._rate = np.zeros(num_patients)  # ug/min
        self._smooth = np.full(num_patients, np.nan)
        self._since_bolus = np.full(num_patients, self.bolus_minutes)

    def propose(self, reading: FloatArray) -> dict[str, IntArray]:
        """(N,) millionths of ug and of mL; nothing where the reading is missing."""
        is_known = np.isfinite(reading)
        was_known = np.isfinite(self._smooth)
        blended = np.where(was_known, 0.6 * self._smooth + 0.4 * reading, reading)
        self._smooth = np.where(is_known, blended, self._smooth)
        error = np.where(is_known, self.target - self._smooth, 0.0)
        # Slowly up, faster down: half of what the nominal patient would need within five lags.
        change = error / _GAIN * np.where(error > 0, 0.10, 0.25)
        self._rate = np.clip(self._rate + change, 0, self.largest * _MICRO)
        rate = np.where(is_known, self._rate, 0.0)
        is_low = is_known & (self._smooth < 60) & (self._since_bolus >= self.bolus_minutes)
        return {
            VASOPRESSOR: (rate * 1e6).astype(np.int64) // 10_000 * 10_000,
            FLUID: np.where(is_low, self.bolus, 0).astype(np.int64),
        }

    def note(self, released: Mapping[str, IntArray]) -> None:
        """What was released of it."""
        self._since_bolus = np.where(released[FLUID] > 0, 0, self._since_bolus + 1)
        # Anti-windup: what was refused is not asked for in a lump later.
        self._rate = np.where(released[VASOPRESSOR] > 0, self._rate, np.minimum(self._rate, 2.0))
