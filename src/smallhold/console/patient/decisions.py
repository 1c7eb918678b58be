"""What was decided about one patient, and why, from the journal and in parts that a page can say in plain words."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from smallhold.assist.bedside import Bedside
from smallhold.assist.live import STAFF, STEP
from smallhold.assist.policy import Profile
from smallhold.assist.specialist import Question
from smallhold.assist.step import Step
from smallhold.device.journal import Journal
from smallhold.errors import JournalError
from smallhold.records import ActionClass, Priority, Proposal, Provenance, Risk

_MOST_KEPT = 60
_LOOK_BACK = 50_000
_KINDS = (STEP, STAFF)


class DecisionLog:
    """Follows a journal and keeps the newest decisions about each patient; may be used from any thread.

    A first look goes back fifty thousand entries at most, a later one reads what is new. `export` reads all of it.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._lock = threading.Lock()
        self._next: dict[str, int] = {}
        self._kept: dict[str, deque[dict[str, Any]]] = {}

    def of(self, patient: str, profile: Profile, question: Question | None) -> list[dict[str, Any]]:
        """The newest decisions about a patient, newest first.

        Raises:
            JournalError: the journal cannot be read.
        """
        with self._lock:
            self._follow(profile, question)
            return sorted(self._kept.get(patient, ()), key=lambda told: told["t_ms"], reverse=True)

    def export(self, patient: str) -> Iterator[tuple[str, int, Any]]:
        """Everything on record about a patient: (kind, time, what), oldest first.

        Raises:
            JournalError: the journal cannot be read.
        """
        for entry, payload in self._journal.entries():
            if payload is None or not payload.startswith(b"{"):
                continue
            try:
                value = json.loads(payload)
            except ValueError:
                continue
            if isinstance(value, dict) and value.get("patient") == patient:
                yield entry.kind, entry.t_ms, value

    def _follow(self, profile: Profile, question: Question | None) -> None:
        checkpoint = self._journal.last_checkpoint()
        first = max(0, (0 if checkpoint is None else checkpoint.seq) - _LOOK_BACK)
        for kind in _KINDS:  # by kind, so that the many readings between are not unsealed
            for entry, payload in self._journal.entries(start=self._next.get(kind, first), kind=kind):
                if payload is not None:
                    self._take(kind, payload, profile, question)
                self._next[kind] = entry.seq + 1

    def _take(self, kind: str, payload: bytes, profile: Profile, question: Question | None) -> None:
        if kind == STAFF:
            value = json.loads(payload)
            if value.get("action") == "acknowledge":
                self._keep(value["patient"], {"kind": "acknowledged", "t_ms": value["t_ms"], "who": value["actor"]})
            return
        try:
            step = Step.from_payload(payload).shown()
        except JournalError:
            return  # of a version to come; the export has it
        told = describe(step, profile, question)
        if told is not None:
            self._keep(step.patient, told)

    def _keep(self, patient: str, told: dict[str, Any]) -> None:
        self._kept.setdefault(patient, deque(maxlen=_MOST_KEPT)).append(told)


def describe(step: Step, profile: Profile, question: Question | None) -> dict[str, Any] | None:
    """A step as a patient may read it; None when nothing was decided in it.

    Args:
        step: From the journal.
        profile: The policy in force; clauses are told of steps under this very one.
        question: What the model is asked, for the threshold.
    """
    calls = [
        {"priority": alert.priority.value, "source": alert.source, "is_degraded": alert.is_degraded}
        for alert in step.announced
    ]
    if step.risk is None and not step.proposals and not calls and step.model_error is None:
        return None
    news2 = next((score for score in step.scores.scores if score.name == "news2"), None)
    clauses = {clause for verdict in step.verdicts for clause in verdict.clauses}
    return {
        "kind": "decision",
        "id": step.provenance.trace_id,
        "t_ms": step.t_ms,
        "is_simulated": step.provenance.simulated,
        "score": None
        if news2 is None
        else {"total": news2.total, "band": news2.band, "missing": list(news2.missing), "parts": news2.parts},
        "risk": None
        if step.risk is None
        else {
            "band": _band(step.risk, question),
            "has_abstained": step.risk.has_abstained,
            "confidence": step.risk.confidence,
        },
        "model_failed": step.model_error is not None,
        "evidence": [
            {"code": item.code, "text": item.text, "raises": item.effect > 0}
            for item in (step.card.evidence if step.card is not None else ())
        ],
        "calls": calls,
        "waits_for_person": [ask.action.value for ask in step.asks],
        "clauses": _summaries(profile, clauses) if step.provenance.profile == profile.digest else [],
    }


def limits_of(bed: Bedside, now_ms: int) -> list[dict[str, Any]]:
    """What the machine may do for this patient now, action class by action class, and the clauses that say so."""
    told = []
    for action in ActionClass:
        verdict = bed.judge(_question(bed, action, now_ms))
        told.append(
            {
                "action": action.value,
                "effect": verdict.effect.value,
                "clauses": _summaries(bed.ward.profile, set(verdict.clauses)),
            }
        )
    return told


def _question(bed: Bedside, action: ActionClass, now_ms: int) -> Proposal:
    return Proposal(
        patient=bed.patient,
        t_ms=now_ms,
        condition="question",
        action=action,
        priority=Priority.LOW,
        source="patient",
        has_abstained=False,
        is_degraded=False,
        rationale="",
        provenance=Provenance(trace_id="0" * 32, profile=bed.ward.profile.digest),
    )


def _band(risk: Risk, question: Question | None) -> str:
    """What the model's answer means in one word: it calls people, gives no answer, or sees nothing to call for."""
    is_raised = question is not None and risk.probabilities.get(question.alarm_choice, 0.0) >= question.alert_threshold
    return "raised" if is_raised else "unsure" if risk.has_abstained else "no_call"


def _summaries(profile: Profile, clauses: set[str]) -> list[Mapping[str, str]]:
    known = profile.clauses
    return [
        {"id": name, "summary": known[name].summary, "source": known[name].source}
        for name in sorted(clauses)
        if name in known
    ]
