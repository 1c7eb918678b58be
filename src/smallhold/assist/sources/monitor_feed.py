"""Recorded or simulated stays played as if their monitors were sending now, at any speed.

The replay's clock is mapped to now: a reading of minute m of the stays is sent, and dated, m * 60 / speed seconds after
the beginning, in UTC. So at a speed of 60 an hour of the ward passes in a minute, and nothing is dated in the future.
Where sending cannot keep up, readings go out late and keep their dates; the report says which rate was reached.
"""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol

from smallhold.assist.sources.inbox import Inbox
from smallhold.assist.sources.intake import Intake, Reading
from smallhold.device.wall_clock import wall_ms
from smallhold.errors import InputError
from smallhold.sectors.hospital.parameters import PARAMETERS
from smallhold.sectors.hospital.stays import SYSTEM, Stay, readings

_LONGEST_NAP_SECONDS = 0.2


class Sink(Protocol):
    """Where a feed goes."""

    def send(self, batch: Sequence[Reading]) -> int:
        """Send readings of one patient and one time; returns how many the other side has not refused.

        Raises:
            EndpointError: the other side did not take them within its deadline.
        """

    def close(self, deadline_seconds: float) -> None:
        """Wait until what was sent has arrived, then end."""


class InboxSink:
    """Straight into an inbox of this process; waits for room, so that nothing is lost to overload."""

    def __init__(self, inbox: Inbox, intake: Intake, *, deadline_seconds: float = 30.0) -> None:
        intake.open(inbox)
        self._intake = intake
        self._deadline_seconds = deadline_seconds

    def send(self, batch: Sequence[Reading]) -> int:
        """Put readings in; those without room within the deadline displace older ones, as every source's do."""
        deadline = time.monotonic() + self._deadline_seconds
        accepted = 0
        for reading in batch:
            while not self._intake.has_room(reading) and time.monotonic() < deadline:
                time.sleep(0.001)
            accepted += self._intake.offer(reading) is None
        return accepted

    def close(self, deadline_seconds: float) -> None:
        """Nothing is on its way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedReport:
    """What a feed did.

    Attributes:
        sent: Readings that were given to the other side and not refused.
        refused: Readings that it refused.
        patients: Number of patients.
        seconds: From the first to the last.
        asked_speed: Infinite for as quickly as it goes.
        reached_speed: Seconds of the stays for each second that passed.
        readings_per_second: Over the whole time.
        most_behind_seconds: The longest that a reading went out after its time.
        is_complete: Whether all stays were played to their end.
    """

    sent: int
    refused: int
    patients: int
    seconds: float
    asked_speed: float
    reached_speed: float
    readings_per_second: float
    most_behind_seconds: float
    is_complete: bool


def play(
    stays: Sequence[Stay],
    sink: Sink,
    *,
    speed: float,
    stop: threading.Event | None = None,
    on_batch: Callable[[int, int], None] | None = None,
    run_id: str | None = None,
    clock: Callable[[], int] = wall_ms,
) -> FeedReport:
    """Play stays side by side, all beginning now.

    Args:
        stays: At least one.
        sink: Where readings go; it is not closed.
        speed: Seconds of the stays for each second that passes, more than 0; infinite sends as quickly as it goes and
            dates every reading when it is sent.
        stop: Set it to end early.
        on_batch: Called with the readings sent so far and the minute of the stays.
        run_id: Begins the identifier of every reading, so that a second run is not taken for the first sent again;
            None = from the clock.
        clock: Milliseconds UTC.

    Raises:
        InputError: there are no stays, or the speed is not more than 0.
        EndpointError: the other side is gone.
    """
    if not stays or not speed > 0:
        raise InputError(f"feed: expected at least one stay and a speed of more than 0, got {len(stays)} and {speed}")
    stop = stop or threading.Event()
    begun_ms, begun = clock(), time.monotonic()
    run_id = f"{begun_ms:x}" if run_id is None else run_id
    sent = refused = minute = 0
    behind = 0.0
    is_complete = True
    for minute, batch in _batches(stays, run_id):
        due = 0.0 if math.isinf(speed) else minute * 60 / speed
        _wait_until(begun + due, stop)
        if stop.is_set():
            is_complete = False
            break
        measured_ms = clock() if math.isinf(speed) else begun_ms + round(due * 1000)
        dated = [replace(reading, t_measured_ms=measured_ms) for reading in batch]
        if not math.isinf(speed):
            behind = max(behind, time.monotonic() - begun - due)
        accepted = sink.send(dated)
        sent += accepted
        refused += len(dated) - accepted
        if on_batch is not None:
            on_batch(sent, minute)
    seconds = max(time.monotonic() - begun, 1e-9)
    return FeedReport(
        sent=sent,
        refused=refused,
        patients=len(stays),
        seconds=seconds,
        asked_speed=speed,
        reached_speed=minute * 60 / seconds,
        readings_per_second=sent / seconds,
        most_behind_seconds=behind,
        is_complete=is_complete,
    )


def _wait_until(moment: float, stop: threading.Event) -> None:
    while (left := moment - time.monotonic()) > 0 and not stop.wait(min(left, _LONGEST_NAP_SECONDS)):
        pass


def _batches(stays: Sequence[Stay], run_id: str) -> Iterator[tuple[int, list[Reading]]]:
    """(minute, readings of one patient), in order of time; at one minute patients keep their order."""

    def of_one(position: int) -> Iterator[tuple[int, int, int, int, float]]:
        for number, (minute, code, value) in enumerate(readings(stays[position])):
            yield minute, position, number, code, value

    merged = heapq.merge(*(of_one(position) for position in range(len(stays))))
    for (minute, position), group in groupby(merged, key=lambda event: event[:2]):
        patient = stays[position].record_id
        yield minute, [_reading(patient, f"{run_id}-{number}", code, value) for _, _, number, code, value in group]


def _reading(patient: str, identifier: str, code: int, value: float) -> Reading:
    parameter = PARAMETERS[code]
    return Reading(
        id=identifier,
        patient=patient,
        system="loinc" if parameter.loinc else SYSTEM,
        code=parameter.loinc or parameter.name,
        value=value,
        unit=parameter.unit,
        t_measured_ms=0,
        device="feed",
    )
