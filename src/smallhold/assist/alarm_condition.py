"""One alarm condition that is not resolved, and the changes that it goes through."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from smallhold.assist.alarm_signals import urgency
from smallhold.errors import InputError
from smallhold.records import Alert, AlertState, Priority, from_json, to_json

GONE = -1
NEVER_MS = -(1 << 62)


class Change(StrEnum):
    """What happened to an alert; those of `ANNOUNCED` call people, the rest is recorded."""

    RAISED = "raised"  # new, or of a higher priority than before, or no longer withheld
    ESCALATED = "escalated"  # nobody acknowledged it in time
    REACTIVATED = "reactivated"  # acknowledged, but the condition persisted for longer than that holds
    RETURNED = "returned"  # the condition of a latched alert is present again
    LATCHED = "latched"  # the condition is gone, but nobody has acknowledged it
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"


ANNOUNCED = frozenset({Change.RAISED, Change.ESCALATED, Change.REACTIVATED})


@dataclass(frozen=True, slots=True)
class AlarmChange:
    """One change of one alert, with the alert as it stands after it.

    Attributes:
        change: What happened.
        t_ms: When.
        alert: The alert after it.
        actor: Empty unless a person did it.
        role: Whom the ward's rules call, empty where they name nobody.
        is_withheld: An inactivation that people set keeps the call back; never for a HIGH.
    """

    change: Change
    t_ms: int
    alert: Alert
    actor: str = ""
    role: str = ""
    is_withheld: bool = False

    @property
    def is_announced(self) -> bool:
        """True when people are to be called."""
        return self.change in ANNOUNCED and not self.is_withheld


@dataclass(slots=True)
class Condition:
    """One condition that is not resolved.

    Attributes:
        alert: As it stands.
        level: Urgency at which the condition holds now, `GONE` when it does not.
        peak: The highest priority that was announced and not acknowledged.
        announced_ms: When people were last called for it anew.
        left_ms: `left_ms[u]` is when it last fell below urgency `u`, None while it is at `u` or above.
        calls: How many levels of the escalation chain were called since.
        acknowledged_until_ms: When an acknowledgement ends, None for as long as the condition holds.
        is_withheld: An inactivation kept the call back.
    """

    alert: Alert
    level: int
    peak: Priority
    announced_ms: int
    left_ms: list[int | None]
    calls: int = 0
    acknowledged_until_ms: int | None = None
    is_withheld: bool = False

    @classmethod
    def begin(cls, alert: Alert) -> Condition:
        """A condition that holds for the first time."""
        level = urgency(alert.priority)
        left_ms = [None if u <= level else NEVER_MS for u in range(len(Priority))]
        return cls(alert, level, alert.priority, alert.t_ms, left_ms)

    def move_to(self, level: int, t_ms: int) -> None:
        """The condition holds at another urgency."""
        self.level = level
        for u, left_ms in enumerate(self.left_ms):
            if u <= level:
                self.left_ms[u] = None
            elif left_ms is None:
                self.left_ms[u] = t_ms

    def settled_level(self, t_ms: int, settle_ms: int) -> int:
        """The highest urgency that was left less than `settle_ms` ago, `GONE` when there is none."""
        recent = (u for u, left in enumerate(self.left_ms) if left is None or t_ms - left < settle_ms)
        return max(recent, default=GONE)

    @property
    def is_latching(self) -> bool:
        """Whether the alert outlives its condition until a person has seen it."""
        is_high = self.peak is Priority.HIGH and self.alert.kind == "physiological"
        return is_high and self.alert.state is not AlertState.ACKNOWLEDGED

    def call_anew(self, t_ms: int) -> None:
        """People are called; the time to answer begins again."""
        self.announced_ms, self.calls, self.acknowledged_until_ms = t_ms, 0, None

    def turn(self, state: AlertState, change: Change, t_ms: int, actor: str = "") -> AlarmChange:
        """Put the alert into another state."""
        self.alert = replace(self.alert, state=state)
        return AlarmChange(change, t_ms, self.alert, actor)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON object with everything."""
        members = {name: getattr(self, name) for name in self.__slots__ if name != "alert"}
        return {**members, "peak": self.peak.value, "alert": to_json(self.alert)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Condition:
        """Read back what `to_json` wrote; a KeyError, TypeError, ValueError or InputError says that it is not that."""
        alert = from_json(value["alert"])
        if not isinstance(alert, Alert) or len(value["left_ms"]) != len(Priority):
            raise InputError("expected an alert and a time for each priority")
        return cls(**{**value, "alert": alert, "peak": Priority(value["peak"]), "left_ms": list(value["left_ms"])})


@dataclass(frozen=True, slots=True)
class AudioPause:
    """Silence that is visible, timed and has a name on it; lights stay on."""

    actor: str
    from_ms: int
    until_ms: int
