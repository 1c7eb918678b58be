"""What a ward looked like when the model was fitted: the values that drift is measured against.

The unit is one patient's *window* of a few hours (`window_bins` bins). In each window every parameter gives up to four
numbers between 0 and 1, and the model's answers three more:

- `value`: mean rank of its readings among the training readings (0 lowest, 1 highest), from the task's rank-Gauss grid
- `tail`: share of its readings among the lowest or highest 2.5 % of the training readings
- `measured`: 1 when it was measured at all
- `refused`: 1 when the gate refused a reading of it as impossible
- `risk`, `alert`, `abstained` of the model: mean probability, 1 when it reached the alert threshold, share
  of abstentions

Readings of one patient resemble each other, those of two patients do not: a window counts once, however many readings
it holds. Means are kept apart by the window's position in the stay, because patients change while they stay.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smallhold.decide.signal import RankGauss, SignalSpec, bin_of_minute
from smallhold.errors import DataError, RecipeError, ShapeError
from smallhold.records import canonical_json, sha256_hex

FloatArray = NDArray[np.float64]

FORMAT = "smallhold.drift/1"
INPUT_KINDS = ("value", "tail", "measured", "refused")
ANSWER_KINDS = ("risk", "alert", "abstained")
#: Name of the streams that are about the model's answers.
MODEL = "model"

#: A difference of means up to this is never called drift: it is not worth losing the model for. Set by judgement,
#: before any shifted patient was looked at.
LEAST_SHIFT = {
    "value": 0.05,
    "tail": 0.05,
    "measured": 0.10,
    "refused": 0.05,
    "risk": 0.05,
    "alert": 0.10,
    "abstained": 0.10,
}
#: Standard errors of the fitted mean that are granted on top: the reference is itself a sample.
_STANDARD_ERRORS = 3.0
#: A mean over fewer patients is no reference; that stream is not watched in that window.
LEAST_PATIENTS = 50
_TAIL = 0.025


@dataclass(frozen=True, slots=True)
class Stream:
    """One number that every patient's window gives.

    Attributes:
        kind: One of `INPUT_KINDS` or `ANSWER_KINDS`.
        name: The parameter, or `MODEL`.
        means: (W,) expected value in each window of a stay; None where too few patients had one.
        tolerances: (W,) how far the true mean may lie from it without being drift.
    """

    kind: str
    name: str
    means: tuple[float | None, ...]
    tolerances: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReference:
    """Expected windows of one task, fitted on the calibration split; `drift/<task>.json` in a bundle.

    Attributes:
        task: Name of the task.
        data_set: Where the patients came from.
        patients: How many there were.
        window_bins: Bins in a window.
        streams: Inputs first, `INPUT_KINDS` by parameter; then, when the model was asked, `ANSWER_KINDS`.
    """

    task: str
    data_set: str
    patients: int
    window_bins: int
    streams: tuple[Stream, ...]

    def __post_init__(self) -> None:
        """Refuse streams that do not belong together, and means that no share can have."""
        lengths = {len(item) for stream in self.streams for item in (stream.means, stream.tolerances)}
        if not self.streams or len(lengths) != 1 or self.window_bins < 1 or self.num_windows < 1:
            raise RecipeError(
                f"drift reference: expected streams over the same windows of at least one bin, got {len(self.streams)} "
                f"streams over {sorted(lengths)} windows of {self.window_bins} bins"
            )
        for stream in self.streams:
            if stream.kind not in LEAST_SHIFT:
                raise RecipeError(f"drift reference: unknown kind of stream {stream.kind!r}")
            numbers = [*(mean for mean in stream.means if mean is not None), *stream.tolerances]
            if not all(0 <= number <= 1 for number in numbers):  # also refuses NaN
                raise RecipeError(f"drift reference: {stream.kind} of {stream.name}: expected numbers in [0, 1]")

    @property
    def num_windows(self) -> int:
        """Windows of a stay that are watched; later ones are not looked at."""
        return len(self.streams[0].means)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        return sha256_hex(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_json({"format": FORMAT, **asdict(self)})

    @classmethod
    def from_bytes(cls, data: bytes) -> DriftReference:
        """Read what `to_bytes` wrote.

        Raises:
            RecipeError: another format, or a member is missing, extra or of the wrong type.
        """
        try:
            value: dict[str, Any] = json.loads(data)
            if value.pop("format") != FORMAT:
                raise RecipeError(f"drift reference: expected format {FORMAT}")
            streams = tuple(
                Stream(
                    str(item["kind"]),
                    str(item["name"]),
                    tuple(None if mean is None else float(mean) for mean in item["means"]),
                    tuple(float(tolerance) for tolerance in item["tolerances"]),
                )
                for item in value.pop("streams")
            )
            return cls(streams=streams, **value)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise RecipeError(f"drift reference: malformed: {error!r}") from error


@dataclass(frozen=True, slots=True, eq=False)
class WardRecord:
    """One patient's readings and what the model said of them, as arrays.

    Attributes:
        minute: (E,) accepted readings: minutes since admission.
        code: (E,) positions in the task's parameters.
        value: (E,) in canonical units.
        refused_minute: (R,) readings that the gate refuses as impossible.
        refused_code: (R,) their parameters.
        risks: (T,) calibrated probability of the alarm choice at the end of every bin; None when nobody was asked.
        abstained: (T,) bool, whether the model abstained.
    """

    minute: NDArray[np.int32]
    code: NDArray[np.int16]
    value: NDArray[np.float32]
    refused_minute: NDArray[np.int32]
    refused_code: NDArray[np.int16]
    risks: FloatArray | None = None
    abstained: NDArray[np.bool_] | None = None


def rank_grid(grid: RankGauss) -> tuple[FloatArray, FloatArray]:
    """(values, ranks): what a reading's rank among the training readings is interpolated from."""
    normal = NormalDist()
    return np.array(grid.values), np.array([normal.cdf(score) for score in grid.scores])


def is_in_tail(rank: Any) -> Any:
    """Whether a rank lies among the outermost 2.5 % on either side; number or array."""
    return (rank < _TAIL) | (rank > 1 - _TAIL)


def window_statistics(
    signal: SignalSpec, records: Sequence[WardRecord], *, window_bins: int, num_windows: int, alert_threshold: float
) -> FloatArray:
    """The numbers of every window: the batch twin of `drift.Follower`.

    Args:
        signal: The signal door of the task.
        records: N patients.
        window_bins: Bins in a window.
        num_windows: W windows of a stay; later readings are left out.
        alert_threshold: Probability from which on the model calls people.

    Returns:
        (N, W, S) between 0 and 1, NaN where a window has no such number; S counts `INPUT_KINDS` by parameter, then
        `ANSWER_KINDS`.

    Raises:
        ShapeError: a record has answers for fewer bins than the windows need.
    """
    parameters, num_bins = len(signal.parameters), window_bins * num_windows
    shape = (len(records), num_windows, parameters)

    def cells(minutes: list[NDArray[np.int32]], codes: list[NDArray[np.int16]]) -> tuple[Any, Any]:
        record = np.repeat(np.arange(len(records)), [len(item) for item in minutes])
        bins = bin_of_minute(np.concatenate(minutes), signal.bin_minutes)
        inside = bins < num_bins
        cell = (record * num_windows + bins // window_bins) * parameters + np.concatenate(codes).astype(np.int64)
        return cell[inside], inside

    def total(cell: Any, weights: Any = None) -> FloatArray:
        return np.bincount(cell, weights=weights, minlength=math.prod(shape)).reshape(shape).astype(np.float64)

    if not records:
        return np.zeros((0, num_windows, len(INPUT_KINDS) * parameters + len(ANSWER_KINDS)))
    cell, inside = cells([item.minute for item in records], [item.code for item in records])
    code = np.concatenate([item.code for item in records])[inside]
    value = np.concatenate([item.value for item in records])[inside].astype(np.float64)
    rank = np.zeros_like(value)
    for position, grid in enumerate(signal.grids):
        mine = code == position
        rank[mine] = np.interp(value[mine], *rank_grid(grid))
    count = total(cell)
    with np.errstate(invalid="ignore"):
        mean_rank, tail = total(cell, rank) / count, total(cell, is_in_tail(rank)) / count
    refused_cell, _ = cells([item.refused_minute for item in records], [item.refused_code for item in records])
    inputs = np.concatenate([mean_rank, tail, count > 0, total(refused_cell) > 0], axis=2)
    answers = np.stack(
        [_answer_statistics(item, window_bins, num_windows, alert_threshold) for item in records]
    )  # (N, W, 3)
    return np.concatenate([inputs, answers], axis=2)


def fit_drift_reference(
    signal: SignalSpec,
    records: Sequence[WardRecord],
    *,
    task: str,
    data_set: str,
    num_bins: int,
    alert_threshold: float,
    window_bins: int = 6,
) -> DriftReference:
    """Fit the expected windows on patients whom the model was not trained on: the calibration split.

    Args:
        signal: The signal door of the task.
        records: N patients; with the model's answers for all of them, or for none.
        task: Name of the task.
        data_set: Where they come from.
        num_bins: Bins that the task answers for.
        alert_threshold: Probability from which on the model calls people.
        window_bins: Bins in a window; divides `num_bins`.

    Raises:
        DataError: fewer than `LEAST_PATIENTS` patients, or `window_bins` does not divide `num_bins`.
    """
    if len(records) < LEAST_PATIENTS or num_bins % window_bins:
        raise DataError(
            f"drift reference: expected at least {LEAST_PATIENTS} patients and a window_bins that divides {num_bins}, "
            f"got {len(records)} patients and {window_bins}"
        )
    statistics = window_statistics(
        signal, records, window_bins=window_bins, num_windows=num_bins // window_bins, alert_threshold=alert_threshold
    )
    names = [(kind, parameter) for kind in INPUT_KINDS for parameter in signal.parameters]
    if records[0].risks is not None:
        names += [(kind, MODEL) for kind in ANSWER_KINDS]
    streams = tuple(_fit_stream(kind, name, statistics[:, :, at]) for at, (kind, name) in enumerate(names))
    return DriftReference(task=task, data_set=data_set, patients=len(records), window_bins=window_bins, streams=streams)


def _answer_statistics(record: WardRecord, window_bins: int, num_windows: int, alert_threshold: float) -> FloatArray:
    if record.risks is None or record.abstained is None:
        return np.full((num_windows, len(ANSWER_KINDS)), np.nan)
    size = num_windows * window_bins
    if len(record.risks) < size or len(record.abstained) < size:
        raise ShapeError(f"answers: expected {size} bins, got {len(record.risks)} and {len(record.abstained)}")
    risks = record.risks[:size].reshape(num_windows, window_bins)
    abstained = record.abstained[:size].reshape(num_windows, window_bins)
    return np.stack([risks.mean(axis=1), (risks >= alert_threshold).any(axis=1), abstained.mean(axis=1)], axis=1)


def _fit_stream(kind: str, name: str, numbers: FloatArray) -> Stream:
    """Means and tolerances of (N, W) numbers with gaps."""
    means: list[float | None] = []
    tolerances: list[float] = []
    for window in numbers.T:
        seen = window[~np.isnan(window)]
        if len(seen) < LEAST_PATIENTS:
            means.append(None)
            tolerances.append(1.0)
            continue
        # A share of exactly 0 or 1 has no spread; one patient's worth keeps its error honest.
        variance = max(float(seen.var()), 1 / len(seen))
        means.append(round(float(seen.mean()), 6))
        tolerances.append(round(min(1.0, LEAST_SHIFT[kind] + _STANDARD_ERRORS * math.sqrt(variance / len(seen))), 6))
    return Stream(kind, name, tuple(means), tuple(tolerances))
