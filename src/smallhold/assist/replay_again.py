"""Past decisions again: the journalled events of a run through the same code, and every answer compared bit for bit.

What is compared of a step is what was decided: whether the reading was taken, the scores, and the model's answer with
its probabilities. Stopwatch readings are not, nor what followed by policy. A failure of the model that the journal
tells of is repeated, not computed.

Equal bits are promised for the same build on the same instruction set alone (`device.build_info`), so a run that was
recorded by another is refused, or compared without any such claim.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from smallhold.assist.bedside import Bedside
from smallhold.assist.replay import ADMISSION, BUILD, START, STEP
from smallhold.assist.step import Step
from smallhold.device.build_info import build_difference
from smallhold.device.journal import Journal
from smallhold.errors import InputError, JournalError
from smallhold.records import AuditEntry, Risk, canonical_json

_MOST_DIFFERENCES = 20
Entries = Callable[[], Iterator[tuple[AuditEntry, bytes | None]]]


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """What the journal says about a run.

    Attributes:
        run_id: Its name.
        first_seq: Its first entry.
        start: What was run: bundle, profile, data set ...
        builds: Every program that computed a part of it; empty in journals that did not note it.
        static: Patient to what the model knew on admission.
    """

    run_id: str
    first_seq: int
    start: Mapping[str, Any]
    builds: tuple[Mapping[str, str], ...]
    static: Mapping[str, tuple[float, ...]]

    def difference(self, present: Mapping[str, str]) -> str:
        """Why equal bits cannot be claimed on this build; empty when they can."""
        if not self.builds:
            return "the journal does not say which build and instruction set computed this run"
        return " / ".join(filter(None, (build_difference(build, present) for build in self.builds)))


@dataclass(frozen=True, slots=True)
class Difference:
    """A step that came out otherwise."""

    seq: int
    number: int
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AgainReport:
    """What a replay of past decisions found.

    Attributes:
        run_id: Which run.
        events: Events that were fed, those before the compared ones included.
        compared: Steps compared.
        risks: Answers of the model among them.
        identical: Steps that came out bit for bit the same.
        largest_difference: Of a probability, 0 when all are the same.
        differences: The first of the others.
        is_same_build: Build and instruction set are those that the journal recorded.
        build_difference: Otherwise, what differs.
    """

    run_id: str
    events: int
    compared: int
    risks: int
    identical: int
    largest_difference: float
    differences: tuple[Difference, ...]
    is_same_build: bool
    build_difference: str

    @property
    def is_bit_exact(self) -> bool:
        """True only when everything is equal and may be claimed to be."""
        return self.is_same_build and self.identical == self.compared > 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON object."""
        return {"is_bit_exact": self.is_bit_exact, **asdict(self)}


def find_run(journal: Journal, run_id: str | None = None) -> RecordedRun:
    """The run of that name, or the newest.

    Raises:
        JournalError: there is none, or an entry cannot be read.
    """
    found: tuple[int, dict[str, Any]] | None = None
    for entry, payload in journal.entries(kind=START):
        if payload is not None:
            value = _object(payload)
            if run_id in (None, value["run_id"]):
                found = (entry.seq, value)
    if found is None:
        raise JournalError(
            "the journal holds no replayed run" + ("" if run_id is None else f" {run_id!r}"),
            hint="smallhold journal show --kind replay-start",
        )
    first_seq, start = found
    later = [value["build"] for value in _of_run(journal, BUILD, first_seq, start["run_id"])]
    builds = [start["build"], *later] if "build" in start else []
    static = {
        value["patient"]: tuple(value["static"]) for value in _of_run(journal, ADMISSION, first_seq, start["run_id"])
    }
    return RecordedRun(start["run_id"], first_seq, start, tuple(builds), static)


def decide_again(
    journal: Journal,
    run: RecordedRun,
    make_bedside: Callable[[str, str], Bedside],
    *,
    last: int,
    build: Mapping[str, str],
) -> AgainReport:
    """Feed the events of a run again and compare its last steps.

    Args:
        journal: Where the run is.
        run: From `find_run`.
        make_bedside: Builds the bed of a patient as the run did: (run id, patient).
        last: How many steps to compare; earlier ones of the same patients are fed to bring their beds there.
        build: This process (`this_build`).

    Raises:
        InputError: `last` is not positive.
        JournalError: a step of these patients was erased, or cannot be read.
    """
    if last < 1:
        raise InputError(f"last: expected 1 or more steps, got {last}")
    newest: deque[tuple[int, str]] = deque(maxlen=last)
    for seq, step in _steps(journal, run):
        newest.append((seq, step.patient))
    if not newest:
        raise JournalError(f"run {run.run_id} has no steps")
    first_seq, patients = newest[0][0], {patient for _, patient in newest}
    beds: dict[str, Bedside] = {}
    events = compared = risks = identical = 0
    largest, differences = 0.0, list[Difference]()
    for seq, step in _steps(journal, run):
        if step.patient not in patients:
            continue
        bed = beds.get(step.patient)
        if bed is None:
            if step.number != 0:
                raise JournalError(
                    f"run {run.run_id}: entry {seq} is step {step.number} of a patient, expected the first"
                )
            bed = beds[step.patient] = make_bedside(run.run_id, step.patient)
        if step.observation is None:
            again = bed.close_bin(step.t_ms, task=step.task, recorded=step)
        else:
            again = bed.observe(step.observation, step.t_ms, recorded=step)
        events += 1
        if seq < first_seq:
            continue
        compared += 1
        risks += step.risk is not None
        what = _what_differs(step, again)
        if not what:
            identical += 1
        elif len(differences) < _MOST_DIFFERENCES:
            differences.append(Difference(seq, step.number, what))
        largest = max(largest, _distance(step.risk, again.risk))
    difference = run.difference(build)
    return AgainReport(
        run_id=run.run_id,
        events=events,
        compared=compared,
        risks=risks,
        identical=identical,
        largest_difference=largest,
        differences=tuple(differences),
        is_same_build=not difference,
        build_difference=difference,
    )


def _steps(journal: Journal, run: RecordedRun) -> Iterator[tuple[int, Step]]:
    mark = f'"run_id":"{run.run_id}"'.encode()
    for entry, payload in journal.entries(start=run.first_seq, kind=STEP):
        if payload is not None and mark in payload:  # of an erased patient nothing can be decided again
            yield entry.seq, Step.from_payload(payload)


def _of_run(journal: Journal, kind: str, first_seq: int, run_id: str) -> Iterator[dict[str, Any]]:
    for _, payload in journal.entries(start=first_seq, kind=kind):
        if payload is not None and (value := _object(payload))["run_id"] == run_id:
            yield value


def _object(payload: bytes) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(payload)
        _ = value["run_id"]
    except (ValueError, KeyError, TypeError) as error:
        raise JournalError(f"a replay entry of the journal cannot be read: {error}") from error
    return value


def _what_differs(step: Step, again: Step) -> str:
    told = [name for name in ("gate", "scores", "risk") if _decided(step, name) != _decided(again, name)]
    return ", ".join(told)


def _decided(step: Step, name: str) -> bytes:
    """The part of a step as canonical JSON, without what differs from run to run; equal floats have equal text."""
    record = getattr(step, name)
    if record is None:
        return b"null"
    return canonical_json({k: v for k, v in asdict(record).items() if k not in ("provenance", "latency_ms")})


def _distance(first: Risk | None, second: Risk | None) -> float:
    if first is None or second is None:
        return 0.0 if first is second else 1.0
    return max(abs(p - second.probabilities.get(choice, 0.0)) for choice, p in first.probabilities.items())
