"""Silent weeks: what a model on trial would have said, beside what the floor did say and what became of the patients.

`SilentTally` folds the steps of a silent replay. An *alert* is a new call of people or one of a higher priority,
MEDIUM or above; repeats because nobody acknowledged it are not counted. Floor and model are counted each as if it were
alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from smallhold.assist.alarm import AlarmChange, Change, urgency
from smallhold.assist.drift import DriftMonitor
from smallhold.assist.replay_summary import latency_of
from smallhold.assist.step import Step
from smallhold.records import Priority

_HOUR_MS = 3_600_000
_LEAST_URGENCY = urgency(Priority.MEDIUM)
_Z95 = 1.959964


@dataclass(frozen=True, slots=True)
class Share:
    """`k` of `n`, with Wilson's 95 % interval (Wilson 1927); all None of nobody.

    The interval takes patients as independent.
    """

    k: int
    n: int
    share: float | None
    low: float | None
    high: float | None


def share_of(k: int, n: int) -> Share:
    """`k` of `n` with its interval."""
    if n == 0:
        return Share(k, n, None, None, None)
    p, z2 = k / n, _Z95**2
    middle, spread = p + z2 / (2 * n), _Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    low, high = (middle - spread) / (1 + z2 / n), (middle + spread) / (1 + z2 / n)
    return Share(k, n, p, max(0.0, low), min(1.0, high))


@dataclass(slots=True)
class _Patient:
    model_ms: int | None = None
    floor_ms: int | None = None
    model_alerts: int = 0
    floor_alerts: int = 0
    end_ms: int = 0
    risk: float | None = None


@dataclass(slots=True)
class SilentTally:
    """Counts while a silent replay runs; a small record a patient.

    Attributes:
        outcomes: Patient to whether what is predicted came true; None or absent where unknown.
        alarm_choice: The choice whose probability is the risk.
        last_ms: The end of a stay's last bin; the outcome is taken as known then.
        drift: Gets the outcomes; None when drift is not watched.
    """

    outcomes: Mapping[str, bool | None]
    alarm_choice: str
    last_ms: int
    drift: DriftMonitor | None = None
    steps: int = 0
    decisions: int = 0
    abstained: int = 0
    failures: int = 0
    decision_ms: list[float] = field(default_factory=list)
    timeline: list[dict[str, Any]] = field(default_factory=list)
    patients: dict[str, _Patient] = field(default_factory=dict)

    def add(self, step: Step) -> None:
        """Count one step."""
        patient = self.patients.setdefault(step.patient, _Patient())
        self.steps += 1
        self.failures += step.model_error is not None
        if step.risk is not None:
            self.decisions += 1
            self.abstained += step.risk.has_abstained
            self.decision_ms.append(step.risk.latency_ms)
            patient.risk = step.risk.probabilities[self.alarm_choice]
        patient.end_ms = max(patient.end_ms, step.t_ms)
        for change in step.withheld:
            if _is_alert(change):
                patient.model_alerts += 1
                patient.model_ms = step.t_ms if patient.model_ms is None else patient.model_ms
        for change in step.changes:
            if _is_alert(change) and change.alert.source == "floor":
                patient.floor_alerts += 1
                patient.floor_ms = step.t_ms if patient.floor_ms is None else patient.floor_ms
        hours = sum(item.end_ms for item in self.patients.values()) // _HOUR_MS if step.drift else 0
        self.timeline += [{"patient_hours": hours, **asdict(change)} for change in step.drift]
        outcome = self.outcomes.get(step.patient)
        is_over = step.window is not None and step.t_ms >= self.last_ms
        if is_over and self.drift is not None and outcome is not None and patient.risk is not None:
            self.drift.add_outcome(patient.risk, outcome)

    def report(self, *, is_complete: bool) -> dict[str, Any]:
        """JSON object with everything that was counted so far."""
        everyone = self.patients
        known = {name: outcome for name in everyone if (outcome := self.outcomes.get(name)) is not None}
        days = sum(item.end_ms for item in everyone.values()) / (24 * _HOUR_MS)
        groups: dict[str, list[str]] = {"both": [], "only_model": [], "only_floor": [], "neither": []}
        for name, item in everyone.items():
            groups[_group(item)].append(name)
        return {
            "is_complete": is_complete,
            "patients": len(everyone),
            "patient_days": round(days, 3),
            "events": sum(known.values()),
            "outcomes_known": len(known),
            "answers": {"decisions": self.decisions, "abstained": self.abstained, "failures": self.failures},
            "decision": asdict(latency_of(self.decision_ms)),
            "model": self._alone("model_alerts", days, known),
            "floor": self._alone("floor_alerts", days, known),
            "agreement": {
                name: {"patients": len(who), "events": asdict(_events(who, known))} for name, who in groups.items()
            },
            "model_before_floor": {
                "both": _lead([everyone[name] for name in groups["both"]]),
                "both_with_event": _lead([everyone[name] for name in groups["both"] if known.get(name)]),
            },
            "drift": None if self.drift is None else {"now": self.drift.status(), "changes": self.timeline},
        }

    def _alone(self, which: str, days: float, known: Mapping[str, bool]) -> dict[str, Any]:
        count = sum(getattr(item, which) for item in self.patients.values())
        called = [name for name, item in self.patients.items() if getattr(item, which)]
        events = [name for name, has_happened in known.items() if has_happened]
        return {
            "alerts": count,
            "alerts_per_patient_day": round(count / days, 4) if days else None,
            "patients_alerted": len(called),
            "ppv": asdict(_events(called, known)),
            "sensitivity": asdict(
                share_of(sum(getattr(self.patients[name], which) > 0 for name in events), len(events))
            ),
        }


def _is_alert(change: AlarmChange) -> bool:
    return change.change is Change.RAISED and urgency(change.alert.priority) >= _LEAST_URGENCY


def _group(item: _Patient) -> str:
    if item.model_alerts:
        return "both" if item.floor_alerts else "only_model"
    return "only_floor" if item.floor_alerts else "neither"


def _events(who: list[str], known: Mapping[str, bool]) -> Share:
    outcomes = [known[name] for name in who if name in known]
    return share_of(sum(outcomes), len(outcomes))


def _lead(items: list[_Patient]) -> dict[str, Any]:
    """Hours from the model's first alert to the floor's first; negative where the floor was earlier."""
    hours = sorted(
        (item.floor_ms - item.model_ms) / _HOUR_MS
        for item in items
        if item.floor_ms is not None and item.model_ms is not None
    )
    return {
        "patients": len(hours),
        "model_first": sum(hour > 0 for hour in hours),
        "median_hours": round(median(hours), 2) if hours else None,
    }
