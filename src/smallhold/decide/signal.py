"""The signal door: readings to one vector per time bin, by running summaries that are only ever appended to.

For each parameter every reading is first put on a normal scale by a rank-Gauss transform: its rank among the
training readings, taken from a grid of quantiles, becomes a normal score. Eleven channels per parameter then say
what this bin and the record so far look like. `SignalState` computes them one reading at a time, as the device
does; `encode_stays` computes the same numbers for whole records at once, as training does.

A bin is an hour in the ICU task; hour h covers the minutes (60 (h - 1), 60 h], minute 0 included in hour 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smallhold.errors import InputError, RecipeError, ShapeError

FloatArray = NDArray[np.float32]

#: In this order for every parameter. Unseen parameters are all zero, which the log count tells from "average".
CHANNELS = (
    "last",  # normal score of the newest reading so far
    "bin_mean",  # mean over this bin, 0 when nothing was measured in it
    "log_age",  # log(1 + bins since the newest reading)
    "is_measured",  # 1 when this bin holds a reading
    "change_6",  # newest minus the newest as of six bins ago
    "first",
    "mean",
    "min",
    "max",
    "mean_12",  # mean over the readings of the last twelve bins
    "log_count",  # log(1 + number of readings so far)
)
_CHANGE_BINS = 6
_RECENT_BINS = 12


@dataclass(frozen=True, slots=True)
class RankGauss:
    """Rank-Gauss transform of one parameter: a grid of training quantiles and their normal scores.

    Attributes:
        values: Strictly increasing readings.
        scores: Normal score of each; readings in between are interpolated, readings outside are clamped.
    """

    values: tuple[float, ...]
    scores: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse a grid that cannot be interpolated."""
        if not self.values or len(self.values) != len(self.scores):
            raise RecipeError(
                f"rank-Gauss grid: expected as many scores as values, got {len(self.scores)} for {len(self.values)}"
            )
        if not np.isfinite([*self.values, *self.scores]).all():
            raise RecipeError("rank-Gauss grid: values and scores must be finite")
        if any(b <= a for a, b in zip(self.values, self.values[1:], strict=False)):
            raise RecipeError("rank-Gauss grid: values must increase strictly")

    def __call__(self, readings: NDArray[Any]) -> NDArray[np.float64]:
        """Normal scores of readings of any shape."""
        scores: NDArray[np.float64] = np.interp(readings, self.values, self.scores)
        return scores


@dataclass(frozen=True, slots=True)
class SignalSpec:
    """What the signal door of one task expects; part of the task file in a bundle.

    Attributes:
        parameters: Names in channel order.
        grids: One rank-Gauss transform per parameter.
        bin_minutes: Length of a bin.
        static: Names of the static features, in the order of the prefix vector.
    """

    parameters: tuple[str, ...]
    grids: tuple[RankGauss, ...]
    bin_minutes: int
    static: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse a specification whose parts disagree."""
        if len(self.parameters) != len(self.grids):
            raise RecipeError(f"signal: {len(self.parameters)} parameters but {len(self.grids)} rank-Gauss grids")
        if len(set(self.parameters)) != len(self.parameters):
            raise RecipeError("signal: a parameter is named twice")
        if self.bin_minutes <= 0:
            raise RecipeError(f"signal: bin_minutes must be positive, got {self.bin_minutes}")

    @property
    def num_channels(self) -> int:
        """Length of one bin's vector."""
        return len(self.parameters) * len(CHANNELS)

    def to_json(self) -> dict[str, Any]:
        """JSON form, as written into a task file."""
        return {
            "parameters": list(self.parameters),
            "grids": [{"values": list(g.values), "scores": list(g.scores)} for g in self.grids],
            "channels": list(CHANNELS),
            "bin_minutes": self.bin_minutes,
            "static": list(self.static),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> SignalSpec:
        """Read what `to_json` wrote.

        Raises:
            RecipeError: a member is missing or the channels are not those of this version.
        """
        try:
            if tuple(value["channels"]) != CHANNELS:
                raise RecipeError(f"signal: channels {value['channels']} are not those of this version: {CHANNELS}")
            return cls(
                parameters=tuple(value["parameters"]),
                grids=tuple(
                    RankGauss(tuple(map(float, g["values"])), tuple(map(float, g["scores"]))) for g in value["grids"]
                ),
                bin_minutes=int(value["bin_minutes"]),
                static=tuple(value["static"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(f"signal: malformed task file: {error!r}") from error


def fit_rank_gauss(readings: NDArray[Any], *, num_quantiles: int = 129, tail: float = 0.002) -> RankGauss:
    """Fit the transform on training readings.

    Args:
        readings: (E,) readings of one parameter, any order.
        num_quantiles: Grid points, spread evenly over ranks.
        tail: Ranks covered are [tail, 1 - tail]; what lies outside is clamped.

    Returns:
        A grid whose tied quantiles are merged and carry the mean of their scores. Without readings: the identity at 0.
    """
    if readings.size == 0:
        return RankGauss((0.0,), (0.0,))
    ranks = np.linspace(tail, 1 - tail, num_quantiles)
    quantiles = np.quantile(readings.astype(np.float64), ranks)
    scores = np.array([_normal_quantile(float(rank)) for rank in ranks])
    values, group = np.unique(quantiles, return_inverse=True)
    merged = np.bincount(group, weights=scores) / np.bincount(group)
    # Six decimals lose nothing that a monitor can resolve and keep the task file readable.
    values = np.round(values, 6)
    keep = np.concatenate([[True], np.diff(values) > 0])
    return RankGauss(tuple(values[keep].tolist()), tuple(np.round(merged[keep], 6).tolist()))


def _normal_quantile(rank: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(rank)


class SignalState:
    """Running summaries of one patient; memory does not grow with the length of the record.

    `observe` adds a reading to the open bin, `close_bin` ends the bin and returns its vector. A reading that
    arrives after its bin was closed counts in the open one: what was said is never rewritten.
    """

    def __init__(self, spec: SignalSpec) -> None:
        self._spec = spec
        self._index = {name: i for i, name in enumerate(spec.parameters)}
        size = len(spec.parameters)
        self.bins_closed = 0
        self._count = np.zeros(size)
        self._sum = np.zeros(size)
        self._min = np.full(size, np.inf)
        self._max = np.full(size, -np.inf)
        self._first = np.zeros(size)
        self._last = np.zeros(size)
        self._last_bin = np.zeros(size)
        # Rings over the last bins: sums and counts of twelve, newest values of six.
        self._ring_sum = np.zeros((_RECENT_BINS, size))
        self._ring_count = np.zeros((_RECENT_BINS, size))
        self._ring_last = np.zeros((_CHANGE_BINS, size))
        self._ring_seen = np.zeros((_CHANGE_BINS, size), dtype=bool)
        self._bin_sum = np.zeros(size)
        self._bin_count = np.zeros(size)

    @property
    def num_bytes(self) -> int:
        """Memory of the summaries; it does not grow."""
        return sum(array.nbytes for array in vars(self).values() if isinstance(array, np.ndarray))

    def observe(self, code: str, value: float) -> None:
        """Add one reading, in the parameter's canonical unit, to the open bin.

        Raises:
            InputError: unknown parameter, or a value that is not finite.
        """
        i = self._index.get(code)
        if i is None:
            raise InputError(f"unknown parameter {code!r}: this task reads {', '.join(self._spec.parameters)}")
        if not math.isfinite(value):
            raise InputError(f"{code}: expected a finite value, got {value}")
        grid = self._spec.grids[i]
        score = float(np.interp(value, grid.values, grid.scores))
        if self._count[i] == 0:
            self._first[i] = score
        self._count[i] += 1
        self._sum[i] += score
        self._min[i] = min(self._min[i], score)
        self._max[i] = max(self._max[i], score)
        self._last[i] = score
        self._last_bin[i] = self.bins_closed
        self._bin_sum[i] += score
        self._bin_count[i] += 1

    def close_bin(self) -> FloatArray:
        """End the open bin.

        Returns:
            (C,) float32, `CHANNELS` for the first parameter, then for the second, and so on.
        """
        now = self.bins_closed
        slot_12, slot_6 = now % _RECENT_BINS, now % _CHANGE_BINS
        self._ring_sum[slot_12] = self._bin_sum
        self._ring_count[slot_12] = self._bin_count
        seen = self._count > 0
        measured = self._bin_count > 0
        before, was_seen = self._ring_last[slot_6], self._ring_seen[slot_6]  # written six bins ago
        recent_count = self._ring_count.sum(axis=0)
        channels = np.stack(
            [
                self._last,
                self._bin_sum / np.maximum(self._bin_count, 1),
                np.where(seen, np.log1p(now - self._last_bin), 0.0),
                measured,
                np.where(was_seen, self._last - before, 0.0),
                self._first,
                self._sum / np.maximum(self._count, 1),
                np.where(seen, self._min, 0.0),
                np.where(seen, self._max, 0.0),
                self._ring_sum.sum(axis=0) / np.maximum(recent_count, 1),
                np.log1p(self._count),
            ],
            axis=1,
        )
        self._ring_last[slot_6] = self._last
        self._ring_seen[slot_6] = seen
        self._bin_sum = np.zeros_like(self._bin_sum)
        self._bin_count = np.zeros_like(self._bin_count)
        self.bins_closed += 1
        return channels.astype(np.float32).reshape(-1)


def bin_of_minute(minute: NDArray[np.int32], bin_minutes: int) -> NDArray[np.int64]:
    """0-based bin of each minute: bin b covers (bin_minutes * b, bin_minutes * (b + 1)], minute 0 in bin 0."""
    return np.maximum(-(-minute.astype(np.int64) // bin_minutes) - 1, 0)


def encode_stays(
    spec: SignalSpec,
    events: list[tuple[NDArray[np.int32], NDArray[np.int16], FloatArray]],
    num_bins: int,
) -> NDArray[np.float32]:
    """Channels of whole records: the batch twin of `SignalState`.

    Args:
        spec: The signal door.
        events: Per record (minute, parameter index, value), each (E,), sorted by minute, units canonical.
        num_bins: Bins per record; later readings are left out.

    Returns:
        (N, num_bins, C) float32, equal to feeding each record through `SignalState` up to rounding.

    Raises:
        ShapeError: a record's three arrays differ in length, a code is no parameter's, or the minutes are not sorted.
    """
    size = len(spec.parameters)
    out = np.zeros((len(events), num_bins, spec.num_channels), dtype=np.float32)
    block = 512  # records at a time, so that the float64 work arrays stay small
    for start in range(0, len(events), block):
        part = events[start : start + block]
        out[start : start + len(part)] = _encode_block(spec, part, num_bins, size)
    return out


def _encode_block(
    spec: SignalSpec,
    events: list[tuple[NDArray[np.int32], NDArray[np.int16], FloatArray]],
    num_bins: int,
    size: int,
) -> NDArray[np.float32]:
    for i, (minute, code, value) in enumerate(events):
        if not len(minute) == len(code) == len(value):
            raise ShapeError(
                f"record {i}: minute, code and value have {len(minute)}, {len(code)}, {len(value)} entries"
            )
        if len(code) and not 0 <= code.min() <= code.max() < size:
            raise ShapeError(f"record {i}: codes must lie in [0, {size}), got {code.min()} to {code.max()}")
        if len(minute) and np.any(np.diff(minute) < 0):
            raise ShapeError(f"record {i}: minutes must be sorted")
    record = np.repeat(np.arange(len(events)), [len(m) for m, _, _ in events])
    minute = np.concatenate([m for m, _, _ in events]) if events else np.zeros(0, np.int32)
    code = np.concatenate([c for _, c, _ in events]).astype(np.int64)
    value = np.concatenate([v for _, _, v in events]).astype(np.float64)
    hour = bin_of_minute(minute, spec.bin_minutes)
    inside = hour < num_bins
    record, hour, code, value = record[inside], hour[inside], code[inside], value[inside]

    score = np.zeros_like(value)
    for i, grid in enumerate(spec.grids):
        mine = code == i
        score[mine] = grid(value[mine])

    shape = (len(events), num_bins, size)
    cell = (record * num_bins + hour) * size + code
    cells = shape[0] * shape[1] * shape[2]
    bin_sum = np.bincount(cell, weights=score, minlength=cells).reshape(shape)
    bin_count = np.bincount(cell, minlength=cells).astype(np.float64).reshape(shape)
    bin_min, bin_max = np.full(cells, np.inf), np.full(cells, -np.inf)
    np.minimum.at(bin_min, cell, score)
    np.maximum.at(bin_max, cell, score)
    bin_last = np.zeros(cells)
    bin_last[cell] = score  # events are in time order and the last assignment wins
    first = np.zeros(shape[0] * size)
    first[(record * size + code)[::-1]] = score[::-1]

    measured = bin_count > 0
    hours = np.arange(num_bins)[None, :, None]
    last_bin = np.maximum.accumulate(np.where(measured, hours, -1), axis=1)
    seen = last_bin >= 0
    last = np.where(seen, np.take_along_axis(bin_last.reshape(shape), np.maximum(last_bin, 0), axis=1), 0.0)
    before, was_seen = np.zeros_like(last), np.zeros_like(seen)
    before[:, _CHANGE_BINS:], was_seen[:, _CHANGE_BINS:] = last[:, :-_CHANGE_BINS], seen[:, :-_CHANGE_BINS]
    count, total = np.cumsum(bin_count, axis=1), np.cumsum(bin_sum, axis=1)
    recent_count, recent_sum = count.copy(), total.copy()
    recent_count[:, _RECENT_BINS:] -= count[:, :-_RECENT_BINS]
    recent_sum[:, _RECENT_BINS:] -= total[:, :-_RECENT_BINS]
    channels = np.stack(
        [
            last,
            bin_sum / np.maximum(bin_count, 1),
            np.where(seen, np.log1p(hours - last_bin), 0.0),
            measured,
            np.where(was_seen, last - before, 0.0),
            np.where(seen, first.reshape(shape[0], 1, size), 0.0),
            total / np.maximum(count, 1),
            np.where(seen, np.minimum.accumulate(bin_min.reshape(shape), axis=1), 0.0),
            np.where(seen, np.maximum.accumulate(bin_max.reshape(shape), axis=1), 0.0),
            np.where(recent_count > 0, recent_sum / np.maximum(recent_count, 1), 0.0),
            np.log1p(count),
        ],
        axis=3,
    )
    return channels.reshape(shape[0], num_bins, -1).astype(np.float32)
