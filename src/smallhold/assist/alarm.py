"""Alarm conditions after IEC 60601-1-8: priorities, signals, and the life of an alert.

The tables are reference data. `AlarmManager` is a pure state machine: time is an argument, nothing is read from a
clock, and every method returns the changes it made.

The life of one condition of one patient::

    raised ──► ACTIVE ──acknowledge──► ACKNOWLEDGED ──condition gone──► RESOLVED
                 │  ▲                                                      ▲
                 │  └──condition back── LATCHED ──acknowledge──────────────┘
                 └──condition gone──► LATCHED when HIGH, else RESOLVED ────┘
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import StrEnum

from smallhold.errors import InputError
from smallhold.records import Alert, AlertState, Priority


class Harm(StrEnum):
    """What happens if nobody responds."""

    DEATH_OR_IRREVERSIBLE = "death or irreversible injury"
    REVERSIBLE = "reversible injury"
    MINOR = "minor injury or discomfort"


class Onset(StrEnum):
    """How soon it happens."""

    IMMEDIATE = "immediate"  # usually no time for manual correction
    PROMPT = "prompt"  # usually enough time for manual correction
    DELAYED = "delayed"  # more time than prompt


#: IEC 60601-1-8, table 1. For minor and delayed harm the standard allows no signal; we signal LOW.
PRIORITY_TABLE: dict[tuple[Harm, Onset], Priority] = {
    (Harm.DEATH_OR_IRREVERSIBLE, Onset.IMMEDIATE): Priority.HIGH,
    (Harm.DEATH_OR_IRREVERSIBLE, Onset.PROMPT): Priority.HIGH,
    (Harm.DEATH_OR_IRREVERSIBLE, Onset.DELAYED): Priority.MEDIUM,
    (Harm.REVERSIBLE, Onset.IMMEDIATE): Priority.HIGH,
    (Harm.REVERSIBLE, Onset.PROMPT): Priority.MEDIUM,
    (Harm.REVERSIBLE, Onset.DELAYED): Priority.LOW,
    (Harm.MINOR, Onset.IMMEDIATE): Priority.MEDIUM,
    (Harm.MINOR, Onset.PROMPT): Priority.LOW,
    (Harm.MINOR, Onset.DELAYED): Priority.LOW,
}


@dataclass(frozen=True, slots=True)
class Signal:
    """How a priority looks and sounds.

    Attributes:
        colors: Indicator colours that the standard allows, preferred first.
        flash_hz: Slowest and fastest flashing, None for a constant light.
        duty: Smallest and largest fraction of the time that the light is on.
        pulses: Fewest and most pulses in a burst.
        repeat_seconds: Shortest and longest pause before the burst is repeated; None as second value = no limit.
    """

    colors: tuple[str, ...]
    flash_hz: tuple[float, float] | None
    duty: tuple[float, float]
    pulses: tuple[int, int]
    repeat_seconds: tuple[float, float | None]


#: IEC 60601-1-8, visual and auditory alarm signals. The MEDIUM repetition and the LOW row were not read in the source.
SIGNALS: dict[Priority, Signal] = {
    Priority.HIGH: Signal(("red",), (1.4, 2.8), (0.2, 0.6), (10, 10), (2.5, 15)),
    Priority.MEDIUM: Signal(("yellow",), (0.4, 0.8), (0.2, 0.6), (3, 3), (2.5, 30)),
    Priority.LOW: Signal(("cyan", "yellow"), None, (1.0, 1.0), (1, 2), (15, None)),
}

_URGENCY = {Priority.INFO: 0, Priority.LOW: 1, Priority.MEDIUM: 2, Priority.HIGH: 3}
_BY_URGENCY = {rank: priority for priority, rank in _URGENCY.items()}


def priority_of(harm: Harm, onset: Onset) -> Priority:
    """Alarm priority of a condition; IEC 60601-1-8, table 1."""
    return PRIORITY_TABLE[harm, onset]


def urgency(priority: Priority) -> int:
    """0 (info) to 3 (high), so that priorities compare."""
    return _URGENCY[priority]


class Change(StrEnum):
    """What happened to an alert; `RAISED` and `ESCALATED` are announced, the rest is recorded."""

    RAISED = "raised"  # new, or of a higher priority than before
    ESCALATED = "escalated"  # nobody acknowledged it in time
    RETURNED = "returned"  # the condition of a latched alert is present again
    LATCHED = "latched"  # the condition is gone, but nobody has acknowledged it
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"


ANNOUNCED = frozenset({Change.RAISED, Change.ESCALATED})


@dataclass(frozen=True, slots=True)
class AlarmChange:
    """One change of one alert, with the alert as it stands after it; `actor` is empty unless a person did it."""

    change: Change
    t_ms: int
    alert: Alert
    actor: str = ""

    @property
    def is_announced(self) -> bool:
        """True when people are to be called."""
        return self.change in ANNOUNCED


@dataclass(frozen=True, slots=True)
class AudioPause:
    """Silence that is visible, timed and has a name on it; lights stay on."""

    actor: str
    from_ms: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class AlarmTimes:
    """Delays of the state machine.

    Attributes:
        settle_ms: A condition must be gone, or weaker, for this long before its alert follows: without it a score
            that swings around a threshold would alarm at every swing. It never delays a rise.
        escalate_high_ms: A HIGH that nobody acknowledged for this long is announced again, once. The defaults are
            NEWS2's response times: 30 minutes at 7 or more, 1 hour at 5 or 6.
        escalate_medium_ms: The same for MEDIUM.
        longest_audio_pause_ms: Nobody may silence a bed for longer.
    """

    settle_ms: int = 30 * 60_000
    escalate_high_ms: int = 30 * 60_000
    escalate_medium_ms: int = 60 * 60_000
    longest_audio_pause_ms: int = 2 * 60_000

    def __post_init__(self) -> None:
        """Refuse negative durations."""
        for item in fields(self):
            if getattr(self, item.name) < 0:
                raise InputError(f"{item.name} must not be negative, got {getattr(self, item.name)}")


_GONE = -1
_NEVER_MS = -(1 << 62)


@dataclass(slots=True)
class _Entry:
    """One condition that is not resolved.

    `left_ms[u]` is when the condition last fell below urgency `u`, None while it is at `u` or above; `peak` is the
    highest priority that was announced and not acknowledged.
    """

    alert: Alert
    level: int
    peak: Priority
    announced_ms: int
    left_ms: list[int | None]
    is_escalated: bool = False

    def move_to(self, level: int, t_ms: int) -> None:
        self.level = level
        for u, left_ms in enumerate(self.left_ms):
            if u <= level:
                self.left_ms[u] = None
            elif left_ms is None:
                self.left_ms[u] = t_ms

    def settled_level(self, t_ms: int, settle_ms: int) -> int:
        """The highest urgency that was left less than `settle_ms` ago, `_GONE` when there is none."""
        recent = (u for u, left in enumerate(self.left_ms) if left is None or t_ms - left < settle_ms)
        return max(recent, default=_GONE)


class AlarmManager:
    """One alert per patient and condition, followed through its life.

    Guarantees:
        * A HIGH is never suppressed: after `present` with HIGH a HIGH alert of that condition stands unresolved, and
          if none stood before, it is announced and ends any audio pause of the patient.
        * The same condition is announced again only when its priority rises, after it was resolved, or once when
          nobody acknowledged it in time.
        * A HIGH that nobody acknowledged does not vanish with its condition: it stays LATCHED. A technical
          one vanishes.
    """

    def __init__(self, times: AlarmTimes | None = None) -> None:
        self._times = times or AlarmTimes()
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._episodes: dict[tuple[str, str], int] = {}
        self._pauses: dict[str, AudioPause] = {}

    def would_announce(self, patient: str, condition: str, priority: Priority, t_ms: int) -> bool:
        """Whether `present` with these would call people."""
        entry = self._entries.get((patient, condition))
        if entry is None:
            return True
        settled = entry.settled_level(t_ms, self._times.settle_ms)
        return urgency(priority) > min(settled, urgency(entry.alert.priority)) and not (
            settled == _GONE and self._is_latching(entry) and urgency(priority) <= urgency(entry.alert.priority)
        )

    def present(self, alert: Alert) -> tuple[AlarmChange, ...]:
        """The condition of `alert` holds at `alert.t_ms` with `alert.priority`.

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
            entry.announced_ms, entry.is_escalated = t_ms, False
            entry.alert = replace(entry.alert, message=alert.message, is_degraded=alert.is_degraded)
            changes += (_turn(entry, AlertState.ACTIVE, Change.RETURNED, t_ms),)
        return changes + self._settle(key, t_ms)

    def absent(self, patient: str, condition: str, t_ms: int) -> tuple[AlarmChange, ...]:
        """The condition does not hold at `t_ms`; nothing happens when it never did."""
        key = (patient, condition)
        entry = self._entries.get(key)
        if entry is None:
            return ()
        entry.move_to(_GONE, t_ms)
        return self._settle(key, t_ms)

    def tick(self, t_ms: int) -> tuple[AlarmChange, ...]:
        """Let time pass: conditions settle, unacknowledged alerts escalate."""
        changes: list[AlarmChange] = []
        for key in list(self._entries):
            changes += self._settle(key, t_ms)
            entry = self._entries.get(key)
            if entry is not None and self._is_overdue(entry, t_ms):
                entry.is_escalated = True
                changes.append(AlarmChange(Change.ESCALATED, t_ms, entry.alert))
        return tuple(changes)

    def acknowledge(self, patient: str, condition: str, actor: str, t_ms: int) -> tuple[AlarmChange, ...]:
        """A person has seen it; a latched alert is thereby resolved, a second acknowledgement changes nothing.

        Raises:
            InputError: nobody is named, or no such alert stands.
        """
        if not actor:
            raise InputError("acknowledge: expected the name of a person, got an empty actor")
        key = (patient, condition)
        changes = self._settle(key, t_ms)
        entry = self._entries.get(key)
        if entry is None:
            raise InputError(f"acknowledge: no alert stands for condition {condition!r} of this patient")
        if entry.alert.state is AlertState.LATCHED:
            del self._entries[key]
            return (*changes, _turn(entry, AlertState.RESOLVED, Change.RESOLVED, t_ms, actor))
        if entry.alert.state is AlertState.ACKNOWLEDGED:
            return changes
        entry.peak = Priority.INFO
        return (*changes, _turn(entry, AlertState.ACKNOWLEDGED, Change.ACKNOWLEDGED, t_ms, actor))

    def current(self, patient: str) -> tuple[Alert, ...]:
        """Every unresolved alert of a patient, most urgent first."""
        alerts = [entry.alert for (who, _), entry in self._entries.items() if who == patient]
        return tuple(sorted(alerts, key=lambda alert: -urgency(alert.priority)))

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
        self._pauses[patient] = AudioPause(actor, t_ms, t_ms + duration_ms)
        return self._pauses[patient]

    def audio_pause(self, patient: str, t_ms: int) -> AudioPause | None:
        """The pause in force, None when the bed may sound."""
        pause = self._pauses.get(patient)
        return pause if pause is not None and t_ms < pause.until_ms else None

    def _settle(self, key: tuple[str, str], t_ms: int) -> tuple[AlarmChange, ...]:
        """Let priority and presence follow what has lasted for `settle_ms`."""
        entry = self._entries.get(key)
        if entry is None or entry.alert.state is AlertState.LATCHED:
            return ()
        level = entry.settled_level(t_ms, self._times.settle_ms)
        if level == _GONE:
            if self._is_latching(entry):
                return (_turn(entry, AlertState.LATCHED, Change.LATCHED, t_ms),)
            del self._entries[key]
            return (_turn(entry, AlertState.RESOLVED, Change.RESOLVED, t_ms),)
        if level < urgency(entry.alert.priority):
            entry.alert = replace(entry.alert, priority=_BY_URGENCY[level])
        return ()

    def _is_latching(self, entry: _Entry) -> bool:
        is_high = entry.peak is Priority.HIGH and entry.alert.kind == "physiological"
        return is_high and entry.alert.state is not AlertState.ACKNOWLEDGED

    def _is_overdue(self, entry: _Entry, t_ms: int) -> bool:
        if entry.is_escalated or entry.alert.state is not AlertState.ACTIVE:
            return False
        match entry.alert.priority:
            case Priority.HIGH:
                deadline_ms = self._times.escalate_high_ms
            case Priority.MEDIUM:
                deadline_ms = self._times.escalate_medium_ms
            case _:
                return False
        return t_ms - entry.announced_ms >= deadline_ms

    def _raise_new(self, key: tuple[str, str], alert: Alert) -> AlarmChange:
        self._episodes[key] = number = self._episodes.get(key, 0) + 1
        alert = replace(alert, id=f"{alert.patient}/{alert.condition}/{number}", state=AlertState.ACTIVE)
        level = urgency(alert.priority)
        left_ms: list[int | None] = [None if u <= level else _NEVER_MS for u in range(len(_URGENCY))]
        self._entries[key] = _Entry(alert, level, alert.priority, alert.t_ms, left_ms)
        return self._announce(alert)

    def _raise_again(self, entry: _Entry, alert: Alert) -> AlarmChange:
        entry.alert = replace(alert, id=entry.alert.id, state=AlertState.ACTIVE)
        entry.peak = max(entry.peak, alert.priority, key=urgency)
        entry.announced_ms, entry.is_escalated = alert.t_ms, False
        return self._announce(entry.alert)

    def _announce(self, alert: Alert) -> AlarmChange:
        if alert.priority is Priority.HIGH:
            self._pauses.pop(alert.patient, None)
        return AlarmChange(Change.RAISED, alert.t_ms, alert)


def _turn(entry: _Entry, state: AlertState, change: Change, t_ms: int, actor: str = "") -> AlarmChange:
    entry.alert = replace(entry.alert, state=state)
    return AlarmChange(change, t_ms, entry.alert, actor)
