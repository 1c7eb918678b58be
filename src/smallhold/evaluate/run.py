"""Measure a bundle on patients: quality with intervals, alert burden, latency, footprint, and one patient's story."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from smallhold.decide.local import LocalTask
from smallhold.evaluate.besides import describe_besides, describe_bundle, require_new_names, require_same_hours
from smallhold.evaluate.cold_start import measure
from smallhold.evaluate.device_cost import machine, signal_latency
from smallhold.evaluate.predict import margins_of, predict_all
from smallhold.evaluate.result import Result
from smallhold.evaluate.run_folder import read_run_file
from smallhold.evaluate.shift import Patients, Recalibrate, shift_by_unit
from smallhold.evaluate.signal_quality import (
    Measured,
    read_predictions,
    signal_burden,
    signal_curves,
    signal_differences,
    signal_promise,
    signal_rows,
    signal_subgroups,
)
from smallhold.evaluate.story import storied, tell_story
from smallhold.evaluate.subgroups import LEAST_OF_EITHER_OUTCOME
from smallhold.sectors.hospital.stays import Stay

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRequest:
    """What to measure.

    Attributes:
        stays: Patients.
        split: Their part of the data, for the record.
        run: Training run, for `teacher` and `fp32`.
        seed: Of the bootstrap.
        num_resamples: Of the bootstrap.
        measure_device: Also measure latency, cold start and memory, and tell one patient's story.
        command: What the user typed.
        calibration: Patients that alert thresholds are found on; empty finds them on `stays`, and says so.
        besides: Name to another bundle's task, measured on the same patients.
        recalibrate: Fits a field as `bundle build` does, for kinds of patients that calibration never saw; None leaves
            `shift` out, and so does an empty `calibration`.
    """

    stays: Sequence[Stay]
    split: str
    run: Path | None
    seed: int
    num_resamples: int
    measure_device: bool
    command: str
    calibration: Sequence[Stay] = ()
    besides: Mapping[str, LocalTask] = field(default_factory=dict)
    recalibrate: Recalibrate | None = None


def evaluate(local: LocalTask, request: EvaluationRequest, *, progress: Progress) -> Result:
    """Measure; see `Result` for what comes out.

    Raises:
        DataError: no patients, or patients without an outcome.
        InputError: a bundle beside has the name of another model, or answers at other hours.
    """
    stays, bootstrap = request.stays, {"num_resamples": request.num_resamples, "seed": request.seed}
    require_new_names(request.besides)
    require_same_hours(local, request.besides)
    predictions = predict_all(local, stays, progress=progress, run=request.run, is_hourly=True)
    calibration, remarks = None, []
    known = [stay for stay in request.calibration if stay.died is not None]
    if min(sum(bool(s.died) for s in known), sum(not s.died for s in known)) >= LEAST_OF_EITHER_OUTCOME:
        calibration = predict_all(local, known, progress=progress, is_hourly=True, has_words=False)
    else:
        remarks.append("Thresholds of equal alert burden were found on these very patients: optimistic.")
    besides = {
        name: (other.task, margins_of(other, stays, progress=progress)) for name, other in request.besides.items()
    }
    measured = read_predictions(local, predictions, besides, **bootstrap)
    result: Result = {
        "task": local.task.name,
        "split": request.split,
        "data_set": ", ".join(sorted({stay.data_set for stay in stays})),
        "is_simulated": any(stay.is_simulated for stay in stays),
        "num_patients": len(stays),
        "bundle": describe_bundle(local.bundle),
        "rows": signal_rows(measured, progress),
        "differences": signal_differences(measured, besides),
        "subgroups": signal_subgroups(measured, stays),
        "burden": signal_burden(local, predictions, calibration, **bootstrap),
        "curves": signal_curves(measured),
        "besides": describe_besides(request.besides),
        "remarks": remarks,
        "command": request.command,
        "machine": machine(),
        "seed": request.seed,
    }
    _add_promises(result, local, measured)
    if calibration is not None and request.recalibrate is not None:
        shift = shift_by_unit(
            local.task.fields[0],
            Patients.asked(calibration, known),
            Patients.asked(predictions, stays),
            predictions.horizons,
            recalibrate=request.recalibrate,
            seed=request.seed,
            progress=progress,
        )
        if shift is not None:
            result["shift"] = shift
    if request.run is not None:
        summary = read_run_file(request.run)
        result["training"] = {
            "loss": summary["loss"],
            "seconds": summary["teacher_seconds"] + summary["training_seconds"],
            "parameters": summary["parameters"],
        }
    if request.measure_device:
        progress("device", 0, 3)
        result.update(signal_latency(local, stays[:20]))  # type: ignore[typeddict-item]
        progress("device", 1, 3)
        started = measure(local.bundle.files.path, local.task.name)
        result["cold_start_s"], result["resident_bytes"] = started["cold_start_s"], started["resident_bytes"]
        result["patient_bytes"] = started["patient_bytes"]
        progress("device", 2, 3)
        result["patient"] = tell_story(local, storied(stays))
        progress("device", 3, 3)
    return result


def _add_promises(result: Result, local: LocalTask, measured: Measured) -> None:
    """What was promised at each door, and how it was kept."""
    promise = signal_promise(local.task.fields[0], measured)
    if promise is not None:
        result["promise"] = promise
    if local.task.words is not None:
        promise = signal_promise(local.task.fields_in_words[0], measured, model="words")
        if promise is not None:
            result["word_promise"] = promise
