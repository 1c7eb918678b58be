"""Measure a bundle on patients: quality with intervals, latency, footprint, and one patient's story."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smallhold.assist.alarm import Change
from smallhold.assist.local_specialist import LocalSpecialist
from smallhold.assist.policy import load_profile
from smallhold.assist.replay import MakeBedside
from smallhold.assist.step import Step
from smallhold.assist.ward import describe_reading, recorded_ward, unit_in_words
from smallhold.decide.local import LocalTask
from smallhold.decide.signal import bin_of_minute
from smallhold.decide.task import Comparator
from smallhold.evaluate import metrics
from smallhold.evaluate.bootstrap import bootstrap_interval, paired_difference
from smallhold.evaluate.cold_start import measure
from smallhold.evaluate.predict import Predictions, predict_all
from smallhold.evaluate.result import Curves, Patient, Result, Row
from smallhold.evaluate.run_folder import read_run_file
from smallhold.records import Card, Provenance
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.parameters import PARAMETERS
from smallhold.sectors.hospital.stays import Stay, observations

Progress = Callable[[str, int, int], None]

#: Read as the device reads the shipped model: by the temperature and the thresholds of the field.
_BY_FIELD = ("shipped", "fp32")
#: Models of the training run: in the table, not in the curves.
_OF_RUN = ("fp32", "teacher")
_SHOWN_VITALS = ("HR", "MAP", "SysABP", "NISysABP", "RespRate", "SaO2", "Temp", "GCS", "Lactate", "Urine")


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
    """

    stays: Sequence[Stay]
    split: str
    run: Path | None
    seed: int
    num_resamples: int
    measure_device: bool
    command: str


def evaluate(local: LocalTask, request: EvaluationRequest, *, progress: Progress) -> Result:
    """Measure; see `Result` for what comes out.

    Raises:
        DataError: no patients, or patients without an outcome.
    """
    stays = request.stays
    predictions = predict_all(local, stays, progress=progress, run=request.run)
    manifest = local.bundle.manifest
    result: Result = {
        "task": local.task.name,
        "split": request.split,
        "data_set": ", ".join(sorted({stay.data_set for stay in stays})),
        "is_simulated": any(stay.is_simulated for stay in stays),
        "num_patients": len(stays),
        "bundle": {
            "name": manifest.name,
            "version": manifest.version,
            "digest": manifest.digest,
            "files": [{"path": p, "bytes": e.bytes, "role": e.role} for p, e in sorted(manifest.files.items())],
            "total_bytes": sum(entry.bytes for entry in manifest.files.values()),
        },
        "rows": _rows(local, predictions, request, progress),
        "differences": _differences(predictions, request),
        "curves": _curves(local, predictions),
        "command": request.command,
        "machine": machine(),
        "seed": request.seed,
    }
    if request.run is not None:
        summary = read_run_file(request.run)
        result["training"] = {
            "loss": summary["loss"],
            "seconds": summary["teacher_seconds"] + summary["training_seconds"],
            "parameters": summary["parameters"],
        }
    if request.measure_device:
        progress("device", 0, 3)
        result.update(_latency(local, stays[:20]))  # type: ignore[typeddict-item]
        progress("device", 1, 3)
        started = measure(local.bundle.files.path, local.task.name)
        result["cold_start_s"], result["resident_bytes"] = started["cold_start_s"], started["resident_bytes"]
        result["patient_bytes"] = started["patient_bytes"]
        progress("device", 2, 3)
        result["patient"] = _story(local, _storied(stays))
        progress("device", 3, 3)
    return result


def machine() -> str:
    """Processor, cores and system in a line."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or a processor that does not say
    return f"{model}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def _comparator(local: LocalTask, model: str, hour: int) -> Comparator | None:
    if model in _BY_FIELD:
        field = local.task.fields[0]
        return Comparator(1 / field.temperature, 0.0, field.alert_threshold)
    # The teacher is the baseline's twin and has no comparator of its own.
    return local.task.comparators.get("trees" if model == "teacher" else model, {}).get(str(hour))


def _probability(fitted: Comparator, number: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-np.clip(fitted.scale * number + fitted.offset, -60, 60)))


def _rows(local: LocalTask, predictions: Predictions, request: EvaluationRequest, progress: Progress) -> list[Row]:
    field = local.task.fields[0]
    died = predictions.died
    rows: list[Row] = []
    done, total = 0, len(predictions.numbers) * len(predictions.horizons)
    for i, hour in enumerate(predictions.horizons):
        for model, numbers in predictions.numbers.items():
            progress("intervals", done, total)
            done += 1
            number = numbers[:, i]
            if np.isnan(number).any():
                continue

            def interval(metric: Callable[..., float], *arrays: Any) -> Any:
                return bootstrap_interval(
                    metric, *arrays, num_resamples=request.num_resamples, seed=request.seed
                ).to_json()

            row: Row = {
                "horizon_h": hour,
                "model": model,
                "n": len(died),
                "auroc": interval(metrics.auroc, died, number),
                "auprc": interval(metrics.auprc, died, number),
                "event1_best": interval(metrics.event1_best, died, number),
            }
            fitted = _comparator(local, model, hour)
            # A score that the calibration data never had (SAPS-I on simulated patients) has no probability.
            if fitted is not None:
                p = _probability(fitted, number)
                row["event1"] = interval(metrics.event1, died, p >= fitted.threshold)
                row["ece"] = interval(metrics.expected_calibration_error, died, p)
                row["brier"] = interval(metrics.brier, died, p)
                abstained = np.maximum(p, 1 - p) < field.abstain_below if model in _BY_FIELD else np.zeros(len(p))
                row["coverage"] = interval(metrics.coverage, abstained.astype(bool))
            rows.append(row)
    progress("intervals", total, total)
    return rows


def _differences(predictions: Predictions, request: EvaluationRequest) -> list[Any]:
    found = []
    shipped = predictions.numbers["shipped"]
    for other in ("trees", "news2", "saps1", "fp32"):
        for i, hour in enumerate(predictions.horizons):
            number = predictions.numbers.get(other)
            if number is None or np.isnan(number[:, i]).any():
                continue
            interval = paired_difference(
                metrics.auroc,
                (predictions.died, shipped[:, i]),
                (predictions.died, number[:, i]),
                num_resamples=request.num_resamples,
                seed=request.seed,
            )
            found.append({"horizon_h": hour, "models": ["shipped", other], "auroc": interval.to_json()})
    return found


def _curves(local: LocalTask, predictions: Predictions) -> dict[str, dict[str, Curves]]:
    curves: dict[str, dict[str, Curves]] = {}
    died = predictions.died
    if died.all() or not died.any():
        return curves
    for i, hour in enumerate(predictions.horizons):
        for model, numbers in predictions.numbers.items():
            number = numbers[:, i]
            if np.isnan(number).any() or model in _OF_RUN:
                continue
            item: Curves = {
                "roc": metrics.thin_curve(metrics.roc_curve(died, number)).tolist(),
                "pr": metrics.thin_curve(metrics.precision_recall_curve(died, number)).tolist(),
            }
            fitted = _comparator(local, model, hour)
            if fitted is not None:
                item["reliability"] = metrics.reliability(died, _probability(fitted, number)).tolist()
            curves.setdefault(str(hour), {})[model] = item
    return curves


def _latency(local: LocalTask, stays: Sequence[Stay]) -> dict[str, Any]:
    """Append-and-decide, bin by bin, on one thread; and readings plus decisions a CPU second of one core."""
    times: list[float] = []
    events = 0
    cpu_begun = time.process_time()
    for stay in stays:
        session = local.session(icu_risk.static_features(stay))
        bins = bin_of_minute(stay.minute, local.task.signal.bin_minutes)
        for hour in range(local.task.num_bins):
            for at in np.flatnonzero(bins == hour):
                session.observe(PARAMETERS[stay.code[at]].name, float(stay.value[at]))
                events += 1
            begun = time.perf_counter()
            session.close_bin()
            session.decide()
            times.append((time.perf_counter() - begun) * 1e3)
            events += 1
    cpu = time.process_time() - cpu_begun
    p50, p99 = np.percentile(times, (50, 99))
    counts, edges = np.histogram(times, bins=30, range=(0, max(2 * p99, 1e-3)))
    return {
        "latency": {
            "append_decide_ms": {"p50": float(p50), "p99": float(p99), "max": max(times), "n": len(times)},
            "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
        },
        "events_per_second_per_core": events / cpu if cpu > 0 else 0.0,
    }


def _storied(stays: Sequence[Stay]) -> Stay:
    """The patient whose story the report tells: the first, in order of identifier, who died; not the best-looking."""
    ordered = sorted(stays, key=lambda stay: stay.record_id)
    return next((stay for stay in ordered if stay.died), ordered[0])


def _story(local: LocalTask, stay: Stay) -> Patient:
    make_bed: MakeBedside = recorded_ward(
        {stay.record_id: stay}, local, load_profile("base-clinical"), deadline_seconds=5.0
    )
    bed = make_bed("0" * 32, stay.record_id)
    provenance = Provenance(trace_id="0" * 32, clock="stay", simulated=stay.is_simulated)
    steps: list[Step] = []
    hour = 1
    for observation in observations(stay, provenance):
        while observation.t_received_ms > hour * 3_600_000 and hour <= local.task.num_bins:
            steps.append(bed.close_bin(hour * 3_600_000))
            hour += 1
        if hour > local.task.num_bins:
            break
        steps.append(bed.observe(observation, observation.t_received_ms))
    steps += [bed.close_bin(h * 3_600_000) for h in range(hour, local.task.num_bins + 1)]
    explanations = _explanations(local, stay, steps)
    field = local.task.fields[0]
    story: Patient = {
        "id": stay.record_id,
        "outcome": "died in hospital" if stay.died else "survived",
        "threshold": field.alert_threshold,
        "vitals": _vitals(stay),
        "risk": [],
        "news2": [],
        "alerts": [],
    }
    for step in steps:
        at = step.t_ms / 3_600_000
        if step.observation is None and step.scores is not None:
            story["news2"].append([at, float(step.scores.scores[0].total)])
        if step.risk is not None:
            cited = explanations[step.t_ms].evidence
            story["risk"].append(
                {
                    "hour": at,
                    "probability": step.risk.probabilities[field.positive],
                    "has_abstained": step.risk.has_abstained,
                    "evidence": [{"code": e.code, "text": e.text, "effect": e.effect} for e in cited],
                }
            )
        story["alerts"] += [
            {
                "hour": at,
                "priority": change.alert.priority.value,
                "source": change.alert.source,
                "message": change.alert.message,
                "is_degraded": change.alert.is_degraded,
            }
            for change in step.changes
            if change.change is Change.RAISED
        ]
    return story


def _explanations(local: LocalTask, stay: Stay, steps: Sequence[Step]) -> dict[int, Card]:
    """What every hour's answer rests on; at the bed only an alert is explained, a report has the time for all."""
    specialist = LocalSpecialist(stay.record_id, local, icu_risk.static_features(stay), describe_reading)
    cards: dict[int, Card] = {}
    for step in steps:
        if step.observation is not None and step.gate is not None and step.gate.is_accepted:
            reading = step.observation
            specialist.observe(reading.code, reading.value, reading.t_measured_ms)
        if step.risk is not None:
            specialist.close_bin(step.t_ms)
            specialist.decide(step.t_ms, step.provenance)
            cards[step.t_ms] = specialist.explain()
    return cards


def _vitals(stay: Stay) -> list[Any]:
    found = []
    for name in _SHOWN_VITALS:
        index = next(i for i, parameter in enumerate(PARAMETERS) if parameter.name == name)
        mine = stay.code == index
        if mine.sum() < 2:
            continue
        points = [
            [m / 60, float(v)] for m, v in zip(stay.minute[mine].tolist(), stay.value[mine].tolist(), strict=True)
        ]
        found.append({"code": name, "unit": unit_in_words(PARAMETERS[index].unit), "points": points})
    return found[:6]
