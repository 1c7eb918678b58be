"""What a replay came to: counts and latencies, folded from its steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from smallhold.assist.alarm import Change
from smallhold.assist.gate import reason_id
from smallhold.assist.step import Step


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds over `n` measurements; all 0 when there are none."""

    n: int
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySummary:
    """Figures of one run, resumed parts included.

    Attributes:
        run_id: Names the run in the journal.
        patients: Number of patients.
        steps: Events handled: readings and ends of bins.
        resumed_steps: How many of them an earlier, interrupted call had journalled; they were derived again.
        observations: Readings.
        accepted: Readings that passed the gate.
        rejected: Readings refused, by their first reason.
        decisions: Valid answers of the model, abstentions included.
        abstained: Answers that were abstentions.
        model_failures: Ends of bins without an answer although there is a model.
        alerts: Announced alerts: priority -> source -> count; escalations are counted apart.
        escalations: Alerts announced again because nobody acknowledged them.
        degraded_steps: Steps during which the floor spoke alone.
        step: Whole event, journal and alert callback left out.
        decision: From the end of a bin to the model's validated answer.
        explain: Explanations.
        wall_seconds: Of this call.
        events_per_second: New events of this call per wall second, journal included.
        journal_error: Why the journal could not be written, None when it could; after that nothing is on record.
    """

    run_id: str
    patients: int
    steps: int
    resumed_steps: int
    observations: int
    accepted: int
    rejected: dict[str, int]
    decisions: int
    abstained: int
    model_failures: int
    alerts: dict[str, dict[str, int]]
    escalations: int
    degraded_steps: int
    step: Latency
    decision: Latency
    explain: Latency
    wall_seconds: float
    events_per_second: float
    journal_error: str | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON object."""
        return asdict(self)


@dataclass(slots=True)
class Tally:
    """Counts while a replay runs."""

    steps: int = 0
    resumed_steps: int = 0
    observations: int = 0
    accepted: int = 0
    decisions: int = 0
    abstained: int = 0
    model_failures: int = 0
    degraded_steps: int = 0
    escalations: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    alerts: dict[str, Counter[str]] = field(default_factory=dict)
    latencies: dict[str, list[float]] = field(default_factory=lambda: {"step": [], "decision": [], "explain": []})

    def add(self, step: Step, *, is_resumed: bool) -> None:
        """Count one step; latencies of a resumed one are those of the journal."""
        self.steps += 1
        self.resumed_steps += is_resumed
        self.degraded_steps += step.is_degraded
        if step.gate is not None:
            self.observations += 1
            self.accepted += step.gate.is_accepted
            if step.gate.reasons:
                self.rejected[reason_id(step.gate.reasons[0])] += 1
        if step.risk is not None:
            self.decisions += 1
            self.abstained += step.risk.has_abstained
        self.model_failures += step.model_error is not None
        for change in step.changes:
            if change.change is Change.RAISED:
                self.alerts.setdefault(change.alert.priority.value, Counter())[change.alert.source] += 1
            elif change.change is Change.ESCALATED:
                self.escalations += 1
        for name, value in step.latency_ms.items():
            self.latencies.setdefault(name, []).append(value)

    def summary(self, run_id: str, patients: int, wall_seconds: float, *, journal_error: str | None) -> ReplaySummary:
        """The figures so far."""
        live = self.steps - self.resumed_steps
        return ReplaySummary(
            run_id=run_id,
            patients=patients,
            steps=self.steps,
            resumed_steps=self.resumed_steps,
            observations=self.observations,
            accepted=self.accepted,
            rejected=dict(sorted(self.rejected.items())),
            decisions=self.decisions,
            abstained=self.abstained,
            model_failures=self.model_failures,
            alerts={priority: dict(sorted(sources.items())) for priority, sources in sorted(self.alerts.items())},
            escalations=self.escalations,
            degraded_steps=self.degraded_steps,
            step=latency_of(self.latencies["step"]),
            decision=latency_of(self.latencies["decision"]),
            explain=latency_of(self.latencies["explain"]),
            wall_seconds=wall_seconds,
            events_per_second=live / wall_seconds if wall_seconds > 0 else 0.0,
            journal_error=journal_error,
        )


def latency_of(values: Sequence[float]) -> Latency:
    """Quantiles of measured milliseconds."""
    if not values:
        return Latency(0, 0.0, 0.0, 0.0)
    p50, p99 = np.percentile(values, (50, 99))
    return Latency(len(values), float(p50), float(p99), float(max(values)))
