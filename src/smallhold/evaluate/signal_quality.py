"""Figures of a task that reads signals: every model at every horizon, on the same patients and the same resamples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smallhold.decide.local import LocalTask
from smallhold.decide.plan import Field
from smallhold.decide.task import Task
from smallhold.evaluate import metrics
from smallhold.evaluate.bedside_scores import OLDER
from smallhold.evaluate.bootstrap import Metric, Resampled, resample
from smallhold.evaluate.burden import OPERATING_POINTS, alert_burden
from smallhold.evaluate.calibration_noise import calibration_noise
from smallhold.evaluate.judged import Judged, read_by_comparator, read_by_field
from smallhold.evaluate.predict import Predictions, nearest_hour
from smallhold.evaluate.promise import describe_promise, promise_rows
from smallhold.evaluate.result import Burden, Curves, Difference, Promise, Row, SubgroupRow
from smallhold.evaluate.risk_coverage import aurc, risk_coverage_curve, set_coverage
from smallhold.evaluate.subgroups import groups_of, subgroup_row
from smallhold.sectors.hospital.stays import Stay

Progress = Callable[[str, int, int], None]
Floats = NDArray[np.float64]

#: First minus second, where both were measured; bundles given beside come after these.
PAIRS = (
    ("shipped", "trees"),
    ("trees+shipped", "trees"),
    *(("shipped", other) for other in ("news2", "saps1", *OLDER, "words", "fp32")),
)
_COMPARED = ("auroc", "auprc", "event1")
#: In the tables, not in the curves: models of the training run, and scores that would only hide the others.
_NOT_DRAWN = ("words", "fp32", "teacher", *OLDER)
_NEWS2_EMERGENCY = 7  # RCP 2017: a total of 7 or more triggers an emergency assessment


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """Every model at every horizon, read as it is used.

    Attributes:
        died: (N,).
        horizons: Hours.
        judged: (model, hour) to what the model says; absent where a model does not apply.
        num_resamples: Of the bootstrap.
        seed: Of the bootstrap.
        resampled: Filled by `signal_rows`: (model, hour, metric) to the metric on every resample.
    """

    died: NDArray[np.bool_]
    horizons: tuple[int, ...]
    judged: dict[tuple[str, int], Judged]
    num_resamples: int
    seed: int
    resampled: dict[tuple[str, int, str], Resampled] = field(default_factory=dict)


def read_predictions(
    local: LocalTask,
    predictions: Predictions,
    besides: Mapping[str, tuple[Task, Floats]],
    *,
    num_resamples: int,
    seed: int,
) -> Measured:
    """Turn numbers into probabilities, alerts and silence.

    Args:
        local: The task of the bundle.
        predictions: What every model says.
        besides: Name to the task of another bundle and its (N, H) log-odds, each read by its own field.
        num_resamples: Of the bootstrap.
        seed: Of the bootstrap.
    """
    task, judged = local.task, {}
    for i, hour in enumerate(predictions.horizons):
        for model, numbers in predictions.numbers.items():
            number = numbers[:, i]
            if np.isnan(number).any():
                continue
            if model == "words":
                judged[model, hour] = read_by_field(task.fields_in_words[0], number, hour)
            elif model in ("shipped", "fp32"):
                judged[model, hour] = read_by_field(task.fields[0], number, hour)
            else:
                # The teacher is the baseline's twin and has no comparator of its own.
                fitted = task.comparators.get("trees" if model == "teacher" else model, {}).get(str(hour))
                judged[model, hour] = read_by_comparator(fitted, number)
        for name, (other, margins) in besides.items():
            judged[name, hour] = read_by_field(other.fields[0], margins[:, i], hour)
    return Measured(
        died=predictions.died,
        horizons=predictions.horizons,
        judged=judged,
        num_resamples=num_resamples,
        seed=seed,
    )


def signal_rows(measured: Measured, progress: Progress) -> list[Row]:
    """One row a model and horizon; fills `measured.resampled`."""
    died, rows = measured.died, []
    for done, ((model, hour), said) in enumerate(measured.judged.items()):
        progress("intervals", done, len(measured.judged))
        columns: dict[str, tuple[Metric, tuple[Any, ...]]] = {
            "auroc": (metrics.auroc, (died, said.number)),
            "auprc": (metrics.auprc, (died, said.number)),
            "event1_best": (metrics.event1_best, (died, said.number)),
        }
        # A score that the calibration data never had (SAPS-I on simulated patients) has no probability.
        if said.probability is not None:
            columns["event1"] = (metrics.event1, (died, said.is_called))
            columns["ece"] = (metrics.expected_calibration_error, (died, said.probability))
            columns["brier"] = (metrics.brier, (died, said.probability))
            columns["brier_skill"] = (metrics.brier_skill, (died, said.probability))
            columns["coverage"] = (metrics.coverage, (said.has_abstained,))
        row: Row = {"horizon_h": hour, "model": model, "n": len(died)}
        for name, (metric, arrays) in columns.items():
            found = resample(metric, *arrays, num_resamples=measured.num_resamples, seed=measured.seed)
            measured.resampled[model, hour, name] = found
            row[name] = found.interval().to_json()  # type: ignore[literal-required]
        if said.probability is not None:
            row["ece_noise"] = calibration_noise(said.probability, seed=measured.seed)
        rows.append(row)
    progress("intervals", len(measured.judged), len(measured.judged))
    return rows


def signal_differences(measured: Measured, besides: Iterable[str]) -> list[Difference]:
    """Paired differences, after `signal_rows`: AUROC, AUPRC, and event 1 at thresholds fixed before."""
    found: list[Difference] = []
    for first, second in (*PAIRS, *(("shipped", name) for name in besides)):
        for hour in measured.horizons:
            item: Difference = {"horizon_h": hour, "models": [first, second]}
            for name in _COMPARED:
                one, other = (measured.resampled.get((model, hour, name)) for model in (first, second))
                if one is not None and other is not None:
                    item[name] = one.minus(other).interval().to_json()  # type: ignore[literal-required]
            if "auroc" in item:
                found.append(item)
    return found


def signal_subgroups(measured: Measured, stays: Sequence[Stay]) -> list[SubgroupRow]:
    """The shipped model by sex, age and kind of unit."""
    rows: list[SubgroupRow] = []
    for attribute, group, member in groups_of(stays):
        for hour in measured.horizons:
            row = subgroup_row(
                measured.died,
                measured.judged["shipped", hour],
                member,
                horizon_h=hour,
                num_resamples=measured.num_resamples,
                seed=measured.seed,
            )
            rows.append({"attribute": attribute, "subgroup": group, **row})
    return rows


def signal_burden(
    local: LocalTask, predictions: Predictions, calibration: Predictions | None, *, num_resamples: int, seed: int
) -> list[Burden]:
    """Alerts of the shipped model, the trees and NEWS2 at equal burden, then at the thresholds that are in use."""
    scores = hourly_scores(local.task, predictions)
    found_on = scores if calibration is None else hourly_scores(local.task, calibration)
    origin = "these patients" if calibration is None else "calibration"
    points = [
        (model, name, find(found_on[model]), origin) for name, find in OPERATING_POINTS.items() for model in scores
    ]
    points.append(("shipped", "The bundle's own threshold", local.task.fields[0].alert_threshold, "bundle"))
    points.append(("news2", f"NEWS2 of {_NEWS2_EMERGENCY} or more", float(_NEWS2_EMERGENCY), "published"))
    return [
        alert_burden(
            predictions.died,
            scores[model],
            threshold,
            model=model,
            operating_point=name,
            threshold_from=threshold_from,
            num_resamples=num_resamples,
            seed=seed,
        )
        for model, name, threshold, threshold_from in points
    ]


def hourly_scores(task: Task, predictions: Predictions) -> dict[str, Floats]:
    """(N, T) of each model that is asked every hour: probabilities of models, points of NEWS2.

    The trees are read at each hour by the comparator of the nearest hour that they were grown for; without any they
    are left out.
    """
    shape = predictions.hourly["shipped"].shape
    shipped = read_by_field(task.fields[0], predictions.hourly["shipped"].reshape(-1)).probability
    scores = {"shipped": np.asarray(shipped).reshape(shape)}
    fitted = task.comparators.get("trees", {})
    if "trees" in predictions.hourly and fitted:
        hours = [int(hour) for hour in fitted]
        trees = np.empty(shape)
        for i in range(shape[1]):
            comparator = fitted[str(nearest_hour(hours, i + 1))]
            trees[:, i] = read_by_comparator(comparator, predictions.hourly["trees"][:, i]).probability
        scores["trees"] = trees
    return {**scores, "news2": predictions.hourly["news2"]}


def signal_promise(field_: Field, measured: Measured, *, model: str = "shipped") -> Promise | None:
    """How the promise of a model's field was kept at each horizon, by true choice; None where none was made."""
    if field_.conformal is None:
        return None
    positive = field_.choices.index(field_.positive)
    labels = np.where(measured.died, positive, 1 - positive)
    rows = []
    for hour in measured.horizons:
        said = measured.judged[model, hour]
        if said.sets is None or said.probability is None or said.has_abstained is None:
            continue
        # What is given is the only choice of the set.
        chosen = np.where(said.has_abstained, -1, said.sets.argmax(axis=1))
        rows += promise_rows(field_, set_coverage(said.sets, labels, chosen), horizon_h=hour)
    return describe_promise(field_.conformal, rows)


def signal_curves(measured: Measured) -> dict[str, dict[str, Curves]]:
    """Curves for drawing, of whatever a device carries."""
    curves: dict[str, dict[str, Curves]] = {}
    died = measured.died
    if died.all() or not died.any():
        return curves
    for (model, hour), said in measured.judged.items():
        if model in _NOT_DRAWN:
            continue
        item: Curves = {
            "roc": metrics.thin_curve(metrics.roc_curve(died, said.number)).tolist(),
            "pr": metrics.thin_curve(metrics.precision_recall_curve(died, said.number)).tolist(),
        }
        if said.probability is not None:
            confidence, is_wrong = np.maximum(said.probability, 1 - said.probability), (said.probability >= 0.5) != died
            item["reliability"] = metrics.reliability(died, said.probability).tolist()
            item["risk_coverage"] = metrics.thin_curve(risk_coverage_curve(is_wrong, confidence)).tolist()
            item["aurc"] = aurc(is_wrong, confidence)
        curves.setdefault(str(hour), {})[model] = item
    return curves
