"""What an evaluation writes and a report reads: the members of `result.json`, and their names in words.

`task`, `split`, `data_set`, `is_simulated`, `num_patients` and `rows` are required; a task that reads texts has
`num_texts` in the place of `num_patients`. Everything else may be absent, and the report then leaves that section out.
A figure that is undefined (one class only) is null, never left out.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from smallhold.errors import InputError
from smallhold.evaluate.calibration_noise import NoiseJson


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
    ece_noise: NoiseJson | None
    brier: IntervalJson | None
    brier_skill: IntervalJson | None
    coverage: IntervalJson | None
    accuracy: IntervalJson | None
    macro_f1: IntervalJson | None
    nll: IntervalJson | None


class SubgroupRow(Row, total=False):
    """The shipped model on some of the rows: `attribute` = "age", `subgroup` = "65 to 79".

    With fewer than ten rows of either outcome `is_too_small` is true and no figure stands there.
    """

    attribute: str
    subgroup: str
    num_events: int
    is_too_small: bool
    alert_rate: IntervalJson


class Difference(TypedDict, total=False):
    """First model minus second, on the same resamples: `auroc`, or `accuracy` for tasks with many labels."""

    horizon_h: float | None
    models: list[str]
    auroc: IntervalJson
    auprc: IntervalJson
    event1: IntervalJson
    accuracy: IntervalJson
    macro_f1: IntervalJson


class LeadTime(TypedDict):
    """Hours from the first alert to the end of the observed record: `low` and `high` are the quartiles."""

    median: float
    low: float
    high: float


class Burden(TypedDict, total=False):
    """What one model's alerts would cost at one operating point, when it is asked every hour.

    `threshold` is a probability for a model and points for a score, null when even one alert would be too many;
    `threshold_from` is `calibration`, `these patients` (optimistic) or `bundle`. `alerts` counts rises: hours at or
    above the threshold after one below. `ppv` and `sensitivity` count patients with at least one alert.
    """

    model: str
    operating_point: str
    threshold: float | None
    threshold_from: str
    patient_days: float
    alerts: int
    alerts_per_patient_day: IntervalJson
    false_alerts_per_patient_day: IntervalJson
    assessment_rate: IntervalJson
    ppv: IntervalJson
    sensitivity: IntervalJson
    lead_time_h: LeadTime | None


class Beside(TypedDict, total=False):
    """Another bundle, measured on the same rows; `name` is its model in `rows` and `differences`."""

    name: str
    bundle: str
    digest: str
    total_bytes: int


class ClassRow(TypedDict, total=False):
    """One label of a text task, as the shipped model answers; null with fewer than ten texts of that label."""

    label: str
    n: int
    precision: float | None
    recall: float | None
    f1: float | None


class Confusion(TypedDict):
    """So many texts of one label were given another."""

    truth: str
    answer: str
    n: int


class Curves(TypedDict, total=False):
    """Curves of one model at one horizon; a score that is no probability has no `reliability`.

    `roc`: [false positive rate, true positive rate]; `pr`: [recall, precision];
    `reliability`: [mean prediction, observed share, count]; `risk_coverage`: [share answered, share wrong of those];
    `aurc`: the area under the latter. See the functions in `metrics` and `risk_coverage`.
    """

    roc: list[list[float]]
    pr: list[list[float]]
    reliability: list[list[float]]
    risk_coverage: list[list[float]]
    aurc: float


#: Where the interval of a coverage lies: it holds the promised level, or all of it is below or above.
Reading = Literal["below", "within", "above"]


class PromiseRow(TypedDict):
    """How often the prediction set held the truth, with its exact interval; `choice` null: all choices together."""

    horizon_h: float | None
    choice: str | None
    n: int
    coverage: IntervalJson
    reading: Reading
    answered: float
    wrong: float
    set_size: float


class Promise(TypedDict):
    """What the field promised, the truth missing from the set with probability alpha at most, and how it went."""

    alpha: float
    is_by_choice: bool
    is_feasible: bool
    smallest_alpha: float
    rows: list[PromiseRow]


class ShiftRow(TypedDict, total=False):
    """One outcome of held-out patients at one horizon: as a `PromiseRow`, and beside it two other rules.

    With fewer than ten of the outcome `is_too_small` is true and no figure stands there. `shipped_coverage` is that of
    the bundle's own calibration; `adaptive_bound` is how far, after n outcomes, the adaptive rule's share of misses
    can be from alpha, 1 or more saying nothing.
    """

    horizon_h: float | None
    choice: str | None
    n: int
    is_too_small: bool
    coverage: IntervalJson
    reading: Reading
    answered: float
    wrong: float
    set_size: float
    shipped_coverage: float
    adaptive_coverage: float
    adaptive_set_size: float
    adaptive_bound: float


class ShiftGroup(TypedDict):
    """The n measured patients of one kind of unit, and what was fitted without their kind.

    `is_too_small`: fewer than ten of either outcome were left to calibrate on, so that there are no rows.
    """

    held_out: str
    n: int
    num_events: int
    num_calibration: int
    num_calibration_events: int
    is_too_small: bool
    rows: list[ShiftRow]


class Shift(TypedDict):
    """Prediction sets of patients of a kind that calibration never saw; `step` is the adaptive rule's."""

    alpha: float
    step: float
    groups: list[ShiftGroup]


class BundleFile(TypedDict):
    """One file of the bundle."""

    path: str
    bytes: int
    role: str


class BundleInfo(TypedDict, total=False):
    """Which bundle was measured; `digest` is the SHA-256 of its manifest, `training_data` names data sets."""

    name: str
    version: str
    digest: str
    files: list[BundleFile]
    total_bytes: int
    training_data: list[str]


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
    num_texts: int
    bundle: BundleInfo
    rows: list[Row]
    subgroups: list[SubgroupRow]
    burden: list[Burden]
    besides: list[Beside]
    classes: list[ClassRow]
    confusions: list[Confusion]
    promise: Promise
    word_promise: Promise
    shift: Shift
    remarks: list[str]
    intended_use: str
    known_limits: str
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


_REQUIRED = ("task", "split", "data_set", "is_simulated", "rows")

MetricName = Literal[
    "auroc",
    "auprc",
    "event1",
    "event1_best",
    "ece",
    "brier",
    "brier_skill",
    "coverage",
    "accuracy",
    "macro_f1",
    "nll",
]
# In the order of the tables.
METRICS: dict[MetricName, str] = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "event1": "event 1",
    "event1_best": "event 1, best",
    "nll": "NLL",
    "ece": "ECE",
    "brier": "Brier",
    "brier_skill": "Brier skill",
    "coverage": "coverage",
}

MODELS = {
    "shipped": "shipped model",
    "trees": "boosted trees",
    "trees+shipped": "trees + shipped",
    "news2": "NEWS2",
    "mews": "MEWS",
    "qsofa": "qSOFA",
    "sirs": "SIRS",
    "saps1": "SAPS-I",
    "teacher": "teacher",
    "words": "observation words",
    "fp32": "uncompressed",
    "tfidf": "TF-IDF",
    "majority": "commonest label",
    "ngrams": "n-grams alone",
    "trunk": "trunk alone",
}


def model_name(model: str) -> str:
    """A model's name in words; an unknown one keeps its own."""
    return MODELS.get(model, model)


def horizon_name(horizon_h: float | None) -> str:
    """`48 h`, or empty for a task without a clock."""
    return "" if horizon_h is None else f"{horizon_h:g} h"


def population(result: Result) -> tuple[int, str]:
    """How many were measured, and what they are: `(966, "patients")` or `(308, "texts")`."""
    return (result["num_texts"], "texts") if "num_texts" in result else (result["num_patients"], "patients")


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
    if not {"num_patients", "num_texts"} & result.keys():
        missing.append("num_patients or num_texts")
    if missing:
        raise InputError(
            f"an evaluation result lacks {', '.join(missing)}", hint="write it again: smallhold evaluate BUNDLE --json"
        )
    checked: Result = result  # type: ignore[assignment]
    return checked
