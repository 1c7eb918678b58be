"""Questions about what begins next: kidney injury, loss of consciousness, low blood pressure.

Such a question is asked again at every hour, of patients to whom it has not happened yet, and its answer is read from
the record itself: does it begin within the next so many hours? An hour counts only where both answers could have been
seen: `asked_at` says which hours those are, so that a gap in the record is never taken for health.

These are what charts say, not diagnoses: the limits of each are in `known_limits`, and a report repeats them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smallhold.decide.plan import Field
from smallhold.errors import InputError
from smallhold.sectors.hospital.parameters import INDEX
from smallhold.sectors.hospital.stays import Stay

#: Hours of the record, which every data set here has at most.
RECORD_H = 48
NO_EVENT = -1
Minutes = NDArray[np.int32]
Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """One patient's hours.

    Attributes:
        is_asked: (T,) bool: hour t + 1 counts.
        event_minute: (T,) int32: when it begins, seen from hour t + 1; `NO_EVENT` where it does not within the window.
    """

    is_asked: NDArray[np.bool_]
    event_minute: NDArray[np.int32]

    @property
    def label(self) -> NDArray[np.bool_]:
        """(T,) whether it begins within the window; only where `is_asked`."""
        label: NDArray[np.bool_] = self.event_minute != NO_EVENT
        return label


@dataclass(frozen=True, slots=True, kw_only=True)
class OnsetQuestion:
    """A question of this kind.

    Attributes:
        name: Of the task.
        question: In words.
        field_name: Of the decision schema; the answers are `no` and `yes`.
        condition: Alarm condition of an alert.
        wording: Of an alert, for `str.format` with `risk`, `threshold` and `hour`.
        window_h: The answer is about the next so many hours.
        horizons: Hours at which reports measure.
        known_limits: What the label does not mean.
        begins: What the record says of it.
    """

    name: str
    question: str
    field_name: str
    condition: str
    wording: str
    window_h: int
    horizons: tuple[int, ...]
    known_limits: str
    begins: Callable[[Stay, int, int], Asked]

    @property
    def num_bins(self) -> int:
        """Hours at which it is asked: the last one's window ends with the record."""
        return RECORD_H - self.window_h

    @property
    def schema(self) -> tuple[Field, ...]:
        """The decision schema before anything was fitted."""
        return (Field(name=self.field_name, choices=("no", "yes"), positive="yes"),)

    def asked_at(self, stay: Stay) -> Asked:
        """What the record says at every hour, 1 to `num_bins`."""
        return self.begins(stay, self.num_bins, self.window_h)


def series(stay: Stay, *names: str) -> tuple[Minutes, Values]:
    """(E,) minutes and values of one or several parameters together, in order of time."""
    mine = np.isin(stay.code, [INDEX[name] for name in names])
    return stay.minute[mine], stay.value[mine]


def kidney_injury(stay: Stay, num_bins: int, window_h: int) -> Asked:
    """Creatinine rises by 0.3 mg/dL within 48 h, or to 1.5 times the lowest so far.

    Source: KDIGO Clinical Practice Guideline for Acute Kidney Injury 2012, section 2.1.1, the two criteria of serum
    creatinine. The criterion of urine output is not used: it needs the body weight, which half of the stays lack.

    An hour is asked when creatinine was measured before it, began below 4 mg/dL, has not met a criterion yet, and is
    measured again within the window.
    """
    minute, value = series(stay, "Creatinine")
    onset: int | None = None
    for i in range(1, len(value)):
        recent = value[:i][minute[i] - minute[:i] <= 48 * 60]
        rose = len(recent) > 0 and float(value[i]) - float(recent.min()) >= 0.3 - 1e-6
        if rose or value[i] >= 1.5 * value[:i].min():
            onset = int(minute[i])
            break
    asked, event = _nothing(num_bins)
    if not len(value) or value[0] >= 4.0:
        return Asked(asked, event)
    for t in range(num_bins):
        now, end = 60 * (t + 1), 60 * (t + 1 + window_h)
        if minute[0] > now or (onset is not None and onset <= now):
            continue
        asked[t] = bool(((minute > now) & (minute <= end)).any())
        if onset is not None and onset <= end:
            event[t] = onset
    return Asked(asked, event)


def consciousness_loss(stay: Stay, num_bins: int, window_h: int) -> Asked:
    """The Glasgow Coma Scale falls two points or more below its newest value.

    An hour is asked when the scale was charted within the last eight hours and stood above 4, the patient was not
    ventilated within the last four (a tube takes the verbal points away), and it is charted again within the window.
    """
    minute, value = series(stay, "GCS")
    tube, is_on = series(stay, "MechVent")
    tube = tube[is_on > 0]
    asked, event = _nothing(num_bins)
    for t in range(num_bins):
        now, end = 60 * (t + 1), 60 * (t + 1 + window_h)
        before = np.flatnonzero((minute <= now) & (minute > now - 8 * 60))
        if not len(before) or value[before[-1]] <= 4 or ((tube <= now) & (tube > now - 4 * 60)).any():
            continue
        later = (minute > now) & (minute <= end)
        asked[t] = bool(later.any())
        fell = np.flatnonzero(later & (value <= value[before[-1]] - 2))
        if len(fell):
            event[t] = minute[fell[0]]
    return Asked(asked, event)


def hypotension(stay: Stay, num_bins: int, window_h: int) -> Asked:
    """Mean arterial pressure, by line or cuff, below 60 mmHg in two readings one after the other.

    An hour is asked when a pressure was read within the last three hours, none of those was below 65 mmHg, and two or
    more are read within the window.
    """
    minute, value = series(stay, "MAP", "NIMAP")
    is_low = value < 60
    second = np.flatnonzero(is_low[1:] & is_low[:-1]) + 1
    asked, event = _nothing(num_bins)
    for t in range(num_bins):
        now, end = 60 * (t + 1), 60 * (t + 1 + window_h)
        recent = (minute <= now) & (minute > now - 3 * 60)
        if not recent.any() or (value[recent] < 65).any():
            continue
        later = (minute > now) & (minute <= end)
        asked[t] = int(later.sum()) >= 2
        # Both readings belong to the window: the first of a pair may not lie before it.
        fell = [i for i in second if minute[i - 1] > now and minute[i] <= end]
        if fell:
            event[t] = minute[fell[0]]
    return Asked(asked, event)


def _nothing(num_bins: int) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
    return np.zeros(num_bins, dtype=bool), np.full(num_bins, NO_EVENT, dtype=np.int32)


QUESTIONS: tuple[OnsetQuestion, ...] = (
    OnsetQuestion(
        name="kidney-injury",
        question="Will acute kidney injury, by creatinine, begin within the next 24 hours?",
        field_name="kidney_injury_24h",
        condition="kidney injury",
        wording="Estimated risk of acute kidney injury within 24 hours {risk:.0%} after {hour} h in intensive care, at "
        "or above the alert threshold of {threshold:.0%}. Please review fluids, pressure and drugs.",
        window_h=24,
        horizons=(6, 12, 24),
        known_limits="Creatinine is measured about once a day, so that the onset is when it was seen, not when it "
        "began; patients who were not measured again are not counted. Urine output is not part of the label.",
        begins=kidney_injury,
    ),
    OnsetQuestion(
        name="consciousness-loss",
        question="Will the Glasgow Coma Scale fall by two points or more within the next 12 hours?",
        field_name="gcs_fall_12h",
        condition="loss of consciousness",
        wording="Estimated risk of a fall of the Glasgow Coma Scale within 12 hours {risk:.0%} after {hour} h in "
        "intensive care, at or above the alert threshold of {threshold:.0%}. Please examine the patient.",
        window_h=12,
        horizons=(6, 12, 24, 36),
        known_limits="Sedation and intubation lower the scale too and are counted as falls; the data name neither "
        "sedatives nor diagnoses, so that all patients who are not ventilated are asked about, not neurological ones.",
        begins=consciousness_loss,
    ),
    OnsetQuestion(
        name="hypotension",
        question="Will the mean arterial pressure fall below 60 mmHg within the next 12 hours?",
        field_name="hypotension_12h",
        condition="hypotension",
        wording="Estimated risk of a mean arterial pressure below 60 mmHg within 12 hours {risk:.0%} after {hour} h in "
        "intensive care, at or above the alert threshold of {threshold:.0%}. Please review the circulation.",
        window_h=12,
        horizons=(6, 12, 24, 36),
        known_limits="Two low readings one after the other, whatever was done about the first; vasopressors are not on "
        "record, so that a pressure which is held up by them counts as normal.",
        begins=hypotension,
    ),
)
"""Every question of this kind, in the order in which a recipe trains them."""


def question(name: str) -> OnsetQuestion:
    """The question of a task.

    Raises:
        InputError: there is none of that name.
    """
    for item in QUESTIONS:
        if item.name == name:
            return item
    raise InputError(f"no such question: expected one of {', '.join(q.name for q in QUESTIONS)}, got {name!r}")
