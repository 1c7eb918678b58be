"""A live ward: readings come in, floors answer at once, models are asked beside them, every event is journalled.

One thread runs everything but the models, which have the watchdog's. In every turn of the loop, in this order:

1. What people asked for: acknowledgements and the like (`call`).
2. Readings, a few at a time; each is gated, scored, alarmed and journalled before the next one is looked at.
3. One bin: a model's answer that is ready is taken, or the next bed that is due is asked; answers that call people are
   explained once no bed is due, and their alerts wait for that. The loop never waits for a model, so a floor's alarm
   comes at most one step after its reading.
4. Once a second: time passes at every bed, the clock is checked, and what must outlive the process is saved.

Alerts are delivered before their event is journalled: after a power cut an alert may come twice, but is never lost.
A journal that cannot be written does not stop the ward: A3 and above are locked, people are told, and when it can be
written again a `gap` says how many events are not on record.
"""

from __future__ import annotations

import heapq
import json
import queue
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, TypeVar

from smallhold.assist.alarm_inactivation import Inactivation, InactivationState
from smallhold.assist.bedside import Bedside
from smallhold.assist.live_state import KeptBed, LiveState
from smallhold.assist.rolling_specialist import first_bin
from smallhold.assist.step import GENERAL, Step
from smallhold.assist.ward_clock import WardClock
from smallhold.device.journal import Journal
from smallhold.errors import DeadlineError, InputError, JournalError
from smallhold.records import Alert, GateResult, Observation, Provenance, Risk, ScoreSet, canonical_json

START, READING, STEP, STAFF, GAP, END = "ward-start", "reading", "step", "staff", "gap", "ward-end"
#: Which specialists watch a patient from now on, beside the general model.
ROUTE = "route"
_UNKNOWN = Provenance(trace_id="0" * 32)
T = TypeVar("T")

_READINGS_A_TURN = 64
_LONGEST_WAIT_SECONDS = 0.05
_PENDING_WAIT_SECONDS = 0.0005
_TICK_SECONDS = 1.0
_SAVE_SECONDS = 10.0
_CLOCK_DISTRUST_SECONDS = 60.0
_RETRY_JOURNAL_SECONDS = 5.0


class Readings(Protocol):
    """Where readings wait; `smallhold.assist.sources.Inbox`."""

    def take(self, most: int, timeout_seconds: float) -> list[Observation]:
        """Up to `most`, waiting at most so long for the first."""

    def settle(self, observation: Observation) -> None:
        """The reading is on record, or could not be and is counted: its sender may be told."""


#: Makes the bed of a patient: (run id, patient) -> bedside. Raises InputError for a patient who is not expected.
MakeBed = Callable[[str, str], Bedside]


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveBins:
    """When a specialist is asked.

    Attributes:
        bin_ms: Length of its bins in ward time, counted from each patient's first reading.
        session_bins: Bins that one of its sessions answers for.
        keep_bins: Bins that the next session begins with.
    """

    bin_ms: int
    session_bins: int | None = None
    keep_bins: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSettings:
    """How a ward is run.

    Attributes:
        bin_ms: Length of the model's bins in ward time, counted from each patient's first reading.
        session_bins: Bins that one session of the model answers for; None without a model.
        keep_bins: Bins that the next session begins with.
        most_beds: Readings of patients beyond are refused: a hostile source cannot invent a ward.
        beside: Task of each specialist to its bins; one that is not named is asked at the general model's.
    """

    bin_ms: int
    session_bins: int | None = None
    keep_bins: int = 0
    most_beds: int = 256
    beside: Mapping[str, LiveBins] = field(default_factory=dict)

    def bins_of(self, task: str) -> LiveBins:
        """Of the general model, or of a specialist."""
        general = LiveBins(bin_ms=self.bin_ms, session_bins=self.session_bins, keep_bins=self.keep_bins)
        return self.beside.get(task, general)


@dataclass(slots=True)
class LiveModel:
    """One model beside a bed.

    Attributes:
        bins: Bins that ended since admission.
        due_ms: When the open bin ends.
        risk: Its newest answer, None before the first, from a failure on, and where it is on trial.
        model_error: Why its newest answer is missing, None when it answered or is on trial.
        first_bin: The bin that its session began with.
    """

    bins: int
    due_ms: int
    risk: Risk | None = None
    model_error: str | None = None
    first_bin: int = 0


@dataclass(slots=True, eq=False)
class LiveBed:
    """One bed as the ward keeps it; what views show.

    Attributes:
        bed: The bedside.
        admitted_ms: Ward time of the first reading.
        models: Task to model, the general one (`GENERAL`) first; its bins end also where there is none.
        scores: The newest scores.
        last_reading_ms: Ward time of the newest accepted reading.
        is_changed: Differs from what was saved.
    """

    bed: Bedside
    admitted_ms: int
    models: dict[str, LiveModel]
    scores: ScoreSet | None = None
    last_reading_ms: int | None = None
    is_changed: bool = True

    @property
    def bins(self) -> int:
        """Bins of the general model that ended."""
        return self.models[GENERAL].bins

    @property
    def risk(self) -> Risk | None:
        """The general model's newest answer."""
        return self.models[GENERAL].risk

    @property
    def model_error(self) -> str | None:
        """Why that is missing."""
        return self.models[GENERAL].model_error


@dataclass(slots=True)
class _Asked:
    """A bed whose model is thinking, or has answered and waits to explain: due when, and answered how late (ms)."""

    live: LiveBed
    task: str
    due_ms: int
    answer_ms: float | None = None


@dataclass(slots=True)
class LiveCounts:
    """What a ward has done; latencies in milliseconds of real time, the newest hundred thousand of each.

    Attributes:
        alarm_ms: From a reading's arrival to its alert, for alerts of the floor.
        sent_to_alarm_ms: The same from the time that the device put on the reading, so that broker, network and the
            devices' clocks count as well.
        decision_ms: From the end of a bin to the model's answer.
        model_alarm_ms: From the end of a bin to the alert that a model's answer led to, with its explanation.
        step_ms: Of handling one event.
        policy_us: Of one look-up of the policy, in microseconds.
    """

    readings: int = 0
    accepted: int = 0
    steps: int = 0
    decisions: int = 0
    abstained: int = 0
    model_failures: int = 0
    alerts: int = 0
    unjournalled: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    alarm_ms: deque[float] = field(default_factory=lambda: deque(maxlen=100_000))
    sent_to_alarm_ms: deque[float] = field(default_factory=lambda: deque(maxlen=100_000))
    decision_ms: deque[float] = field(default_factory=lambda: deque(maxlen=100_000))
    model_alarm_ms: deque[float] = field(default_factory=lambda: deque(maxlen=100_000))
    step_ms: deque[float] = field(default_factory=lambda: deque(maxlen=100_000))
    policy_us: deque[float] = field(default_factory=lambda: deque(maxlen=100_000))


class LiveWard:
    """Beds that fill as readings come.

    Guarantees:
        * The floor of a bed is scored at every reading, and at least once a second; it never waits for a model.
        * An alert is delivered before its event is journalled, and journalled before the next event of any bed.
        * After the process died, `run` in a new one goes on: scores, alarms and models stand where they stood, from
          the state file and the journal's entries after it.

    Attributes:
        on_admit: Called with the patient when a bed is filled.
        on_tick: Called once a second with the ward's time, before it passes at the beds.

    Args:
        inbox: Where readings wait.
        make_bed: See `MakeBed`.
        journal: Open for appending.
        state: What outlives the process; None to begin with empty beds each time.
        settings: See `LiveSettings`.
        speed: See `WardClock`.
        on_alert: Called on the ward's thread for every announced alert, at once.
        on_step: Called on the ward's thread after every event that was journalled, with what people may see of it.
        identity: What the run is made of (bundle, profile, build ...), for the journal.
    """

    def __init__(
        self,
        inbox: Readings,
        make_bed: MakeBed,
        journal: Journal,
        settings: LiveSettings,
        *,
        state: LiveState | None = None,
        speed: float = 1.0,
        on_alert: Callable[[Alert], None] | None = None,
        on_step: Callable[[Step], None] | None = None,
        identity: Mapping[str, Any] | None = None,
        clock: WardClock | None = None,
    ) -> None:
        self.run_id = secrets.token_hex(16)
        self.counts = LiveCounts()
        self.beds: dict[str, LiveBed] = {}
        self.journal_error: str | None = None
        self.state_error: str | None = None
        self.on_admit: Callable[[str], None] | None = None
        self.on_tick: Callable[[int], object] | None = None
        self._inbox, self._make_bed, self._journal, self._state = inbox, make_bed, journal, state
        self._settings = settings
        self._on_alert, self._on_step = on_alert, on_step
        self._identity = dict(identity or {})
        self._due: list[tuple[int, str, str]] = []  # when, patient, task
        self._asked: _Asked | None = None
        self._unexplained: deque[_Asked] = deque()
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._next_tick = self._next_save = self._next_try = self._trusted_from = 0.0
        self._earlier: str | None = None
        self._last_seq = -1
        kept, ward = ({}, {}) if state is None else state.load()
        self.clock = clock or WardClock(speed, not_before_ms=int(ward.get("now_ms", 0)))
        self._recall(kept, ward)

    def run(self, stop: threading.Event) -> None:
        """Run the ward until `stop` is set, then save and say so in the journal."""
        self._write(
            START, {"run_id": self.run_id, "earlier": self._earlier, "speed": self.clock.speed, **self._identity}
        )
        try:
            while not stop.is_set():
                self.turn()
        finally:
            self._save()
            self._write(END, {"run_id": self.run_id, "steps": self.counts.steps})

    def turn(self, longest_wait_seconds: float = _LONGEST_WAIT_SECONDS) -> None:
        """One turn of the loop."""
        self._answer_calls()
        wait = min(longest_wait_seconds, self._wait_seconds())
        for observation in self._inbox.take(_READINGS_A_TURN, wait):
            self._observe(observation)
            self._inbox.settle(observation)
        self._follow_bins()
        now = time.monotonic()
        if now >= self._next_tick:
            self._next_tick = now + _TICK_SECONDS
            self._tick(now)
        if now >= self._next_save:
            self._next_save = now + _SAVE_SECONDS
            self._save()

    def call(self, action: Callable[[], T], timeout_seconds: float = 5.0) -> T:
        """Run something on the ward's thread, between two events, and return what it returned.

        Raises:
            DeadlineError: the ward did not come to it in time; it may still be done.
        """
        done: Future[T] = Future()
        self._calls.put((action, done))
        try:
            return done.result(timeout_seconds)
        except TimeoutError as late:
            raise DeadlineError(f"the ward did not answer within {timeout_seconds:g} s") from late

    def acknowledge(self, patient: str, condition: str, actor: str) -> None:
        """A person has seen an alert; on record and saved when this returns. On the ward's thread (`call`).

        Raises:
            InputError: no such bed or alert, or nobody is named.
        """
        live = self._bed_of(patient)
        now_ms = self.clock.now_ms()
        live.bed.alarms.acknowledge(patient, condition, actor, now_ms)
        self._note_act(live, "acknowledge", actor, now_ms, condition=condition)

    def inactivate(
        self, patient: str, state: InactivationState, actor: str, *, condition: str, reason: str, for_ms: int | None
    ) -> Inactivation:
        """A person switches alarm signals off; on record and saved when this returns. On the ward's thread (`call`).

        Args:
            patient: Whose bed.
            state: Which of the four.
            actor: The person.
            condition: One condition, or empty for the whole bed.
            reason: In their words.
            for_ms: Ward milliseconds; None where a person has to end it.

        Raises:
            InputError: no such bed, nobody is named, it would last too long, or it may not be switched off.
        """
        live = self._bed_of(patient)
        now_ms = self.clock.now_ms()
        until_ms = None if for_ms is None else now_ms + for_ms
        begun = live.bed.alarms.inactivate(Inactivation(state, patient, condition, actor, reason, now_ms, until_ms))
        extra = {"condition": condition, "state": state.value, "reason": reason, "until_ms": until_ms}
        self._note_act(live, "inactivate", actor, now_ms, **extra)
        return begun

    def reactivate(self, patient: str, state: InactivationState, actor: str, *, condition: str) -> None:
        """A person switches alarm signals on again. On the ward's thread (`call`).

        Raises:
            InputError: no such bed, nobody is named, or it is not in force.
        """
        live = self._bed_of(patient)
        now_ms = self.clock.now_ms()
        live.bed.alarms.reactivate(patient, condition, state, actor, now_ms)
        self._note_act(live, "reactivate", actor, now_ms, condition=condition, state=state.value)

    def _note_act(self, live: LiveBed, action: str, actor: str, now_ms: int, **more: Any) -> None:
        """Put on record and save what a person did at a bed."""
        patient = live.bed.patient
        live.is_changed = True
        said = {"run_id": self.run_id, "action": action, "patient": patient, "actor": actor, "t_ms": now_ms}
        self._write(STAFF, said | more, patient=patient)
        self._save()

    def discharge(self, patient: str, actor: str) -> None:
        """A patient leaves: the bed is free. On the ward's thread (`call`).

        Raises:
            InputError: no such bed, or its model is being asked at this very moment.
        """
        live = self._bed_of(patient)
        if any(live is asked.live for asked in self._open_questions()):
            raise InputError(f"discharge: the model of bed {patient!r} is being asked", hint="try again at once")
        now_ms = self.clock.now_ms()
        self._write(
            STAFF,
            {"run_id": self.run_id, "action": "discharge", "patient": patient, "actor": actor, "t_ms": now_ms},
            patient=patient,
        )
        del self.beds[patient]
        self._due = [item for item in self._due if item[1] != patient]
        heapq.heapify(self._due)
        if self._state is not None:
            self._state.discharge(patient)

    def _bed_of(self, patient: str) -> LiveBed:
        live = self.beds.get(patient)
        if live is None:
            raise InputError(f"no patient {patient!r} lies on this ward")
        return live

    def _observe(self, observation: Observation) -> None:
        counts, clock = self.counts, self.clock
        arrived_ms = observation.t_received_ms
        counts.readings += 1
        live = self.beds.get(observation.patient)
        if live is None:
            live = self._admit(observation.patient)
            if live is None:
                return
        now_ms = clock.now_ms()
        measured_ms, received_ms = clock.of_wall(observation.t_measured_ms), clock.of_wall(arrived_ms)
        step = live.bed.observe(
            replace(observation, t_measured_ms=measured_ms, t_received_ms=min(received_ms, now_ms)), now_ms
        )
        gate = step.gate
        if gate is not None and gate.is_accepted:
            counts.accepted += 1
            live.last_reading_ms = now_ms
            live.is_changed = True
        elif gate is not None:
            counts.refused.update(reason.partition(":")[0] for reason in gate.reasons)
        self._finish(live, step, (observation.t_measured_ms, arrived_ms))

    def _admit(self, patient: str) -> LiveBed | None:
        if len(self.beds) >= self._settings.most_beds:
            self.counts.refused["no_bed"] += 1
            return None
        try:
            bed = self._make_bed(self.run_id, patient)
        except InputError:
            self.counts.refused["unknown_patient"] += 1
            return None
        live = self._place(patient, bed, self.clock.now_ms(), {})
        if beside := [task for task in live.models if task != GENERAL]:
            self._write(ROUTE, {"run_id": self.run_id, "patient": patient, "tasks": beside}, patient=patient)
        return live

    def _place(self, patient: str, bed: Bedside, admitted_ms: int, bins: Mapping[str, int]) -> LiveBed:
        tasks = (GENERAL, *(task for task in bed.consultations if task != GENERAL))
        models = {task: LiveModel(bins.get(task, 0), 0) for task in tasks}
        live = self.beds[patient] = LiveBed(bed, admitted_ms, models)
        for task in tasks:
            self._expect(live, task)
        if self._state is not None:
            for task, consultation in bed.consultations.items():
                consultation.on_owed = partial(self._owe, patient, task)
        if self.journal_error is not None:
            bed.note_journal_failure()
        if self.on_admit is not None:
            self.on_admit(patient)
        return live

    def _owe(self, patient: str, task: str, code: str, value: float, t_ms: int) -> None:
        if self._state is not None:
            self._state.owe(patient, code, value, t_ms, task)

    def _expect(self, live: LiveBed, task: str) -> None:
        """Work out when the open bin of a model ends, and remember to ask it then."""
        model = live.models[task]
        model.due_ms = live.admitted_ms + (model.bins + 1) * self._settings.bins_of(task).bin_ms
        heapq.heappush(self._due, (model.due_ms, live.bed.patient, task))

    def _follow_bins(self) -> None:
        asked = self._asked
        if asked is not None:
            if not asked.live.bed.has_answered:
                return
            self._asked = None
            if asked.answer_ms is None:
                asked.answer_ms = self._late_ms(asked)
            if asked.live.bed.is_unexplained:
                self._unexplained.append(asked)
            else:
                self._end_bin(asked)
        if self._due and self._due[0][0] <= self.clock.now_ms() and not self._must_explain(self._due[0][1]):
            due_ms, patient, task = heapq.heappop(self._due)
            live = self.beds[patient]
            live.bed.begin_bin(due_ms, task=task)
            live.models[task].bins += 1
            self._expect(live, task)
            self._asked = _Asked(live, task, due_ms)
        elif self._unexplained:
            self._asked = self._unexplained.popleft()
            self._asked.live.bed.begin_explaining()

    def _must_explain(self, patient: str) -> bool:
        """Whether an answer at this bed waits to be explained: its next question comes after that."""
        return any(patient == asked.live.bed.patient for asked in self._unexplained)

    def _open_questions(self) -> list[_Asked]:
        return [*self._unexplained, *(() if self._asked is None else (self._asked,))]

    def _late_ms(self, asked: _Asked) -> float:
        return (self.clock.now_ms() - asked.due_ms) / self.clock.speed

    def _end_bin(self, asked: _Asked) -> None:
        live, task = asked.live, asked.task
        model = live.models[task]
        step = live.bed.end_bin(self.clock.now_ms())
        shown = step.shown()
        model.risk, model.model_error = shown.risk, shown.model_error
        if step.risk is not None:
            self.counts.decisions += 1
            self.counts.abstained += step.risk.has_abstained
            self.counts.decision_ms.append(self._late_ms(asked) if asked.answer_ms is None else asked.answer_ms)
        elif step.model_error is not None:
            self.counts.model_failures += 1
        self._prune(live, task)
        self._finish(live, step, None)
        if any(alert.source == "model" for alert in step.announced):
            self.counts.model_alarm_ms.append(self._late_ms(asked))

    def _prune(self, live: LiveBed, task: str) -> None:
        bins, model = self._settings.bins_of(task), live.models[task]
        if self._state is None or bins.session_bins is None:
            return
        first = first_bin(model.bins, capacity=bins.session_bins, keep_bins=bins.keep_bins)
        if first > model.first_bin:
            self._state.prune(live.bed.patient, first, task)
            model.first_bin = first

    def _tick(self, now: float) -> None:
        jump_ms = self.clock.take_jump_ms()
        if jump_ms:
            self._trusted_from = now + _CLOCK_DISTRUST_SECONDS
            self._write(STAFF, {"run_id": self.run_id, "action": "clock-jump", "jump_ms": jump_ms})
        if self.on_tick is not None:
            self.on_tick(self.clock.now_ms())
        for live in self.beds.values():
            live.bed.note_clock_fault(is_faulty=now < self._trusted_from)
            self._finish(live, live.bed.tick(self.clock.now_ms()), None)
        if self.journal_error is not None and now >= self._next_try:
            self._next_try = now + _RETRY_JOURNAL_SECONDS
            self._write(GAP, {"run_id": self.run_id, "unjournalled": self.counts.unjournalled})

    def _finish(self, live: LiveBed, step: Step, times_ms: tuple[int, int] | None) -> None:
        """Deliver and journal what came of an event; `times_ms`: when its reading was measured and arrived, UTC."""
        counts = self.counts
        counts.steps += 1
        counts.step_ms.append(step.latency_ms["step"])
        if "policy" in step.latency_ms:
            counts.policy_us.append(step.latency_ms["policy"] * 1e3)
        live.scores = step.scores
        for alert in step.announced:
            counts.alerts += 1
            if times_ms is not None and alert.source == "floor":
                counts.sent_to_alarm_ms.append(time.time() * 1e3 - times_ms[0])
                counts.alarm_ms.append(time.time() * 1e3 - times_ms[1])
            if self._on_alert is not None:
                self._on_alert(alert)
        has_news = bool(
            step.changes or step.proposals or step.asks or step.withheld or step.drift or step.inactivations
        )
        if step.observation is not None and step.gate is not None and not has_news:
            self._write(READING, _reading(step, step.observation, step.gate), patient=step.patient)
        elif has_news or step.window is not None:
            if self._write_bytes(STEP, step.to_payload(), patient=step.patient, must_checkpoint=step.must_checkpoint):
                live.is_changed = True
            if step.changes:
                self._save()  # every changed bed: what is saved of one belongs to the same point of the journal
        else:
            return
        if self._on_step is not None:
            self._on_step(step.shown())

    def _write(self, kind: str, value: Mapping[str, Any], *, patient: str | None = None) -> bool:
        return self._write_bytes(kind, canonical_json(value), patient=patient)

    def _write_bytes(
        self, kind: str, payload: bytes, *, patient: str | None = None, must_checkpoint: bool = False
    ) -> bool:
        try:
            entry = self._journal.append(kind, payload, patient=patient, must_checkpoint=must_checkpoint)
            self._last_seq = entry.seq
        except JournalError as error:
            self.counts.unjournalled += 1
            if self.journal_error is None:
                for live in self.beds.values():
                    live.bed.note_journal_failure()
            self.journal_error = str(error)
            return False
        if self.journal_error is not None:
            self.journal_error = None
            for live in self.beds.values():
                live.bed.note_journal_failure(is_failing=False)
        return True

    def _answer_calls(self) -> None:
        while True:
            try:
                action, done = self._calls.get_nowait()
            except queue.Empty:
                return
            if done.set_running_or_notify_cancel():
                try:
                    done.set_result(action())
                except BaseException as error:
                    done.set_exception(error)

    def _wait_seconds(self) -> float:
        if self._asked is not None:
            return 0.0 if self._asked.live.bed.has_answered else _PENDING_WAIT_SECONDS
        if self._unexplained:
            return 0.0
        return self.clock.seconds_until(self._due[0][0]) if self._due else _LONGEST_WAIT_SECONDS

    def _memory(self, live: LiveBed) -> dict[str, Any]:
        memories = {task: consultation.memory() for task, consultation in live.bed.consultations.items()}
        beside = {task: model.bins for task, model in live.models.items() if task != GENERAL}
        return {
            "bed": live.bed.memory(),
            "model": memories.pop(GENERAL, None),
            "admitted_ms": live.admitted_ms,
            "bins": live.bins,
            "beside": {task: {"model": memories[task], "bins": bins} for task, bins in beside.items()},
        }

    def _save(self) -> None:
        changed = {patient: live for patient, live in self.beds.items() if live.is_changed}
        ward = {"run_id": self.run_id, "now_ms": self.clock.now_ms(), "journal_seq": self._last_seq}
        if self._store({patient: self._memory(live) for patient, live in changed.items()}, ward):
            for live in changed.values():
                live.is_changed = False

    def _store(self, memories: dict[str, dict[str, Any]], ward: dict[str, Any]) -> bool:
        if self._state is None:
            return True
        try:
            self._state.save(memories, ward)
        except JournalError as error:
            self.state_error = str(error)
            return False
        self.state_error = None
        return True

    def _recall(self, kept: Mapping[str, KeptBed], ward: Mapping[str, Any]) -> None:
        """Beds as an earlier process left them, and what it journalled after its last save."""
        if not ward:
            return
        self._last_seq = int(ward["journal_seq"])
        self._earlier = str(ward["run_id"])
        for patient, item in kept.items():
            try:
                bed = self._make_bed(self.run_id, patient)
            except InputError:
                continue  # no longer expected here
            bed.recall(item.memory["bed"])
            bins = {GENERAL: int(item.memory["bins"])}
            if bed.consultation is not None:
                bed.consultation.recall(item.owed, item.memory["model"] or {})
            for task, held in item.memory.get("beside", {}).items():
                if task in bed.consultations:
                    bed.consultations[task].recall(item.beside.get(task, ()), held["model"])
                    bins[task] = int(held["bins"])
            self._place(patient, bed, int(item.memory["admitted_ms"]), bins)
        for patient, event in _journalled(self._journal, self._last_seq + 1):
            live = self.beds.get(patient)
            if live is None:
                live = self._admit(patient)
            if live is None:
                continue
            if isinstance(event, _Ended):
                if event.task in live.models:
                    live.models[event.task].bins += live.bed.recall_bin(event.end_ms, event.task)
            else:
                live.bed.recall_reading(event.code, event.value, event.t_measured_ms, event.id, unit=event.unit)
        self._due = []
        for live in self.beds.values():
            for task in live.models:
                self._expect(live, task)


@dataclass(frozen=True, slots=True)
class _Ended:
    """A bin that an earlier process closed."""

    end_ms: int
    task: str


def _reading(step: Step, observation: Observation, gate: GateResult) -> dict[str, Any]:
    """A reading of which nothing came, short: there is one a second and signal."""
    value = observation.value
    return {
        "run_id": step.run_id,
        "patient": step.patient,
        "number": step.number,
        "t_ms": step.t_ms,
        "id": observation.id,
        "code": observation.code,
        "value": value if abs(value) < float("inf") else str(value),
        "unit": observation.unit,
        "t_measured_ms": observation.t_measured_ms,
        "t_received_ms": observation.t_received_ms,
        "quality": observation.quality,
        "device": observation.device,
        "reasons": list(gate.reasons),
    }


def _journalled(journal: Journal, first_seq: int) -> Iterator[tuple[str, Observation | _Ended]]:
    """Accepted readings and ends of bins, from an entry of the journal on."""
    for entry, payload in journal.entries(start=first_seq):
        if payload is None or entry.kind not in (READING, STEP):
            continue
        if entry.kind == READING:
            item = json.loads(payload)
            if not item.pop("reasons"):
                names = ("id", "patient", "code", "value", "unit", "t_measured_ms", "t_received_ms")
                yield item["patient"], Observation(**{name: item[name] for name in names}, provenance=_UNKNOWN)
            continue
        step = Step.from_payload(payload)
        if step.window is not None:
            yield step.patient, _Ended(step.window.end_ms, step.task)
        elif step.observation is not None and step.gate is not None and step.gate.is_accepted:
            yield step.patient, step.observation
