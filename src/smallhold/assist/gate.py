"""What may enter: every reading is checked for unit, range, duplicates, clock, age and quality before it is used.

`judge` is the pure core: a function of one reading, the limits and what was seen before. `Gate` keeps that memory
for one patient. A refused reading changes nothing: no score, no model and no memory sees it.

A reason is a stable identifier, a colon and the numbers: `range: HR 900 /min lies outside 10 to 300 /min`.
`reason_id` gives the identifier. All reasons that hold are listed, in the order of `REASONS`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from smallhold.errors import InputError
from smallhold.records import GateResult, Observation

REASONS = (
    "unknown_code",  # the sector does not know this signal
    "not_finite",  # not a number, or infinite
    "unit",  # the unit does not measure this signal
    "range",  # impossible for a living patient and a working device
    "quality",  # the device itself says that the reading is bad
    "duplicate",  # this identifier, or the same value of the same signal at the same time, was seen before
    "clock_back",  # measured before the newest accepted reading of the same signal
    "clock_future",  # measured after it was received
    "stale",  # received long after it was measured
)


class Limits(Protocol):
    """What a sector knows about its signals."""

    def plausible_range(self, code: str) -> tuple[float, float] | None:
        """Lowest and highest possible value in the canonical unit; None for an unknown code."""

    def unit(self, code: str) -> str:
        """The canonical unit of a known code, UCUM."""

    def to_canonical(self, code: str, value: float, unit: str) -> float:
        """The value of a known code in its canonical unit; InputError when `unit` cannot measure it."""


@dataclass(frozen=True, slots=True)
class Tolerances:
    """How far clocks may disagree, and how old a reading may be on arrival.

    Attributes:
        clock_back_ms: A reading may be this much older than the newest accepted one of the same signal.
        clock_future_ms: A reading may be dated this much after its arrival (device clocks drift).
        max_age_ms: A reading that arrives older than this is refused.
        max_age_of_ms: The same for signals that have one of their own: a laboratory's result comes hours later.
        accepted_quality: What the device may say about a reading that is used.
        remembered_ids: How many of the newest identifiers are kept to recognise a resend.
    """

    clock_back_ms: int = 0
    clock_future_ms: int = 5_000
    max_age_ms: int = 15 * 60_000
    accepted_quality: frozenset[str] = frozenset({"good"})
    remembered_ids: int = 4_096
    max_age_of_ms: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse tolerances that cannot be met."""
        for name in ("clock_back_ms", "clock_future_ms", "max_age_ms", "remembered_ids"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must not be negative, got {getattr(self, name)}")
        for code, age_ms in self.max_age_of_ms.items():
            if age_ms < 0:
                raise InputError(f"max_age_of_ms of {code} must not be negative, got {age_ms}")


@dataclass(slots=True)
class Memory:
    """What a gate remembers of one patient; bounded by the tolerances."""

    ids: dict[str, None] = field(default_factory=dict)
    newest_ms: dict[str, int] = field(default_factory=dict)
    recent: dict[str, deque[tuple[int, float]]] = field(default_factory=dict)


def reason_id(reason: str) -> str:
    """The stable identifier at the head of a reason."""
    return reason.partition(":")[0]


def judge(
    observation: Observation, now_ms: int, limits: Limits, tolerances: Tolerances, memory: Memory
) -> tuple[tuple[str, ...], float | None]:
    """All reasons against one reading, and its canonical value.

    Args:
        observation: The reading as received.
        now_ms: When it is checked, on the clock of the observation's own times.
        limits: What the sector knows about the signal.
        tolerances: See `Tolerances`.
        memory: What was accepted before; not changed.

    Returns:
        No reason and the value in the canonical unit; or at least one reason and None.
    """
    reasons: list[str] = []
    code, measured_ms = observation.code, observation.t_measured_ms
    value: float | None = None
    plausible = limits.plausible_range(code)
    if plausible is None:
        reasons.append(f"unknown_code: {code!r} is not a signal of this sector")
    if not math.isfinite(observation.value):
        reasons.append(f"not_finite: {code} reads {observation.value}")
    elif plausible is not None:
        try:
            value = limits.to_canonical(code, observation.value, observation.unit)
        except InputError as error:
            reasons.append(f"unit: {error}")
        else:
            low, high = plausible
            if not low <= value <= high:
                unit = limits.unit(code)
                reasons.append(f"range: {code} {value:g} {unit} lies outside {low:g} to {high:g} {unit}")
    if observation.quality not in tolerances.accepted_quality:
        reasons.append(f"quality: the device says {observation.quality!r} of {code}")
    if observation.id in memory.ids:
        reasons.append(f"duplicate: observation {observation.id!r} was received before")
    elif value is not None and (measured_ms, value) in memory.recent.get(code, ()):
        reasons.append(f"duplicate: {code} {value:g} at {measured_ms} ms was received before")
    newest_ms = memory.newest_ms.get(code)
    if newest_ms is not None and measured_ms < newest_ms - tolerances.clock_back_ms:
        reasons.append(
            f"clock_back: {code} measured {newest_ms - measured_ms} ms before the newest accepted reading; "
            f"allowed {tolerances.clock_back_ms} ms"
        )
    ahead_ms = measured_ms - min(observation.t_received_ms, now_ms)
    if ahead_ms > tolerances.clock_future_ms:
        reasons.append(
            f"clock_future: {code} measured {ahead_ms} ms after its arrival; allowed {tolerances.clock_future_ms} ms"
        )
    age_ms = max(observation.t_received_ms, now_ms) - measured_ms
    max_age_ms = tolerances.max_age_of_ms.get(code, tolerances.max_age_ms)
    if age_ms > max_age_ms:
        reasons.append(f"stale: {code} was {age_ms} ms old on arrival; allowed {max_age_ms} ms")
    return (tuple(reasons), None) if reasons else ((), value)


class Gate:
    """The gate of one patient.

    Guarantees: a value is returned exactly when the reading is accepted; only accepted readings are remembered; and
    memory is bounded by the number of signals, `remembered_ids` and the readings inside `clock_back_ms`.
    """

    def __init__(self, limits: Limits, tolerances: Tolerances | None = None) -> None:
        self._limits = limits
        self._tolerances = tolerances or Tolerances()
        self._memory = Memory()

    def check(self, observation: Observation, now_ms: int) -> tuple[GateResult, float | None]:
        """Judge one reading and, when accepted, remember it.

        Args:
            observation: The reading as received.
            now_ms: The present, on the clock of the observation's own times.

        Returns:
            The record of the judgement, and the value in the canonical unit or None when refused.
        """
        reasons, value = judge(observation, now_ms, self._limits, self._tolerances, self._memory)
        if value is not None:
            self.recall(observation.code, value, observation.t_measured_ms, observation.id)
        result = GateResult(
            observation=observation.id,
            is_accepted=value is not None,
            reasons=reasons,
            provenance=observation.provenance,
        )
        return result, value

    def recall(self, code: str, value: float, measured_ms: int, observation_id: str) -> None:
        """Remember a reading, in its canonical unit, that an earlier process accepted."""
        memory = self._memory
        memory.ids[observation_id] = None
        if len(memory.ids) > self._tolerances.remembered_ids:
            del memory.ids[next(iter(memory.ids))]
        newest_ms = max(measured_ms, memory.newest_ms.get(code, measured_ms))
        memory.newest_ms[code] = newest_ms
        recent = memory.recent.setdefault(code, deque())
        # Anything older is refused as clock_back before its value is compared, so it need not be kept.
        while recent and recent[0][0] < newest_ms - self._tolerances.clock_back_ms:
            recent.popleft()
        recent.append((measured_ms, value))
