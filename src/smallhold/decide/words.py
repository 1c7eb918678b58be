"""Observation words: the door for runtimes that take token ids alone.

A stay is written as ordinary vocabulary: words for what is known on admission, then *cards*. A card has one word for
each parameter measured since the card before, in the order of the parameters: the parameter and the quantile bin of
the mean of its normal scores. It closes with an hour word, at which the decision is read. Cards end hourly at first
and less often later (`CARD_ENDS_H`), which keeps 48 hours in some 240 words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smallhold.decide.signal import SignalSpec, bin_of_minute
from smallhold.errors import InputError, RecipeError, ShapeError

NUM_BINS = 16
"""Quantile bins of a parameter: each holds a sixteenth of the training readings."""

CARD_ENDS_H = (*range(1, 7), *range(8, 25, 2), *range(27, 49, 3))
"""Hours at which a card closes, in bins of the signal door: 23 cards."""

_EDGES = np.array([NormalDist().inv_cdf(i / NUM_BINS) for i in range(1, NUM_BINS)])
_STATIC_EDGES = np.array([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5])


@dataclass(frozen=True, slots=True)
class WordSpec:
    """How a stay is written in words.

    Attributes:
        parameters: Names of the parameters, in order.
        static: Names of the static features of the signal door, in order.
        card_ends: Bins after which a card closes, increasing.
    """

    parameters: tuple[str, ...]
    static: tuple[str, ...]
    card_ends: tuple[int, ...] = CARD_ENDS_H

    def __post_init__(self) -> None:
        """Refuse cards that do not follow each other."""
        if not self.card_ends or any(b <= a for a, b in zip((0, *self.card_ends), self.card_ends, strict=False)):
            raise RecipeError(f"words: card_ends must be positive and increase, got {list(self.card_ends)}")

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every word, once: values by parameter and bin, hours, static features by bin."""
        values = [value_word(name, i) for name in self.parameters for i in range(NUM_BINS)]
        hours = [hour_word(end) for end in self.card_ends]
        statics = [static_word(name, i) for name in self.static for i in range(len(_STATIC_EDGES) + 1)]
        return (*values, *hours, *statics)

    def to_json(self) -> dict[str, Any]:
        """JSON form, as written into a task file."""
        return {"parameters": list(self.parameters), "static": list(self.static), "card_ends": list(self.card_ends)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> WordSpec:
        """Read what `to_json` wrote.

        Raises:
            RecipeError: a member is missing or of the wrong type.
        """
        try:
            return cls(tuple(value["parameters"]), tuple(value["static"]), tuple(map(int, value["card_ends"])))
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(f"words: malformed task file: {error!r}") from error


def value_word(parameter: str, quantile_bin: int) -> str:
    """For example `<HR:07>`."""
    return f"<{parameter}:{quantile_bin:02d}>"


def hour_word(end: int) -> str:
    """For example `<hour:12>`."""
    return f"<hour:{end:02d}>"


def static_word(name: str, level: int) -> str:
    """For example `<age:3>`."""
    return f"<{name.replace(' ', '_')}:{level}>"


def quantile_bins(scores: NDArray[Any]) -> NDArray[np.int64]:
    """Bins, 0 to `NUM_BINS` - 1, of normal scores of any shape."""
    return np.searchsorted(_EDGES, scores, side="right")


def static_words(spec: WordSpec, static: Sequence[float] | NDArray[np.float32]) -> list[str]:
    """What is known on admission; features that are zero (unknown, or another unit) have no word.

    Raises:
        ShapeError: not one number for each static feature.
    """
    if len(static) != len(spec.static):
        raise ShapeError(f"static features: expected {len(spec.static)} numbers {list(spec.static)}, got {len(static)}")
    levels = np.searchsorted(_STATIC_EDGES, np.asarray(static), side="right").tolist()
    return [
        static_word(name, level) for name, level, value in zip(spec.static, levels, static, strict=True) if value != 0
    ]


class WordState:
    """The open card of one patient; `observe` adds a reading, `close_bin` ends a bin and says what is to be appended.

    Normal scores are those of the signal door, so that both doors read the same transform.
    """

    def __init__(self, spec: WordSpec, signal: SignalSpec) -> None:
        if spec.parameters != signal.parameters:
            raise RecipeError("words: the parameters are not those of the signal door")
        self._spec, self._signal = spec, signal
        self._index = {name: i for i, name in enumerate(spec.parameters)}
        self._sum = np.zeros(len(spec.parameters))
        self._count = np.zeros(len(spec.parameters), dtype=np.int64)
        self.bins_closed = 0

    def observe(self, code: str, value: float) -> None:
        """Add one reading, in the parameter's canonical unit.

        Raises:
            InputError: unknown parameter or a value that is not finite.
        """
        i = self._index.get(code)
        if i is None or not np.isfinite(value):
            raise InputError(f"{code}: expected a parameter of this task and a finite value, got {value}")
        self._sum[i] += float(self._signal.grids[i](np.array(value)))
        self._count[i] += 1

    def close_bin(self) -> list[str]:
        """Words to append: a whole card when one ends here, else none."""
        self.bins_closed += 1
        if self.bins_closed not in self._spec.card_ends:
            return []
        words = _card(self._spec, self._sum, self._count, self.bins_closed)
        self._sum[:], self._count[:] = 0, 0
        return words


def words_of_record(
    spec: WordSpec,
    signal: SignalSpec,
    minute: NDArray[np.int32],
    code: NDArray[np.int16],
    value: NDArray[np.float32],
) -> list[list[str]]:
    """Cards of a whole record: the batch twin of `WordState`.

    Args:
        spec: The words.
        signal: The signal door whose transform is used.
        minute: (E,) sorted.
        code: (E,) positions in the parameters.
        value: (E,) in canonical units.

    Returns:
        One list of words for each card; readings after the last card are left out.
    """
    ends = np.array(spec.card_ends)
    card = np.searchsorted(ends, bin_of_minute(minute, signal.bin_minutes) + 1)
    scores = np.zeros(len(value))
    for i in np.unique(code):
        scores[code == i] = signal.grids[i](value[code == i].astype(np.float64))
    inside = card < len(ends)
    size = len(spec.parameters)
    cell = card[inside] * size + code[inside].astype(np.int64)
    total = np.bincount(cell, weights=scores[inside], minlength=len(ends) * size).reshape(-1, size)
    count = np.bincount(cell, minlength=len(ends) * size).reshape(-1, size)
    return [_card(spec, total[i], count[i], int(end)) for i, end in enumerate(ends)]


def _card(spec: WordSpec, total: NDArray[np.float64], count: NDArray[np.int64], end: int) -> list[str]:
    measured = np.flatnonzero(count)
    bins = quantile_bins(total[measured] / count[measured])
    words = [value_word(spec.parameters[i], b) for i, b in zip(measured.tolist(), bins.tolist(), strict=True)]
    return [*words, hour_word(end)]
