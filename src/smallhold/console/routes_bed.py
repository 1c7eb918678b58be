"""Routes that concern one patient: what is shown, and what people do."""

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi import Path as InPath

from smallhold.assist.alarm_inactivation import InactivationState
from smallhold.assist.medication import SlotState
from smallhold.console.accounts import RIGHTS, Right
from smallhold.console.bodies import (
    Acknowledge,
    AnswerAsk,
    AnswerProposal,
    Done,
    Give,
    Inactivate,
    Prescribe,
    Prescribed,
    Reactivate,
    Settle,
    Stop,
    Write,
)
from smallhold.console.login import LoginRefused
from smallhold.console.routes_ward import FAILURES
from smallhold.console.sessions import Session
from smallhold.console.views import bed_page, medication, messages

if TYPE_CHECKING:
    from smallhold.console.app import Console

Patient = Annotated[str, InPath(min_length=1, max_length=64)]
Item = Annotated[str, InPath(min_length=1, max_length=200)]


def bed_router(console: "Console") -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/api/beds/{patient}", responses=FAILURES)
    doors, acts = console.doors, console.acts
    viewer = Annotated[Session, Depends(doors.needs(Right.VIEW))]
    acknowledger = Annotated[Session, Depends(doors.needs(Right.ACKNOWLEDGE))]
    giver = Annotated[Session, Depends(doors.needs(Right.GIVE))]
    prescriber = Annotated[Session, Depends(doors.needs(Right.PRESCRIBE))]
    overrider = Annotated[Session, Depends(doors.needs(Right.OVERRIDE))]
    writer = Annotated[Session, Depends(doors.needs(Right.MESSAGE))]

    @router.get("", tags=["bed"])
    def bed(patient: Patient, session: viewer, hours: Annotated[float, Query(gt=0, le=48)] = 12.0) -> dict[str, Any]:
        """Readings, scores, risks, proposals with evidence and clauses, questions, and what happened."""

        def look() -> dict[str, Any]:
            live = acts.bed(patient)
            return bed_page(console.ward, live, console.care, console.recorder.bed(patient), hours=hours)

        page = console.call(look)
        doors.saw(session, patient)
        return page

    @router.post("/acknowledge", tags=["alarms"])
    def acknowledge(patient: Patient, body: Acknowledge, session: acknowledger) -> Done:
        """A person has seen an alert."""
        console.call(lambda: acts.acknowledge(patient, body.condition, session.account.name))
        return Done()

    @router.post("/inactivations", tags=["alarms"])
    def inactivate(patient: Patient, body: Inactivate, session: acknowledger) -> Done:
        """Switch alarm signals off, as far as IEC 60601-1-8 and the ward's rules allow."""
        console.call(
            lambda: acts.inactivate(
                patient,
                InactivationState(body.state),
                session.account.name,
                condition=body.condition,
                reason=body.reason,
                for_ms=None if body.seconds is None else body.seconds * 1_000,
            )
        )
        return Done()

    @router.post("/inactivations/end", tags=["alarms"])
    def reactivate(patient: Patient, body: Reactivate, session: acknowledger) -> Done:
        """Switch alarm signals on again."""
        state = InactivationState(body.state)
        console.call(lambda: acts.reactivate(patient, state, session.account.name, condition=body.condition))
        return Done()

    @router.post("/proposals/{proposal}", tags=["bed"])
    def answer_proposal(patient: Patient, proposal: Item, body: AnswerProposal, session: acknowledger) -> Done:
        """Accept, override (physicians, with a reason) or snooze a proposal."""
        if body.response == "override" and not session.may(Right.OVERRIDE):
            raise LoginRefused(403, f"a {session.account.role.value} may not do this: override")
        name = session.account.name
        console.call(lambda: acts.answer_proposal(patient, proposal, body.response, name, body.reason))
        return Done()

    @router.post("/asks/{ask}", tags=["bed"])
    def answer_ask(patient: Patient, ask: Item, body: AnswerAsk, session: overrider) -> Done:
        """Agree or refuse; where two persons are needed, two different ones have to agree."""
        console.call(lambda: acts.answer_ask(patient, ask, body.answer, session.account.name, body.reason))
        return Done()

    @router.get("/medication", tags=["medication"])
    def show_medication(patient: Patient, _: viewer) -> dict[str, Any]:
        """Prescriptions, planned doses, what was given, and drafts that wait for a second person."""

        def look() -> dict[str, Any]:
            acts.bed(patient)
            shown = medication(console.care, patient, console.ward.clock.now_ms())
            return {**shown, "drafts": acts.drafts(patient), "needed_prescribers": acts.needed_prescribers}

        return console.call(look)

    @router.post("/prescriptions", tags=["medication"])
    def prescribe(patient: Patient, body: Prescribe, session: prescriber) -> Prescribed:
        """Prescribe; where two persons have to sign, this drafts it."""
        return Prescribed(**console.call(lambda: acts.prescribe(patient, body.values(), session.account.name)))

    @router.post("/drafts/{draft}/sign", tags=["medication"])
    def sign(patient: Patient, draft: Item, session: prescriber) -> Prescribed:
        """The second person signs."""
        return Prescribed(**console.call(lambda: acts.sign_draft(patient, draft, session.account.name)))

    @router.post("/prescriptions/{prescription}/stop", tags=["medication"])
    def stop(patient: Patient, prescription: Item, body: Stop, session: prescriber) -> Done:
        """End a prescription."""
        console.call(lambda: acts.stop_prescription(patient, prescription, session.account.name, body.reason))
        return Done()

    @router.post("/doses", tags=["medication"])
    def give(patient: Patient, body: Give, session: giver, request: Request) -> Done:
        """A dose is being given; every check of the board comes before it."""
        witness = ""
        if body.witness is not None:
            account = doors.check(body.witness.name, body.witness.password, request)
            if account.name == session.account.name or Right.GIVE not in RIGHTS[account.role]:
                raise LoginRefused(403, "witness: expected a second person who may give doses")
            witness = account.name
        name = session.account.name
        console.call(
            lambda: acts.give(
                patient, body.prescription, name, slot_ms=body.slot_ms, witness=witness, reason=body.reason
            )
        )
        return Done()

    @router.post("/doses/settle", tags=["medication"])
    def settle(patient: Patient, body: Settle, session: giver) -> Done:
        """A planned dose is not given: refused by the patient, or held by staff."""
        state, name = SlotState(body.state), session.account.name
        console.call(lambda: acts.settle(patient, body.prescription, body.slot_ms, state, name, body.reason))
        return Done()

    @router.get("/messages", tags=["messages"])
    def show_messages(patient: Patient, _: viewer) -> dict[str, Any]:
        """Messages to the patient, oldest first, and which were seen."""

        def look() -> dict[str, Any]:
            acts.bed(patient)
            return {"now_ms": console.ward.clock.now_ms(), "messages": messages(console.care, patient)}

        return console.call(look)

    @router.post("/messages", tags=["messages"])
    def write(patient: Patient, body: Write, session: writer) -> Done:
        """Write to the patient."""
        console.call(lambda: acts.message(patient, session.account.name, body.text))
        return Done()

    return router
