"""One bed: every reading is gated and scored, every bin is put to the model, and nothing silences the floor.

An event is a reading or the end of a time bin. For each, in this order:

1. The gate accepts or refuses the reading.
2. The floor scores the patient; always, and without waiting for anything.
3. At the end of a bin the specialist takes in what was accepted, and decides. It runs on the watchdog's thread; late,
   wrong or absent, it is passed over and the floor stands alone: `is_degraded`.
4. Floor, model and gate suggest; the policy judges each suggestion that is new.
5. Per alarm condition the most urgent suggestion goes to the alarm state machine.

What the model's silence means:

* A suggestion of the model stands until a *confident* answer below the threshold takes it back: neither an abstention
  nor a failure does.
* An abstention with a risk at or above the threshold calls people as urgently as an answer would.
* A model that is missing or fails is a technical alert, raised once until it answers again.
* The floor's suggestions, and every alert raised meanwhile, are marked `is_degraded`.
* A model whose ward has drifted is demoted: it is asked and its answers are journalled, but they call nobody and take
  nothing back, until a person acknowledges the drift. One technical alert says why.

In silent mode the model is on trial: nothing that it says, or fails to say, reaches a person, and the floor is that of
a ward without a model. What it would have said is in `Step.withheld`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from smallhold.assist.alarm import AlarmChange, AlarmManager, AlarmTimes, Harm, Onset, priority_of, urgency
from smallhold.assist.consult import Consultation
from smallhold.assist.context import Context
from smallhold.assist.drift import DriftMonitor
from smallhold.assist.floor import FloorRules, FloorState, propose
from smallhold.assist.gate import Gate, Limits, Tolerances, reason_id
from smallhold.assist.policy import Profile, decide
from smallhold.assist.specialist import Question, Specialist, Watchdog
from smallhold.assist.step import Step, trace_id
from smallhold.assist.supervision import Supervision
from smallhold.errors import InputError
from smallhold.records import (
    ActionClass,
    Alert,
    Ask,
    Card,
    Effect,
    GateResult,
    Observation,
    Priority,
    Proposal,
    Provenance,
    Risk,
    ScoreSet,
    Verdict,
    Window,
)

MODEL_UNAVAILABLE = "model-unavailable"
MODEL_DRIFTED = "model-drifted"
JOURNAL_UNAVAILABLE = "journal-unavailable"
SIGNAL_STALE = "signal-stale"

_CLOCK_REASONS = frozenset({"clock_back", "clock_future"})
_CONFIRMATIONS = {Effect.NOTIFY_WITH_VETO: 0, Effect.CONFIRM_ONE: 1, Effect.CONFIRM_TWO: 2}
_ASK_EXPIRES_MS = 30 * 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Ward:
    """What all beds of a ward share.

    Attributes:
        run_id: Names the run in every record.
        limits: The sector's knowledge of its signals.
        rules: What the floor alarms on.
        profile: The policy in force.
        question: What the model is asked; None without a model.
        bundle: SHA-256 of the bundle's manifest, None without a model.
        clock: Where the times come from: `utc`, or `stay` for time since admission.
        simulated: True when no person stands behind the data.
        tolerances: Of the gate.
        alarm_times: Delays of the alarm state machine.
        watched: Signal -> longest time in milliseconds that it may be missing before a technical alert.
        consent: What the patients said to messages and treatment; alerts do not depend on it.
        explain_deadline_seconds: An explanation that takes longer is left out; the alert waits this long at most.
    """

    run_id: str
    limits: Limits
    rules: FloorRules
    profile: Profile
    question: Question | None = None
    bundle: str | None = None
    clock: str = "utc"
    simulated: bool = False
    tolerances: Tolerances = field(default_factory=Tolerances)
    alarm_times: AlarmTimes = field(default_factory=AlarmTimes)
    watched: Mapping[str, int] = field(default_factory=dict)
    consent: Literal["given", "unknown", "withheld"] = "unknown"
    explain_deadline_seconds: float = 2.0


class Bedside:
    """Follows one patient; `observe` and `close_bin` take events in time order and return what came of them.

    Guarantees:
        * The floor is scored at every event, whatever the model does, and a HIGH of the floor always reaches the
          alarm state machine.
        * The same events give the same steps, latencies and deadlines apart.
        * The specialist is only ever touched on the watchdog's thread, and gets every accepted reading exactly once
          and in order, even after it was late.

    Args:
        patient: Pseudonymous identifier.
        ward: Shared settings.
        floor: The sector's running scores for this patient.
        specialist: The model beside the bed, None for the floor alone.
        watchdog: Shared by all beds; needed with a specialist.
        monotonic: Stopwatch in seconds, for latencies only.
    """

    def __init__(
        self,
        patient: str,
        ward: Ward,
        floor: FloorState,
        *,
        specialist: Specialist | None = None,
        watchdog: Watchdog | None = None,
        monotonic: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._consultation: Consultation | None = None
        if specialist is not None:
            if watchdog is None or ward.question is None:
                raise InputError("a specialist needs a watchdog, and a question in the ward's settings")
            self._consultation = Consultation(patient, specialist, watchdog, ward.question)
        self.patient = patient
        self.ward = ward
        self.alarms = AlarmManager(ward.alarm_times)
        self._gate = Gate(ward.limits, ward.tolerances)
        self._floor = floor
        self._monotonic = monotonic
        self._number = 0
        self._readings: dict[str, tuple[float, int]] = {}
        self._newest_id: dict[str, str] = {}
        self._bin_start_ms: int | None = None
        self._bin_observations: list[str] = []
        self._has_clock_fault = False
        self._has_journal_failed = False
        self._last_seen_ms: dict[str, int] = {}
        self._standing: dict[tuple[str, str], Proposal] = {}
        self._asked: dict[tuple[str, str], Priority] = {}
        self._conditions: set[str] = set()
        self._supervision = Supervision(ward.alarm_times)

    def supervise(self, drift: DriftMonitor | None = None, *, is_silent: bool = False) -> None:
        """Put the model under supervision; call it before the first event.

        Args:
            drift: Shared by all beds of the ward. When it has drifted, the model is demoted.
            is_silent: The model is on trial and calls nobody.

        Raises:
            InputError: the bed has seen events already.
        """
        if self._number:
            raise InputError("supervise: expected a bed that has seen no event yet")
        self._supervision = Supervision(self.ward.alarm_times, drift, is_silent=is_silent)

    @property
    def is_degraded(self) -> bool:
        """True while the floor speaks alone although a model was to speak beside it; in silent mode none was."""
        consultation, supervision = self._consultation, self._supervision
        if supervision.is_silent:
            return False
        is_speaking = consultation is not None and consultation.is_answering and not consultation.has_abstained
        return not is_speaking or supervision.is_withheld

    def note_journal_failure(self) -> None:
        """The audit trail could not be written: A3 and above are forbidden from now on, and people are told."""
        self._has_journal_failed = True

    def observe(self, observation: Observation, now_ms: int, *, recorded: Step | None = None) -> Step:
        """Handle one reading.

        Args:
            observation: Of this bed's patient.
            now_ms: The present, on the clock of the observation.
            recorded: The journalled step of this event when a run is resumed.

        Raises:
            InputError: the reading belongs to another patient.
        """
        if observation.patient != self.patient:
            raise InputError("observe: the reading belongs to another patient than this bed")
        return self._handle(now_ms, observation, recorded)

    def close_bin(self, t_ms: int, *, recorded: Step | None = None) -> Step:
        """Handle the end of the time bin (the last one's end, `t_ms`].

        Args:
            t_ms: The end of the bin; readings taken at this very time came before it.
            recorded: The journalled step of this event when a run is resumed. A failure of the model that it tells
                of is repeated instead of asking the model; its explanation is taken over.
        """
        return self._handle(t_ms, None, recorded)

    def judge(
        self,
        proposal: Proposal,
        *,
        standing_order: Literal["valid", "expired", "none"] = "none",
        device_class: Literal["closed_loop_cleared", "none"] = "none",
    ) -> Verdict:
        """What the policy makes of a proposal in this bed's present situation."""
        context = Context(
            action=proposal.action,
            priority=proposal.priority,
            standing_order=standing_order,
            device_class=device_class,
            confidence="low" if proposal.has_abstained else "high",
            has_abstained=proposal.has_abstained,
            is_stale=self._has_clock_fault or bool(self._stale_signals(proposal.t_ms)),
            is_degraded=proposal.is_degraded or self.is_degraded,
            has_journal_failed=self._has_journal_failed,
            consent=self.ward.consent,
            is_emergency=proposal.priority is Priority.HIGH,
        )
        return decide(self.ward.profile, context, proposal.provenance)

    def _handle(self, t_ms: int, observation: Observation | None, recorded: Step | None) -> Step:
        started = self._monotonic()
        latency_ms: dict[str, float] = {}
        ward, number = self.ward, self._number
        self._number += 1
        provenance = Provenance(
            trace_id=trace_id(ward.run_id, self.patient, number),
            bundle=ward.bundle,
            profile=ward.profile.digest,
            clock=ward.clock,
            simulated=ward.simulated,
        )
        if not self._last_seen_ms:
            self._last_seen_ms = dict.fromkeys(ward.watched, t_ms)
        gate: GateResult | None = None
        window: Window | None = None
        # (1) The gate.
        if observation is not None:
            # A whole number would come back from the journal as a float.
            observation = replace(observation, value=float(observation.value), provenance=provenance)
            gate, value = self._gate.check(observation, t_ms)
            self._has_clock_fault = any(reason_id(reason) in _CLOCK_REASONS for reason in gate.reasons)
            if value is not None:
                self._take_in(observation, value)
            else:
                self._supervision.refuse(observation.code, gate.reasons)
        # (2) The floor.
        scores = self._floor.scores(t_ms, provenance)
        # (3) The specialist.
        answer: Risk | str | None = None
        if observation is None:
            window = self._end_bin(t_ms, provenance)
            if self._consultation is not None:
                error = None if recorded is None else recorded.model_error
                is_repeat = recorded is not None
                answer = self._consultation.close_bin(t_ms, provenance, recorded_error=error, is_repeat=is_repeat)
                latency_ms["decision"] = (self._monotonic() - started) * 1e3
        risk = replace(answer, latency_ms=latency_ms["decision"]) if isinstance(answer, Risk) else None
        if observation is None:
            self._supervision.close_bin(risk, ward.question)
        drift = self._supervision.take_changes()
        # (4) Suggestions.
        fresh = self._suggest_floor(scores)
        reason: Card | str | None = None
        if risk is not None and self._supervision.is_withheld:
            self._withhold(risk)
        elif risk is not None:
            explaining = self._monotonic()
            model_fresh, reason = self._suggest_model(risk, recorded)
            fresh += model_fresh
            if reason is not None:
                latency_ms["explain"] = (self._monotonic() - explaining) * 1e3
        fresh += self._suggest_technical(t_ms, provenance)
        verdicts = tuple(self.judge(proposal) for proposal in fresh)
        # (5) Alarms.
        changes, asks = self._alarm(t_ms, provenance)
        withheld = self._supervision.follow(t_ms, provenance)
        latency_ms["step"] = (self._monotonic() - started) * 1e3
        return Step(
            run_id=ward.run_id,
            patient=self.patient,
            number=number,
            t_ms=t_ms,
            provenance=provenance,
            observation=observation,
            gate=gate,
            window=window,
            scores=scores,
            risk=risk,
            card=reason if isinstance(reason, Card) else None,
            model_error=answer if isinstance(answer, str) else None,
            explain_error=reason if isinstance(reason, str) else None,
            is_degraded=self.is_degraded,
            proposals=fresh,
            verdicts=verdicts,
            asks=asks,
            changes=changes,
            withheld=withheld,
            drift=drift,
            latency_ms=latency_ms,
        )

    def _take_in(self, observation: Observation, value: float) -> None:
        code, t_ms = observation.code, observation.t_measured_ms
        self._floor.observe(code, value, t_ms)
        if code not in self._readings or t_ms >= self._readings[code][1]:
            self._readings[code] = (value, t_ms)
            self._newest_id[code] = observation.id
        if code in self._last_seen_ms:
            self._last_seen_ms[code] = max(self._last_seen_ms[code], t_ms)
        self._bin_observations.append(observation.id)
        self._supervision.observe(code, value)
        if self._consultation is not None:
            self._consultation.observe(code, value, t_ms)

    def _end_bin(self, t_ms: int, provenance: Provenance) -> Window:
        window = Window(
            patient=self.patient,
            start_ms=self._bin_start_ms or 0,
            end_ms=t_ms,
            observations=tuple(self._bin_observations),
            provenance=provenance,
        )
        self._bin_start_ms, self._bin_observations = t_ms, []
        return window

    def _withhold(self, risk: Risk) -> None:
        """Keep what the model suggests from people; what stood before it was withheld goes on standing."""
        consultation, supervision = self._consultation, self._supervision
        if consultation is not None:
            earlier = supervision.suggestion
            supervision.suggestion = consultation.suggest(risk, earlier=earlier, is_degraded=self.is_degraded)

    def _suggest_floor(self, scores: ScoreSet) -> tuple[Proposal, ...]:
        proposal = propose(self.ward.rules, scores, self._readings, is_degraded=self.is_degraded)
        return self._stand("floor", self.ward.rules.condition, proposal)

    def _suggest_model(self, risk: Risk, recorded: Step | None) -> tuple[tuple[Proposal, ...], Card | str | None]:
        """The model's suggestion if it is new, and its explanation (or why there is none) if it calls people."""
        consultation = self._consultation
        if consultation is None:
            return (), None
        condition = consultation.question.condition
        earlier = self._standing.get(("model", condition))
        others = [p for (_, about), p in self._standing.items() if about == condition and p is not earlier]
        suggestion = consultation.suggest(risk, earlier=earlier, is_degraded=self.is_degraded)
        reason: Card | str | None = None
        # An explanation is slow: it is made for an alert that people are called to because of the model.
        if (
            suggestion is not None
            and suggestion is not earlier
            and all(urgency(suggestion.priority) > urgency(other.priority) for other in others)
            and self.alarms.would_announce(self.patient, condition, suggestion.priority, risk.t_ms)
        ):
            if recorded is not None:
                reason = recorded.card or recorded.explain_error
            else:
                reason = self._cite(consultation.explain(risk.provenance, self.ward.explain_deadline_seconds))
            if isinstance(reason, Card):
                because = "; ".join(item.text for item in reason.evidence)
                rationale = f"{suggestion.rationale} Carried by: {because}." if because else suggestion.rationale
                suggestion = replace(suggestion, evidence=reason.evidence, rationale=rationale)
        return self._stand("model", condition, suggestion), reason

    def _cite(self, reason: Card | str) -> Card | str:
        """Name the journalled observations behind an explanation; what was never observed cannot be cited."""
        if isinstance(reason, str):
            return reason
        evidence = tuple(
            replace(item, observations=(self._newest_id[item.code],))
            for item in reason.evidence
            if item.code in self._newest_id
        )
        return replace(reason, evidence=evidence)

    def _suggest_technical(self, t_ms: int, provenance: Provenance) -> tuple[Proposal, ...]:
        faults = {f"{SIGNAL_STALE}:{code}": f"No usable reading of {code}" for code in self._stale_signals(t_ms)}
        if not self._supervision.is_silent:
            faults |= self._model_faults()
        if self._has_journal_failed:
            faults[JOURNAL_UNAVAILABLE] = "The journal cannot be written; orders and treatment are locked"
        gone = [condition for source, condition in self._standing if source == "gate" and condition not in faults]
        for condition in gone:
            del self._standing["gate", condition]
        fresh: tuple[Proposal, ...] = ()
        for condition, text in faults.items():
            if ("gate", condition) not in self._standing:
                proposal = Proposal(
                    patient=self.patient,
                    t_ms=t_ms,
                    condition=condition,
                    action=ActionClass.A1,
                    priority=priority_of(Harm.MINOR, Onset.PROMPT),
                    source="gate",
                    has_abstained=False,
                    is_degraded=self.is_degraded,
                    rationale=text,
                    provenance=provenance,
                )
                fresh += self._stand("gate", condition, proposal)
        return fresh

    def _model_faults(self) -> dict[str, str]:
        faults = {}
        if self._consultation is None:
            faults[MODEL_UNAVAILABLE] = "There is no model; the deterministic scores go on alone"
        elif not self._consultation.is_answering:
            faults[MODEL_UNAVAILABLE] = "The model does not answer; the deterministic scores go on alone"
        if self._supervision.fault is not None:
            faults[MODEL_DRIFTED] = self._supervision.fault
        return faults

    def _stale_signals(self, t_ms: int) -> list[str]:
        return [
            code for code, gap_ms in self.ward.watched.items() if t_ms - self._last_seen_ms.get(code, t_ms) > gap_ms
        ]

    def _stand(self, source: str, condition: str, proposal: Proposal | None) -> tuple[Proposal, ...]:
        """Replace what a source suggests; returns the proposal when it says something new."""
        earlier = self._standing.pop((source, condition), None)
        if proposal is None:
            self._asked.pop((source, condition), None)
            return ()
        self._standing[source, condition] = proposal
        is_new = earlier is None or (earlier.priority, earlier.is_degraded) != (proposal.priority, proposal.is_degraded)
        return (proposal,) if is_new else ()

    def _alarm(self, t_ms: int, provenance: Provenance) -> tuple[tuple[AlarmChange, ...], tuple[Ask, ...]]:
        loudest: dict[str, Proposal] = {}
        for (_, condition), proposal in self._standing.items():
            if condition not in loudest or urgency(proposal.priority) > urgency(loudest[condition].priority):
                loudest[condition] = proposal
        changes: tuple[AlarmChange, ...] = ()
        asks: tuple[Ask, ...] = ()
        for condition, proposal in loudest.items():
            effect = self.judge(proposal).effect
            # A profile that would hold back a HIGH does not load; this line is what remains if one ever did.
            if effect is Effect.AUTO or proposal.priority is Priority.HIGH:
                self._conditions.add(condition)
                changes += self.alarms.present(self._alert(proposal, t_ms, provenance))
            elif effect is not Effect.FORBID and self._asked.get((proposal.source, condition)) is not proposal.priority:
                self._asked[proposal.source, condition] = proposal.priority
                asks += (self._ask(proposal, effect, t_ms, provenance),)
        for condition in sorted(self._conditions - set(loudest)):
            changes += self.alarms.absent(self.patient, condition, t_ms)
        return changes + self.alarms.tick(t_ms), asks

    def _alert(self, proposal: Proposal, t_ms: int, provenance: Provenance) -> Alert:
        return Alert(
            id="",
            patient=self.patient,
            t_ms=t_ms,
            kind="technical" if proposal.source == "gate" else "physiological",
            condition=proposal.condition,
            priority=proposal.priority,
            source=proposal.source,
            is_degraded=self.is_degraded,
            message=proposal.rationale,
            provenance=provenance,
        )

    def _ask(self, proposal: Proposal, effect: Effect, t_ms: int, provenance: Provenance) -> Ask:
        return Ask(
            patient=self.patient,
            t_ms=t_ms,
            action=proposal.action,
            question=proposal.rationale,
            confirmations=_CONFIRMATIONS[effect],
            expires_ms=t_ms + _ASK_EXPIRES_MS,
            provenance=provenance,
        )
