"""What was prescribed, and when its doses are due: times of day on the ward's clock, or every so many hours.

A dose is a whole number of the prescription's smallest steps, so that totals and ceilings compare exactly. A time of
day that the clocks skip in spring is due when they have moved on; one that comes twice in autumn is due the first time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from smallhold.assist.orders.amount import parse_unit
from smallhold.errors import InputError

_MINUTE_MS = 60_000
_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS


class Kind(StrEnum):
    """When a dose may be given."""

    SCHEDULED = "scheduled"  # at its times
    AS_NEEDED = "as_needed"  # when the patient needs it, within its limits
    EMERGENCY = "emergency"  # once, at once, ordered now


class SlotState(StrEnum):
    """Where one dose stands."""

    UPCOMING = "upcoming"
    DUE = "due"
    OVERDUE = "overdue"
    MISSED = "missed"
    GIVEN = "given"
    REFUSED = "refused"  # by the patient
    HELD = "held"  # by staff, with a reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Prescription:
    """One drug for one patient.

    Attributes:
        id: Unique within the patient.
        patient: Pseudonymous identifier.
        drug: Name or code, as the interaction table calls it.
        dose: In smallest steps, positive.
        unit: What one step is, one of `orders.amount.UNITS`.
        route: `oral`, `iv`, ...
        kind: See `Kind`.
        start_ms: Not before, UTC.
        end_ms: Not at or after; None until it is stopped.
        times_of_day: Minutes after midnight on the ward's clock, ascending; scheduled only.
        every_ms: Time between doses; scheduled only, instead of times of day.
        zone: Of the times of day, an IANA name.
        early_ms: A dose may be given so long before it is due.
        overdue_ms: Ungiven so long after, it is overdue.
        missed_ms: Ungiven so long after, it is missed and is no longer given without a new order.
        min_interval_ms: Between two doses of this drug, whatever prescription they are of.
        max_daily_dose: Smallest steps of this drug in any 24 hours; None without a ceiling.
        prescribers: Who ordered it; two where the profile wants two.
    """

    id: str
    patient: str
    drug: str
    dose: int
    unit: str
    route: str
    kind: Kind
    start_ms: int
    end_ms: int | None = None
    times_of_day: tuple[int, ...] = ()
    every_ms: int | None = None
    zone: str = "UTC"
    early_ms: int = 60 * _MINUTE_MS
    overdue_ms: int = 60 * _MINUTE_MS
    missed_ms: int = 4 * _HOUR_MS
    min_interval_ms: int = 0
    max_daily_dose: int | None = None
    prescribers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what no one could give."""
        where = f"prescription {self.id!r}"
        for name in ("id", "patient", "drug", "unit", "route"):
            if not getattr(self, name):
                raise InputError(f"{where}: {name}: expected some text, got none")
        for name in ("dose", "start_ms"):
            if type(getattr(self, name)) is not int or getattr(self, name) <= 0:
                raise InputError(f"{where}: {name}: expected a positive whole number, got {getattr(self, name)!r}")
        parse_unit(self.unit, f"{where}: unit")
        if not self.prescribers or not all(self.prescribers):
            raise InputError(f"{where}: prescribers: expected at least one name")
        if self.end_ms is not None and self.end_ms <= self.start_ms:
            raise InputError(f"{where}: end_ms {self.end_ms} is not after start_ms {self.start_ms}")
        if self.kind is Kind.SCHEDULED:
            self._check_schedule(where)
        elif self.times_of_day or self.every_ms is not None:
            raise InputError(f"{where}: only a scheduled one has times")
        if self.kind is Kind.AS_NEEDED and (self.min_interval_ms <= 0 or self.max_daily_dose is None):
            raise InputError(f"{where}: as needed: expected a positive min_interval_ms and a max_daily_dose")
        if min(self.early_ms, self.overdue_ms, self.min_interval_ms) < 0 or self.missed_ms <= self.overdue_ms:
            raise InputError(f"{where}: expected times of at least 0 and missed_ms after overdue_ms")
        if self.max_daily_dose is not None and self.max_daily_dose < self.dose:
            raise InputError(f"{where}: one dose of {self.dose} {self.unit} is above the daily {self.max_daily_dose}")

    def _check_schedule(self, where: str) -> None:
        if bool(self.times_of_day) == (self.every_ms is not None):
            raise InputError(f"{where}: scheduled: expected either times_of_day or every_ms")
        if self.every_ms is not None and self.every_ms < 5 * _MINUTE_MS:
            raise InputError(f"{where}: every_ms: expected at least five minutes, got {self.every_ms}")
        if list(self.times_of_day) != sorted(set(self.times_of_day)) or not all(
            0 <= minute < 24 * 60 for minute in self.times_of_day
        ):
            raise InputError(f"{where}: times_of_day: expected ascending minutes of a day, got {self.times_of_day}")
        try:
            ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise InputError(f"{where}: zone: expected an IANA name, got {self.zone!r}") from error

    def slots(self, from_ms: int, until_ms: int) -> Iterator[Slot]:
        """Doses that are due in [from, until), in order; none for what is not scheduled."""
        if self.kind is not Kind.SCHEDULED:
            return
        first, last = max(from_ms, self.start_ms), until_ms if self.end_ms is None else min(until_ms, self.end_ms)
        if self.every_ms is not None:
            number = -(-(first - self.start_ms) // self.every_ms)
            due_ms = self.start_ms + number * self.every_ms
            while due_ms < last:
                yield Slot(self.id, due_ms)
                due_ms += self.every_ms
            return
        zone = ZoneInfo(self.zone)
        day = datetime.fromtimestamp(first / 1e3, zone).date() - timedelta(days=1)
        while (midnight := _local_ms(day, 0, zone)) < last + _DAY_MS:
            for minute in self.times_of_day:
                due_ms = _local_ms(day, minute, zone)
                if first <= due_ms < last:
                    yield Slot(self.id, due_ms)
            if midnight >= last:
                return
            day += timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Slot:
    """One planned dose: of which prescription, and when it is due."""

    prescription: str
    due_ms: int


def slot_state(prescription: Prescription, slot: Slot, now_ms: int) -> SlotState:
    """Where a dose stands of which nothing is on record."""
    late_ms = now_ms - slot.due_ms
    if late_ms < -prescription.early_ms:
        return SlotState.UPCOMING
    if late_ms < prescription.overdue_ms:
        return SlotState.DUE
    return SlotState.OVERDUE if late_ms < prescription.missed_ms else SlotState.MISSED


def _local_ms(day: date, minute: int, zone: ZoneInfo) -> int:
    """UTC milliseconds of a local time of day; see the module for the two nights a year."""
    local = datetime(day.year, day.month, day.day, minute // 60, minute % 60, tzinfo=zone)
    # fold=0 reads a time that does not exist with the offset before the change: as an instant it lies after it.
    return int(local.astimezone(UTC).timestamp() * 1e3)
