"""What a ward's alarms did to the people on it, told by the journal.

* An *alarm* is a call of people for something new: an announced `raised` or `reactivated`. Calls because nobody
  answered (`escalated`) are counted apart.
* A bed *sounds* while an alert of it stands that nobody has acknowledged, less the time for which people switched the
  sound off. Several at once sound once.
* A *flood* begins with the tenth alarm within ten minutes and ends when fewer than five are left in ten minutes: the
  measure of alarm management in industry (ANSI/ISA-18.2, EEMUA 191), per bed, and per ward where beds share a clock.
* *Overridden* is what people said no to: `feedback` records and acts of kind `override`, of all that were answered.

Times are those of the records' clock. A patient's days run from the first to the last event of theirs.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from smallhold.assist.alarm_condition import AlarmChange, Change
from smallhold.assist.alarm_inactivation import InactivationChange, InactivationEvent, InactivationState
from smallhold.assist.alarm_log import KIND as ALARM
from smallhold.assist.alarm_log import AlarmEntry
from smallhold.assist.live import STAFF
from smallhold.assist.replay import STEP
from smallhold.assist.step import Step
from smallhold.device.journal import Journal
from smallhold.errors import InputError
from smallhold.records import AlertState, Feedback, Priority, from_json

FLOOD_ALARMS, FLOOD_OVER_ALARMS, FLOOD_MS = 10, 5, 600_000
FEEDBACK = "feedback"
_ACT = "act"
_DAY_MS = 86_400_000
_NEW = (Change.RAISED, Change.REACTIVATED)

Span = tuple[int, int]


@dataclass(slots=True)
class _Sounding:
    """An alert that nobody has acknowledged."""

    since_ms: int
    called_ms: int
    priority: Priority
    condition: str


@dataclass(slots=True)
class _Bed:
    first_ms: int
    last_ms: int
    is_utc: bool = False
    alarms: list[tuple[int, Priority]] = field(default_factory=list)
    sounding: dict[str, _Sounding] = field(default_factory=dict)
    spans: list[tuple[int, int, Priority, str]] = field(default_factory=list)
    answers_ms: list[int] = field(default_factory=list)
    off: dict[tuple[str, str], tuple[int, InactivationEvent]] = field(default_factory=dict)
    quiet: list[tuple[int, int, InactivationState, str]] = field(default_factory=list)


class AlarmTally:
    """Counts while a journal is read, in its order."""

    def __init__(self) -> None:
        self.beds: dict[str, _Bed] = {}
        self.escalations = 0
        self.withheld = 0
        self.sources: Counter[str] = Counter()
        self.responses: Counter[str] = Counter()
        self.inactivations: Counter[str] = Counter()
        self.broken = 0
        self.risks: dict[str, list[float]] = defaultdict(list)

    def add_step(self, step: Step, alarm_choice: str | None = None) -> None:
        """One event at a bed; `alarm_choice` names the probability that is the risk."""
        bed = self._bed(step.patient, step.t_ms)
        bed.is_utc |= step.provenance.clock == "utc"
        for event in step.inactivations:
            self._inactivate(event)
        for change in step.changes:
            self._change(step.patient, change)
        if step.window is not None and alarm_choice is not None:
            risk = None if step.risk is None else step.risk.probabilities.get(alarm_choice)
            self.risks[step.patient].append(float("nan") if risk is None else risk)

    def add_alarm(self, entry: AlarmEntry) -> None:
        """One entry of the alarm log."""
        self._bed(entry.patient, entry.t_ms)
        for event in entry.inactivations:
            self._inactivate(event)
        for change in entry.changes:
            self._change(entry.patient, change)

    def add_acknowledgement(self, patient: str, condition: str, t_ms: int) -> None:
        """A person acknowledged what stands of a condition, as a live ward's `staff` entry says it."""
        bed = self._bed(patient, t_ms)
        for name, item in list(bed.sounding.items()):
            if item.condition == condition:
                bed.spans.append((item.since_ms, t_ms, item.priority, condition))
                bed.answers_ms.append(t_ms - item.called_ms)
                del bed.sounding[name]

    def add_response(self, response: str) -> None:
        """What a person made of an alert or a proposal: `accept`, `override` or `snooze`."""
        self.responses[response] += 1

    def report(self) -> dict[str, Any]:
        """JSON object with everything that was counted."""
        beds = self.beds.values()
        days = sum(bed.last_ms - bed.first_ms for bed in beds) / _DAY_MS
        alarms = Counter(priority.value for bed in beds for _, priority in bed.alarms)
        audible, by_priority = 0, Counter[str]()
        for bed in beds:
            spans = list(_spans(bed))
            audible += _length(_union([span for span, _ in spans]))
            for priority in Priority:
                by_priority[priority.value] += _length(_union([span for span, own in spans if own is priority]))
        answers = [ms for bed in beds for ms in bed.answers_ms]
        quiet = Counter[str]()
        for bed in beds:
            for start, end, state, _ in _quiet(bed):
                quiet[state.value] += end - start
        answered = self.responses["accept"] + self.responses["override"]
        return {
            "patients": len(self.beds),
            "patient_days": round(days, 4),
            "alarms": {
                name: {"n": alarms[name], "per_patient_day": _rate(alarms[name], days)}
                for name in (priority.value for priority in Priority)
            },
            "alarms_by_source": dict(sorted(self.sources.items())),
            "escalations": self.escalations,
            "withheld": self.withheld,
            "audible": {
                "seconds": round(audible / 1000, 1),
                "per_patient_day": _rate(audible / 1000, days),
                "by_priority": {name: round(ms / 1000, 1) for name, ms in sorted(by_priority.items()) if ms},
            },
            "acknowledgement_seconds": _quantiles(answers),
            "never_acknowledged": sum(len(bed.sounding) for bed in beds),
            "inactivations": {
                name: {"n": self.inactivations[name], "seconds": round(quiet[name] / 1000, 1)}
                for name in sorted(self.inactivations)
            },
            "inactivations_broken_by_an_alarm": self.broken,
            "responses": dict(sorted(self.responses.items())),
            "override_rate": None if not answered else round(self.responses["override"] / answered, 4),
            "floods": self._floods(),
        }

    def risk_matrix(self) -> tuple[list[str], np.ndarray[Any, np.dtype[np.float64]]]:
        """Patients whose model answered at every end of a bin, as many as the most had, and their risks (N, T)."""
        full = {who: risks for who, risks in self.risks.items() if not np.isnan(risks).any()}
        length = max(map(len, full.values()), default=0)
        chosen = [who for who, risks in full.items() if len(risks) == length]
        return chosen, np.array([full[who] for who in chosen], dtype=np.float64).reshape(len(chosen), length)

    def _floods(self) -> dict[str, Any]:
        per_bed = [flood for bed in self.beds.values() for flood in find_floods([t_ms for t_ms, _ in bed.alarms])]
        told: dict[str, Any] = {"per_bed": _flood_report(per_bed)}
        if self.beds and all(bed.is_utc for bed in self.beds.values()):
            together = find_floods(sorted(t_ms for bed in self.beds.values() for t_ms, _ in bed.alarms))
            told["per_ward"] = _flood_report(together)
        return told

    def _bed(self, patient: str, t_ms: int) -> _Bed:
        bed = self.beds.setdefault(patient, _Bed(t_ms, t_ms))
        bed.first_ms, bed.last_ms = min(bed.first_ms, t_ms), max(bed.last_ms, t_ms)
        return bed

    def _change(self, patient: str, change: AlarmChange) -> None:
        bed, alert, t_ms = self._bed(patient, change.t_ms), change.alert, change.t_ms
        self.escalations += change.change is Change.ESCALATED
        self.withheld += change.is_withheld
        if change.is_announced and change.change in _NEW:
            bed.alarms.append((t_ms, alert.priority))
            self.sources[alert.source] += 1
        standing = bed.sounding.get(alert.id)
        if alert.state in (AlertState.ACTIVE, AlertState.LATCHED):
            if standing is not None and standing.priority is not alert.priority:
                bed.spans.append((standing.since_ms, t_ms, standing.priority, standing.condition))
            is_new = standing is None or change.change in _NEW
            called_ms = t_ms if is_new or standing is None else standing.called_ms
            is_same = standing is not None and standing.priority is alert.priority
            since_ms = standing.since_ms if standing is not None and is_same else t_ms
            bed.sounding[alert.id] = _Sounding(since_ms, called_ms, alert.priority, alert.condition)
        elif standing is not None:
            bed.spans.append((standing.since_ms, t_ms, standing.priority, standing.condition))
            del bed.sounding[alert.id]
            if change.actor:
                bed.answers_ms.append(t_ms - standing.called_ms)

    def _inactivate(self, event: InactivationEvent) -> None:
        item = event.inactivation
        bed = self._bed(item.patient, event.t_ms)
        key = (item.condition, item.state.value)
        earlier = bed.off.pop(key, None)
        if earlier is not None:
            bed.quiet.append((earlier[0], event.t_ms, item.state, item.condition))
        if event.change is InactivationChange.BEGAN:
            self.inactivations[item.state.value] += 1
            bed.off[key] = (event.t_ms, event)
        self.broken += event.change is InactivationChange.BROKEN


def read_alarms(journal: Journal, alarm_choice: str | None = None) -> AlarmTally:
    """Count what a journal holds; what was erased is not counted.

    Args:
        journal: Steps, alarm entries, what staff did, feedback and acts are read.
        alarm_choice: The choice of the model whose probability is the risk, None to leave risks out.

    Raises:
        JournalError: an entry cannot be read.
    """
    tally = AlarmTally()
    for entry, payload in journal.entries():
        if payload is None:
            continue
        if entry.kind == STEP:
            tally.add_step(Step.from_payload(payload), alarm_choice)
        elif entry.kind == ALARM:
            tally.add_alarm(AlarmEntry.from_payload(payload))
        elif entry.kind == STAFF:
            value = json.loads(payload)
            if value.get("action") == "acknowledge":
                tally.add_acknowledgement(value["patient"], value["condition"], value["t_ms"])
        elif entry.kind == FEEDBACK:
            record = _feedback(payload)
            if record is not None:
                tally.add_response(record.response)
        elif entry.kind == _ACT:
            kind = json.loads(payload).get("kind")
            if kind in ("accept", "override", "snooze"):
                tally.add_response(kind)
    return tally


def find_floods(times_ms: Sequence[int]) -> list[tuple[int, int, int]]:
    """Floods among alarms.

    Args:
        times_ms: When people were called, ascending.

    Returns:
        For each: when its first alarm came, when its last one came, and how many there were.
    """
    floods: list[tuple[int, int, int]] = []
    recent: deque[int] = deque()
    start, count, last = None, 0, 0
    for t_ms in times_ms:
        while recent and t_ms - recent[0] >= FLOOD_MS:
            recent.popleft()
        # Before this alarm: has the flood ebbed away?
        if start is not None and len(recent) < FLOOD_OVER_ALARMS:
            floods.append((start, last, count))
            start = None
        recent.append(t_ms)
        if start is not None:
            count += 1
        elif len(recent) >= FLOOD_ALARMS:
            start, count = recent[0], len(recent)
        last = t_ms
    if start is not None:
        floods.append((start, last, count))
    return floods


def _feedback(payload: bytes) -> Feedback | None:
    try:
        record = from_json(json.loads(payload))
    except (ValueError, InputError, AttributeError):
        return None  # another component's entry of the same name
    return record if isinstance(record, Feedback) else None


def _spans(bed: _Bed) -> Iterator[tuple[Span, Priority]]:
    """When each alert sounded, less what people switched off for it."""
    open_spans = [(item.since_ms, bed.last_ms, item.priority, item.condition) for item in bed.sounding.values()]
    for start, end, priority, condition in [*bed.spans, *open_spans]:
        if priority is Priority.INFO or end <= start:
            continue
        off = [
            (since, until)
            for since, until, state, about in _quiet(bed)
            if about in ("", condition) and not (state is InactivationState.AUDIO_OFF and priority is Priority.HIGH)
        ]
        yield from ((span, priority) for span in _without((start, end), _union(off)))


def _quiet(bed: _Bed) -> list[tuple[int, int, InactivationState, str]]:
    """Inactivations, those still in force up to their own end or the last event."""
    standing = []
    for since, event in bed.off.values():
        until = event.inactivation.until_ms
        end = bed.last_ms if until is None else min(until, bed.last_ms)
        standing.append((since, max(since, end), event.inactivation.state, event.inactivation.condition))
    return [*bed.quiet, *standing]


def _union(spans: Iterable[Span]) -> list[Span]:
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def _without(span: Span, holes: Sequence[Span]) -> Iterator[Span]:
    start, end = span
    for hole_start, hole_end in holes:
        if hole_end <= start or hole_start >= end:
            continue
        if hole_start > start:
            yield start, hole_start
        start = max(start, hole_end)
    if start < end:
        yield start, end


def _length(spans: Iterable[Span]) -> int:
    return sum(end - start for start, end in spans)


def _rate(number: float, days: float) -> float | None:
    return round(number / days, 4) if days else None


def _quantiles(values_ms: Sequence[int]) -> dict[str, float | int | None]:
    if not values_ms:
        return {"n": 0, "p50": None, "p90": None, "max": None}
    p50, p90 = np.percentile(values_ms, (50, 90))
    told = {"p50": p50, "p90": p90, "max": max(values_ms)}
    return {"n": len(values_ms), **{name: round(float(ms) / 1000, 1) for name, ms in told.items()}}


def _flood_report(floods: Sequence[tuple[int, int, int]]) -> dict[str, Any]:
    return {
        "n": len(floods),
        "alarms": sum(count for _, _, count in floods),
        "longest_seconds": round(max((last - first for first, last, _ in floods), default=0) / 1000, 1),
    }
