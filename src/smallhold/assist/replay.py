"""Recorded patients through the bedside, as if they lay on a ward now: every event journalled, every stop resumable.

Order of events: patients are taken in the order given, `beds` at a time, and their stays begin together. Within such
a group events are ordered by time; at the same time readings come before ends of bins, patients keep their order,
and a patient's readings keep theirs. A bin is (start, end], the very first moment included in the first bin.

The journal gets one `replay-start`, one `replay-patient` for each bed, one `step` per event and one `replay-end`. Run
ids are digests of what is replayed, so the same call after an interruption finds its own steps: it derives them again
without journalling or alerting, compares, and goes on. After `replay-end` the same call is a new attempt with an id
of its own.

Alerts are delivered before their step is journalled: after a power cut an alert may come twice, but is never lost.
"""

from __future__ import annotations

import heapq
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from smallhold.assist.bedside import Bedside
from smallhold.assist.replay_summary import ReplaySummary, Tally
from smallhold.assist.step import GENERAL, Step
from smallhold.device.journal import Journal
from smallhold.errors import InputError, InterruptedRun, JournalError
from smallhold.records import Alert, Observation, canonical_json, sha256_hex

START, STEP, END = "replay-start", "step", "replay-end"
#: What a patient's model knew on admission, and another program that went on with a run.
ADMISSION, BUILD = "replay-patient", "replay-build"
_HOUR_MS = 3_600_000

#: Makes the bed of a patient for a run: (run id, patient) -> bedside.
MakeBedside = Callable[[str, str], Bedside]
# (time, 1 at the end of a bin, patient's position, reading or None, whose bin): sorts into the documented order.
_Event = tuple[int, int, int, Observation | None, str]


@dataclass(frozen=True, slots=True)
class ModelBins:
    """The bins of a specialist: it is asked at `bin_ms`, 2 `bin_ms` ... up to `num_bins` times."""

    task: str
    bin_ms: int
    num_bins: int

    def __post_init__(self) -> None:
        """Refuse bins that never end."""
        if not self.task or self.bin_ms < 1 or self.num_bins < 1:
            raise InputError(f"bins of a specialist: expected a task and positive numbers, got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayPlan:
    """What is replayed.

    Attributes:
        bundle: SHA-256 of the bundle's manifest, None without a model.
        profile: SHA-256 of the policy profile.
        data_set: Name of the data set.
        streams: Patient -> readings in order of arrival, on a clock that starts at 0; read once, when the bed is free.
        num_bins: Bins per patient; readings after the last are not replayed.
        bin_ms: Length of a bin.
        beds: Patients that lie on the ward at the same time; bounds the memory, not the result for any patient
            (unless drift is watched, which is one thing for the whole ward).
        supervision: How the model is supervised (`Bedside.supervise`): `silent`, a drift reference's digest, both in
            one text, or nothing. A run under another supervision is another run.
        build: Which program on which processor (`device.build_info.this_build`), for the record; the run stays the
            same when another goes on with it.
        static: Patient to what the model knows on admission, for the record: without it nobody can decide again.
        language: Of the sentences. A run in another language is another run, though it decides the same.
        beside: Patient to the specialists beside the bed; at the same time the general model's bin ends first.
    """

    bundle: str | None
    profile: str
    data_set: str
    streams: Mapping[str, Iterable[Observation]]
    num_bins: int
    bin_ms: int = _HOUR_MS
    beds: int = 100
    supervision: str = ""
    build: Mapping[str, str] = field(default_factory=dict)
    static: Mapping[str, Sequence[float]] = field(default_factory=dict)
    language: str = "en"
    beside: Mapping[str, tuple[ModelBins, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a plan without events."""
        for name in ("num_bins", "bin_ms", "beds"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")

    def run_id(self, attempt: int = 0) -> str:
        """32 hexadecimal digits that depend on everything but the readings themselves."""
        return sha256_hex(canonical_json({**self.identity(), "attempt": attempt}))[:32]

    def identity(self) -> dict[str, object]:
        """What the run id is made of, the attempt apart."""
        supervised = {"supervision": self.supervision} if self.supervision else {}
        spoken = {"language": self.language} if self.language != "en" else {}
        beside = {patient: [[b.task, b.bin_ms, b.num_bins] for b in bins] for patient, bins in self.beside.items()}
        routed = {"beside": beside} if any(beside.values()) else {}
        return (
            supervised
            | spoken
            | routed
            | {
                "bundle": self.bundle,
                "profile": self.profile,
                "data_set": self.data_set,
                "patients": list(self.streams),
                "num_bins": self.num_bins,
                "bin_ms": self.bin_ms,
                "beds": self.beds,
            }
        )

    def events(self) -> Iterator[tuple[str, int, Observation | None, str]]:
        """Every event in its order: patient, time, the reading or None for the end of a bin, and whose bin it is."""
        patients = list(self.streams)
        for first in range(0, len(patients), self.beds):
            group = range(first, min(first + self.beds, len(patients)))
            for t_ms, _, position, observation, task in heapq.merge(
                *(self._stay(position, patients[position]) for position in group),
                key=lambda event: event[:3],
            ):
                yield patients[position], t_ms, observation, task

    def _stay(self, position: int, patient: str) -> Iterator[_Event]:
        bins = (ModelBins("general", self.bin_ms, self.num_bins), *self.beside.get(patient, ()))
        numbered = [(number * one.bin_ms, order) for order, one in enumerate(bins) for number in _up_to(one.num_bins)]
        ends = deque((end_ms, bins[order].task if order else GENERAL) for end_ms, order in sorted(numbered))
        newest_ms = 0
        last_ms = self.num_bins * self.bin_ms
        for observation in self.streams[patient]:
            t_ms = observation.t_received_ms
            if t_ms < newest_ms:
                raise InputError(f"replay: readings must come in order of arrival: {t_ms} ms after {newest_ms} ms")
            newest_ms = t_ms
            while ends and ends[0][0] < t_ms and ends[0][0] <= last_ms:
                end_ms, task = ends.popleft()
                yield end_ms, 1, position, None, task
            if t_ms > last_ms:
                return
            yield t_ms, 0, position, observation, GENERAL
        for end_ms, task in ends:
            if end_ms <= last_ms:
                yield end_ms, 1, position, None, task


def _up_to(count: int) -> range:
    return range(1, count + 1)


def replay(
    plan: ReplayPlan,
    make_bedside: MakeBedside,
    journal: Journal,
    *,
    on_alert: Callable[[Alert], None] | None = None,
    on_step: Callable[[Step], None] | None = None,
    monotonic: Callable[[], float] = time.perf_counter,
) -> ReplaySummary:
    """Run or resume a replay.

    Args:
        plan: What is replayed.
        make_bedside: Called once for every patient, when the first event comes; must build the same bed again when
            the run is resumed.
        journal: Open for appending. When it fails, alerts go on, A3 and above are locked, and the summary says so.
        on_alert: Called for every announced alert of a new step, before the step is journalled.
        on_step: Called after every step, those derived again included.
        monotonic: Stopwatch in seconds.

    Raises:
        InterruptedRun: the user pressed Ctrl-C; the same call resumes.
        JournalError: a journalled step was erased or differs from the one derived again.
        InputError: a stream is not in order of arrival, or belongs to another patient.
    """
    started = monotonic()
    run_id, first_seq = _find_run(plan, journal)
    tally, beds = Tally(), dict[str, Bedside]()
    journal_error: str | None = None
    has_begun = first_seq is not None
    recorded = iter(()) if first_seq is None else _recorded_steps(journal, first_seq, run_id)
    is_other_build = first_seq is not None and _newest_build(journal, first_seq, run_id) != dict(plan.build)
    try:
        for patient, t_ms, observation, task in plan.events():
            earlier = next(recorded, None)
            if not has_begun:
                build = {"build": dict(plan.build)} if plan.build else {}
                journal_error = _write(journal, START, canonical_json({"run_id": run_id, **plan.identity(), **build}))
                has_begun = True
            elif is_other_build and earlier is None:
                journal_error = _write(journal, BUILD, canonical_json({"run_id": run_id, "build": dict(plan.build)}))
                is_other_build = False
            bed = beds.get(patient)
            if bed is None:
                # A full group's beds are free again: nothing of an earlier group comes after it.
                if len(beds) == plan.beds:
                    beds.clear()
                bed = beds[patient] = make_bedside(run_id, patient)
                if patient in plan.static and earlier is None and journal_error is None:
                    journal_error = _write(journal, ADMISSION, _admission(run_id, patient, plan), patient=patient)
            if journal_error is not None:
                bed.note_journal_failure()
            if observation is None:
                step = bed.close_bin(t_ms, task=task, recorded=earlier)
            else:
                step = bed.observe(observation, t_ms, recorded=earlier)
            if earlier is not None:
                _compare(earlier, step)
                step = earlier
            else:
                if on_alert is not None:
                    for alert in step.announced:
                        on_alert(alert)
                if journal_error is None:
                    journal_error = _write(
                        journal, STEP, step.to_payload(), patient=patient, must_checkpoint=step.must_checkpoint
                    )
            tally.add(step, is_resumed=earlier is not None)
            if on_step is not None:
                on_step(step)
        if next(recorded, None) is not None:
            raise JournalError(f"run {run_id}: the journal holds more steps than the data give", hint=_OTHER_DATA)
        if journal_error is None:
            journal_error = _write(journal, END, canonical_json({"run_id": run_id, "steps": tally.steps}))
    except KeyboardInterrupt as stop:
        raise InterruptedRun(
            f"replay stopped after {tally.steps} events; everything up to here is in the journal",
            hint="run the same command again to resume",
        ) from stop
    seconds = monotonic() - started
    return tally.summary(run_id, len(plan.streams), seconds, journal_error=journal_error)


_OTHER_DATA = "the data or the program changed since the run began; start it with another journal"


def _write(
    journal: Journal, kind: str, payload: bytes, *, patient: str | None = None, must_checkpoint: bool = False
) -> str | None:
    """Append, and return why it failed instead of raising: an alarm must not die of a full disk."""
    try:
        journal.append(kind, payload, patient=patient, must_checkpoint=must_checkpoint)
    except JournalError as error:
        return str(error)
    return None


def _find_run(plan: ReplayPlan, journal: Journal) -> tuple[str, int | None]:
    """The id of the run to begin or resume, and where it began."""
    ended = {_run_of(payload) for _, payload in journal.entries(kind=END) if payload is not None}
    attempt = 0
    while plan.run_id(attempt) in ended:
        attempt += 1
    run_id = plan.run_id(attempt)
    for entry, payload in journal.entries(kind=START):
        if payload is not None and _run_of(payload) == run_id:
            return run_id, entry.seq
    return run_id, None


def _newest_build(journal: Journal, first_seq: int, run_id: str) -> dict[str, str]:
    """The program that wrote the newest part of a run."""
    newest: dict[str, str] = {}
    for kind in (START, BUILD):
        for _, payload in journal.entries(start=first_seq, kind=kind):
            if payload is not None and _run_of(payload) == run_id:
                newest = json.loads(payload).get("build", {})
    return newest


def _admission(run_id: str, patient: str, plan: ReplayPlan) -> bytes:
    static = [float(value) for value in plan.static[patient]]
    return canonical_json({"run_id": run_id, "patient": patient, "static": static})


def _run_of(payload: bytes) -> str:
    try:
        return str(json.loads(payload)["run_id"])
    except (ValueError, KeyError, TypeError) as error:
        raise JournalError(f"a replay entry of the journal cannot be read: {error}") from error


def _recorded_steps(journal: Journal, first_seq: int, run_id: str) -> Iterator[Step]:
    mark = f'"run_id":"{run_id}"'.encode()
    for entry, payload in journal.entries(start=first_seq, kind=STEP):
        if payload is None:
            raise JournalError(f"run {run_id} cannot be resumed: the payload of entry {entry.seq} was erased")
        if mark in payload:
            yield Step.from_payload(payload)


def _compare(earlier: Step, again: Step) -> None:
    if earlier.without_latency().to_payload() != again.without_latency().to_payload():
        raise JournalError(
            f"run {earlier.run_id} cannot be resumed: step {earlier.number} of a patient differs from what the journal "
            f"says of it (trace {earlier.provenance.trace_id})",
            hint=_OTHER_DATA,
        )
