"""Doses: when they are due, what must not be given, and that nothing is given that is not on record."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallhold.assist.medication import (
    DoseRefusedError,
    Kind,
    MedicationBoard,
    Prescription,
    SlotState,
)
from smallhold.assist.medication.board import Conflict, table_check
from smallhold.assist.orders.interactions import load_interactions
from smallhold.assist.orders.limits import Dose
from smallhold.errors import InputError, JournalError, OrderError

HOUR = 3_600_000
DAY = 24 * HOUR


def at(text: str) -> int:
    """UTC milliseconds of `2026-03-28 08:00`."""
    return int(datetime.strptime(text, "%Y-%m-%d %H:%M").replace(tzinfo=UTC).timestamp() * 1e3)


START = at("2026-03-27 00:00")


def paracetamol(**changes: Any) -> Prescription:
    values: dict[str, Any] = {
        "id": "rx1", "patient": "p", "drug": "paracetamol", "dose": 500, "unit": "mg", "route": "oral",
        "kind": Kind.SCHEDULED, "start_ms": START, "times_of_day": (8 * 60, 20 * 60), "zone": "UTC",
        "prescribers": ("dr A",),
    }  # fmt: skip
    return Prescription(**{**values, **changes})


class Journal:
    """Keeps what is written; refuses when told to."""

    def __init__(self) -> None:
        self.events: list[Mapping[str, Any]] = []
        self.is_full = False

    def __call__(self, event: Mapping[str, Any]) -> None:
        if self.is_full:
            raise JournalError("disk full")
        self.events.append(event)


def board(journal: Journal | None = None, **options: Any) -> MedicationBoard:
    return MedicationBoard("p", journal or Journal(), **options)


def test_a_dose_goes_through_its_states_by_the_hour() -> None:
    ward = board()
    ward.prescribe(paracetamol())
    due = at("2026-03-27 08:00")

    def state(now: int) -> SlotState:
        return next(view.state for view in ward.plan(now) if view.slot.due_ms == due)

    assert state(due - 2 * HOUR) is SlotState.UPCOMING
    assert state(due - HOUR) is SlotState.DUE
    assert state(due + HOUR - 1) is SlotState.DUE
    assert state(due + HOUR) is SlotState.OVERDUE
    assert state(due + 4 * HOUR) is SlotState.MISSED
    ward.give("rx1", "nurse", due + HOUR, slot_ms=due)
    assert state(due + 5 * HOUR) is SlotState.GIVEN


def test_the_same_dose_is_not_given_twice() -> None:
    ward = board()
    ward.prescribe(paracetamol())
    due = at("2026-03-27 08:00")
    ward.give("rx1", "nurse A", due, slot_ms=due)
    with pytest.raises(DoseRefusedError, match="double: this dose is on record as given"):
        ward.give("rx1", "nurse B", due + 60_000, slot_ms=due)
    assert len(ward.given()) == 1


@pytest.mark.parametrize(
    ("now", "slot", "reason"),
    [
        ("2026-03-27 06:30", "2026-03-27 08:00", "early: due in 5400000 ms"),
        ("2026-03-27 12:00", "2026-03-27 08:00", "missed: too late without a new order"),
        ("2026-03-27 08:00", "2026-03-27 09:00", "no_slot: no dose is planned"),
    ],
)
def test_a_dose_outside_its_window_is_refused(now: str, slot: str, reason: str) -> None:
    ward = board()
    ward.prescribe(paracetamol())
    with pytest.raises(DoseRefusedError, match=reason):
        ward.give("rx1", "nurse", at(now), slot_ms=at(slot))


def test_a_ceiling_counts_every_prescription_of_the_drug_in_whole_numbers() -> None:
    ward = board()
    ward.prescribe(paracetamol(dose=1000, max_daily_dose=4000, times_of_day=(0, 360, 720, 1080)))
    ward.prescribe(
        paracetamol(
            id="rx2", kind=Kind.AS_NEEDED, times_of_day=(), dose=1000, min_interval_ms=HOUR, max_daily_dose=3000
        )
    )
    t = START + DAY
    ward.give("rx1", "n", t, slot_ms=t)
    ward.give("rx2", "n", t + 2 * HOUR)
    ward.give("rx1", "n", t + 6 * HOUR, slot_ms=t + 6 * HOUR)
    with pytest.raises(DoseRefusedError, match="ceiling: 4000 mg in 24 h, at most 3000"):
        ward.give("rx2", "n", t + 8 * HOUR)
    with pytest.raises(DoseRefusedError, match="interval: 1000 ms after the last dose, 3600000 ms are needed"):
        ward.give("rx2", "n", t + 6 * HOUR + 1000)


def test_doses_under_standing_orders_count() -> None:
    due = at("2026-03-27 08:00")
    earlier = Dose("d1", due - 2 * HOUR, 1_700 * 1_000_000, "mg", "an order")
    ward = board(elsewhere=lambda drug: [earlier] if drug == "paracetamol" else [])
    ward.prescribe(paracetamol(max_daily_dose=2000))
    with pytest.raises(DoseRefusedError, match="ceiling: 2200 mg in 24 h, at most 2000"):
        ward.give("rx1", "nurse", due, slot_ms=due)


def test_the_shipped_table_warns_of_what_it_does_not_know() -> None:
    ward = board(check_drug=table_check(load_interactions(), allergies=()))
    told = ward.prescribe(paracetamol(drug="a drug that no table lists"))
    assert [conflict.severity for conflict in told] == ["caution"]


def test_units_that_differ_are_not_added() -> None:
    ward = board(elsewhere=lambda _: [Dose("d1", START, 5_000_000, "ug", "an order")])
    ward.prescribe(paracetamol(max_daily_dose=4000))
    with pytest.raises(DoseRefusedError, match="unit: this drug is prescribed in mg, not ug"):
        ward.prescribe(paracetamol(id="rx2", unit="ug", kind=Kind.EMERGENCY, times_of_day=()))
    due = at("2026-03-27 08:00")
    with pytest.raises(DoseRefusedError, match="unit: doses of this drug in"):
        ward.give("rx1", "nurse", due, slot_ms=due)


def test_an_emergency_order_is_given_at_once_and_once() -> None:
    ward = board()
    rx = paracetamol(id="e", drug="adrenaline", kind=Kind.EMERGENCY, times_of_day=(), prescribers=("dr A", "dr B"))
    with pytest.raises(DoseRefusedError, match="prescribers: 2 persons must sign, 1 did"):
        ward.prescribe(paracetamol(kind=Kind.EMERGENCY, times_of_day=(), prescribers=("A", "A")), needed_prescribers=2)
    ward.prescribe(rx, needed_prescribers=2)
    ward.give("e", "nurse", START + 5)
    with pytest.raises(DoseRefusedError, match="double: an emergency order is given once"):
        ward.give("e", "nurse", START + HOUR)


def check(drug: str, others: tuple[str, ...]) -> list[Conflict]:
    found = []
    if drug == "penicillin":
        found.append(Conflict("contraindicated", "allergy to penicillin"))
    if {drug, *others} >= {"warfarin", "ibuprofen"}:
        found.append(Conflict("caution", "warfarin with ibuprofen: bleeding"))
    return found


def test_an_allergy_is_never_prescribed_and_a_caution_needs_a_second_person() -> None:
    ward = board(check_drug=check)
    with pytest.raises(DoseRefusedError, match="contraindicated: allergy to penicillin"):
        ward.prescribe(paracetamol(drug="penicillin"))
    ward.prescribe(paracetamol(drug="warfarin"))
    told = ward.prescribe(paracetamol(id="rx2", drug="ibuprofen"))
    assert [conflict.text for conflict in told] == ["warfarin with ibuprofen: bleeding"]
    due = at("2026-03-27 08:00")
    with pytest.raises(DoseRefusedError, match="caution: warfarin with ibuprofen"):
        ward.give("rx2", "nurse", due, slot_ms=due)
    with pytest.raises(DoseRefusedError, match="caution"):  # the same person is no second one
        ward.give("rx2", "nurse", due, slot_ms=due, witness="nurse", reason="ordered so")
    ward.give("rx2", "nurse", due, slot_ms=due, witness="dr B", reason="short course, watched")


def test_what_cannot_be_journalled_is_not_given_and_what_is_stopped_stays_stopped() -> None:
    journal = Journal()
    ward = board(journal)
    ward.prescribe(paracetamol())
    due = at("2026-03-27 08:00")
    journal.is_full = True
    with pytest.raises(JournalError):
        ward.give("rx1", "nurse", due, slot_ms=due)
    assert not ward.given()
    with pytest.raises(JournalError):
        ward.stop("rx1", "dr A", due, "rash")
    journal.is_full = False
    with pytest.raises(DoseRefusedError, match="stopped: the prescription was ended"):
        ward.give("rx1", "nurse", due, slot_ms=due)


def test_the_stop_control_forbids_every_dose() -> None:
    ward = board(is_stopped=lambda: True)
    ward.prescribe(paracetamol())
    due = at("2026-03-27 08:00")
    with pytest.raises(DoseRefusedError, match="stopped: the stop control is on"):
        ward.give("rx1", "nurse", due, slot_ms=due)


def test_refused_and_held_doses_are_not_given_later() -> None:
    ward = board()
    ward.prescribe(paracetamol())
    due = at("2026-03-27 08:00")
    ward.settle("rx1", due, SlotState.REFUSED, "nurse", due, "feels sick")
    with pytest.raises(DoseRefusedError, match="on record as refused"):
        ward.give("rx1", "nurse", due, slot_ms=due)
    with pytest.raises(InputError, match="has no open dose"):
        ward.settle("rx1", due, SlotState.HELD, "nurse", due, "again")
    with pytest.raises(InputError, match="expected the name of a person and a reason"):
        ward.settle("rx1", due + 12 * HOUR, SlotState.HELD, "nurse", due, "")


def test_intake_is_confirmed_by_the_patient() -> None:
    ward = board()
    ward.prescribe(paracetamol())
    due = at("2026-03-27 08:00")
    ward.give("rx1", "nurse", due, slot_ms=due)
    ward.confirm("rx1", due, due + 60_000)
    assert ward.given()[0].is_confirmed
    with pytest.raises(InputError, match="no dose of 'rx1' was given at 1 ms"):
        ward.confirm("rx1", 1, due)


def test_times_of_day_follow_the_wards_clock_through_both_changes() -> None:
    spring = paracetamol(zone="Europe/Paris", times_of_day=(2 * 60 + 30, 8 * 60))
    days = [slot.due_ms for slot in spring.slots(at("2026-03-28 00:00"), at("2026-03-31 00:00"))]
    # 28 March: +1 h; on 29 March 02:30 does not exist, its instant is 01:30 UTC = 03:30 local; then +2 h.
    assert days == [
        at("2026-03-28 01:30"), at("2026-03-28 07:00"),
        at("2026-03-29 01:30"), at("2026-03-29 06:00"),
        at("2026-03-30 00:30"), at("2026-03-30 06:00"),
    ]  # fmt: skip
    autumn = paracetamol(zone="Europe/Paris", times_of_day=(2 * 60 + 30,))
    days = [slot.due_ms for slot in autumn.slots(at("2026-10-24 12:00"), at("2026-10-26 12:00"))]
    assert days == [at("2026-10-25 00:30"), at("2026-10-26 01:30")]  # the first of the two half past twos


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dose": 0}, "dose: expected a positive whole number, got 0"),
        ({"dose": 1.5}, "dose: expected a positive whole number, got 1.5"),
        ({"times_of_day": ()}, "expected either times_of_day or every_ms"),
        ({"times_of_day": (60, 60)}, "ascending minutes of a day"),
        ({"unit": "mcg"}, "unit"),
        ({"zone": "Mars/Olympus"}, "zone: expected an IANA name, got 'Mars/Olympus'"),
        ({"prescribers": ()}, "prescribers: expected at least one name"),
        ({"max_daily_dose": 100}, "one dose of 500 mg is above the daily 100"),
        ({"kind": Kind.AS_NEEDED, "times_of_day": ()}, "as needed: expected a positive min_interval_ms"),
        ({"end_ms": START}, "end_ms .* is not after start_ms"),
    ],
)
def test_an_impossible_prescription_is_refused_with_its_fault(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((InputError, OrderError), match=message):
        paracetamol(**changes)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["rx1", "rx2", "rx3"]), st.integers(0, 96), st.sampled_from(["give", "stop", "hold"])
        ),
        max_size=60,
    )
)
def test_whatever_is_asked_no_limit_is_ever_exceeded_and_the_record_gives_the_same_board(
    asked: list[tuple[str, int, str]],
) -> None:
    journal = Journal()
    ward = board(journal)
    ward.prescribe(paracetamol(dose=500, max_daily_dose=2000, every_ms=4 * HOUR, times_of_day=(), early_ms=HOUR))
    ward.prescribe(paracetamol(id="rx2", kind=Kind.AS_NEEDED, times_of_day=(), dose=1000, min_interval_ms=3 * HOUR,
                               max_daily_dose=3000))  # fmt: skip
    ward.prescribe(paracetamol(id="rx3", kind=Kind.EMERGENCY, times_of_day=(), dose=900))
    now = START
    for prescription, quarters, what in asked:
        now += quarters * HOUR // 4
        slot = START + (now - START) // (4 * HOUR) * 4 * HOUR if prescription == "rx1" else None
        try:
            if what == "give":
                ward.give(prescription, "n", now, slot_ms=slot)
            elif what == "stop" and quarters > 90:
                ward.stop(prescription, "dr", now, "over")
            elif slot is not None:
                ward.settle(prescription, slot, SlotState.HELD, "n", now, "fasting")
        except (DoseRefusedError, InputError):
            continue
    doses = ward.given()
    limits = {"rx1": 2000, "rx2": 3000, "rx3": None}
    for last in doses:
        day = [dose for dose in doses if 0 <= last.t_ms - dose.t_ms < DAY and doses.index(dose) <= doses.index(last)]
        held = [limit for dose in day if (limit := limits[dose.prescription]) is not None]
        if limits[last.prescription] is not None or held:
            assert sum(dose.dose for dose in day) <= max(held) + (900 if not limits[last.prescription] else 0)
    slots = [dose.slot_ms for dose in doses if dose.slot_ms is not None]
    assert len(slots) == len(set(slots))
    assert sum(dose.prescription == "rx3" for dose in doses) <= 1
    again = board()
    again.recall(journal.events)
    assert again.given() == doses
    assert again.plan(now) == ward.plan(now)


def test_an_event_of_another_patient_or_of_no_kind_is_refused() -> None:
    with pytest.raises(InputError, match="another patient"):
        board().recall([{"patient": "q", "event": "stopped"}])
    with pytest.raises(InputError, match="unknown medication event 'x'"):
        board().recall([{"patient": "p", "event": "x"}])
    with pytest.raises(InputError, match="cannot be read"):
        board().recall([{"patient": "p", "event": "given"}])
