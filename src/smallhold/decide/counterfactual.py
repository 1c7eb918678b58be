"""The smallest change of the newest readings with which an alert would not have been given; decided again, not guessed.

Source of the idea: Wachter, Mittelstadt and Russell 2017, arXiv:1711.00399. The newest reading of a parameter takes
other values from the parameter's own quantiles among the training readings, so that none is impossible; its channels
are computed anew from the bin in which it arrived, and the trunk decides. A value moves towards the median and beyond;
the size of a change is its distance on the rank-Gauss scale, in standard deviations. First one parameter alone, then
two that move step by step together.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from smallhold.decide.signal import CHANNELS, RankGauss, SignalSpec, SignalState

if TYPE_CHECKING:
    from smallhold.decide.deletion import Explanation, Trial
    from smallhold.decide.local import TaskSession

#: Values tried are so far apart, in standard deviations, up to the ends of the quantile grid (about 2.9).
_STEP = 0.3
_SAME = 1e-6
_PARAMETERS = 4
_PAIRS = 3


@dataclass(frozen=True, slots=True)
class Change:
    """One parameter's newest reading at another value: which, what, and how far away in standard deviations."""

    code: str
    value: float
    distance: float


@dataclass(frozen=True, slots=True)
class Otherwise:
    """What would have made the difference.

    Attributes:
        changes: One or two; none when nothing was found.
        probability: Of the positive choice with these changes, None when nothing was found.
        decisions: How often the trunk decided again.
    """

    changes: tuple[Change, ...]
    probability: float | None
    decisions: int


def find_counterfactual(session: TaskSession, field: str, explanation: Explanation) -> Otherwise:
    """Look for the smallest change that takes the positive choice below the alert threshold.

    Args:
        session: Left as it was.
        field: Of the task.
        explanation: Of this decision; the parameters that it cites are changed, no others.

    Returns:
        The smallest single change, else the smallest of a few pairs; every one returned was really decided.

    Raises:
        DecisionError: no bin was closed yet, or the field's choices have a common beginning.
    """
    search = _Search(session, field, explanation.threshold)
    codes = [code for code in explanation.cited if session.readings(code)][:_PARAMETERS]
    return search.single(codes) or search.pair(codes) or Otherwise((), None, search.decisions)


class _Search:
    def __init__(self, session: TaskSession, field: str, threshold: float) -> None:
        self._session, self._field, self._threshold = session, field, threshold
        self._channels = session.channels()
        self._spec = session.task.signal
        self._lowest: dict[str, float] = {}  # the lowest margin that a parameter alone led to
        self._states: dict[str, SignalState] = {}
        self.decisions = 0

    def single(self, codes: Sequence[str]) -> Otherwise | None:
        best: tuple[Change, Trial] | None = None
        for code in codes:
            for change in self._changes(code):
                if best is not None and change.distance >= best[0].distance:
                    break
                trial = self._decide([change])
                self._lowest[code] = min(self._lowest.get(code, np.inf), trial.margin)
                if trial.probability < self._threshold:
                    best = (change, trial)
                    break
        return None if best is None else Otherwise((best[0],), best[1].probability, self.decisions)

    def pair(self, codes: Sequence[str]) -> Otherwise | None:
        ranked = sorted((code for code in codes if code in self._lowest), key=self._lowest.__getitem__)
        found: list[tuple[float, tuple[Change, ...], float]] = []
        for pair in list(combinations(ranked, 2))[:_PAIRS]:
            first, second = (self._changes(code) for code in pair)
            for changes in zip(first, second, strict=False):
                trial = self._decide(changes)
                if trial.probability < self._threshold:
                    found.append((max(change.distance for change in changes), changes, trial.probability))
                    break
        if not found:
            return None
        _, smallest, probability = min(found, key=lambda item: item[0])
        return Otherwise(smallest, probability, self.decisions)

    def _changes(self, code: str) -> list[Change]:
        """Other values for the newest reading, nearest first, in the direction of the median and beyond it."""
        grid = self._spec.grids[self._spec.parameters.index(code)]
        now = self._session.readings(code)[-1][1]
        return [Change(code, value, distance) for distance, value in _other_values(grid, now)]

    def _decide(self, changes: Sequence[Change]) -> Trial:
        self.decisions += 1
        channels, first = self._channels.copy(), len(self._channels) - 1
        for change in changes:
            state, since = self._before(change.code)
            state.observe(change.code, change.value)
            at = self._spec.parameters.index(change.code) * len(CHANNELS)
            for number in range(since, len(channels)):
                channels[number, at : at + len(CHANNELS)] = state.close_bin()
            first = min(first, since)
        return self._session.trial(self._field, channels, first=first)

    def _before(self, code: str) -> tuple[SignalState, int]:
        """The parameter's summaries as they stood before its newest reading, and the bin in which that came."""
        readings = self._session.readings(code)
        since = readings[-1][0]
        if code not in self._states:
            grid = self._spec.grids[self._spec.parameters.index(code)]
            state = SignalState(SignalSpec((code,), (grid,), self._spec.bin_minutes, ()))
            for at, value in readings[:-1]:
                while state.bins_closed < at:
                    state.close_bin()
                state.observe(code, value)
            while state.bins_closed < since:
                state.close_bin()
            self._states[code] = state
        return copy.deepcopy(self._states[code]), since


def _other_values(grid: RankGauss, now: float) -> list[tuple[float, float]]:
    """(distance, value): quantiles in steps of `_STEP`, three significant digits, towards the median; nearest first."""
    here = float(np.interp(now, grid.values, grid.scores))
    scores = np.arange(grid.scores[0], grid.scores[-1] + _STEP / 2, _STEP) if len(grid.scores) > 1 else np.array([])
    values = {float(f"{value:.3g}") for value in np.interp(scores, grid.scores, grid.values)}
    # A whole-numbered scale has no values in between.
    if all(float(value).is_integer() for value in grid.values):
        values = {float(round(value)) for value in values}
    found = [(float(np.interp(value, grid.values, grid.scores)) - here, value) for value in values]
    # At the median there is no way towards it: both directions are tried.
    ways = (-1, 1) if abs(here) < _STEP else (1,) if here < 0 else (-1,)
    return sorted((abs(moved), value) for moved, value in found if abs(moved) > _SAME and np.sign(moved) in ways)
