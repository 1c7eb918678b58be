"""What a paired device may see and do for its one patient; everything that touches the ward runs on its thread."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from smallhold.assist.care import Care
from smallhold.assist.live import LiveWard
from smallhold.assist.medication.board import Administration, MedicationBoard
from smallhold.assist.policy import Profile
from smallhold.assist.self_report import LONGEST_TEXT, Intake, Review, Triage, Urgency, clean_text
from smallhold.console.patient.decisions import DecisionLog, limits_of
from smallhold.console.patient.pairing import Pairings
from smallhold.console.patient.rate import RateLimit, RateLimited
from smallhold.decide.text_task import LocalTextTask
from smallhold.device.journal import Journal
from smallhold.errors import DeadlineError, InputError, JournalError, SmallholdError
from smallhold.sectors.hospital.symptoms import load_rules, red_flags, urgency_of

_CALL_SECONDS = 5.0
_TRIAGE_SECONDS = 10.0
_DAY_MS = 24 * 3_600_000
_MOST_MESSAGES = 200
_ORDER: tuple[Urgency, ...] = ("emergency", "staff", "soon", "routine")
T = TypeVar("T")


class PatientDesk:
    """See `patient_router` for the arguments."""

    def __init__(
        self,
        ward: LiveWard,
        care: Care,
        journal: Journal,
        pairings: Pairings,
        *,
        profile: Profile,
        triage: LocalTextTask | None = None,
    ) -> None:
        self.pairings = pairings
        self._ward, self._care, self._profile, self._triage = ward, care, profile, triage
        self._log = DecisionLog(journal)
        self._triage_lock = threading.Lock()
        # A page gone wild must not wear out the staff: what is beyond waits on the device and comes later.
        self._reports = RateLimit(20, 10 * 60)

    def overview(self, patient: str) -> dict[str, Any]:
        """Everything that the page shows at first, of one moment.

        Raises:
            DeadlineError: the ward is busy.
        """
        return self._call(lambda: self._overview(patient))

    def decisions(self, patient: str) -> dict[str, Any]:
        """What was decided about the patient, and what the machine may do now.

        Raises:
            DeadlineError: the ward is busy.
            JournalError: the journal cannot be read.
        """

        def look() -> tuple[list[dict[str, Any]], Any]:
            live = self._ward.beds.get(patient)
            if live is None:
                return [], None
            return limits_of(live.bed, self._ward.clock.now_ms()), live.bed.ward.question

        limits, question = self._call(look)
        decided = self._log.of(patient, self._profile, question)
        return {
            "now_ms": self._ward.clock.now_ms(),
            "profile": {"name": self._profile.name, "version": self._profile.version, "note": self._profile.note},
            "limits": limits,
            "decisions": decided,
        }

    def triage(self, text: str, language: str) -> Triage:
        """Ask the model on this machine; where it cannot be asked, it abstains.

        Raises:
            InputError: no text.
        """
        rules = load_rules()
        text = clean_text(text)
        if not text or len(text) > LONGEST_TEXT:
            raise InputError(f"text: expected 1 to {LONGEST_TEXT} characters, got {len(text)}")
        nowhere = Triage(where="nowhere", choice=None, confidence=0.0, has_abstained=True)
        if self._triage is None or language not in rules.model_languages:
            return nowhere
        if not self._triage_lock.acquire(timeout=_TRIAGE_SECONDS):
            return nowhere
        try:
            decision = self._triage.decide(text)
        except SmallholdError:
            return nowhere
        finally:
            self._triage_lock.release()
        (answer,) = decision.answers.values()
        confidence = max(answer.probabilities.values())
        is_sure = answer.choice is not None and confidence >= rules.least_confidence
        return Triage(
            where="server",
            choice=answer.choice if is_sure else None,
            confidence=round(float(confidence), 6),
            has_abstained=not is_sure,
            bundle=self._triage.bundle.manifest.digest,
        )

    def act(self, patient: str, action: Mapping[str, Any]) -> dict[str, str]:
        """Do one thing that the device asks for, once: sent again it changes nothing.

        Returns:
            `id`, and `status`: `done`; `refused` for good, with a `message`; `later`, when it may be sent again.
        """
        told = {"id": str(action["id"])}
        try:
            self._act(patient, action)
        except (JournalError, DeadlineError, RateLimited):
            return {**told, "status": "later"}
        except InputError as error:
            return {**told, "status": "refused", "message": str(error)}
        return {**told, "status": "done"}

    def export(self, patient: str) -> Iterator[bytes]:
        """All that is on record about the patient, as one JSON document in pieces.

        Raises:
            JournalError: the journal cannot be read.
        """
        head = {"format": "smallhold.patient-export/1", "patient": patient, "now": self.overview(patient)}
        yield json.dumps(head, ensure_ascii=False)[:-1].encode() + b', "entries": ['
        comma = b"\n"
        for kind, t_ms, value in self._log.export(patient):
            yield comma + json.dumps({"kind": kind, "t_ms": t_ms, "entry": value}, ensure_ascii=False).encode()
            comma = b",\n"
        yield b"\n]}\n"

    def _act(self, patient: str, action: Mapping[str, Any]) -> None:
        care, ward, id = self._care, self._ward, str(action["id"])
        match action["kind"]:
            case "seen":
                self._call(lambda: care.messages.seen(patient, action["message"], ward.clock.now_ms()))
            case "taken":
                self._call(lambda: self._confirm(patient, action["prescription"], action["given_ms"]))
            case "consent":
                purpose, state = action["purpose"], action["state"]
                self._call(lambda: care.say_consent(patient, purpose, state, patient, ward.clock.now_ms(), id=id))
            case "language":
                self.pairings.choose_language(patient, action["language"])
            case "review":
                self._limit(patient, id)
                text = clean_text(action["text"])
                self._call(lambda: care.reports.ask_review(
                    Review(id=id, patient=patient, t_ms=ward.clock.now_ms(), about=action["about"], text=text)
                ))  # fmt: skip
            case "intake":
                self._limit(patient, id)
                self._report(patient, action)
            case other:
                raise InputError(f"action: unknown kind {str(other)[:64]!r}")

    def _limit(self, patient: str, id: str) -> None:
        known = {item.id for item in self._care.reports.intakes(patient)}
        known |= {item.id for item in self._care.reports.reviews(patient)}
        if id not in known:
            self._reports.spend(patient, "reports")

    def _report(self, patient: str, action: Mapping[str, Any]) -> None:
        """Hand an intake over: red flags are found here again, and no device can make a text less urgent."""
        text = clean_text(action["text"])
        flags = red_flags(text)
        triage = Triage(**action["triage"])
        here = urgency_of(flags, None if triage.has_abstained else triage.choice, triage.confidence)
        urgency = min(here, action["urgency"], key=_ORDER.index)
        self._call(lambda: self._care.reports.report(
            Intake(
                id=str(action["id"]), patient=patient, t_ms=action["t_ms"], received_ms=self._ward.clock.now_ms(),
                language=action["language"], text=text, red_flags=flags, triage=triage, urgency=urgency,
            )
        ))  # fmt: skip

    def _confirm(self, patient: str, prescription: str, given_ms: int) -> None:
        board = self._care.board(patient)
        if not any(d.is_confirmed and (d.prescription, d.t_ms) == (prescription, given_ms) for d in board.given()):
            board.confirm(prescription, given_ms, self._ward.clock.now_ms())

    def _overview(self, patient: str) -> dict[str, Any]:
        care, now = self._care, self._ward.clock.now_ms()
        live = self._ward.beds.get(patient)
        messages = care.messages.of(patient)[-_MOST_MESSAGES:]
        return {
            "now_ms": now,
            "patient": patient,
            "language": self.pairings.language(patient),
            "is_simulated": live is not None and live.bed.ward.simulated,
            "calls_staff": care.calls_staff(patient),
            "messages": [
                {name: getattr(m, name) for name in ("id", "t_ms", "sender", "text", "is_machine", "seen_ms")}
                for m in messages
            ],
            "doses": _doses(care.board(patient), now),
            "consent": {
                purpose.value: {"state": said.state, "t_ms": said.t_ms}
                for purpose, said in care.consents.of(patient).items()
            },
            "intakes": [
                {name: getattr(item, name) for name in ("id", "received_ms", "text", "urgency", "taken_by", "taken_ms")}
                for item in care.reports.intakes(patient)[-20:]
            ],
            "reviews": [
                {name: getattr(item, name) for name in ("id", "t_ms", "about", "text", "taken_by", "taken_ms")}
                for item in care.reports.reviews(patient)[-20:]
            ],
        }

    def _call(self, action: Callable[[], T]) -> T:
        return self._ward.call(action, _CALL_SECONDS)


def _doses(board: MedicationBoard, now_ms: int) -> list[dict[str, Any]]:
    """Planned doses of yesterday, today and tomorrow, and what was given without a plan, by time."""
    given: dict[tuple[str, int | None], Administration] = {(d.prescription, d.slot_ms): d for d in board.given()}
    drugs = {item.id: item for item in board.prescriptions()}
    doses = []
    for view in board.plan(now_ms):
        item, dose = view.prescription, given.get((view.prescription.id, view.slot.due_ms))
        if view.slot.due_ms < now_ms - _DAY_MS:
            continue
        doses.append(_dose(item, view.slot.due_ms, view.state.value, dose))
    doses += [
        _dose(drugs[dose.prescription], dose.t_ms, "given", dose)
        for dose in board.given()
        if dose.slot_ms is None and dose.t_ms >= now_ms - _DAY_MS and dose.prescription in drugs
    ]
    return sorted(doses, key=lambda item: (item["due_ms"], item["prescription"]))


def _dose(item: Any, due_ms: int, state: str, dose: Administration | None) -> dict[str, Any]:
    told = {"prescription": item.id, "drug": item.drug, "dose": item.dose, "unit": item.unit, "route": item.route}
    told |= {"due_ms": due_ms, "state": state}
    told |= {"given_ms": None if dose is None else dose.t_ms, "is_confirmed": dose is not None and dose.is_confirmed}
    return told
