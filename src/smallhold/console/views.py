"""What the page shows of a ward, as JSON; made on the ward's thread (`LiveWard.call`).

Times are the ward's own, in milliseconds; ages are for the page to compute from `now_ms`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from smallhold.assist.alarm import urgency
from smallhold.assist.alarm_inactivation import AlertSignals, Inactivation
from smallhold.assist.care import Care
from smallhold.assist.live import LiveBed, LiveWard
from smallhold.assist.medication import Prescription, SlotState
from smallhold.assist.messages import Message
from smallhold.assist.ward import describe_reading, unit_in_words
from smallhold.assist.ward_view import by_urgency
from smallhold.console.recorder import BedRecord, KeptAsk, KeptProposal, Recorder
from smallhold.records import ActionClass, AlertState, Evidence
from smallhold.sectors.hospital.parameters import INDEX, PARAMETERS

#: Vital signs of the overview: name, signals of which the newest is shown.
VITALS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("HR", ("HR",)),
    ("BP", ("SysABP", "NISysABP")),
    ("RR", ("RespRate",)),
    ("SpO2", ("SaO2",)),
    ("Temp", ("Temp",)),
    ("GCS", ("GCS",)),
)
_WAITING = (SlotState.DUE, SlotState.OVERDUE, SlotState.MISSED)


def overview(ward: LiveWard, care: Care, recorder: Recorder) -> dict[str, Any]:
    """Every bed in short, the most urgent first, and what ails the ward itself."""
    now_ms = ward.clock.now_ms()
    beds = sorted(ward.beds.values(), key=by_urgency)
    return {
        "now_ms": now_ms,
        "speed": ward.clock.speed,
        "faults": [fault for fault in (ward.journal_error, ward.state_error) if fault is not None],
        "beds": [bed_line(live, care, recorder.bed(live.bed.patient), now_ms) for live in beds],
    }


def bed_line(live: LiveBed, care: Care, record: BedRecord, now_ms: int) -> dict[str, Any]:
    """One bed of the overview."""
    bed = live.bed
    signals = bed.alarms.signals(bed.patient, now_ms)
    waiting = [view.state.value for view in care.board(bed.patient).plan(now_ms, until_ms=now_ms + 1)]
    return {
        "patient": bed.patient,
        "is_simulated": bed.ward.simulated,
        "admitted_ms": live.admitted_ms,
        "last_reading_ms": live.last_reading_ms,
        "vitals": {name: _vital(live, codes) for name, codes in VITALS},
        "score": _score(live),
        "risk": _risk(live),
        "model": _model_state(live),
        "is_degraded": bed.is_degraded,
        "alerts": [_alert(item) for item in signals if item.alert.state is not AlertState.RESOLVED],
        "off": [_inactivation(item) for item in bed.alarms.inactivations(bed.patient, now_ms)],
        "doses": sum(state in [item.value for item in _WAITING] for state in waiting),
        "asks": sum(_is_open(item, now_ms) for item in record.asks.values()),
        "unseen": len(care.messages.of(bed.patient, is_open=True)),
    }


def bed_page(ward: LiveWard, live: LiveBed, care: Care, record: BedRecord, *, hours: float) -> dict[str, Any]:
    """Everything about one bed; readings of so many hours of the ward's time."""
    now_ms = ward.clock.now_ms()
    since_ms = now_ms - int(hours * 3_600_000)
    question = live.bed.consultation.question if live.bed.consultation is not None else None
    clauses = live.bed.ward.profile.clauses
    proposals = [_proposal(item) for item in reversed(record.proposals.values())]
    cited = sorted({clause for item in proposals for clause in item["clauses"]})
    return {
        "now_ms": now_ms,
        "speed": ward.clock.speed,
        "bed": bed_line(live, care, record, now_ms),
        "series": [
            {"code": code, "title": _title(code), "unit": _unit(code), "points": series.points(since_ms)}
            for code, series in record.series.items()
        ],
        "newest": [
            {"code": code, "text": describe_reading(code, value), "t_ms": t_ms}
            for code, (value, t_ms) in sorted(live.bed.readings.items())
            if code in INDEX
        ],
        "scores": [list(item) for item in record.scores if item[0] >= since_ms]
        or [list(x) for x in record.scores][-1:],
        "risks": [list(item) for item in record.risks if item[0] >= since_ms],
        "threshold": None if question is None else question.alert_threshold,
        "model_error": live.model_error,
        "proposals": proposals,
        "asks": [_ask(item, now_ms) for item in reversed(record.asks.values())],
        "clauses": [
            {
                "id": name,
                "summary": clauses[name].summary,
                "source": clauses[name].source,
                "is_draft": clauses[name].is_draft,
            }
            for name in cited
            if name in clauses
        ],
        "happenings": list(reversed(record.happenings)),
        "profile": live.bed.ward.profile.name,
        "consent": live.bed.consent_to(ActionClass.A4),
    }


def medication(care: Care, patient: str, now_ms: int) -> dict[str, Any]:
    """A patient's prescriptions, planned doses and what was given."""
    board = care.board(patient)
    return {
        "now_ms": now_ms,
        "prescriptions": [_prescription(item) for item in board.prescriptions()],
        "plan": [
            {
                "prescription": view.prescription.id,
                "drug": view.prescription.drug,
                "dose": f"{view.prescription.dose} {view.prescription.unit}",
                "route": view.prescription.route,
                "due_ms": view.slot.due_ms,
                "state": view.state.value,
                "actor": view.actor,
                "reason": view.reason,
            }
            for view in board.plan(now_ms)
        ],
        "given": [
            {**asdict(dose), "drug": _drug_of(care, patient, dose.prescription)}
            for dose in reversed(board.given()[-50:])
        ],
    }


def messages(care: Care, patient: str) -> list[dict[str, Any]]:
    """The newest messages to a patient, oldest first."""
    return [_message(item) for item in care.messages.of(patient)[-100:]]


def _vital(live: LiveBed, codes: tuple[str, ...]) -> dict[str, Any] | None:
    known = [(code, *live.bed.readings[code]) for code in codes if code in live.bed.readings]
    if not known:
        return None
    code, value, t_ms = max(known, key=lambda item: item[2])
    return {"code": code, "value": value, "unit": _unit(code), "t_ms": t_ms}


def _score(live: LiveBed) -> dict[str, Any] | None:
    if live.scores is None or not live.scores.scores:
        return None
    score = live.scores.scores[0]
    return {
        "name": score.name,
        "total": score.total,
        "band": score.band,
        "parts": dict(score.parts),
        "missing": list(score.missing),
    }


def _model_state(live: LiveBed) -> str:
    """What is said of the model where no risk is."""
    if live.bed.consultation is None:
        return "absent"
    if live.bed.is_silent:
        return "silent"
    return "answering" if live.model_error is None else "failing"


def _risk(live: LiveBed) -> dict[str, Any] | None:
    risk, consultation = live.risk, live.bed.consultation
    if risk is None or consultation is None:
        return None
    question = consultation.question
    return {
        "p": risk.probabilities[question.alarm_choice],
        "has_abstained": risk.has_abstained,
        "threshold": question.alert_threshold,
        "t_ms": risk.t_ms,
        "task": risk.task,
        "horizon_h": risk.horizon_h,
    }


def _alert(item: AlertSignals) -> dict[str, Any]:
    alert = item.alert
    return {
        "id": alert.id,
        "t_ms": alert.t_ms,
        "kind": alert.kind,
        "condition": alert.condition,
        "priority": alert.priority.value,
        "urgency": urgency(alert.priority),
        "state": alert.state.value,
        "source": alert.source,
        "message": alert.message,
        "is_degraded": alert.is_degraded,
        "is_audible": item.is_audible,
        "is_visible": item.is_visible,
    }


def _inactivation(item: Inactivation) -> dict[str, Any]:
    return {
        "state": item.state.value,
        "condition": item.condition,
        "actor": item.actor,
        "reason": item.reason,
        "from_ms": item.from_ms,
        "until_ms": item.until_ms,
    }


def _proposal(kept: KeptProposal) -> dict[str, Any]:
    proposal, verdict = kept.proposal, kept.verdict
    return {
        "id": kept.id,
        "t_ms": proposal.t_ms,
        "condition": proposal.condition,
        "action": proposal.action.value,
        "priority": proposal.priority.value,
        "source": proposal.source,
        "has_abstained": proposal.has_abstained,
        "is_degraded": proposal.is_degraded,
        "rationale": proposal.rationale,
        "evidence": [_evidence(item) for item in proposal.evidence],
        "card": kept.card,
        "effect": verdict.effect.value,
        "clauses": list(verdict.clauses),
        "obligations": list(verdict.obligations),
        "answer": kept.answer,
        "actor": kept.actor,
    }


def _evidence(item: Evidence) -> dict[str, Any]:
    return {"code": item.code, "text": item.text, "effect": item.effect, "observations": list(item.observations)}


def _ask(kept: KeptAsk, now_ms: int) -> dict[str, Any]:
    return {
        "id": kept.id,
        "t_ms": kept.ask.t_ms,
        "action": kept.ask.action.value,
        "question": kept.ask.question,
        "confirmations": kept.ask.confirmations,
        "expires_ms": kept.ask.expires_ms,
        "agreed": list(kept.agreed),
        "answer": kept.answer or (None if _is_open(kept, now_ms) else "expired"),
    }


def _is_open(kept: KeptAsk, now_ms: int) -> bool:
    return kept.answer is None and now_ms < kept.ask.expires_ms


def _prescription(item: Prescription) -> dict[str, Any]:
    return {**asdict(item), "kind": item.kind.value, "times_of_day": list(item.times_of_day)} | {
        "prescribers": list(item.prescribers)
    }


def _drug_of(care: Care, patient: str, prescription: str) -> str:
    return next((p.drug for p in care.board(patient).prescriptions() if p.id == prescription), "")


def _message(item: Message) -> dict[str, Any]:
    return asdict(item)


def _title(code: str) -> str:
    return PARAMETERS[INDEX[code]].title if code in INDEX else code


def _unit(code: str) -> str:
    return unit_in_words(PARAMETERS[INDEX[code]].unit) if code in INDEX else ""
