"""What a ward sets about its alarms: delays, whom to call when nobody answers, what may be switched off.

A file of rules is TOML; every entry may be left out::

    format = 1

    [times]                          # seconds
    settle = 1800
    longest_audio_pause = 120
    longest_alarm_pause = 120
    acknowledged_high = 1800         # an acknowledged alert whose condition persists for so long calls again; 0 = never
    acknowledged_medium = 3600

    [[level]]                        # the first level is called when an alert is raised, the others when nobody
    role = "nurse"                   # has acknowledged it for so long

    [[level]]
    role = "charge nurse"
    high = 300
    medium = 1800

    [[level]]
    role = "physician"
    high = 900                       # no `medium`: not called for one

    [off]
    alarm = ["technical", "low"]     # what ALARM OFF may cover; never a HIGH
    audio_up_to = "medium"           # what AUDIO OFF may cover; "low" or "medium"
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from smallhold.assist.alarm_signals import urgency
from smallhold.errors import InputError, RecipeError
from smallhold.records import Alert, Priority

_FORMAT = 1
_OFF = ("technical", "low")


@dataclass(frozen=True, slots=True)
class AlarmTimes:
    """Delays of the state machine.

    Attributes:
        settle_ms: A condition must be gone, or weaker, for this long before its alert follows: without it a score
            that swings around a threshold would alarm at every swing. It never delays a rise.
        escalate_high_ms: A HIGH that nobody acknowledged for this long is announced again, once, where the rules
            name no levels. The defaults are NEWS2's response times: 30 minutes at 7 or more, 1 hour at 5 or 6.
        escalate_medium_ms: The same for MEDIUM.
        longest_audio_pause_ms: Nobody may silence a bed for longer.
        longest_alarm_pause_ms: Nobody may pause alarms for longer.
        acknowledged_high_ms: An acknowledged HIGH whose condition persists for this long calls again; 0 = never.
        acknowledged_medium_ms: The same for MEDIUM.
    """

    settle_ms: int = 30 * 60_000
    escalate_high_ms: int = 30 * 60_000
    escalate_medium_ms: int = 60 * 60_000
    longest_audio_pause_ms: int = 2 * 60_000
    longest_alarm_pause_ms: int = 2 * 60_000
    acknowledged_high_ms: int = 0
    acknowledged_medium_ms: int = 0

    def __post_init__(self) -> None:
        """Refuse negative durations."""
        for item in fields(self):
            if getattr(self, item.name) < 0:
                raise InputError(f"{item.name} must not be negative, got {getattr(self, item.name)}")

    def acknowledged_ms(self, priority: Priority) -> int | None:
        """How long an acknowledgement holds, None for as long as the condition does."""
        match priority:
            case Priority.HIGH:
                return self.acknowledged_high_ms or None
            case Priority.MEDIUM:
                return self.acknowledged_medium_ms or None
            case _:
                return None


@dataclass(frozen=True, slots=True)
class CallLevel:
    """Whom to call when nobody has acknowledged an alert for so long; None: not for that priority."""

    role: str
    high_ms: int | None = None
    medium_ms: int | None = None

    def after_ms(self, priority: Priority) -> int | None:
        """When this level is called, counted from the announcement."""
        return {Priority.HIGH: self.high_ms, Priority.MEDIUM: self.medium_ms}.get(priority)


@dataclass(frozen=True, slots=True)
class AlarmRules:
    """Everything a ward sets.

    Attributes:
        times: Delays.
        levels: Whom to call, in order; the first when an alert is raised. Empty: one nameless repeat after
            `AlarmTimes.escalate_high_ms` or `escalate_medium_ms`.
        alarm_off: What ALARM OFF may cover, of `technical` and `low`.
        audio_off_up_to: The most urgent priority that AUDIO OFF may cover.
    """

    times: AlarmTimes = field(default_factory=AlarmTimes)
    levels: tuple[CallLevel, ...] = ()
    alarm_off: frozenset[str] = frozenset(_OFF)
    audio_off_up_to: Priority = Priority.MEDIUM

    def __post_init__(self) -> None:
        """Refuse rules that would silence a HIGH, or a chain that goes back in time."""
        if unknown := sorted(self.alarm_off - set(_OFF)):
            raise InputError(f"alarm_off: expected some of {', '.join(_OFF)}, got {unknown[0]!r}")
        if urgency(self.audio_off_up_to) >= urgency(Priority.HIGH):
            raise InputError("audio_off_up_to: expected low or medium: a HIGH always sounds")
        for priority in (Priority.HIGH, Priority.MEDIUM):
            times = [after for level in self.levels[1:] if (after := level.after_ms(priority)) is not None]
            if any(after <= 0 for after in times) or times != sorted(set(times)):
                raise InputError(f"levels: expected growing times for {priority}, got {times} ms")

    @property
    def chain(self) -> tuple[CallLevel, ...]:
        """The levels after the first."""
        if self.levels:
            return self.levels[1:]
        return (CallLevel("", self.times.escalate_high_ms, self.times.escalate_medium_ms),)

    @property
    def first_role(self) -> str:
        """Who is called first, empty where the rules name nobody."""
        return self.levels[0].role if self.levels else ""

    def may_be_off(self, alert: Alert) -> bool:
        """Whether ALARM OFF may cover this alert; never a HIGH."""
        if alert.priority is Priority.HIGH:
            return False
        is_low = urgency(alert.priority) <= urgency(Priority.LOW)
        return (is_low and "low" in self.alarm_off) or (alert.kind == "technical" and "technical" in self.alarm_off)


def load_alarm_rules(path: Path) -> AlarmRules:
    """Read a TOML file of rules.

    Raises:
        RecipeError: absent, not TOML, or an entry is unknown, of the wrong type or impossible; the message names it.
    """
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"alarm rules {path} cannot be read: {error}") from error
    try:
        _only(value, {"format", "times", "level", "off"}, "the file")
        if value.get("format") != _FORMAT:
            raise InputError(f"format: expected {_FORMAT}, got {value.get('format')!r}")
        names = {item.name.removesuffix("_ms") for item in fields(AlarmTimes)}
        times = _table(value.get("times", {}), names, "times")
        off = _table(value.get("off", {}), {"alarm", "audio_up_to"}, "off")
        return AlarmRules(
            times=AlarmTimes(**{f"{name}_ms": _milliseconds(times[name], f"times.{name}") for name in times}),
            levels=tuple(_level(item, number) for number, item in enumerate(_list(value.get("level", []), "level"))),
            alarm_off=frozenset(map(str, _list(off.get("alarm", list(_OFF)), "off.alarm"))),
            audio_off_up_to=Priority(off.get("audio_up_to", Priority.MEDIUM)),
        )
    except (InputError, ValueError) as error:
        raise RecipeError(f"alarm rules {path}: {error}") from error


def _level(item: Any, number: int) -> CallLevel:
    where = f"level[{number}]"
    table = _table(item, {"role", "high", "medium"}, where)
    role = table.get("role")
    if not isinstance(role, str) or not role.strip():
        raise InputError(f"{where}.role: expected a name, got {role!r}")
    if number == 0 and len(table) > 1:
        raise InputError(f"{where}: the first level is called at once: expected a role alone, got {sorted(table)}")
    if number > 0 and len(table) == 1:
        raise InputError(f"{where}: expected the seconds after which it is called (high, medium), got a role alone")
    spans = {
        f"{name}_ms": _milliseconds(table[name], f"{where}.{name}") for name in ("high", "medium") if name in table
    }
    return CallLevel(role, **spans)


def _milliseconds(seconds: Any, where: str) -> int:
    if type(seconds) not in (int, float) or not 0 <= seconds <= 7 * 86_400:
        raise InputError(f"{where}: expected seconds from 0 to a week, got {seconds!r}")
    return round(float(seconds) * 1000)


def _table(value: Any, names: set[str], where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected a table, got {value!r}")
    _only(value, names, where)
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{where}: expected a list, got {value!r}")
    return value


def _only(value: dict[str, Any], names: set[str], where: str) -> None:
    if unknown := sorted(value.keys() - names):
        raise InputError(f"{where}: unknown entry {unknown[0]!r}, expected some of {', '.join(sorted(names))}")
