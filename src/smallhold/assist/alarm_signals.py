"""IEC 60601-1-8's tables: which priority a condition has, and how a priority looks and sounds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from smallhold.records import Priority


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


def priority_at(rank: int) -> Priority:
    """The priority whose `urgency` is `rank`."""
    return _BY_URGENCY[rank]
