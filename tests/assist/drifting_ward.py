"""Simulated patients, what is expected of them, and ways in which a ward can change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from smallhold.assist.drift import DriftMonitor
from smallhold.assist.drift_reference import (
    INPUT_KINDS,
    DriftReference,
    FloatArray,
    Stream,
    fit_drift_reference,
    window_statistics,
)
from smallhold.assist.drift_ward import ward_records
from smallhold.decide.signal import RankGauss, SignalSpec, fit_rank_gauss
from smallhold.sectors.hospital.parameters import INDEX, PARAMETERS
from smallhold.sectors.hospital.simulator import simulate_ward
from smallhold.sectors.hospital.stays import Stay, sift

BEDS, HOURS, WINDOW = 12, 24, 6


def grids_of(stays: Sequence[Stay]) -> SignalSpec:
    values = [np.concatenate([stay.value[stay.code == at] for stay in stays]) for at in range(len(PARAMETERS))]
    return SignalSpec(tuple(p.name for p in PARAMETERS), tuple(map(fit_rank_gauss, values)), 60, ())


def reference_of(signal: SignalSpec, stays: Sequence[Stay]) -> DriftReference:
    records = ward_records(stays)
    return fit_drift_reference(
        signal, records, task="t", data_set="s", num_bins=HOURS, alert_threshold=1.0, window_bins=WINDOW
    )


def numbers_of(signal: SignalSpec, stays: Sequence[Stay]) -> FloatArray:
    """(N, W, S) inputs."""
    return window_statistics(
        signal, ward_records(stays), window_bins=WINDOW, num_windows=HOURS // WINDOW, alert_threshold=1.0
    )[:, :, :-3]


@cache
def ward() -> tuple[SignalSpec, DriftReference, tuple[Stay, ...]]:
    """(signal, reference, patients that neither has seen)."""
    stays = simulate_ward(480, 5, HOURS)
    signal = grids_of(stays[:120])
    return signal, reference_of(signal, stays[120:320]), tuple(stays[320:])


def another_unit(stay: Stay, parameter: str, scale: float, offset: float) -> Stay:
    """The parameter comes in another unit under its old name, and the gate refuses what is impossible."""
    value, mine = stay.value.copy(), stay.code == INDEX[parameter]
    value[mine] = value[mine] * np.float32(scale) + np.float32(offset)
    minute, code, value, refused = sift(stay.minute, stay.code, value)
    return replace(stay, minute=minute, code=code, value=value, refused=refused)


def not_measured(stay: Stay, parameter: str) -> Stay:
    keep = stay.code != INDEX[parameter]
    return replace(stay, minute=stay.minute[keep], code=stay.code[keep], value=stay.value[keep])


def run_ward(monitor: DriftMonitor, numbers: FloatArray, seed: int, groups: int) -> int | None:
    """Patient-hours until the monitor drifts, twelve patients at a time, drawn with replacement."""
    rng, hours = np.random.default_rng(seed), 0
    for _ in range(groups):
        group = numbers[rng.integers(len(numbers), size=BEDS)]
        for window in range(HOURS // WINDOW):
            for patient in group:
                monitor.add_window(window, patient[window])
            hours += BEDS * WINDOW
            if monitor.is_drifted:
                return hours
    return None


def small_signal(*parameters: str) -> SignalSpec:
    """Parameters whose rank is the reading itself, -2 to 2 normal scores."""
    grid = RankGauss((-2.0, 0.0, 2.0), (-2.0, 0.0, 2.0))
    return SignalSpec(parameters, (grid,) * len(parameters), 60, ())


def small_reference(*parameters: str, means: Sequence[float], windows: int = 1, window_bins: int = 1) -> DriftReference:
    """One mean a kind of input, tolerance .1, the same for every parameter and window."""
    streams = tuple(
        Stream(kind, parameter, (mean,) * windows, (0.1,) * windows)
        for kind, mean in zip(INPUT_KINDS, means, strict=True)
        for parameter in parameters
    )
    return DriftReference(task="t", data_set="s", patients=100, window_bins=window_bins, streams=streams)
