"""What a policy may ask about a situation: eleven facts, each with a few closed values.

Closed facts make a policy a finite table: every situation can be listed, so totality and monotonicity are checked
for all of them when a profile is loaded, and a decision at the bedside is one look-up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from smallhold.records import ActionClass, Priority

FactValue = str | bool

#: Every fact and its values. Within a fact the first value is the most reassuring one, where there is an order.
FACTS: dict[str, tuple[FactValue, ...]] = {
    "action": tuple(ActionClass),
    "standing_order": ("valid", "expired", "none"),
    "device_class": ("closed_loop_cleared", "none"),
    "confidence": ("high", "low"),
    "has_abstained": (False, True),
    "is_stale": (False, True),
    "is_degraded": (False, True),
    "has_journal_failed": (False, True),
    "consent": ("given", "unknown", "withheld"),
    "is_emergency": (False, True),
    "priority": tuple(Priority),
}

#: fact -> (better, worse): going from better to worse must never weaken an effect. `expired` and `none` are not
#: ordered between themselves, and neither are emergencies and priorities.
WORSENINGS: dict[str, tuple[tuple[FactValue, FactValue], ...]] = {
    "standing_order": (("valid", "expired"), ("valid", "none")),
    "device_class": (("closed_loop_cleared", "none"),),
    "confidence": (("high", "low"),),
    "has_abstained": ((False, True),),
    "is_stale": ((False, True),),
    "is_degraded": ((False, True),),
    "has_journal_failed": ((False, True),),
    "consent": (("given", "unknown"), ("unknown", "withheld")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One situation. Whatever the caller does not know has the cautious value by default.

    Attributes:
        action: What would be done.
        priority: Alarm priority of the condition behind it.
        standing_order: Whether a signed, bounded standing order covers it.
        device_class: Whether this installation is cleared as a closed loop.
        confidence: `low` when the decision stands near its threshold or rests on little.
        has_abstained: The model chose to stay silent.
        is_stale: A signal that matters is overdue, or a clock cannot be trusted.
        is_degraded: The model was late, unsure, invalid or down, and the floor speaks alone.
        has_journal_failed: The audit trail could not be written.
        consent: What the patient said.
        is_emergency: Life or lasting harm is at stake now.
    """

    action: ActionClass
    priority: Priority
    standing_order: Literal["valid", "expired", "none"] = "none"
    device_class: Literal["closed_loop_cleared", "none"] = "none"
    confidence: Literal["high", "low"] = "low"
    has_abstained: bool = False
    is_stale: bool = False
    is_degraded: bool = False
    has_journal_failed: bool = False
    consent: Literal["given", "unknown", "withheld"] = "unknown"
    is_emergency: bool = False
