"""Routes by which staff meet the patient's page: devices are paired and taken away, reports are read and taken on."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from smallhold.console.accounts import Right
from smallhold.console.bodies import Done
from smallhold.console.patient.pairing import Pairings
from smallhold.console.routes_bed import Item, Patient
from smallhold.console.routes_ward import FAILURES
from smallhold.console.sessions import Session
from smallhold.errors import InputError

if TYPE_CHECKING:
    from smallhold.console.app import Console


class PairingCode(BaseModel):
    """What the patient types on their own device, once, within ten minutes."""

    code: str


def patient_reports_router(console: "Console", pairings: Pairings | None) -> APIRouter:
    """The routes; without `pairings` no patient's page is served here, and no device can be paired."""
    router = APIRouter(prefix="/api/beds/{patient}", responses=FAILURES, tags=["patient's page"])
    doors, acts, care = console.doors, console.acts, console.care
    viewer = Annotated[Session, Depends(doors.needs(Right.VIEW))]
    acknowledger = Annotated[Session, Depends(doors.needs(Right.ACKNOWLEDGE))]
    writer = Annotated[Session, Depends(doors.needs(Right.MESSAGE))]

    def known() -> Pairings:
        if pairings is None:
            raise InputError("no patient's page is served here")
        return pairings

    @router.get("/reports")
    def reports(patient: Patient, session: viewer) -> dict[str, Any]:
        """Symptoms and review requests that the patient sent, newest first, and how many devices are theirs."""

        def look() -> dict[str, Any]:
            acts.bed(patient)
            return {
                "now_ms": console.ward.clock.now_ms(),
                "intakes": [asdict(item) for item in reversed(care.reports.intakes(patient)[-50:])],
                "reviews": [asdict(item) for item in reversed(care.reports.reviews(patient)[-50:])],
                "has_page": pairings is not None,
                "devices": 0 if pairings is None else len(pairings.sessions(patient)),
            }

        shown = console.call(look)
        doors.saw(session, patient)
        return shown

    @router.post("/reports/{report}/take")
    def take(patient: Patient, report: Item, session: acknowledger) -> Done:
        """Take a report on: its alert is acknowledged, and the patient reads who takes care of it."""
        console.call(lambda: care.take_report(patient, report, session.account.name))
        return Done()

    @router.post("/pairing")
    def pair(patient: Patient, session: writer) -> PairingCode:
        """A code for this patient's device; it replaces the one before."""
        console.call(lambda: acts.bed(patient))
        return PairingCode(code=known().new_pairing(patient, actor=session.account.name))

    @router.post("/pairing/end")
    def end(patient: Patient, session: writer) -> Done:
        """Take all devices of this patient away, at once."""
        console.call(lambda: acts.bed(patient))
        known().revoke(patient, session.account.name)
        return Done()

    return router
