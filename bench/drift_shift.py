"""How fast the drift monitors see a shift, and how often they cry wolf: `python bench/drift_shift.py [--data DIR]`.

The reference is fitted on the calibration split; patients come from the validation split (test with `--split test`). A
ward of twelve beds is filled again and again with patients drawn with replacement. `before` patients come unshifted,
then the shift begins with the next twelve. Delay is counted in patient-hours from there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from smallhold.assist.drift import DriftMonitor
from smallhold.assist.drift_reference import (
    DriftReference,
    FloatArray,
    WardRecord,
    fit_drift_reference,
    window_statistics,
)
from smallhold.assist.drift_ward import ward_records
from smallhold.decide.signal import SignalSpec, fit_rank_gauss
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.parameters import INDEX, PARAMETERS
from smallhold.sectors.hospital.simulator import simulate_ward
from smallhold.sectors.hospital.stays import Stay, sift
from smallhold.sectors.splits import Split

BEDS, WINDOW_BINS, NUM_BINS = 12, 6, icu_risk.NUM_BINS
WINDOWS = NUM_BINS // WINDOW_BINS
NO_MODEL = 1.0  # alert threshold where no answers are watched


def in_another_unit(parameter: str, scale: float, offset: float = 0.0) -> Callable[[Stay], Stay]:
    """The parameter is sent in another unit under its old name; the gate refuses what is impossible."""

    def change(stay: Stay) -> Stay:
        value = stay.value.copy()
        mine = stay.code == INDEX[parameter]
        value[mine] = value[mine] * np.float32(scale) + np.float32(offset)
        minute, code, value, refused = sift(stay.minute, stay.code, value)
        return replace(stay, minute=minute, code=code, value=value, refused=refused)

    return change


def past_the_gate(parameter: str, scale: float, offset: float = 0.0) -> Callable[[Stay], Stay]:
    """The same where nobody checks the range."""

    def change(stay: Stay) -> Stay:
        value = stay.value.copy()
        mine = stay.code == INDEX[parameter]
        value[mine] = value[mine] * np.float32(scale) + np.float32(offset)
        return replace(stay, value=value)

    return change


def no_longer_measured(parameter: str) -> Callable[[Stay], Stay]:
    """The parameter is never sent again."""

    def change(stay: Stay) -> Stay:
        keep = stay.code != INDEX[parameter]
        return replace(stay, minute=stay.minute[keep], code=stay.code[keep], value=stay.value[keep])

    return change


SHIFTS: dict[str, Callable[[Stay], Stay]] = {
    "Temp in Fahrenheit, refused by the gate": in_another_unit("Temp", 1.8, 32),
    "Temp in Fahrenheit, past the gate": past_the_gate("Temp", 1.8, 32),
    "Glucose in mmol/L, inside the range": in_another_unit("Glucose", 1 / 18.02),
    "BUN in mmol/L, inside the range": in_another_unit("BUN", 0.357),
    "HR 5 /min too high": in_another_unit("HR", 1, 5),
    "HR 15 /min too high": in_another_unit("HR", 1, 15),
    "GCS no longer measured": no_longer_measured("GCS"),
    "HR no longer measured": no_longer_measured("HR"),
    "Lactate no longer measured": no_longer_measured("Lactate"),
}


def numbers_of(signal: SignalSpec, records: Sequence[WardRecord]) -> FloatArray:
    """(N, W, S) inputs."""
    found = window_statistics(signal, records, window_bins=WINDOW_BINS, num_windows=WINDOWS, alert_threshold=NO_MODEL)
    return found[:, :, :-3]


def run_ward(monitor: DriftMonitor, groups: Sequence[FloatArray]) -> int | None:
    """Windows of twelve patients counted until the monitor drifts, None when it never does."""
    counted = 0
    for group in groups:
        for window in range(WINDOWS):
            for patient in group:
                monitor.add_window(window, patient[window])
            counted += 1
            if monitor.is_drifted:
                return counted
    return None


def main() -> None:
    """Measure and print JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--simulated", type=int, metavar="N", help="a simulated ward of N patients instead")
    parser.add_argument("--split", default="validation", choices=("validation", "test"))
    parser.add_argument("--null-runs", type=int, default=40)
    parser.add_argument("--null-groups", type=int, default=26, help="groups of 12 patients a run; one is two days")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--before", type=int, default=14, help="unshifted groups before the shift")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    stays = simulate_ward(args.simulated, 0, NUM_BINS) if args.simulated else icu_risk.load_stays(args.data)
    train = icu_risk.split(stays, Split.TRAIN)
    grids = tuple(
        fit_rank_gauss(np.concatenate([stay.value[stay.code == at] for stay in train])) for at in range(len(PARAMETERS))
    )
    signal = SignalSpec(tuple(p.name for p in PARAMETERS), grids, icu_risk.BIN_MINUTES, icu_risk.STATIC_FEATURES)
    calibration, fresh = icu_risk.split(stays, Split.CALIBRATION), icu_risk.split(stays, Split(args.split))

    def reference_on(chosen: list[Stay]) -> DriftReference:
        return fit_drift_reference(
            signal,
            ward_records(chosen),
            task=icu_risk.NAME,
            data_set=stays[0].data_set,
            num_bins=NUM_BINS,
            alert_threshold=NO_MODEL,
            window_bins=WINDOW_BINS,
        )

    def tell(name: str, found: list[int | None], reason: str, **more: object) -> None:
        # Patient-hours: a group's window is 12 patients times 6 hours.
        delays = sorted(1e9 if n is None else n * BEDS * WINDOW_BINS for n in found)
        seen = [delay for delay in delays if delay < 1e9]
        line = {"what": name, "runs": len(found), "drifted": len(seen), **more}
        if seen:
            line |= {"median_patient_hours": delays[len(delays) // 2], "most": seen[-1], "first_reason": reason}
        print(json.dumps(line), flush=True)

    def measure(
        name: str, expected: DriftReference, old: FloatArray, new: FloatArray, runs: int, before: int, after: int
    ) -> None:
        found, reason, early = [], "", 0
        for run in range(runs):
            rng = np.random.default_rng([args.seed, run])
            monitor = DriftMonitor(expected, signal)
            if run_ward(monitor, [old[rng.integers(len(old), size=BEDS)] for _ in range(before)]) is not None:
                early += 1
                continue
            found.append(run_ward(monitor, [new[rng.integers(len(new), size=BEDS)] for _ in range(after)]))
            reason = reason or monitor.reason
        tell(name, found, reason, before_shift=early)

    expected = reference_on(calibration)
    plain = numbers_of(signal, ward_records(fresh))
    print(json.dumps({"data_set": stays[0].data_set, "calibration": len(calibration), "fresh": len(fresh)}))
    measure("nothing changes", expected, plain, plain, args.null_runs, 0, args.null_groups)
    for name, change in SHIFTS.items():
        shifted = numbers_of(signal, ward_records([change(stay) for stay in fresh]))
        measure(name, expected, plain, shifted, args.runs, args.before, 40)
    of_type = {
        name: [stay for stay in fresh if stay.icu_type == name] for name in ("medical", "cardiac surgery recovery")
    }
    if args.simulated:
        return  # simulated types of unit differ too little to be the question
    medical = reference_on([stay for stay in calibration if stay.icu_type == "medical"])
    old, new = (numbers_of(signal, ward_records(part)) for part in of_type.values())
    measure("medical ICU, nothing changes", medical, old, old, args.null_runs, 0, args.null_groups)
    measure("medical ICU becomes cardiac surgery", medical, old, new, args.runs, args.before, 40)
    measure("all units, then cardiac surgery alone", expected, plain, new, args.runs, args.before, 40)
    measure("all units, then medical alone", expected, plain, old, args.runs, args.before, 40)


if __name__ == "__main__":
    main()
