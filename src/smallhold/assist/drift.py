"""Has the ward changed since the model was fitted? Three monitors with a bound on false alarms, and what follows.

- `inputs`: readings, tails, measuring habits and refusals of every parameter, window by window
- `answers`: the model's mean risk, alerts and abstentions, window by window
- `calibration`: deaths (or whatever is predicted) against predicted probabilities, once a patient, when outcomes arrive

Each is a Shiryaev-Roberts e-detector (Shin, Ramdas and Rinaldo 2022, arXiv:2203.03532). A window's number x in [0, 1]
whose mean is at most u under "no drift" gives the e-value e = 1 + f (x / u - 1), 0 < f < 1, of mean at most 1; the
mirror image tests the other side. Evidence runs M <- (M + 1) e, and a monitor's evidence is the mean of M over streams,
sides and stakes f. Because E[M] grows by at most 1 a window, Markov's inequality gives

    P(false alarm within T windows) <= T / run_length        when the alarm is M >= 3 * run_length for three monitors,

in finite samples, for any distribution, and for any dependence between the streams of one patient. It needs patients
that come independently, and true means within the reference's tolerances. Windows of one patient are *not* independent,
so each position in the stay has detectors of its own, and the bounds add up.

States: ok, watch (evidence 100 times weaker than an alarm; goes away again), drifted (stays until a person
acknowledges it). Time is counted in windows; nothing is read from a clock. Memory does not grow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

import numpy as np

from smallhold.assist.drift_reference import (
    ANSWER_KINDS,
    INPUT_KINDS,
    MODEL,
    DriftReference,
    FloatArray,
    is_in_tail,
    rank_grid,
)
from smallhold.decide.signal import SignalSpec
from smallhold.errors import InputError

INPUTS, ANSWERS, CALIBRATION = "inputs", "answers", "calibration"
MONITORS = (INPUTS, ANSWERS, CALIBRATION)

#: Windows between two false alarms, at the least and on average. At six hours a window a ward of twelve beds fills
#: 17,500 a year.
RUN_LENGTH = 100_000
_WATCH_SHARE = 0.01
_CALM_SHARE = 0.001  # watch ends below this: it does not flicker
_STAKES = np.array([0.15, 0.5, 0.9])
#: Odds of the outcome up to this factor away from the predicted ones are no drift; the detectors bet on these more.
_ODDS_TOLERANCE = 1.25
_ODDS_BETS = (1.5, 2.5, 4.0)
_MOST_EVIDENCE = 1e30
_LEAST_PROBABILITY = 1e-6
_MEMORY = 1 / 20  # weight of the newest window in the means that are shown to people


class DriftState(StrEnum):
    """How a monitor stands."""

    OK = "ok"
    WATCH = "watch"
    DRIFTED = "drifted"


@dataclass(frozen=True, slots=True)
class DriftChange:
    """One monitor came into another state.

    Attributes:
        monitor: One of `MONITORS`.
        state: The new state.
        count: Windows, or outcomes, that the monitor had counted since it was last acknowledged.
        text: Why, in words.
        actor: Who acknowledged; empty unless a person did.
    """

    monitor: str
    state: DriftState
    count: int
    text: str
    actor: str = ""


class DriftMonitor:
    """Watches one model on one ward; shared by all its beds.

    Guarantees: the same windows and outcomes in the same order give the same states; memory does not grow; a monitor
    that has drifted stays so until `acknowledge`.

    Args:
        reference: What is expected.
        signal: The signal door that the reference was fitted with.
        run_length: Windows between two false alarms, at the least and on average.

    Raises:
        InputError: the reference speaks of other parameters, or `run_length` is below 1.
    """

    def __init__(self, reference: DriftReference, signal: SignalSpec, *, run_length: float = RUN_LENGTH) -> None:
        if not run_length >= 1:
            raise InputError(f"drift monitor: run_length must be at least 1 window, got {run_length}")
        names = [(stream.kind, stream.name) for stream in reference.streams]
        inputs = [(kind, parameter) for kind in INPUT_KINDS for parameter in signal.parameters]
        if names not in (inputs, inputs + [(kind, MODEL) for kind in ANSWER_KINDS]):
            raise InputError(
                f"drift monitor: the reference of task {reference.task} was fitted for other parameters",
                hint="fit it again with the task file of this bundle",
            )
        self.reference, self.signal = reference, signal
        self._alarm = len(MONITORS) * run_length
        means = np.array([[np.nan if m is None else m for m in s.means] for s in reference.streams]).T  # (W, S)
        tolerances = np.array([s.tolerances for s in reference.streams]).T
        # (W, S, 2): the mean that is allowed at most, of x for a rise and of 1 - x for a fall. One that reaches 1
        # cannot be exceeded: nothing to bet on.
        allowed = np.stack([means + tolerances, 1 - means + tolerances], axis=2)
        is_open = allowed < 1  # NaN is not
        self._allowed = np.where(is_open, allowed, 1.0)
        first = sum(stream.kind in INPUT_KINDS for stream in reference.streams)
        self._parts = {INPUTS: slice(0, first), ANSWERS: slice(first, None)}
        # A monitor's evidence is a mean over what can be bet on; its weights, (W, S, 2) by monitor.
        self._weights = {
            name: is_open[:, part] / np.maximum(is_open[:, part].sum(axis=(1, 2), keepdims=True), 1) / len(_STAKES)
            for name, part in self._parts.items()
        }
        self.states = dict.fromkeys(MONITORS, DriftState.OK)
        self.reasons = dict.fromkeys(MONITORS, "")
        self.counts = dict.fromkeys(MONITORS, 0)
        self._evidence = np.zeros((*allowed.shape, len(_STAKES)))  # (W, S, 2, F)
        self._seen, self._recent = np.zeros(means.shape), np.zeros(means.shape)  # (W, S), for people to read
        self._odds = np.zeros((2, len(_ODDS_BETS)))
        self._observed, self._expected = 0, 0.0
        self._changes: list[DriftChange] = []

    @property
    def is_drifted(self) -> bool:
        """True when the model must not be relied on."""
        return DriftState.DRIFTED in self.states.values()

    @property
    def reason(self) -> str:
        """Why, in words; empty unless drifted."""
        return "; ".join(self.reasons[name] for name in MONITORS if self.states[name] is DriftState.DRIFTED)

    def follow(self) -> Follower:
        """Begin to watch one patient."""
        return Follower(self)

    def add_window(self, window: int, numbers: FloatArray) -> None:
        """Count one window of one patient.

        Args:
            window: Its position in the stay, 0 to W - 1.
            numbers: (S,) between 0 and 1, NaN where there is none; in the order of the reference's streams.
        """
        given = ~np.isnan(numbers)
        x = np.stack([numbers, 1 - numbers], axis=1)[:, :, None]  # (S, 2, 1)
        e = 1 + _STAKES * (x / self._allowed[window][:, :, None] - 1)
        grown = np.minimum((self._evidence[window] + 1) * e, _MOST_EVIDENCE)
        np.copyto(self._evidence[window], grown, where=given[:, None, None])
        self._seen[window][given] += 1
        weight = np.maximum(1 / self._seen[window][given], _MEMORY)
        self._recent[window][given] += weight * (numbers[given] - self._recent[window][given])
        for name, part in self._parts.items():
            if given[part].any():
                self.counts[name] += 1
                self._judge(name, self._level(name, window), partial(self._strongest, name, window))

    def add_outcome(self, probability: float, has_happened: bool) -> None:
        """Count one patient whose outcome became known; at most once a patient.

        The e-value is a likelihood ratio, as in the risk-adjusted chart of Steiner et al. 2000 (Biostatistics 1:441):
        odds beyond the tolerance against odds at its edge.

        Args:
            probability: What the model said last, calibrated.
            has_happened: Whether it came true.

        Raises:
            InputError: the probability is not one.
        """
        if not 0 <= probability <= 1:
            raise InputError(f"drift monitor: expected a probability, got {probability}")
        p = min(max(probability, _LEAST_PROBABILITY), 1 - _LEAST_PROBABILITY)
        odds = p / (1 - p)
        for side, direction in enumerate((1, -1)):
            edge = odds * _ODDS_TOLERANCE**direction
            for bet, factor in enumerate(_ODDS_BETS):
                beyond = edge * factor**direction
                ratio = (1 + edge) / (1 + beyond) * (beyond / edge if has_happened else 1.0)
                self._odds[side, bet] = min((self._odds[side, bet] + 1) * ratio, _MOST_EVIDENCE)
        self.counts[CALIBRATION] += 1
        self._expected += p
        self._observed += has_happened
        self._judge(
            CALIBRATION,
            float(self._odds.mean()),
            lambda: f"{self._observed} of {self.counts[CALIBRATION]} came true, {self._expected:.1f} were predicted",
        )

    def acknowledge(self, actor: str) -> None:
        """A person has looked into it: what was not ok begins again, and the model is relied on again.

        Raises:
            InputError: nobody is named, or every monitor is ok.
        """
        if not actor:
            raise InputError("acknowledge: expected the name of a person, got an empty actor")
        uneasy = [name for name in MONITORS if self.states[name] is not DriftState.OK]
        if not uneasy:
            raise InputError("acknowledge: every drift monitor is ok, there is nothing to acknowledge")
        for name in uneasy:
            text = f"acknowledged, was {self.states[name].value}: {self.reasons[name]}"
            self._turn(name, DriftState.OK, text, actor)
            self._forget(name)

    def take_changes(self) -> tuple[DriftChange, ...]:
        """Changes of state since the last call, in order; whoever takes them writes them into the journal."""
        changes, self._changes = tuple(self._changes), []
        return changes

    def status(self) -> dict[str, Any]:
        """JSON object: state, count, evidence as a share of what an alarm takes, and the reason, by monitor."""
        return {
            name: {
                "state": self.states[name].value,
                "counted": self.counts[name],
                "evidence": min(1.0, self._highest(name) / self._alarm),
                "reason": self.reasons[name],
            }
            for name in MONITORS
        }

    def _forget(self, name: str) -> None:
        self.counts[name] = 0
        if name == CALIBRATION:
            self._odds[:] = 0
            self._observed, self._expected = 0, 0.0
        else:
            for array in (self._evidence, self._seen, self._recent):
                array[:, self._parts[name]] = 0

    def _level(self, name: str, window: int) -> float:
        return float((self._evidence[window, self._parts[name]].sum(axis=2) * self._weights[name][window]).sum())

    def _highest(self, name: str) -> float:
        if name == CALIBRATION:
            return float(self._odds.mean())
        return max(self._level(name, window) for window in range(self.reference.num_windows))

    def _judge(self, name: str, evidence: float, why: Callable[[], str]) -> None:
        state = self.states[name]
        if state is DriftState.DRIFTED:
            return
        if evidence >= self._alarm:
            self._turn(name, DriftState.DRIFTED, why())
        elif state is DriftState.OK and evidence >= _WATCH_SHARE * self._alarm:
            self._turn(name, DriftState.WATCH, why())
        elif state is DriftState.WATCH and self._highest(name) < _CALM_SHARE * self._alarm:
            self._turn(name, DriftState.OK, "calm again")

    def _turn(self, name: str, state: DriftState, text: str, actor: str = "") -> None:
        self.states[name] = state
        self.reasons[name] = "" if state is DriftState.OK else text
        self._changes.append(DriftChange(name, state, self.counts[name], text, actor))

    def _strongest(self, name: str, window: int) -> str:
        """The three streams with the most evidence, in words."""
        part = self._parts[name]
        by_stream = (self._evidence[window, part] * self._weights[name][window][:, :, None]).max(axis=(1, 2))
        bins, told = self.reference.window_bins, []
        for at in np.argsort(-by_stream, kind="stable")[:3] + part.start:
            stream = self.reference.streams[at]
            mean = stream.means[window]
            if mean is not None and self._seen[window, at] > 0:
                told.append(f"{_words(stream.kind, stream.name)} {self._recent[window, at]:.2f}, expected {mean:.2f}")
        return f"bins {window * bins + 1} to {(window + 1) * bins} of a stay: " + "; ".join(told)


class Follower:
    """One patient's open window; the bed feeds it and drops it with the patient."""

    def __init__(self, monitor: DriftMonitor) -> None:
        self._monitor = monitor
        signal = monitor.signal
        self._index = {name: position for position, name in enumerate(signal.parameters)}
        self._grids = [rank_grid(grid) for grid in signal.grids]
        self._bins = 0
        self._reset()

    def observe(self, code: str, value: float) -> None:
        """An accepted reading, in its canonical unit; parameters that the task does not read are ignored."""
        at = self._index.get(code)
        if at is not None:
            rank = float(np.interp(value, *self._grids[at]))
            self._count[at] += 1
            self._rank[at] += rank
            self._tail[at] += bool(is_in_tail(rank))

    def refuse(self, code: str) -> None:
        """The gate found a reading impossible."""
        at = self._index.get(code)
        if at is not None:
            self._refused[at] = 1.0

    def answer(self, risk: float, *, is_alert: bool, has_abstained: bool) -> None:
        """The model's answer at the end of the open bin."""
        self._answers.append((risk, is_alert, has_abstained))

    def close_bin(self) -> None:
        """The open bin is over; with the window's last one the window is counted."""
        self._bins += 1
        reference = self._monitor.reference
        if self._bins % reference.window_bins:
            return
        window = self._bins // reference.window_bins - 1
        if window < reference.num_windows:
            self._monitor.add_window(window, self._numbers()[: len(reference.streams)])
        self._reset()

    def _numbers(self) -> FloatArray:
        with np.errstate(invalid="ignore"):
            inputs = (self._rank / self._count, self._tail / self._count, self._count > 0, self._refused)
        # A window in which the model was not answering throughout says nothing about its answers.
        is_whole = len(self._answers) == self._monitor.reference.window_bins
        risk, alert, abstained = zip(*self._answers, strict=True) if is_whole else ((math.nan,),) * 3
        answers = (np.mean(risk), max(alert), np.mean(abstained))
        return np.concatenate([*inputs, np.array(answers, dtype=np.float64)])

    def _reset(self) -> None:
        size = len(self._index)
        self._count, self._rank, self._tail, self._refused = (np.zeros(size) for _ in range(4))
        self._answers: list[tuple[float, bool, bool]] = []


def _words(kind: str, name: str) -> str:
    return {
        "value": f"mean rank of {name}",
        "tail": f"share of extreme {name}",
        "measured": f"share of patients with {name} measured",
        "refused": f"share of patients with {name} refused",
        "risk": "mean risk",
        "alert": "share of patients with an alert of the model",
        "abstained": "share of abstentions",
    }[kind]
