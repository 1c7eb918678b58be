from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallhold.assist.sources import Inbox, InboxStatus
from smallhold.errors import InputError
from smallhold.records import Observation, Provenance

PROVENANCE = Provenance(trace_id="0" * 32)


def reading(number: int, patient: str = "bed-1", code: str = "HR", measured_ms: int | None = None) -> Observation:
    return Observation(
        id=f"r{number}",
        patient=patient,
        code=code,
        value=float(number),
        unit="/min",
        t_measured_ms=number if measured_ms is None else measured_ms,
        t_received_ms=max(number, measured_ms or 0),
        provenance=PROVENANCE,
    )


def ids(taken: list[Observation]) -> list[str]:
    return [one.id for one in taken]


def test_readings_of_a_patient_come_out_in_order_of_arrival() -> None:
    inbox = Inbox()
    for number in range(5):
        inbox.put(reading(number))
    assert inbox.depth == 5
    assert ids(inbox.take(3, 0)) == ["r0", "r1", "r2"]
    assert ids(inbox.take(9, 0)) == ["r3", "r4"]
    assert (inbox.depth, inbox.received, inbox.dropped) == (0, 5, {})


def test_the_oldest_is_dropped_but_never_the_newest_of_a_signal() -> None:
    inbox = Inbox(per_patient=3)
    inbox.put(reading(1, code="Temp"))
    for number in range(2, 10):
        inbox.put(reading(number))
    assert ids(inbox.take(9, 0)) == ["r1", "r8", "r9"]
    assert inbox.dropped == {"overload": 6}


def test_the_newest_is_told_by_its_time_not_by_its_arrival() -> None:
    inbox = Inbox(per_patient=2)
    inbox.put(reading(1, measured_ms=100))
    inbox.put(reading(2, measured_ms=50))  # late: it arrived after a newer one
    inbox.put(reading(3, measured_ms=60))
    assert [one.t_measured_ms for one in inbox.take(9, 0)] == [100, 60]


def test_a_clock_that_runs_ahead_does_not_stay_the_newest() -> None:
    inbox = Inbox(per_patient=1)
    ahead = Observation(
        id="ahead", patient="bed-1", code="HR", value=60.0, unit="/min", t_measured_ms=10**15, t_received_ms=5,
        provenance=PROVENANCE,
    )  # fmt: skip
    inbox.put(ahead)
    inbox.put(reading(6))
    assert ids(inbox.take(9, 0)) == ["r6"]


def test_a_flood_from_one_bed_starves_no_other() -> None:
    inbox = Inbox(per_patient=100)
    for number in range(1000):
        inbox.put(reading(number, patient="loud"))
    for number in range(3):
        inbox.put(reading(number, patient=f"quiet-{number}"))
    first = inbox.take(4, 0)
    assert sorted(one.patient for one in first) == ["loud", "quiet-0", "quiet-1", "quiet-2"]
    assert inbox.dropped == {"overload": 900}


def test_one_patient_more_than_there_is_room_for_is_dropped_and_counted() -> None:
    inbox = Inbox(patients=2)
    for number in range(3):
        inbox.put(reading(number, patient=f"p{number}"))
    assert inbox.dropped == {"too_many_patients": 1}
    assert inbox.status() == InboxStatus(depth=2, patients=2, received=3, dropped={"too_many_patients": 1})
    assert sorted(one.patient for one in inbox.take(9, 0)) == ["p0", "p1"]


def test_take_waits_no_longer_than_it_was_told() -> None:
    begun = time.monotonic()
    assert Inbox().take(1, 0.05) == []
    assert 0.04 <= time.monotonic() - begun < 20


def test_take_wakes_when_something_comes() -> None:
    inbox = Inbox()
    threading.Timer(0.05, inbox.put, [reading(1)]).start()
    begun = time.monotonic()
    assert ids(inbox.take(1, 10)) == ["r1"]
    assert time.monotonic() - begun < 5


def test_nothing_is_lost_or_doubled_between_threads() -> None:
    inbox = Inbox(per_patient=10_000)

    def send(patient: str) -> None:
        for number in range(500):
            inbox.put(reading(number, patient=patient))

    senders = [threading.Thread(target=send, args=[f"p{n}"]) for n in range(4)]
    for sender in senders:
        sender.start()
    taken: list[tuple[str, str]] = []
    while len(taken) < 2000:
        batch = inbox.take(64, 5)
        assert batch, "a reading was lost"
        taken += [(one.patient, one.id) for one in batch]
    assert len(set(taken)) == 2000
    assert inbox.depth == 0


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="at least 1, got 0 and 5"):
        Inbox(per_patient=0, patients=5)
    with pytest.raises(InputError, match="most >= 1"):
        Inbox().take(0, 1)


readings = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from(["HR", "Temp", "SaO2"]), st.integers(0, 50)),
    max_size=60,
)


@settings(deadline=None, max_examples=200)
@given(readings, st.integers(3, 8), st.lists(st.integers(0, 60), max_size=4))
def test_against_a_slow_twin(sent: list[tuple[str, str, int]], room: int, take_after: list[int]) -> None:
    inbox = Inbox(per_patient=room)
    twin: dict[str, list[Observation]] = {}
    dropped = 0
    for number, (patient, code, measured) in enumerate(sent):
        one = reading(number, patient=patient, code=code, measured_ms=measured)
        inbox.put(one)
        waiting = twin.setdefault(patient, [])
        waiting.append(one)
        if len(waiting) > room:
            newest = {
                max((r for r in waiting if r.code == c), key=lambda r: (r.t_measured_ms, waiting.index(r))).id
                for c in {r.code for r in waiting}
            }
            waiting.remove(next(r for r in waiting if r.id not in newest))
            dropped += 1
        if number in take_after:
            for gone in inbox.take(2, 0):
                assert twin[gone.patient].pop(0).id == gone.id
    assert inbox.depth == sum(map(len, twin.values()))
    for gone in inbox.take(1000, 0) if inbox.depth else []:
        assert twin[gone.patient].pop(0).id == gone.id
    assert not any(twin.values())
    assert inbox.dropped == ({"overload": dropped} if dropped else {})
