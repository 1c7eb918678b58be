"""The simulators of closed loops: against what can be worked out by hand, and against one patient in tiny steps."""

import math

import numpy as np
import pytest

from smallhold.errors import InputError
from smallhold.sectors.hospital.arterial_pressure import FLUID, VASOPRESSOR, PressureController, SimulatedPressure
from smallhold.sectors.hospital.glucose_insulin import DRUG, GlucoseController, MinimalModel, SimulatedGlucose


def nothing(count: int) -> dict[str, np.ndarray]:
    return {DRUG: np.zeros(count, np.int64)}


def quiet(glucose: SimulatedGlucose, start: float) -> SimulatedGlucose:
    """Nominal patients who eat nothing."""
    glucose.model = MinimalModel()
    glucose.glucose = np.full(glucose.num_patients, start)
    glucose._meal_size[:] = 0
    return glucose


def test_the_basal_rate_keeps_a_fasting_patient_where_they_are() -> None:
    glucose = quiet(SimulatedGlucose(2, 0), 8.0)
    for _ in range(48):
        glucose.step(nothing(2))
    assert glucose.truth() == pytest.approx(8.0, rel=1e-3) and glucose.insulin == pytest.approx(4.5, rel=1e-3)


def test_a_unit_of_insulin_multiplies_glucose_as_the_integral_says() -> None:
    """X integrates to (p3 / p2) times insulin's integral, which is dose / (n V1); ln G falls by that."""
    glucose = quiet(SimulatedGlucose(1, 0), 12.0)
    glucose.step({DRUG: np.array([1_000_000])})
    for _ in range(120):
        glucose.step(nothing(1))
    expected = 12.0 * math.exp(-1000 * 1.3e-5 / (0.025 * (5 / 54) * 12))
    assert glucose.truth()[0] == pytest.approx(expected, rel=0.02)


def test_a_meal_raises_glucose_by_its_size_over_its_rate() -> None:
    glucose = quiet(SimulatedGlucose(1, 0), 5.0)
    glucose._meal_size[0], glucose._meal_minute[0] = 0.2, 10.0
    for _ in range(60):
        glucose.step(nothing(1))
    assert glucose.truth()[0] == pytest.approx(5.0 + 0.2 / 0.05, rel=0.02)


def test_one_patient_in_tiny_steps_agrees() -> None:
    glucose = SimulatedGlucose(3, 5)
    model, meals, sizes = glucose.model, glucose._meal_minute[:, 1], glucose._meal_size[:, 1]
    p3, n, v1 = float(model.p3[1]), float(model.n[1]), float(model.v1[1])  # type: ignore[index]
    g, x, i, dt = float(glucose.glucose[1]), 0.0, 4.5, 0.01
    doses = [0, 300_000, 0, 500_000, 100_000, 0] * 6
    for number, dose in enumerate(doses):
        given = np.array([0, dose, 0])
        glucose.step({DRUG: given})
        for step in range(int(5 / dt)):
            t = number * 5 + step * dt
            meal = sum(s * math.exp(-0.05 * (t - m)) for s, m in zip(sizes, meals, strict=True) if t >= m)
            u = dose / 1000 / 5 + n * 4.5 * v1
            g, x, i = (
                g + dt * (-x * g + meal),
                x + dt * (-0.025 * x + p3 * (i - 4.5)),
                i + dt * (-n * i + u / v1),
            )
        assert glucose.truth()[1] == pytest.approx(g, rel=0.01)


def test_the_vasopressor_raises_the_pressure_by_gain_times_rate() -> None:
    treated, untreated = SimulatedPressure(50, 1), SimulatedPressure(50, 1)
    for _ in range(30):
        treated.step({VASOPRESSOR: np.full(50, 5_000_000), FLUID: np.zeros(50, np.int64)})
        untreated.step({VASOPRESSOR: np.zeros(50, np.int64), FLUID: np.zeros(50, np.int64)})
    # Five ug/min for many lags; both saw the same disturbances.
    assert treated.truth() - untreated.truth() == pytest.approx(treated._gain * 5, rel=0.01)
    assert treated._gain.min() < 1.2 and treated._gain.max() > 3.0


def test_fluid_raises_the_pressure_flattens_and_leaves() -> None:
    def after(milliliters: int, minutes: int) -> np.ndarray:
        plants = SimulatedPressure(20, 2), SimulatedPressure(20, 2)
        for number in range(minutes):
            for plant, volume in zip(plants, (milliliters if number == 0 else 0, 0), strict=True):
                plant.step({VASOPRESSOR: np.zeros(20, np.int64), FLUID: np.full(20, volume * 1_000_000)})
        return plants[0].truth() - plants[1].truth()

    once, twice, later = after(250, 1), after(500, 1), after(250, 120)
    assert (once > 1).all() and (once < twice).all() and (twice < 2 * once).all() and (later < once / 4).all()


@pytest.mark.parametrize("make", [SimulatedGlucose, SimulatedPressure])
def test_a_seed_gives_the_same_patients_and_a_gap_is_silent(make: type) -> None:
    one, same, other = make(4, 1, sensor_gap=(0, 5)), make(4, 1), make(4, 2)
    assert (one.truth() == same.truth()).all() and (one.truth() != other.truth()).any()
    assert np.isnan(one.measure()).all() and np.isfinite(same.measure()).all()
    assert one.is_simulated
    with pytest.raises(InputError, match="at least one patient"):
        make(0, 1)


def test_controllers_want_nothing_without_a_reading_and_whole_amounts_with_one() -> None:
    assert GlucoseController(1).propose(np.array([np.nan]))[DRUG].tolist() == [0]
    assert PressureController(1).propose(np.array([np.nan]))[VASOPRESSOR].tolist() == [0]
    wanted = GlucoseController(3).propose(np.array([4.0, 9.0, 500.0]))[DRUG]
    assert wanted.dtype == np.int64 and wanted[0] == 0 < wanted[1] < wanted[2] == GlucoseController.largest
    controller = GlucoseController(1)
    first = controller.propose(np.array([10.0]))[DRUG]
    controller.note({DRUG: first * 4})
    assert controller.propose(np.array([10.0]))[DRUG] < first  # what is still at work counts
