"""Two people acted on the same thing without knowing of each other: shown, both kept, never merged in silence.

A pure function of the acts, so that every device that has the same acts finds the same conflicts in the same order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from smallhold.assist.sync.message import Act


@dataclass(frozen=True, slots=True)
class Conflict:
    """Acts about one thing of which two at least did not know of each other.

    Attributes:
        about: What they concern.
        patient: Whom.
        acts: In the order that every device comes to: by hybrid clock, then device.
        resolved_by: The first later act about it whose actor could know all of them, or None while it is open.
    """

    about: str
    patient: str | None
    acts: tuple[Act, ...]
    resolved_by: Act | None

    @property
    def id(self) -> str:
        """Names the conflict: what it is about and between which entries."""
        return f"{self.about}: " + ", ".join(f"{act.device}/{act.seq}" for act in self.acts)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON object, for the journal and for people."""
        by = self.resolved_by
        return {
            "about": self.about,
            "patient": self.patient,
            "acts": [
                {"device": act.device, "seq": act.seq, "kind": act.kind, "actor": act.actor, "stamp": list(act.stamp)}
                for act in self.acts
            ],
            "resolved_by": None if by is None else [by.device, by.seq],
        }


def are_concurrent(first: Act, second: Act) -> bool:
    """Whether neither could know of the other."""
    return not first.has_seen(second) and not second.has_seen(first)


def find_conflicts(acts: Iterable[Act]) -> tuple[Conflict, ...]:
    """Every conflict among these acts, in the order in which they began.

    Acts about the same thing that are linked by not knowing of each other form one conflict.
    """
    by_subject: dict[tuple[str, str | None], list[Act]] = defaultdict(list)
    for act in acts:
        if act.about:
            by_subject[act.about, act.patient].append(act)
    found: list[Conflict] = []
    for (about, patient), subject in by_subject.items():
        ordered = sorted(subject, key=lambda act: act.order)
        for group in _linked(ordered):
            if len(group) > 1:
                later = (act for act in ordered if act not in group and all(act.has_seen(other) for other in group))
                found.append(Conflict(about, patient, tuple(group), next(later, None)))
    return tuple(sorted(found, key=lambda conflict: (conflict.acts[0].order, conflict.about)))


def _linked(acts: list[Act]) -> list[list[Act]]:
    """Connected components of "did not know of each other", each in the order of the acts."""
    rest, groups = list(acts), []
    while rest:
        group, edge = [rest[0]], [rest.pop(0)]
        while edge:
            act = edge.pop()
            near = [other for other in rest if are_concurrent(act, other)]
            group += near
            edge += near
            rest = [other for other in rest if other not in near]
        groups.append([act for act in acts if act in group])
    return groups
