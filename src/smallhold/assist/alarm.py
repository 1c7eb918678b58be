"""Alarm conditions after IEC 60601-1-8: the life of an alert.

`AlarmManager` is a pure state machine: time is an argument, nothing is read from a clock, and every method returns the
changes it made. Its whole state can be written down (`snapshot`) and taken up again (`restore`).

The life of one condition of one patient::

    raised ──► ACTIVE ──acknowledge──► ACKNOWLEDGED ──condition gone──► RESOLVED
                 │  ▲ ◄──time is over───────┘                              ▲
                 │  └──condition back── LATCHED ──acknowledge──────────────┘
                 └──condition gone──► LATCHED when HIGH, else RESOLVED ────┘
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from smallhold.assist.alarm_condition import ANNOUNCED, GONE, AlarmChange, AudioPause, Change, Condition
from smallhold.assist.alarm_inactivation import (
    AlertSignals,
    Inactivation,
    InactivationEvent,
    Inactivations,
    InactivationState,
    read_inactivation,
)
from smallhold.assist.alarm_rules import AlarmRules, AlarmTimes
from smallhold.assist.alarm_signals import (
    PRIORITY_TABLE,
    SIGNALS,
    Harm,
    Onset,
    Signal,
    priority_at,
    priority_of,
    urgency,
)
from smallhold.errors import InputError, JournalError
from smallhold.records import Alert, AlertState, Priority, from_json, to_json

__all__ = [
    "ANNOUNCED",
    "PRIORITY_TABLE",
    "SIGNALS",
    "AlarmChange",
    "AlarmManager",
    "AlarmRules",
    "AlarmTimes",
    "AudioPause",
    "Change",
    "Harm",
    "Inactivation",
    "InactivationState",
    "Onset",
    "Signal",
    "priority_of",
    "urgency",
]

_SCHEMA = "smallhold.alarm-state/1"
_Key = tuple[str, str]


class AlarmManager:
    """One alert per patient and condition, followed through its life.

    Guarantees:
        * A HIGH is never suppressed: after `present` with HIGH a HIGH alert of that condition stands unresolved, and
          if none stood before, it is announced and ends every pause that would quiet it.
        * The same condition is announced again only when its priority rises, after it was resolved, when nobody
          acknowledged it in time, when an acknowledgement has run out, or when what withheld the call has ended.
        * A HIGH that nobody acknowledged does not vanish with its condition: it stays LATCHED. A technical
          one vanishes.
        * What was withheld is announced as soon as it is not, if it still stands and nobody has acknowledged it.
        * `restore(snapshot())` goes on exactly as the one that was written down would have.

    Args:
        rules: What the ward sets; delays alone stand for rules that name no levels.
    """

    def __init__(self, rules: AlarmRules | AlarmTimes | None = None) -> None:
        self.rules = rules if isinstance(rules, AlarmRules) else AlarmRules(rules or AlarmTimes())
        self._times = self.rules.times
        self._entries: dict[_Key, Condition] = {}
        self._episodes: dict[_Key, int] = {}
        self._reports: dict[_Key, dict[str, Alert]] = {}
        self._inactivations = Inactivations(self.rules)

    def would_announce(self, patient: str, condition: str, priority: Priority, t_ms: int) -> bool:
        """Whether `present` with these would call people."""
        entry = self._entries.get((patient, condition))
        if entry is None:
            return True
        settled = entry.settled_level(t_ms, self._times.settle_ms)
        return urgency(priority) > min(settled, urgency(entry.alert.priority)) and not (
            settled == GONE and entry.is_latching and urgency(priority) <= urgency(entry.alert.priority)
        )

    def present(self, alert: Alert) -> tuple[AlarmChange, ...]:
        """The condition of `alert` holds at `alert.t_ms` with `alert.priority`, whoever else says so.

        Args:
            alert: Its id and state are replaced by the manager's own.

        Raises:
            InputError: the kind is neither physiological nor technical.
        """
        if alert.kind not in ("physiological", "technical"):
            raise InputError(f"alert kind: expected 'physiological' or 'technical', got {alert.kind!r}")
        key, t_ms, level = (alert.patient, alert.condition), alert.t_ms, urgency(alert.priority)
        changes = self._settle(key, t_ms)
        entry = self._entries.get(key)
        if entry is None:
            return (*changes, self._raise_new(key, alert))
        entry.move_to(level, t_ms)
        if level > urgency(entry.alert.priority):
            return (*changes, self._raise_again(entry, alert))
        if entry.alert.state is AlertState.LATCHED:
            # Still unacknowledged, so not announced anew; but the time to do so starts again.
            entry.call_anew(t_ms)
            entry.alert = replace(entry.alert, message=alert.message, facts=alert.facts, is_degraded=alert.is_degraded)
            changes += (entry.turn(AlertState.ACTIVE, Change.RETURNED, t_ms),)
        return changes + self._settle(key, t_ms)

    def absent(self, patient: str, condition: str, t_ms: int) -> tuple[AlarmChange, ...]:
        """The condition does not hold at `t_ms`; nothing happens when it never did."""
        key = (patient, condition)
        entry = self._entries.get(key)
        if entry is None:
            return ()
        entry.move_to(GONE, t_ms)
        return self._settle(key, t_ms)

    def report(self, alert: Alert) -> tuple[AlarmChange, ...]:
        """One of several sources says that the condition holds: one alert, as urgent as its most urgent source.

        Until it is withdrawn, what a source reported stands. Use either this or `present` for a condition.
        """
        sources = self._reports.setdefault((alert.patient, alert.condition), {})
        sources[alert.source] = alert
        loudest = max(sources.values(), key=lambda item: urgency(item.priority))
        return self.present(replace(loudest, t_ms=alert.t_ms))

    def withdraw(self, patient: str, condition: str, source: str, t_ms: int) -> tuple[AlarmChange, ...]:
        """A source no longer says that the condition holds; it is absent when none does."""
        sources = self._reports.get((patient, condition), {})
        sources.pop(source, None)
        if sources:
            loudest = max(sources.values(), key=lambda item: urgency(item.priority))
            return self.present(replace(loudest, t_ms=t_ms))
        self._reports.pop((patient, condition), None)
        return self.absent(patient, condition, t_ms)

    def tick(self, t_ms: int) -> tuple[AlarmChange, ...]:
        """Let time pass: conditions settle, acknowledgements and inactivations end, unanswered alerts escalate."""
        self._inactivations.expire(t_ms)
        changes: list[AlarmChange] = []
        for key in list(self._entries):
            changes += self._settle(key, t_ms)
            entry = self._entries.get(key)
            if entry is None:
                continue
            if entry.is_withheld and not self._inactivations.is_withheld(entry.alert, t_ms):
                entry.call_anew(t_ms)
                changes.append(self._announce(entry, Change.RAISED, t_ms, self.rules.first_role))
            changes += self._escalate(entry, t_ms)
        return tuple(changes)

    def acknowledge(
        self, patient: str, condition: str, actor: str, t_ms: int, *, for_ms: int | None = None
    ) -> tuple[AlarmChange, ...]:
        """A person has seen it; a latched alert is thereby resolved.

        Args:
            patient: Whose alert.
            condition: Which.
            actor: The person.
            t_ms: When.
            for_ms: When the condition persists for longer the alert calls again; default: what the ward sets.
                Acknowledging again begins that time anew, and changes nothing where there is none.

        Raises:
            InputError: nobody is named, no such alert stands, or `for_ms` is not positive.
        """
        if not actor:
            raise InputError("acknowledge: expected the name of a person, got an empty actor")
        if for_ms is not None and for_ms <= 0:
            raise InputError(f"acknowledge: expected a time of 1 ms or more, got {for_ms} ms")
        key = (patient, condition)
        changes = self._settle(key, t_ms)
        entry = self._entries.get(key)
        if entry is None:
            raise InputError(f"acknowledge: no alert stands for condition {condition!r} of this patient")
        if entry.alert.state is AlertState.LATCHED:
            del self._entries[key]
            return (*changes, entry.turn(AlertState.RESOLVED, Change.RESOLVED, t_ms, actor))
        span_ms = for_ms or self._times.acknowledged_ms(entry.alert.priority)
        if entry.alert.state is AlertState.ACKNOWLEDGED and span_ms is None:
            return changes
        entry.peak, entry.is_withheld = Priority.INFO, False
        entry.acknowledged_until_ms = None if span_ms is None else t_ms + span_ms
        return (*changes, entry.turn(AlertState.ACKNOWLEDGED, Change.ACKNOWLEDGED, t_ms, actor))

    def current(self, patient: str) -> tuple[Alert, ...]:
        """Every unresolved alert of a patient, most urgent first."""
        alerts = [entry.alert for (who, _), entry in self._entries.items() if who == patient]
        return tuple(sorted(alerts, key=lambda alert: -urgency(alert.priority)))

    def signals(self, patient: str, t_ms: int) -> tuple[AlertSignals, ...]:
        """What each unresolved alert does to eyes and ears now, most urgent first."""
        return tuple(self._inactivations.signals(alert, t_ms) for alert in self.current(patient))

    def inactivate(self, wanted: Inactivation) -> Inactivation:
        """A person switches signals off; see `alarm_inactivation` for what may be.

        Raises:
            InputError: nobody is named, it would last too long, or it would switch off what may not be.
        """
        return self._inactivations.begin(wanted, self.current(wanted.patient))

    def reactivate(self, patient: str, condition: str, state: InactivationState, actor: str, t_ms: int) -> None:
        """A person ends an inactivation; what it withheld is announced at the next `tick`.

        Raises:
            InputError: nobody is named, or it is not in force.
        """
        self._inactivations.end(patient, condition, state, actor, t_ms)

    def inactivations(self, patient: str, t_ms: int) -> tuple[Inactivation, ...]:
        """Everything that is switched off at a bed now, to be shown there."""
        return self._inactivations.in_force(patient, t_ms)

    def take_events(self) -> tuple[InactivationEvent, ...]:
        """Beginnings and ends of inactivations since the last call, to be logged."""
        return self._inactivations.take_events()

    def pause_audio(self, patient: str, actor: str, t_ms: int, duration_ms: int) -> AudioPause:
        """Silence a bed for a while; the pause is visible through `audio_pause` until it ends.

        Raises:
            InputError: nobody is named, or the duration is not within the allowed limit.
        """
        longest_ms = self._times.longest_audio_pause_ms
        if not actor or not 0 < duration_ms <= longest_ms:
            raise InputError(
                f"audio pause: expected a person and 1 to {longest_ms} ms, got actor {actor!r} and {duration_ms} ms"
            )
        until_ms = t_ms + duration_ms
        self.inactivate(Inactivation(InactivationState.AUDIO_PAUSED, patient, "", actor, "", t_ms, until_ms))
        return AudioPause(actor, t_ms, until_ms)

    def audio_pause(self, patient: str, t_ms: int) -> AudioPause | None:
        """The pause of the whole bed in force, None when the bed may sound."""
        for item in self._inactivations.in_force(patient, t_ms, ""):
            if item.state is InactivationState.AUDIO_PAUSED and item.until_ms is not None:
                return AudioPause(item.actor, item.from_ms, item.until_ms)
        return None

    def snapshot(self) -> dict[str, Any]:
        """The whole state as a JSON object; the rules and events that were not taken are not part of it."""
        return {
            "schema": _SCHEMA,
            "conditions": [entry.to_json() for entry in self._entries.values()],
            "episodes": [[*key, number] for key, number in self._episodes.items()],
            "reports": [to_json(alert) for sources in self._reports.values() for alert in sources.values()],
            "inactivations": [asdict(item) for item in self._inactivations.standing()],
        }

    @classmethod
    def restore(cls, value: Any, rules: AlarmRules | AlarmTimes | None = None) -> AlarmManager:
        """Take up what `snapshot` wrote down; what has become due since is due at the next `tick`.

        Raises:
            JournalError: it is not a snapshot of this version.
        """
        manager = cls(rules)
        try:
            if value["schema"] != _SCHEMA:
                raise InputError(f"schema: expected {_SCHEMA!r}, got {value['schema']!r}")
            for item in value["conditions"]:
                entry = Condition.from_json(item)
                manager._entries[entry.alert.patient, entry.alert.condition] = entry
            manager._episodes = {(patient, condition): int(n) for patient, condition, n in value["episodes"]}
            for item in value["reports"]:
                alert = from_json(item)
                if not isinstance(alert, Alert):
                    raise InputError("reports: expected alerts")
                manager._reports.setdefault((alert.patient, alert.condition), {})[alert.source] = alert
            standing = map(read_inactivation, value["inactivations"])
            manager._inactivations = Inactivations(manager.rules, standing)
        except (KeyError, TypeError, ValueError, InputError) as error:
            raise JournalError(f"the state of the alarms cannot be read: {error}") from error
        return manager

    def _settle(self, key: _Key, t_ms: int) -> tuple[AlarmChange, ...]:
        """Let priority and presence follow what has lasted for `settle_ms`."""
        entry = self._entries.get(key)
        if entry is None or entry.alert.state is AlertState.LATCHED:
            return ()
        level = entry.settled_level(t_ms, self._times.settle_ms)
        if level == GONE:
            if entry.is_latching:
                return (entry.turn(AlertState.LATCHED, Change.LATCHED, t_ms),)
            del self._entries[key]
            return (entry.turn(AlertState.RESOLVED, Change.RESOLVED, t_ms),)
        if level < urgency(entry.alert.priority):
            entry.alert = replace(entry.alert, priority=priority_at(level))
        until_ms = entry.acknowledged_until_ms
        if until_ms is not None and t_ms >= until_ms and entry.level != GONE:
            entry.peak = entry.alert.priority
            entry.alert = replace(entry.alert, state=AlertState.ACTIVE)
            entry.call_anew(t_ms)
            return (self._announce(entry, Change.REACTIVATED, t_ms, self.rules.first_role),)
        return ()

    def _escalate(self, entry: Condition, t_ms: int) -> list[AlarmChange]:
        """Call the levels whose time has come; one that was not due for this priority is passed over."""
        calls: list[AlarmChange] = []
        if entry.alert.state is not AlertState.ACTIVE or self._inactivations.is_withheld(entry.alert, t_ms):
            return calls
        for position, level in enumerate(self.rules.chain[entry.calls :], start=entry.calls):
            after_ms = level.after_ms(entry.alert.priority)
            if after_ms is not None and t_ms - entry.announced_ms >= after_ms:
                entry.calls = position + 1
                calls.append(AlarmChange(Change.ESCALATED, t_ms, entry.alert, role=level.role))
        return calls

    def _raise_new(self, key: _Key, alert: Alert) -> AlarmChange:
        self._episodes[key] = number = self._episodes.get(key, 0) + 1
        alert = replace(alert, id=f"{alert.patient}/{alert.condition}/{number}", state=AlertState.ACTIVE)
        self._entries[key] = entry = Condition.begin(alert)
        return self._announce(entry, Change.RAISED, alert.t_ms, self.rules.first_role)

    def _raise_again(self, entry: Condition, alert: Alert) -> AlarmChange:
        entry.alert = replace(alert, id=entry.alert.id, state=AlertState.ACTIVE)
        entry.peak = max(entry.peak, alert.priority, key=urgency)
        entry.call_anew(alert.t_ms)
        return self._announce(entry, Change.RAISED, alert.t_ms, self.rules.first_role)

    def _announce(self, entry: Condition, change: Change, t_ms: int, role: str) -> AlarmChange:
        self._inactivations.break_for(replace(entry.alert, t_ms=t_ms))
        entry.is_withheld = self._inactivations.is_withheld(entry.alert, t_ms)
        return AlarmChange(change, t_ms, entry.alert, role=role, is_withheld=entry.is_withheld)
