"""What an evaluation writes and a report reads: the members of `result.json`, and their names in words.

`task`, `split`, `data_set`, `is_simulated`, `num_patients` and `rows` are required. Everything else may be absent,
and the report then leaves that section out. A figure that is undefined (one class only) is null, never left out.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from smallhold.errors import InputError


class IntervalJson(TypedDict):
    """A figure and its bootstrap interval, null where undefined."""

    value: float | None
    low: float | None
    high: float | None


class Row(TypedDict, total=False):
    """One model at one horizon, over all n patients, abstained or not. Absent or null: does not apply.

    `horizon_h` is null for a task without a clock. `event1` has its threshold fixed on the calibration split,
    `event1_best` on these very patients. A score that was never turned into a probability has no `ece` and no `brier`.
    """

    horizon_h: float | None
    model: str
    n: int
    auroc: IntervalJson | None
    auprc: IntervalJson | None
    event1: IntervalJson | None
    event1_best: IntervalJson | None
    ece: IntervalJson | None
    brier: IntervalJson | None
    coverage: IntervalJson | None
    accuracy: IntervalJson | None
    macro_f1: IntervalJson | None


class SubgroupRow(Row, total=False):
    """A row over some of the patients, for example `subgroup` = "age 65 and over"."""

    subgroup: str


class Difference(TypedDict, total=False):
    """First model minus second, on the same resamples: `auroc`, or `accuracy` for tasks with many labels."""

    horizon_h: float | None
    models: list[str]
    auroc: IntervalJson
    accuracy: IntervalJson


class Curves(TypedDict, total=False):
    """Curves of one model at one horizon; a score that is no probability has no `reliability`.

    `roc`: [false positive rate, true positive rate]; `pr`: [recall, precision];
    `reliability`: [mean prediction, observed share, count]; see the functions in `metrics`.
    """

    roc: list[list[float]]
    pr: list[list[float]]
    reliability: list[list[float]]


class BundleFile(TypedDict):
    """One file of the bundle."""

    path: str
    bytes: int
    role: str


class BundleInfo(TypedDict, total=False):
    """Which bundle was measured; `digest` is the SHA-256 of its manifest."""

    name: str
    version: str
    digest: str
    files: list[BundleFile]
    total_bytes: int


class LatencySummary(TypedDict):
    """Wall time of one append-and-decide, in milliseconds."""

    p50: float
    p99: float
    max: float
    n: int


class Histogram(TypedDict):
    """K + 1 bin edges (milliseconds) and K counts."""

    edges: list[float]
    counts: list[int]


class Latency(TypedDict, total=False):
    """How long a decision takes."""

    append_decide_ms: LatencySummary
    histogram: Histogram


class Training(TypedDict, total=False):
    """How the model was trained; `loss` holds [step, loss]."""

    loss: list[list[float]]
    seconds: float
    parameters: int


class Vital(TypedDict):
    """One signal of the patient; `points` holds [hour, value]."""

    code: str
    unit: str
    points: list[list[float]]


class Citation(TypedDict):
    """A parameter that carried a decision; `effect` is the log-odds lost when it is deleted."""

    code: str
    text: str
    effect: float


class HourlyRisk(TypedDict, total=False):
    """What the model said at one hour: calibrated probability, whether it abstained, and what it cited."""

    hour: float
    probability: float
    has_abstained: bool
    evidence: list[Citation]


class TimelineAlert(TypedDict, total=False):
    """One alert; `priority` is high, medium, low or info, `source` is floor, model or gate."""

    hour: float
    priority: str
    source: str
    message: str
    is_degraded: bool


class Patient(TypedDict, total=False):
    """One patient's stay; `threshold` is the alert threshold of the risk, `news2` holds [hour, total]."""

    id: str
    outcome: str
    vitals: list[Vital]
    risk: list[HourlyRisk]
    threshold: float
    news2: list[list[float]]
    alerts: list[TimelineAlert]


class Result(TypedDict, total=False):
    """Everything one evaluation found. `curves` maps horizon to model to curves.

    The horizon is a number of hours as text, or empty for a task without a clock.
    """

    task: str
    split: str
    data_set: str
    is_simulated: bool
    num_patients: int
    bundle: BundleInfo
    rows: list[Row]
    subgroups: list[SubgroupRow]
    differences: list[Difference]
    curves: dict[str, dict[str, Curves]]
    latency: Latency
    events_per_second_per_core: float
    cold_start_s: float
    resident_bytes: int
    patient_bytes: int  # what one further patient adds, a whole stay long
    training: Training
    patient: Patient
    interval_level: float  # 0.95 when absent
    command: str
    machine: str
    seed: int


_REQUIRED = ("task", "split", "data_set", "is_simulated", "num_patients", "rows")

MetricName = Literal["auroc", "auprc", "event1", "event1_best", "ece", "brier", "coverage", "accuracy", "macro_f1"]
# In the order of the tables.
METRICS: dict[MetricName, str] = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "event1": "event 1",
    "event1_best": "event 1, best",
    "ece": "ECE",
    "brier": "Brier",
    "coverage": "coverage",
}

MODELS = {
    "shipped": "shipped model",
    "trees": "boosted trees",
    "trees+shipped": "trees + shipped",
    "news2": "NEWS2",
    "saps1": "SAPS-I",
    "teacher": "teacher",
    "fp32": "uncompressed",
}


def model_name(model: str) -> str:
    """A model's name in words; an unknown one keeps its own."""
    return MODELS.get(model, model)


def horizon_name(horizon_h: float | None) -> str:
    """`48 h`, or empty for a task without a clock."""
    return "" if horizon_h is None else f"{horizon_h:g} h"


def reported_metrics(rows: list[Row] | list[SubgroupRow]) -> list[MetricName]:
    """The metrics that at least one row has, in the order of the tables."""
    return [name for name in METRICS if any(row.get(name) is not None for row in rows)]


def require_result(result: Any) -> Result:
    """Refuse a result that lacks what every report says.

    Raises:
        InputError: not an object, or a required member is absent; the message names it.
    """
    if not isinstance(result, dict):
        raise InputError(f"an evaluation result must be a JSON object, got {type(result).__name__}")
    missing = [name for name in _REQUIRED if name not in result]
    if missing:
        raise InputError(
            f"an evaluation result lacks {', '.join(missing)}", hint="write it again: smallhold evaluate BUNDLE --json"
        )
    checked: Result = result  # type: ignore[assignment]
    return checked
