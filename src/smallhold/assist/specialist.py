"""The model beside the bed: what it must offer, how its answers are checked, and how it is kept to a deadline.

A specialist is never trusted with the alarm. Its answer is validated again on this side, and it runs in a worker
thread: late is the same as silent, and the floor goes on without it.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from smallhold.errors import DeadlineError, DecisionError, InputError
from smallhold.records import Card, Provenance, Risk

T = TypeVar("T")

DEADLINE_SECONDS = 0.25
_SUM_TOLERANCE = 1e-6


class Specialist(Protocol):
    """A model that follows one patient.

    Contract: a call that raises leaves the specialist as it was, so that the same call can be made again. `decide`
    and `explain` do not change what later calls return. All calls come from one thread at a time.
    """

    def observe(self, code: str, value: float, t_ms: int) -> None:
        """Take in one accepted reading in its canonical unit; cheap."""

    def close_bin(self, t_ms: int) -> None:
        """The time bin that ends at `t_ms` is over: append its signal token."""

    def decide(self, t_ms: int, provenance: Provenance) -> Risk:
        """The calibrated answer after the newest closed bin."""

    def explain(self) -> Card:
        """What the newest decision rests on, checked by deletion; slower than `decide`."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a specialist is asked, and which answer calls people.

    Attributes:
        task: For example `icu-risk`.
        field: The field of the decision schema.
        choices: Every closed answer.
        alarm_choice: The answer that an alert is about.
        alert_threshold: Calibrated probability of `alarm_choice` from which on people are called, (0, 1].
        condition: Alarm condition of such an alert; the floor's own when both mean the same.
        wording: In English, for a task that the word catalogues do not know; for `str.format` with `risk` and
            `threshold` (fractions) and `hour` (integer).
    """

    task: str
    field: str
    choices: tuple[str, ...]
    alarm_choice: str
    alert_threshold: float
    condition: str
    wording: str = "{risk:.0%} risk after {hour} h, alert threshold {threshold:.0%}"

    def __post_init__(self) -> None:
        """Refuse a question that cannot be answered."""
        if self.alarm_choice not in self.choices:
            raise InputError(f"alarm_choice: expected one of {self.choices}, got {self.alarm_choice!r}")
        if not 0 < self.alert_threshold <= 1:
            raise InputError(f"alert_threshold: expected a probability in (0, 1], got {self.alert_threshold}")


def validate_risk(risk: Risk, choices: Sequence[str], *, task: str, field: str, patient: str) -> Risk:
    """Check a model's answer against what was asked; nothing that a model says is believed before.

    Args:
        risk: The answer.
        choices: Every closed value of the field.
        task: The task that was asked.
        field: The field that was asked.
        patient: The patient it was asked about.

    Returns:
        The same record.

    Raises:
        DecisionError: another task, field or patient; probabilities that are not exactly those of the choices, not
            finite, outside [0, 1] or not of sum 1 within 1e-6; a confidence that is not the largest of them; a
            choice outside the schema; or a choice together with an abstention.
    """
    for name, expected in (("task", task), ("field", field), ("patient", patient)):
        if getattr(risk, name) != expected:
            raise DecisionError(f"risk.{name}: expected {expected!r}, got {getattr(risk, name)!r}")
    p = risk.probabilities
    if set(p) != set(choices):
        raise DecisionError(f"risk.probabilities: expected one for each of {list(choices)}, got {sorted(p)}")
    if not all(math.isfinite(value) and 0 <= value <= 1 for value in p.values()):
        raise DecisionError(f"risk.probabilities: expected finite numbers from 0 to 1, got {p}")
    total = math.fsum(p.values())
    if abs(total - 1) > _SUM_TOLERANCE:
        raise DecisionError(f"risk.probabilities: expected a sum of 1 within {_SUM_TOLERANCE:g}, got {total:.9g}")
    if not abs(risk.confidence - max(p.values())) <= _SUM_TOLERANCE:
        raise DecisionError(
            f"risk.confidence: expected the largest probability {max(p.values())}, got {risk.confidence}"
        )
    if risk.has_abstained != (risk.choice is None):
        raise DecisionError(f"risk.choice: got {risk.choice!r} although has_abstained is {risk.has_abstained}")
    if risk.choice is not None and risk.choice not in choices:
        raise DecisionError(f"risk.choice: expected one of {list(choices)}, got {risk.choice!r}")
    return risk


@dataclass(slots=True)
class _Job:
    call: Callable[[], Any]
    done: threading.Event = field(default_factory=threading.Event)
    done_at: float = math.inf
    result: Any = None
    error: BaseException | None = None


class Pending(Generic[T]):
    """A call that a watchdog has begun; from `Watchdog.start`."""

    def __init__(self, watchdog: Watchdog, job: _Job, begun: float, seconds: float) -> None:
        self.job = job
        self._watchdog, self._begun, self._seconds = watchdog, begun, seconds

    @property
    def is_over(self) -> bool:
        """True once `result` returns or raises without waiting: the call is done, or its time is up."""
        return self.job.done.is_set() or time.monotonic() - self._begun > self._seconds

    def result(self) -> T:
        """What the call returned; waits for the rest of its time at most.

        Raises:
            DeadlineError: not done in time; the watchdog refuses further calls until it is.
            DecisionError: the call raised; its exception is the cause.
        """
        job, seconds = self.job, self._seconds
        try:
            is_done = job.done.wait(max(0.0, self._begun + seconds - time.monotonic()))
        except BaseException:
            self._watchdog.note_late(job)  # interrupted while waiting: the worker goes on with it
            raise
        if not is_done:
            self._watchdog.note_late(job)
        # Done, but after its time although this thread was woken only now: late all the same.
        if not is_done or job.done_at - self._begun > seconds:
            raise DeadlineError(f"late: no answer within {seconds:g} s")
        if isinstance(job.error, DecisionError):
            raise job.error
        if job.error is not None:
            raise DecisionError(f"{type(job.error).__name__}: {job.error}") from job.error
        result: T = job.result
        return result


class Watchdog:
    """One worker thread that runs specialists, with a deadline on every call.

    Guarantees: `run` returns or raises within the deadline (plus scheduling); a late result is dropped; while a late
    call still occupies the worker, further calls are refused at once, so that one stuck model never makes a queue.
    The thread is a daemon: a stuck model does not keep the process alive. One watchdog serves all patients of a
    process; `run` and `start` may be called from one thread at a time.
    """

    def __init__(self, deadline_seconds: float = DEADLINE_SECONDS) -> None:
        if not deadline_seconds > 0:
            raise InputError(f"deadline_seconds must be positive, got {deadline_seconds}")
        self.deadline_seconds = deadline_seconds
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._late: _Job | None = None
        self._thread: threading.Thread | None = None

    @property
    def is_stuck(self) -> bool:
        """True while a late call still occupies the worker."""
        if self._late is not None and self._late.done.is_set():
            self._late = None
        return self._late is not None

    def run(self, call: Callable[[], T], deadline_seconds: float | None = None) -> T:
        """Run `call` on the worker and wait for it.

        Args:
            call: Must not touch anything that the caller's thread changes meanwhile.
            deadline_seconds: For this call instead of the watchdog's own.

        Raises:
            DeadlineError: not done in time, or the worker is still busy with a late call.
            DecisionError: `call` raised; its exception is the cause.
        """
        return self.start(call, deadline_seconds).result()

    def start(self, call: Callable[[], T], deadline_seconds: float | None = None) -> Pending[T]:
        """Begin `call` on the worker without waiting, so that readings are served meanwhile.

        Args:
            call: As for `run`.
            deadline_seconds: As for `run`; it counts from now.

        Raises:
            DeadlineError: the worker is still busy with a late call.
        """
        if self.is_stuck:
            raise DeadlineError("refused: the model is still busy with an earlier, late call")
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="smallhold-specialist", daemon=True)
            self._thread.start()
        seconds = self.deadline_seconds if deadline_seconds is None else deadline_seconds
        job = _Job(call)
        pending = Pending[T](self, job, time.monotonic(), seconds)
        self._jobs.put(job)
        return pending

    def note_late(self, job: _Job) -> None:
        """Refuse further calls until `job` is done."""
        self._late = job

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                job.result = job.call()
            except BaseException as error:  # whatever a model raises, the floor goes on
                job.error = error
            job.done_at = time.monotonic()
            job.done.set()
