"""What the console shows of the past hours: readings, scores, risks, proposals and what people are asked, per bed.

It follows the ward's steps, on the ward's thread, in memory that does not grow: the newest readings one by one, older
ones as the lowest, highest and last of two minutes. After a restart the newest part of the journal fills it.
"""

from __future__ import annotations

import json
from collections import OrderedDict, deque
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import Any

from smallhold.assist.gate import Limits
from smallhold.assist.live import READING, STEP
from smallhold.assist.step import Step
from smallhold.device.journal import Journal
from smallhold.device.journal_store import last_seq
from smallhold.errors import InputError, JournalError
from smallhold.records import Ask, Proposal, Verdict

STRETCH_MS = 120_000
_NEWEST = 600
_STRETCHES = 720  # a day
_HAPPENINGS = 200
_PROPOSALS = 50
#: Entries of the journal that are looked at when the console begins; a second or two of work.
RECALLED_ENTRIES = 20_000


@dataclass(slots=True)
class Series:
    """One signal: the newest readings (time, value), and stretches [begin, lowest, highest, last]."""

    newest: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_NEWEST))
    stretches: deque[list[float]] = field(default_factory=lambda: deque(maxlen=_STRETCHES))

    def add(self, t_ms: int, value: float) -> None:
        """A reading; one that is older than the newest is left out of the picture."""
        if self.newest and t_ms < self.newest[-1][0]:
            return
        self.newest.append((t_ms, value))
        begin = t_ms - t_ms % STRETCH_MS
        if self.stretches and self.stretches[-1][0] == begin:
            held = self.stretches[-1]
            held[1:] = [min(held[1], value), max(held[2], value), value]
        else:
            self.stretches.append([begin, value, value, value])

    def points(self, since_ms: int) -> list[list[float]]:
        """[time, lowest, highest, last], oldest first."""
        first_ms = self.newest[0][0] if self.newest else 0
        old = [list(item) for item in self.stretches if since_ms <= item[0] < first_ms - STRETCH_MS]
        return old + [[t_ms, value, value, value] for t_ms, value in self.newest if t_ms >= since_ms]


@dataclass(slots=True)
class KeptProposal:
    """A proposal with what the policy made of it and what people answered.

    Attributes:
        id: Names it in addresses and in the journal.
        proposal: The record.
        verdict: The policy's.
        card: What the model saw, in words; empty where there is none.
        answer: `accept` or `override`, None as long as nobody answered.
        actor: Who answered.
    """

    id: str
    proposal: Proposal
    verdict: Verdict
    card: str = ""
    answer: str | None = None
    actor: str = ""


@dataclass(slots=True)
class KeptAsk:
    """A question to people, and who agreed so far; `answer` is `agreed` or `refused` when it is over."""

    id: str
    ask: Ask
    agreed: list[str] = field(default_factory=list)
    answer: str | None = None


@dataclass(slots=True)
class BedRecord:
    """What is kept of one bed."""

    series: dict[str, Series] = field(default_factory=dict)
    scores: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=_STRETCHES))
    risks: deque[tuple[int, float, bool]] = field(default_factory=lambda: deque(maxlen=_STRETCHES))
    proposals: OrderedDict[str, KeptProposal] = field(default_factory=OrderedDict)
    asks: OrderedDict[str, KeptAsk] = field(default_factory=OrderedDict)
    happenings: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_HAPPENINGS))


class Recorder:
    """The records of a ward; give `note` to `LiveWard(on_step=...)`.

    Args:
        limits: The sector's signals, for canonical units.
        alarm_choice: The choice whose probability is the risk; None without a model.
        most_beds: Beds that are kept; the one that was quiet longest goes.
    """

    def __init__(self, limits: Limits, *, alarm_choice: str | None = None, most_beds: int = 256) -> None:
        self._limits, self.alarm_choice, self._most_beds = limits, alarm_choice, most_beds
        self._beds: OrderedDict[str, BedRecord] = OrderedDict()

    def bed(self, patient: str) -> BedRecord:
        """The record of a bed, made when first asked for."""
        held = self._beds.get(patient)
        if held is None:
            held = self._beds[patient] = BedRecord()
            while len(self._beds) > self._most_beds:
                self._beds.popitem(last=False)
        return held

    def forget(self, patient: str) -> None:
        """A patient left."""
        self._beds.pop(patient, None)

    def note(self, step: Step) -> None:
        """Take in one step."""
        kept = self.bed(step.patient)
        self._beds.move_to_end(step.patient)
        observation = step.observation
        if observation is not None and step.gate is not None and step.gate.is_accepted:
            self.add_reading(
                step.patient, observation.code, observation.value, observation.unit, observation.t_measured_ms
            )
        if step.scores.scores:
            total = step.scores.scores[0].total
            if not kept.scores or kept.scores[-1][1] != total:
                kept.scores.append((step.t_ms, total))
        if step.risk is not None and self.alarm_choice in step.risk.probabilities:
            kept.risks.append((step.t_ms, step.risk.probabilities[self.alarm_choice], step.risk.has_abstained))
        for number, (proposal, verdict) in enumerate(zip(step.proposals, step.verdicts, strict=True)):
            identity = f"{step.provenance.trace_id}-{number}"
            card = step.card.text if step.card is not None and proposal.source == "model" else ""
            kept.proposals[identity] = KeptProposal(identity, proposal, verdict, card)
            while len(kept.proposals) > _PROPOSALS:
                kept.proposals.popitem(last=False)
        for number, ask in enumerate(step.asks):
            identity = f"{step.provenance.trace_id}-a{number}"
            kept.asks[identity] = KeptAsk(identity, ask)
            while len(kept.asks) > _PROPOSALS:
                kept.asks.popitem(last=False)
        for change in step.changes:
            alert = change.alert
            self.happened(
                step.patient,
                change.t_ms,
                change.change.value,
                f"{alert.priority.value.upper()} {alert.message}",
                change.actor,
            )

    def add_reading(self, patient: str, code: str, value: float, unit: str, t_ms: int) -> None:
        """An accepted reading as received."""
        try:
            value = self._limits.to_canonical(code, value, unit)
        except (InputError, KeyError):
            return
        self.bed(patient).series.setdefault(code, Series()).add(t_ms, value)

    def happened(self, patient: str, t_ms: int, what: str, text: str, actor: str = "") -> None:
        """One line of a bed's history."""
        self.bed(patient).happenings.append({"t_ms": t_ms, "what": what, "text": text, "actor": actor})

    def recall(self, journal: Journal, beds: Container[str], most: int = RECALLED_ENTRIES) -> None:
        """Fill it from the newest entries of the journal, for beds that are filled; before the first step.

        Raises:
            JournalError: the journal cannot be read.
        """
        start = max(0, last_seq(journal.path) + 1 - most)
        for kind, payload in _newest(journal, start):
            try:
                if kind == STEP:
                    step = Step.from_payload(payload)
                    if step.patient in beds:
                        self.note(step)
                else:
                    item = json.loads(payload)
                    if item["patient"] in beds and not item["reasons"] and not isinstance(item["value"], str):
                        self.add_reading(
                            item["patient"], item["code"], item["value"], item["unit"], item["t_measured_ms"]
                        )
            except (JournalError, ValueError, KeyError, TypeError):
                continue  # the picture lacks a point; what the journal holds is for `verify` to judge


def _newest(journal: Journal, start: int) -> Iterator[tuple[str, bytes]]:
    for entry, payload in journal.entries(start=start):
        if payload is not None and entry.kind in (READING, STEP):
            yield entry.kind, payload
