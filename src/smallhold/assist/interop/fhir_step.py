"""What one event at a bed became, as FHIR resources; and one decision as a Bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from smallhold.assist.alarm_condition import AlarmChange, Change
from smallhold.assist.interop import fhir_out
from smallhold.assist.interop.fhir_base import Dialect, Json, bundle_of, observation_reference, reference
from smallhold.assist.step import Step
from smallhold.records import Alert

_ACKNOWLEDGED = frozenset({Change.ACKNOWLEDGED})


@dataclass(slots=True)
class HeldAlert:
    """An alert as it stands, with what belongs to it."""

    alert: Alert
    evidence: list[Json] = field(default_factory=list)
    implicated: list[Json] = field(default_factory=list)
    mitigations: list[tuple[int, str]] = field(default_factory=list)

    def to_json(self, dialect: Dialect) -> Json:
        """The DetectedIssue."""
        return fhir_out.detected_issue(
            self.alert,
            dialect,
            evidence=self.evidence,
            implicated=self.implicated,
            mitigations=self.mitigations,
        )


def step_resources(
    step: Step, dialect: Dialect, recorded_ms: int, *, issues: dict[str, HeldAlert] | None = None
) -> list[Json]:
    """Everything that one event became.

    Args:
        step: The event; what a model on trial said is left out.
        dialect: Release and codes.
        recorded_ms: Wall clock of its journal entry.
        issues: Takes the alerts by id, for whoever follows them further; None: they are among the resources.

    Returns:
        Devices, Observation, scores, RiskAssessment, DetectedIssues, Communications, CommunicationRequests and the
        Provenance of all of them, as far as there are any.
    """
    step = step.shown()
    shared, run_id = step.provenance, step.run_id

    def readings(names: Iterable[str]) -> list[Json]:
        return [observation_reference(shared, run_id, step.patient, name) for name in names]

    made: list[Json] = []
    is_accepted = step.observation is not None and step.gate is not None and step.gate.is_accepted
    if step.observation is not None and is_accepted:
        made.append(fhir_out.observation(step.observation, dialect, run_id))
    has_news = bool(step.changes or step.proposals or step.asks or step.window is not None)
    inputs = readings(step.window.observations if step.window is not None else ())
    if step.observation is not None and is_accepted:
        inputs = readings([step.observation.id])
    if not has_news:
        return made
    said: list[Json] = []
    made += [fhir_out.score_observation(step.scores, score, dialect, inputs) for score in step.scores.scores]
    shown = readings(fhir_out.evidence_ids(() if step.card is None else step.card.evidence))
    if step.risk is not None:
        risk = fhir_out.risk_assessment(step.risk, dialect, [*shown, *(one for one in inputs if one not in shown)])
        made.append(risk)
        said = [reference(risk)]
    held = {change.alert.id: _held(step, change, shown, said, readings) for change in step.changes}
    made += [
        fhir_out.alert_communication(change.alert, dialect, change.t_ms, shared.trace_id, change.role)
        for change in step.changes
        if change.is_announced
    ]
    made += [fhir_out.communication_request(ask, dialect) for ask in step.asks]
    if issues is None:
        made += [one.to_json(dialect) for one in held.values()]
    else:
        issues.update(held)
    devices = [fhir_out.device(shared, dialect, is_model=True), fhir_out.device(shared, dialect, is_model=False)]
    if shared.bundle is None:
        devices.pop()
    if not made:
        return devices
    return [*devices, *made, fhir_out.provenance_of(made, shared, recorded_ms, dialect, inputs=inputs)]


def decision_bundle(step: Step, dialect: Dialect, recorded_ms: int) -> Json:
    """One decision as a Bundle of type collection whose references resolve within it, readings of earlier events apart.

    Args:
        step: The event.
        dialect: Release and codes.
        recorded_ms: Wall clock of its journal entry.
    """
    return bundle_of(step_resources(step, dialect, recorded_ms), step.provenance.trace_id)


def _held(
    step: Step,
    change: AlarmChange,
    shown: Sequence[Json],
    said: Sequence[Json],
    readings: Callable[[Iterable[str]], list[Json]],
) -> HeldAlert:
    evidence = [
        one
        for proposal in step.proposals
        if proposal.condition == change.alert.condition
        for one in readings(fhir_out.evidence_ids(proposal.evidence))
    ]
    is_model = change.alert.source == "model"
    evidence += [one for one in shown if is_model and one not in evidence]
    return HeldAlert(change.alert, evidence, list(said) if is_model else [], mitigations_of(change))


def mitigations_of(change: AlarmChange) -> list[tuple[int, str]]:
    """Time and name of whoever acknowledged an alert with this change."""
    return [(change.t_ms, change.actor)] if change.change in _ACKNOWLEDGED and change.actor else []
