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
* Several models may stand beside a bed: the general one and specialists, each with a question, a condition and bins of
  its own. The end of each one's bin is an event; a specialist that fails is a technical alert of its own, and only the
  general model's silence leaves the floor alone.
* A model whose ward has drifted is demoted: it is asked and its answers are journalled, but they call nobody and take
  nothing back, until a person acknowledges the drift. One technical alert says why.

In silent mode the model is on trial: nothing that it says, or fails to say, reaches a person, and the floor is that of
a ward without a model. What it would have said is in `Step.withheld`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from smallhold.assist.alarm import (
    AlarmChange,
    AlarmManager,
    AlarmRules,
    AlarmTimes,
    Harm,
    Onset,
    priority_of,
    urgency,
)
from smallhold.assist.consent import Consent, ConsentState, Purpose
from smallhold.assist.consult import Consultation
from smallhold.assist.context import Context
from smallhold.assist.drift import DriftMonitor
from smallhold.assist.floor import FloorRules, FloorState, propose, with_otherwise
from smallhold.assist.gate import Gate, Limits, Tolerances, reason_id
from smallhold.assist.policy import Profile, decide
from smallhold.assist.specialist import Question, Specialist, Watchdog
from smallhold.assist.step import GENERAL, Step, trace_id
from smallhold.assist.supervision import Supervision
from smallhold.assist.words import change_facts, evidence_fact, load_words, say
from smallhold.errors import InputError
from smallhold.records import (
    ActionClass,
    Alert,
    Ask,
    Card,
    Effect,
    Fact,
    Facts,
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
CLOCK_UNTRUSTED = "clock-untrusted"
SIGNAL_STALE = "signal-stale"

_CLOCK_REASONS = frozenset({"clock_back", "clock_future"})
_CONFIRMATIONS = {Effect.NOTIFY_WITH_VETO: 0, Effect.CONFIRM_ONE: 1, Effect.CONFIRM_TWO: 2}
# What the patient's body says, or the patient; all else (a lost signal, an overdue dose) is a technical condition.
_PHYSIOLOGICAL = frozenset({"floor", "model", "patient"})
#: What a patient may consent to, and what asks for it; scores and alerts do not.
_CONSENTED = {
    ActionClass.A2: Purpose.MESSAGES,
    ActionClass.A3: Purpose.TREATMENT,
    ActionClass.A4: Purpose.TREATMENT,
}
_ASK_EXPIRES_MS = 30 * 60_000


#: (time, provenance) to everything that a source suggests now; what it no longer suggests is over.
Suggest = Callable[[int, Provenance], Iterable[Proposal]]


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
        alarm_times: Delays of the alarm state machine, or all that the ward sets about its alarms.
        watched: Signal -> longest time in milliseconds that it may be missing before a technical alert.
        consent: What holds for a patient of whom nothing else is known; alerts do not depend on it.
        thin_ms: The model gets each signal's median over stretches of so many milliseconds; 0: every reading. The
            floor gets every reading whatever this says, and windows then do not list their readings: there are
            thousands, and the journal has them.
        explain_deadline_seconds: An explanation that takes longer is left out; the alert waits this long at most.
        language: Of the sentences, one of `words.LANGUAGES`. What is decided does not depend on it.
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
    alarm_times: AlarmTimes | AlarmRules = field(default_factory=AlarmTimes)
    watched: Mapping[str, int] = field(default_factory=dict)
    consent: ConsentState = "unknown"
    thin_ms: int = 0
    explain_deadline_seconds: float = 2.0
    language: str = "en"


@dataclass(slots=True)
class _Bin:
    """The open bin of one model: when it began, and what came in it."""

    start_ms: int | None = None
    observations: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Begun:
    """A bin whose answer is awaited."""

    task: str
    start_ms: int
    end_ms: int
    observations: tuple[str, ...]
    stopwatch: float


class Bedside:
    """Follows one patient; `observe` and `close_bin` take events in time order and return what came of them.

    Guarantees:
        * The floor is scored at every event, whatever the model does, and a HIGH of the floor always reaches the
          alarm state machine.
        * The same events give the same steps, latencies and deadlines apart.
        * The specialist is only ever touched on the watchdog's thread, and gets every accepted reading exactly once
          and in order, even after it was late.

    Attributes:
        others: Further sources of suggestions, asked at every event: each says all that it suggests at that time.
        consents: What this patient said, in force from the next decision on; empty: what the ward's settings say.

    Args:
        patient: Pseudonymous identifier.
        ward: Shared settings.
        floor: The sector's running scores for this patient.
        specialist: The general model beside the bed, None for the floor alone.
        beside: Specialists beside it, each with its question; no two models of a bed share a task or a condition.
        watchdog: Shared by all beds; needed with a specialist.
        monotonic: Stopwatch in seconds, for latencies only.
        alarms: The bed's alarms as they stood before a restart; default: a bed without any.
    """

    def __init__(
        self,
        patient: str,
        ward: Ward,
        floor: FloorState,
        *,
        specialist: Specialist | None = None,
        beside: Sequence[tuple[Question, Specialist]] = (),
        watchdog: Watchdog | None = None,
        monotonic: Callable[[], float] = time.perf_counter,
        alarms: AlarmManager | None = None,
    ) -> None:
        self._models: dict[str, Consultation] = {}
        if specialist is not None:
            if watchdog is None or ward.question is None:
                raise InputError("a specialist needs a watchdog, and a question in the ward's settings")
            self._models[GENERAL] = Consultation(patient, specialist, watchdog, ward.question, thin_ms=ward.thin_ms)
        for question, model in beside:
            if watchdog is None or specialist is None:
                raise InputError(f"specialist {question.task}: expected a general model and a watchdog beside it")
            taken = [other.question for other in self._models.values()]
            if any(question.task == one.task or question.condition == one.condition for one in taken):
                raise InputError(
                    f"specialist {question.task}: expected a task and a condition that no other model of the bed has, "
                    f"got the condition {question.condition!r}"
                )
            self._models[question.task] = Consultation(patient, model, watchdog, question, thin_ms=ward.thin_ms)
        self.patient = patient
        self.ward = ward
        self._words = load_words(ward.language)
        self.alarms = AlarmManager(ward.alarm_times) if alarms is None else alarms
        self.others: dict[str, Suggest] = {}
        self.consents: Mapping[Purpose, Consent] = {}
        self._gate = Gate(ward.limits, ward.tolerances)
        self._floor = floor
        self._monotonic = monotonic
        self._number = 0
        self._readings: dict[str, tuple[float, int]] = {}
        self._newest_id: dict[str, str] = {}
        self._bins = {task: _Bin() for task in (GENERAL, *self._models)}
        self._begun: _Begun | None = None
        self._has_clock_fault = False
        self._is_clock_untrusted = False
        self._has_journal_failed = False
        self._last_seen_ms: dict[str, int] = {}
        self._standing: dict[tuple[str, str], Proposal] = {}
        self._asked: dict[tuple[str, str], Priority] = {}
        self._conditions = {alert.condition for alert in self.alarms.current(patient)}
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
    def is_silent(self) -> bool:
        """True where the model is on trial."""
        return self._supervision.is_silent

    @property
    def is_degraded(self) -> bool:
        """True while the floor speaks alone although a model was to speak beside it; in silent mode none was."""
        consultation, supervision = self.consultation, self._supervision
        if self.is_silent:
            return False
        is_speaking = consultation is not None and consultation.is_answering and not consultation.has_abstained
        return not is_speaking or supervision.is_withheld

    @property
    def consultation(self) -> Consultation | None:
        """The general model beside the bed, as the bed asks it; None for the floor alone."""
        return self._models.get(GENERAL)

    @property
    def consultations(self) -> Mapping[str, Consultation]:
        """Every model beside the bed by its task; the general one is called `GENERAL`."""
        return self._models

    @property
    def readings(self) -> Mapping[str, tuple[float, int]]:
        """The newest accepted reading of every signal: value in the canonical unit, and when it was measured."""
        return self._readings

    def note_clock_fault(self, *, is_faulty: bool) -> None:
        """This machine's own clock cannot be trusted, or can again: until then nothing is ordered or started."""
        self._is_clock_untrusted = is_faulty

    def note_journal_failure(self, *, is_failing: bool = True) -> None:
        """The audit trail cannot be written, or can again: meanwhile A3 and above are forbidden, people are told."""
        self._has_journal_failed = is_failing

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

    def close_bin(self, t_ms: int, *, task: str = GENERAL, recorded: Step | None = None) -> Step:
        """Handle the end of a model's time bin (the last one's end, `t_ms`].

        Args:
            t_ms: The end of the bin; readings taken at this very time came before it.
            task: Whose bin it is.
            recorded: The journalled step of this event when a run is resumed. A failure of the model that it tells
                of is repeated instead of asking the model; its explanation is taken over.

        Raises:
            InputError: no model of that task stands beside the bed, or a bin was begun and not ended.
        """
        if self._begun is not None:
            raise InputError(f"close_bin: the bin that ended at {self._begun.end_ms} ms waits for end_bin")
        return self._handle(t_ms, None, recorded, task=self._known(task))

    def begin_bin(self, t_ms: int, *, task: str = GENERAL) -> None:
        """End a model's time bin at `t_ms` and ask it without waiting; readings may be observed meanwhile.

        `end_bin` makes the step of it, once it `has_answered`. For live beds: what arrives while the model thinks is
        scored and alarmed at once.

        Args:
            t_ms: The end of the bin; readings taken at this very time came before it.
            task: Whose bin it is.

        Raises:
            InputError: a bin was begun before and not ended, or no model of that task stands beside the bed.
        """
        if self._begun is not None:
            raise InputError(f"begin_bin: the bin that ended at {self._begun.end_ms} ms waits for end_bin")
        ended = self._bins[self._known(task)]
        self._begun = _Begun(task, ended.start_ms or 0, t_ms, tuple(ended.observations), self._monotonic())
        self._bins[task] = _Bin(t_ms)
        if task in self._models:
            self._models[task].begin_bin(t_ms, self._provenance(self._number))

    @property
    def has_answered(self) -> bool:
        """True when `end_bin` need not wait: the model has answered, failed, or had its time."""
        consultation = self._begun_consultation
        return consultation is None or consultation.has_answered(lambda risk: self._needs_card(consultation, risk))

    @property
    def is_unexplained(self) -> bool:
        """True when people will be called because of the answer, and `begin_explaining` is still to be called."""
        consultation = self._begun_consultation
        return consultation is not None and consultation.is_unexplained

    def begin_explaining(self) -> None:
        """Ask why the model answered as it did, without waiting; `has_answered` is true again when that is known."""
        if self._begun_consultation is not None:
            self._begun_consultation.begin_explaining(self.ward.explain_deadline_seconds)

    @property
    def _begun_consultation(self) -> Consultation | None:
        return None if self._begun is None else self._models.get(self._begun.task)

    def end_bin(self, now_ms: int) -> Step:
        """Make the step of the bin that `begin_bin` ended; waits for the model's deadline at most.

        Args:
            now_ms: The present; not before any event that was handled since.

        Raises:
            InputError: no bin was begun.
        """
        if self._begun is None:
            raise InputError("end_bin: expected begin_bin before it")
        return self._handle(now_ms, None, None, task=self._begun.task)

    def tick(self, now_ms: int) -> Step:
        """Let time pass at a live bed: readings grow old, signals go missing, alerts settle and escalate."""
        return self._handle(now_ms, None, None)

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
            is_stale=self._has_clock_fault or self._is_clock_untrusted or bool(self._stale_signals(proposal.t_ms)),
            is_degraded=proposal.is_degraded or self.is_degraded,
            has_journal_failed=self._has_journal_failed,
            consent=self.consent_to(proposal.action),
            is_emergency=proposal.priority is Priority.HIGH,
        )
        return decide(self.ward.profile, context, proposal.provenance)

    def consent_to(self, action: ActionClass) -> ConsentState:
        """What holds for an action of this class at this bed."""
        said = self.consents.get(_CONSENTED[action]) if action in _CONSENTED else None
        return self.ward.consent if said is None or said.t_ms is None else said.state

    def memory(self) -> dict[str, Any]:
        """What must outlive the process, as JSON: the newest readings, when signals were seen, and the alarms.

        What the model has taken in is not part of it (`Consultation.kept`).
        """
        return {
            "bin_start_ms": self._bins[GENERAL].start_ms,
            "bins": {task: held.start_ms for task, held in self._bins.items() if task != GENERAL},
            "readings": {code: [value, t_ms, self._newest_id[code]] for code, (value, t_ms) in self._readings.items()},
            "last_seen_ms": self._last_seen_ms,
            "conditions": sorted(self._conditions),
            "alarms": self.alarms.snapshot(),
        }

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Go on from what `memory` gave, in a new process; call it before the first event.

        Raises:
            InputError: the bed has seen events, or the memory is not one.
        """
        if self._number:
            raise InputError("recall: expected a bed that has seen no event yet")
        try:
            for code, (value, t_ms, observation_id) in memory["readings"].items():
                self.recall_reading(code, float(value), int(t_ms), str(observation_id))
            self._bins[GENERAL].start_ms = memory["bin_start_ms"]
            for task, start_ms in memory.get("bins", {}).items():
                if task in self._bins:  # else: no longer beside the bed
                    self._bins[task].start_ms = start_ms
            self._last_seen_ms = {str(code): int(t_ms) for code, t_ms in memory["last_seen_ms"].items()}
            self._conditions = set(memory["conditions"])
            self.alarms = AlarmManager.restore(memory["alarms"], self.ward.alarm_times)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"recall: the memory of bed {self.patient!r} cannot be read: {error!r}") from error

    def recall_bin(self, end_ms: int, task: str = GENERAL) -> bool:
        """A bin that an earlier process closed; False when `recall` knew of it, or when that model is gone."""
        held = self._bins.get(task)
        if held is None or (held.start_ms is not None and end_ms <= held.start_ms):
            return False
        held.start_ms = end_ms
        if task in self._models:
            self._models[task].owe_bin(end_ms)
        return True

    def recall_reading(
        self, code: str, value: float, t_ms: int, observation_id: str, *, unit: str | None = None
    ) -> None:
        """Take in a reading that an earlier process accepted: scores and model know it, nobody is called.

        Args:
            code: What was measured.
            value: In `unit`, or in the canonical unit without one: then the model is owed it already.
            t_ms: When it was measured.
            observation_id: Of the reading.
            unit: UCUM.
        """
        if unit is not None:
            value = self.ward.limits.to_canonical(code, value, unit)
            for consultation in self._models.values():
                consultation.observe(code, value, t_ms)
        self._gate.recall(code, value, t_ms, observation_id)
        self._remember(code, value, t_ms, observation_id)

    def _known(self, task: str) -> str:
        if task not in self._bins:
            raise InputError(f"no model of the task {task!r} stands beside the bed")
        return task

    def _handle(
        self, t_ms: int, observation: Observation | None, recorded: Step | None, *, task: str | None = None
    ) -> Step:
        """One event: a reading, the end of the bin of `task`, or neither."""
        started = self._monotonic()
        latency_ms: dict[str, float] = {}
        ward, number = self.ward, self._number
        self._number += 1
        provenance = self._provenance(number)
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
        consultation = None if task is None else self._models.get(task)
        if task is not None:
            begun = self._begun
            window = self._end_bin(t_ms, provenance, task)
            if consultation is not None and begun is not None:
                answer = consultation.end_bin(provenance)
                latency_ms["decision"] = (self._monotonic() - begun.stopwatch) * 1e3
            elif consultation is not None:
                error = None if recorded is None else recorded.model_error
                is_repeat = recorded is not None
                answer = consultation.close_bin(t_ms, provenance, recorded_error=error, is_repeat=is_repeat)
                latency_ms["decision"] = (self._monotonic() - started) * 1e3
        risk = replace(answer, latency_ms=latency_ms["decision"]) if isinstance(answer, Risk) else None
        if task == GENERAL:  # drift is judged by the inputs and answers of the model that watches everybody
            self._supervision.close_bin(risk, ward.question)
        drift = self._supervision.take_changes()
        # (4) Suggestions.
        fresh = self._suggest_floor(scores)
        reason: Card | str | None = None
        if consultation is not None and risk is not None and self._supervision.is_withheld:
            self._withhold(consultation, risk)
        elif consultation is not None and risk is not None:
            explaining = self._monotonic()
            model_fresh, reason = self._suggest_model(consultation, risk, recorded)
            fresh += model_fresh
            if reason is not None:
                latency_ms["explain"] = (self._monotonic() - explaining) * 1e3
        fresh += self._suggest_technical(t_ms, provenance)
        for source, suggest in self.others.items():
            fresh += self._follow(source, suggest(t_ms, provenance))
        judging = self._monotonic()
        verdicts = tuple(self.judge(proposal) for proposal in fresh)
        if verdicts:
            latency_ms["policy"] = (self._monotonic() - judging) * 1e3 / len(verdicts)
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
            task=task or "",
            scores=scores,
            risk=risk,
            card=reason if isinstance(reason, Card) else None,
            model_error=answer if isinstance(answer, str) else None,
            explain_error=reason if isinstance(reason, str) else None,
            is_degraded=self.is_degraded,
            is_silent=self.is_silent,
            proposals=fresh,
            verdicts=verdicts,
            asks=asks,
            changes=changes,
            withheld=withheld,
            drift=drift,
            inactivations=self.alarms.take_events(),
            latency_ms=latency_ms,
        )

    def _take_in(self, observation: Observation, value: float) -> None:
        code, t_ms = observation.code, observation.t_measured_ms
        self._remember(code, value, t_ms, observation.id)
        if not self.ward.thin_ms:
            for held in self._bins.values():
                held.observations.append(observation.id)
        self._supervision.observe(code, value)
        for consultation in self._models.values():
            consultation.observe(code, value, t_ms)

    def _remember(self, code: str, value: float, t_ms: int, observation_id: str) -> None:
        """What scores, pages and the watch over lost signals know of an accepted reading."""
        self._floor.observe(code, value, t_ms)
        if code not in self._readings or t_ms >= self._readings[code][1]:
            self._readings[code] = (value, t_ms)
            self._newest_id[code] = observation_id
        if code in self._last_seen_ms:
            self._last_seen_ms[code] = max(self._last_seen_ms[code], t_ms)

    def _end_bin(self, t_ms: int, provenance: Provenance, task: str) -> Window:
        begun, self._begun = self._begun, None
        if begun is None:
            ended = self._bins[task]
            begun = _Begun(task, ended.start_ms or 0, t_ms, tuple(ended.observations), 0.0)
            self._bins[task] = _Bin(t_ms)
        return Window(
            patient=self.patient,
            start_ms=begun.start_ms,
            end_ms=begun.end_ms,
            observations=begun.observations,
            provenance=provenance,
        )

    def _provenance(self, number: int) -> Provenance:
        ward = self.ward
        return Provenance(
            trace_id=trace_id(ward.run_id, self.patient, number),
            bundle=ward.bundle,
            profile=ward.profile.digest,
            clock=ward.clock,
            simulated=ward.simulated,
        )

    def _withhold(self, consultation: Consultation, risk: Risk) -> None:
        """Keep what a model suggests from people; what stood before it was withheld goes on standing."""
        condition, supervision = consultation.question.condition, self._supervision
        earlier = supervision.suggestions.get(condition)
        suggestion = consultation.suggest(risk, earlier=earlier, is_degraded=self.is_degraded)
        supervision.suggest(condition, self._in_words(suggestion))

    def _suggest_floor(self, scores: ScoreSet) -> tuple[Proposal, ...]:
        proposal = propose(self.ward.rules, scores, self._readings, is_degraded=self.is_degraded, words=self._words)
        standing = self._standing.get(("floor", self.ward.rules.condition))
        if proposal is not None and (standing is None or standing.priority is not proposal.priority):
            proposal = self._in_words(with_otherwise(self.ward.rules, proposal, scores, self._floor))
        return self._stand("floor", self.ward.rules.condition, proposal)

    def _suggest_model(
        self, consultation: Consultation, risk: Risk, recorded: Step | None
    ) -> tuple[tuple[Proposal, ...], Card | str | None]:
        """A model's suggestion if it is new, and its explanation (or why there is none) if it calls people."""
        condition = consultation.question.condition
        earlier = self._standing.get(("model", condition))
        suggestion = consultation.suggest(risk, earlier=earlier, is_degraded=self.is_degraded)
        reason: Card | str | None = None
        if suggestion is not None and suggestion is not earlier and self._would_call(suggestion, risk.t_ms):
            if recorded is not None:
                reason = recorded.card or recorded.explain_error
            else:
                reason = self._cite(consultation.explain(risk.provenance, self.ward.explain_deadline_seconds))
            if isinstance(reason, Card):
                suggestion = self._explained(suggestion, reason)
        if suggestion is not earlier:
            suggestion = self._in_words(suggestion)
        return self._stand("model", condition, suggestion), reason

    def _needs_card(self, consultation: Consultation, risk: Risk) -> bool:
        """Whether `_suggest_model` will ask for an explanation of this answer."""
        if self._supervision.is_withheld:
            return False
        earlier = self._standing.get(("model", consultation.question.condition))
        suggestion = consultation.suggest(risk, earlier=earlier, is_degraded=False)
        return suggestion is not None and suggestion is not earlier and self._would_call(suggestion, risk.t_ms)

    def _would_call(self, suggestion: Proposal, t_ms: int) -> bool:
        """Whether people are called because of the model: an explanation is slow, and made for such an alert alone."""
        condition = suggestion.condition
        others = [p for (source, about), p in self._standing.items() if about == condition and source != "model"]
        return all(urgency(suggestion.priority) > urgency(other.priority) for other in others) and (
            self.alarms.would_announce(self.patient, condition, suggestion.priority, t_ms)
        )

    def _explained(self, suggestion: Proposal, card: Card) -> Proposal:
        """The suggestion with what it rests on; evidence that did not stand up to deletion is not shown as a fact."""
        facts, unit = suggestion.facts, self.ward.limits.unit
        if facts is None:
            return suggestion
        evidence = card.evidence if card.is_verified else ()
        items = tuple(evidence_fact(item, unit(item.code)) for item in evidence) or (Fact(key="unverified"),)
        items += tuple(change_facts(card.counterfactual, unit))
        return replace(suggestion, evidence=evidence, facts=replace(facts, items=(*facts.items, *items)))

    def _in_words(self, proposal: Proposal | None) -> Proposal | None:
        """With its sentence in the ward's language."""
        return None if proposal is None else replace(proposal, rationale=say(proposal, self._words))

    def _cite(self, reason: Card | str) -> Card | str:
        """Name the journalled observations behind an explanation; what was never observed cannot be cited."""
        if isinstance(reason, str):
            return reason
        evidence = tuple(
            replace(item, observations=(self._newest_id[item.code],))
            for item in reason.evidence
            if item.code in self._newest_id
        )
        # What was verified is the whole; a part of it was not.
        deletion = reason.deletion if len(evidence) == len(reason.evidence) else None
        return replace(reason, evidence=evidence, deletion=deletion)

    def _suggest_technical(self, t_ms: int, provenance: Provenance) -> tuple[Proposal, ...]:
        faults = {
            f"{SIGNAL_STALE}:{code}": Facts(key="signal_stale", texts={"code": code})
            for code in self._stale_signals(t_ms)
        }
        if not self.is_silent:
            faults |= self._model_faults()
        if self._is_clock_untrusted:
            faults[CLOCK_UNTRUSTED] = Facts(key="clock_untrusted")
        if self._has_journal_failed:
            faults[JOURNAL_UNAVAILABLE] = Facts(key="journal_unavailable")
        proposals = [
            Proposal(
                patient=self.patient,
                t_ms=t_ms,
                condition=condition,
                action=ActionClass.A1,
                priority=priority_of(Harm.MINOR, Onset.PROMPT),
                source="gate",
                has_abstained=False,
                is_degraded=self.is_degraded,
                rationale=self._words.sentence(facts),
                facts=facts,
                provenance=provenance,
            )
            for condition, facts in faults.items()
        ]
        return self._follow("gate", proposals)

    def _follow(self, source: str, proposals: Iterable[Proposal]) -> tuple[Proposal, ...]:
        """Let exactly these stand of a source that says all of it each time; returns those that say something new."""
        by_condition = {proposal.condition: proposal for proposal in proposals}
        gone = [about for who, about in self._standing if who == source and about not in by_condition]
        for condition in gone:
            del self._standing[source, condition]
        fresh: tuple[Proposal, ...] = ()
        for condition, proposal in by_condition.items():
            standing = self._standing.get((source, condition))
            if standing is None or standing.priority is not proposal.priority:
                fresh += self._stand(source, condition, self._in_words(proposal))
        return fresh

    def _model_faults(self) -> dict[str, Facts]:
        faults = {}
        general = self.consultation
        if general is None:
            faults[MODEL_UNAVAILABLE] = Facts(key="model_absent")
        elif not general.is_answering:
            faults[MODEL_UNAVAILABLE] = Facts(key="model_unavailable")
        for task, consultation in self._models.items():
            if task != GENERAL and not consultation.is_answering:
                about = consultation.question.condition
                faults[f"{MODEL_UNAVAILABLE}:{task}"] = Facts(key="specialist_unavailable", texts={"condition": about})
        if self._supervision.fault is not None:
            faults[MODEL_DRIFTED] = Facts(key="model_drifted", texts={"reason": self._supervision.fault})
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
            kind="physiological" if proposal.source in _PHYSIOLOGICAL else "technical",
            condition=proposal.condition,
            priority=proposal.priority,
            source=proposal.source,
            is_degraded=self.is_degraded,
            message=proposal.rationale,
            facts=proposal.facts,
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
