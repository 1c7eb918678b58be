"""Where every source puts its readings and the ward takes them: bounded, fair, and never in a source's way.

A source must not wait for the ward, and the ward must not drown. So under overload something is lost; what, is chosen:

* of one patient the oldest readings go first, but never the newest of a signal: the floor always has the present;
* a flood from one bed takes nothing from the others: each patient has room of its own, and readings are handed out to
  one patient after the other.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass

from smallhold.assist.sources.receipts import Receipts, Settled
from smallhold.errors import InputError
from smallhold.records import Observation

OVERLOAD = "overload"
TOO_MANY_CODES = "too_many_codes"
TOO_MANY_PATIENTS = "too_many_patients"


class _Bed:
    """The waiting readings of one patient, in order of arrival."""

    __slots__ = ("newest", "waiting")

    def __init__(self) -> None:
        self.waiting: OrderedDict[int, Observation] = OrderedDict()
        self.newest: dict[str, tuple[int, int]] = {}  # code -> (time, number in `waiting`)

    def add(self, number: int, observation: Observation) -> None:
        self.waiting[number] = observation
        self._note(number, observation)

    def _note(self, number: int, observation: Observation) -> None:
        # Dated after its arrival it counts as measured on arrival: a clock that runs ahead cannot stay the newest.
        age = (min(observation.t_measured_ms, observation.t_received_ms), number)
        if observation.code not in self.newest or age > self.newest[observation.code]:
            self.newest[observation.code] = age

    def drop(self) -> tuple[str, Observation]:
        """Drop the oldest reading that is not the newest of its signal; return the reason to count it under, and it."""
        for number, observation in self.waiting.items():
            if self.newest[observation.code][1] != number:
                del self.waiting[number]
                return OVERLOAD, observation
        return TOO_MANY_CODES, self.take()  # more signals than room: only then can one lose its newest reading

    def take(self) -> Observation:
        number, observation = self.waiting.popitem(last=False)
        if self.newest[observation.code][1] == number:
            del self.newest[observation.code]
            for at, other in self.waiting.items():  # arrived later, but measured earlier
                if other.code == observation.code:
                    self._note(at, other)
        return observation


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxStatus:
    """How an inbox is doing.

    Attributes:
        depth: Readings that wait.
        patients: Patients with waiting readings.
        received: Readings that were ever put in, those dropped later included.
        dropped: How many were dropped, by reason: `overload`, `too_many_codes`, `too_many_patients`.
    """

    depth: int
    patients: int
    received: int
    dropped: dict[str, int]


class Inbox:
    """Readings on their way from any number of sources to the ward; safe to use from any thread.

    Guarantees:
        * `put` never waits for room and never raises for want of it; what is lost is counted in `dropped`.
        * While a patient's signals are no more than `per_patient`, the newest waiting reading of each is kept.
          Newest is by time of measurement, and by arrival where that is equal or in the future.
        * `take` returns one patient's readings in order of arrival, and one of each patient in turn.
        * At most `per_patient * patients` readings are held.

    Args:
        per_patient: Waiting readings of one patient, at least 1.
        patients: Patients with waiting readings, at least 1. A reading of one more is dropped: those who are already
            waiting are not put at risk by an invented name.
        receipts: Where senders wait for word that a reading is on record; whoever takes readings then settles each
            (`settle`). None: a reading counts as taken once it waits here.
    """

    def __init__(self, *, per_patient: int = 256, patients: int = 1024, receipts: Receipts | None = None) -> None:
        if per_patient < 1 or patients < 1:
            raise InputError(
                f"inbox: expected per_patient and patients of at least 1, got {per_patient} and {patients}"
            )
        self.receipts = receipts
        self._per_patient = per_patient
        self._patients = patients
        self._beds: dict[str, _Bed] = {}
        self._turn: deque[str] = deque()  # the keys of `_beds`, whose turn is next first
        self._depth = 0
        self._received = 0
        self._dropped: dict[str, int] = {}
        self._has_some = threading.Condition()

    def put(self, observation: Observation, settled: Settled | None = None) -> None:
        """Take one reading in, at the cost of an older one where there is no room.

        Args:
            observation: The reading.
            settled: Called when it is on record, or dropped: then it is counted, and sending it again would not help.
        """
        if settled is not None and self.receipts is not None:
            self.receipts.expect(observation, settled)
        dropped = self._put(observation)
        if dropped is not None:
            self.settle(dropped)
        if settled is not None and self.receipts is None:
            settled()

    def settle(self, observation: Observation) -> None:
        """What was taken is on record now, or could not be recorded and is counted as such."""
        if self.receipts is not None:
            self.receipts.settle(observation)

    def _put(self, observation: Observation) -> Observation | None:
        """Returns the reading that was dropped for it."""
        with self._has_some:
            self._received += 1
            bed = self._beds.get(observation.patient)
            if bed is None:
                if len(self._beds) >= self._patients:
                    self._count(TOO_MANY_PATIENTS)
                    return observation
                bed = self._beds[observation.patient] = _Bed()
                self._turn.append(observation.patient)
            bed.add(self._received, observation)
            dropped = None
            if len(bed.waiting) > self._per_patient:
                reason, dropped = bed.drop()
                self._count(reason)
            else:
                self._depth += 1
            self._has_some.notify()
            return dropped

    def take(self, most: int, timeout_seconds: float) -> list[Observation]:
        """Up to `most` readings, waiting at most `timeout_seconds` for the first.

        Returns:
            What is waiting, at once when anything is; empty when nothing came in time.

        Raises:
            InputError: `most` is less than 1, or the time is negative or without end.
        """
        if most < 1 or not 0 <= timeout_seconds <= threading.TIMEOUT_MAX:
            raise InputError(f"inbox: expected most >= 1 and timeout_seconds >= 0, got {most} and {timeout_seconds}")
        deadline = time.monotonic() + timeout_seconds
        taken: list[Observation] = []
        with self._has_some:
            while not self._depth:
                left = deadline - time.monotonic()
                if left <= 0:
                    return taken
                self._has_some.wait(left)
            while self._turn and len(taken) < most:
                patient = self._turn.popleft()
                bed = self._beds[patient]
                taken.append(bed.take())
                self._depth -= 1
                if bed.waiting:
                    self._turn.append(patient)
                else:
                    del self._beds[patient]
        return taken

    def has_room(self, patient: str) -> bool:
        """Whether a reading of this patient would displace nothing now; for sources that can wait, such as files."""
        with self._has_some:
            bed = self._beds.get(patient)
            return len(self._beds) < self._patients if bed is None else len(bed.waiting) < self._per_patient

    @property
    def depth(self) -> int:
        """Readings that wait."""
        return self._depth

    @property
    def received(self) -> int:
        """Readings that were ever put in, those dropped later included."""
        return self._received

    @property
    def dropped(self) -> dict[str, int]:
        """How many readings were dropped, by reason: `overload`, `too_many_codes`, `too_many_patients`."""
        with self._has_some:
            return dict(self._dropped)

    def status(self) -> InboxStatus:
        """All counts of one moment."""
        with self._has_some:
            return InboxStatus(
                depth=self._depth,
                patients=len(self._beds),
                received=self._received,
                dropped=dict(self._dropped),
            )

    def _count(self, reason: str) -> None:
        self._dropped[reason] = self._dropped.get(reason, 0) + 1
