"""The four ways in which IEC 60601-1-8 lets people switch alarm signals off, each with a name, a reason and an end.

======================  =========  ================================================================================
state                   lasts      what it takes away
======================  =========  ================================================================================
AUDIO PAUSED            a while    sound
ALARM PAUSED            a while    sound, lights and calls; of a HIGH the sound alone
AUDIO OFF               until      sound up to a configured priority; a HIGH sounds
                        ended
ALARM OFF               until      sound, lights and calls of one condition that is technical or LOW, as configured
                        ended
======================  =========  ================================================================================

A HIGH that is new, or an alert that becomes HIGH, ends what would quiet it. Nothing here reads a clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from smallhold.assist.alarm_rules import AlarmRules
from smallhold.assist.alarm_signals import urgency
from smallhold.errors import InputError
from smallhold.records import Alert, AlertState, Priority


class InactivationState(StrEnum):
    """IEC 60601-1-8's names."""

    AUDIO_PAUSED = "audio paused"
    ALARM_PAUSED = "alarm paused"
    AUDIO_OFF = "audio off"
    ALARM_OFF = "alarm off"


_PAUSES = (InactivationState.AUDIO_PAUSED, InactivationState.ALARM_PAUSED)


@dataclass(frozen=True, slots=True)
class Inactivation:
    """Who switched what off, why, and until when.

    Attributes:
        state: Which of the four.
        patient: Whose bed.
        condition: One condition, or empty for the whole bed.
        actor: A person's name.
        reason: In their words, may be empty.
        from_ms: When it began.
        until_ms: When it ends by itself, None when a person has to end it.
    """

    state: InactivationState
    patient: str
    condition: str
    actor: str
    reason: str
    from_ms: int
    until_ms: int | None

    @property
    def key(self) -> tuple[str, str, InactivationState]:
        """At most one inactivation has the same."""
        return self.patient, self.condition, self.state

    def is_in_force(self, t_ms: int) -> bool:
        """True before its end."""
        return self.until_ms is None or t_ms < self.until_ms


class InactivationChange(StrEnum):
    """What happened to an inactivation."""

    BEGAN = "began"
    EXPIRED = "expired"
    ENDED = "ended"  # by a person
    BROKEN = "broken"  # by an alert that it may not quiet


@dataclass(frozen=True, slots=True)
class InactivationEvent:
    """One line of the alarm log; `actor` is empty unless a person did it."""

    change: InactivationChange
    t_ms: int
    inactivation: Inactivation
    actor: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON object."""
        return {**asdict(self), "change": self.change.value}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> InactivationEvent:
        """Read back what `to_json` wrote; a KeyError, TypeError or ValueError says that it is something else."""
        return cls(
            InactivationChange(value["change"]), value["t_ms"], read_inactivation(value["inactivation"]), value["actor"]
        )


@dataclass(frozen=True, slots=True)
class AlertSignals:
    """What an alert does to eyes and ears now, and which inactivations have a part in it."""

    alert: Alert
    is_audible: bool
    is_visible: bool
    inactivations: tuple[Inactivation, ...]


def read_inactivation(value: dict[str, Any]) -> Inactivation:
    """Read back `dataclasses.asdict` of an inactivation."""
    return Inactivation(**{**value, "state": InactivationState(value["state"])})


class Inactivations:
    """The inactivations of one alarm system; every beginning and end is an event until `take_events` hands it over."""

    def __init__(self, rules: AlarmRules, standing: Iterable[Inactivation] = ()) -> None:
        self._rules = rules
        self._standing = {item.key: item for item in standing}
        self._events: list[InactivationEvent] = []

    def begin(self, wanted: Inactivation, alerts: Iterable[Alert]) -> Inactivation:
        """Put one in force; the same one anew replaces it.

        Args:
            wanted: What a person asks for.
            alerts: The patient's unresolved alerts.

        Raises:
            InputError: nobody is named, it lasts longer than allowed, or it would switch off what may not be.
        """
        state, rules = wanted.state, self._rules
        if not wanted.actor.strip():
            raise InputError(f"{state}: expected the name of a person, got an empty actor")
        if state in _PAUSES:
            is_audio = state is InactivationState.AUDIO_PAUSED
            longest_ms = rules.times.longest_audio_pause_ms if is_audio else rules.times.longest_alarm_pause_ms
            span_ms = None if wanted.until_ms is None else wanted.until_ms - wanted.from_ms
            if span_ms is None or not 0 < span_ms <= longest_ms:
                raise InputError(f"{state}: expected 1 to {longest_ms} ms, got {span_ms} ms")
        elif wanted.until_ms is not None and wanted.until_ms <= wanted.from_ms:
            raise InputError(f"{state}: expected an end after {wanted.from_ms} ms, got {wanted.until_ms} ms")
        if state is InactivationState.ALARM_OFF:
            alert = next((item for item in alerts if item.condition == wanted.condition), None)
            if alert is None:
                raise InputError(
                    f"{state}: expected one standing condition of this patient, got {wanted.condition!r}: alarms are "
                    "switched off for a condition that people have seen, never for a whole bed"
                )
            if not rules.may_be_off(alert):
                allowed = ", ".join(sorted(rules.alarm_off)) or "nothing"
                raise InputError(f"{state}: allowed for {allowed}, got a {alert.priority} {alert.kind} alert")
        self._standing[wanted.key] = wanted
        self._note(InactivationChange.BEGAN, wanted.from_ms, wanted, wanted.actor)
        return wanted

    def end(self, patient: str, condition: str, state: InactivationState, actor: str, t_ms: int) -> None:
        """A person ends one.

        Raises:
            InputError: nobody is named, or there is none.
        """
        if not actor.strip():
            raise InputError(f"{state}: expected the name of a person, got an empty actor")
        item = self._standing.pop((patient, condition, state), None)
        if item is None or not item.is_in_force(t_ms):
            raise InputError(f"{state} is not in force for {condition or 'the bed'} of this patient")
        self._note(InactivationChange.ENDED, t_ms, item, actor)

    def expire(self, t_ms: int) -> None:
        """Let those end whose time is over."""
        for item in [item for item in self._standing.values() if not item.is_in_force(t_ms)]:
            del self._standing[item.key]
            self._note(InactivationChange.EXPIRED, t_ms if item.until_ms is None else item.until_ms, item)

    def break_for(self, alert: Alert) -> None:
        """End what would quiet this alert, which is new or more urgent than before, and may not."""
        for item in [item for item in self._standing.values() if item.patient == alert.patient]:
            if item.condition not in ("", alert.condition):
                continue
            is_pause = item.state in _PAUSES and alert.priority is Priority.HIGH
            is_off = item.state is InactivationState.ALARM_OFF and not self._rules.may_be_off(alert)
            if is_pause or is_off:
                del self._standing[item.key]
                self._note(InactivationChange.BROKEN, alert.t_ms, item)

    def in_force(self, patient: str, t_ms: int, condition: str | None = None) -> tuple[Inactivation, ...]:
        """Those of a bed and its conditions, or those that concern one condition."""
        return tuple(
            item
            for item in self._standing.values()
            if item.patient == patient
            and item.is_in_force(t_ms)
            and (condition is None or item.condition in ("", condition))
        )

    def is_withheld(self, alert: Alert, t_ms: int) -> bool:
        """Whether people are not to be called for this alert now; never true of a HIGH."""
        if alert.priority is Priority.HIGH:
            return False
        quiet = (InactivationState.ALARM_PAUSED, InactivationState.ALARM_OFF)
        return any(item.state in quiet for item in self.in_force(alert.patient, t_ms, alert.condition))

    def signals(self, alert: Alert, t_ms: int) -> AlertSignals:
        """What the alert does to eyes and ears."""
        items = self.in_force(alert.patient, t_ms, alert.condition)
        states = {item.state for item in items}
        is_high = alert.priority is Priority.HIGH
        is_audio_off = InactivationState.AUDIO_OFF in states and urgency(alert.priority) <= urgency(
            self._rules.audio_off_up_to
        )
        is_paused = not states.isdisjoint(_PAUSES)
        is_withheld = self.is_withheld(alert, t_ms)
        is_audible = (
            alert.state is not AlertState.ACKNOWLEDGED
            and alert.priority is not Priority.INFO
            and not (is_paused or is_audio_off or is_withheld)
        )
        return AlertSignals(alert, is_audible, is_high or not is_withheld, items)

    def standing(self) -> tuple[Inactivation, ...]:
        """All, for a snapshot."""
        return tuple(self._standing.values())

    def take_events(self) -> tuple[InactivationEvent, ...]:
        """What happened since the last call."""
        events, self._events = tuple(self._events), []
        return events

    def _note(self, change: InactivationChange, t_ms: int, item: Inactivation, actor: str = "") -> None:
        self._events.append(InactivationEvent(change, t_ms, item, actor))
