"""Routes that concern the whole ward, its model, its record and its federation; and logging in.

Annotations are evaluated, not kept as text: FastAPI reads them, and some name what a function holds.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response

from smallhold.assist.orders.stop import is_stopped, resume, stop
from smallhold.assist.ward_view import summary
from smallhold.console.accounts import RIGHTS, Right
from smallhold.console.bodies import AcknowledgeDrift, Credentials, Done, Failure, SessionView
from smallhold.console.events import EventStream
from smallhold.console.login import LoginRefused
from smallhold.console.sessions import Session
from smallhold.console.views import overview
from smallhold.errors import InputError

if TYPE_CHECKING:
    from smallhold.console.app import Console

FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": Failure, "description": words}
    for status, words in {
        400: "The body cannot be read",
        401: "Not logged in",
        403: "Not allowed: right, CSRF token, Origin or Host",
        404: "No such patient or item",
        409: "Not possible now",
        413: "Body too large",
        415: "Body is not JSON",
        422: "Malformed",
        429: "Too many requests",
        503: "The ward or its journal does not answer",
    }.items()
}


def ward_router(console: "Console") -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/api", responses=FAILURES)
    doors = console.doors
    anybody = Annotated[Session, Depends(doors.needs(None))]
    by_itself = Annotated[Session, Depends(doors.needs(None, is_use=False))]
    viewer = Annotated[Session, Depends(doors.needs(Right.VIEW, is_use=False))]
    auditor = Annotated[Session, Depends(doors.needs(Right.AUDIT))]
    partner = Annotated[Session, Depends(doors.needs(Right.FEDERATION))]
    overrider = Annotated[Session, Depends(doors.needs(Right.OVERRIDE))]
    giver = Annotated[Session, Depends(doors.needs(Right.GIVE))]

    def _view(session: Session) -> SessionView:
        account = session.account
        return SessionView(
            name=account.name,
            role=account.role.value,
            rights=sorted(right.value for right in RIGHTS[account.role]),
            csrf=session.csrf,
            left_seconds=round(doors.left_seconds(session), 1),
        )

    @router.post("/session", tags=["session"])
    def log_in(body: Credentials, request: Request, response: Response) -> SessionView:
        """Log in."""
        return _view(doors.log_in(body.name, body.password, request, response))

    @router.get("/session", tags=["session"])
    def who(session: by_itself) -> SessionView:
        """Who is logged in; does not keep the session alive."""
        return _view(session)

    @router.delete("/session", tags=["session"])
    def log_out(session: anybody, response: Response) -> Done:
        """Log out."""
        doors.log_out(session, response)
        return Done()

    @router.get("/status", tags=["ward"])
    def status(_: by_itself) -> dict[str, Any]:
        """Figures of the ward and of what feeds it; nothing about a patient."""
        ward = console.ward
        counted = console.call(lambda: summary(ward))
        about = {name: console.about.get(name) for name in ("is_simulated", "is_rehearsal", "profile", "bundle_error")}
        faults = [fault for fault in (ward.journal_error, ward.state_error) if fault is not None]
        times = {"wall_ms": int(time.time() * 1e3), "now_ms": ward.clock.now_ms(), "speed": ward.clock.speed}
        stopped = None if console.home is None else is_stopped(console.home)
        return {**counted, **about, **times, "faults": faults, "sources": console.sources(), "is_stopped": stopped}

    @router.get("/ward", tags=["ward"])
    def ward(_: viewer) -> dict[str, Any]:
        """Every bed in short, the most urgent first."""
        return console.call(lambda: overview(console.ward, console.care, console.recorder))

    @router.get(
        "/events",
        tags=["ward"],
        response_class=Response,
        responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
    )
    async def events(session: viewer, last_event_id: Annotated[str, Header(max_length=64)] = "") -> Response:
        """Server-sent events: `whole`, then `ward` with the beds that changed; `end` when the session does."""
        if console.broadcaster.is_full:
            raise LoginRefused(429, "too many pages follow this ward", 5.0)
        return EventStream(console.broadcaster.follow(last_event_id, lambda: doors.is_over(session)))

    @router.get("/audit", tags=["audit"])
    def audit(
        _: auditor,
        before: Annotated[int | None, Query(ge=0, le=2**53)] = None,
        kind: Annotated[str | None, Query(min_length=1, max_length=64)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> dict[str, Any]:
        """Entries of the journal, newest first."""
        return console.audit.page(before=before, kind=kind, limit=limit)

    @router.post("/audit/verify", tags=["audit"])
    def verify(session: auditor) -> dict[str, Any]:
        """Verify the whole journal: chain, digests, signatures."""
        report = console.audit.verify()
        console.acts.note("verify", session.account.name, is_intact=report["is_intact"], entries=report["entries"])
        return report

    @router.get("/model", tags=["model"])
    def model(_: anybody) -> dict[str, Any]:
        """The bundle with its card, how fast it answers, its drift, and whether it is on trial."""
        figures = console.call(lambda: summary(console.ward))
        names = ("decisions", "abstained", "model_failures", "decision_ms", "alarm_ms", "step_ms", "policy_us")
        drift = console.drift
        return {
            **dict(console.about),
            "figures": {name: figures[name] for name in names},
            "drift": None if drift is None else console.call(drift.status),
            "is_drifted": drift is not None and drift.is_drifted,
            "is_silent": console.is_silent,
        }

    @router.post("/drift/acknowledge", tags=["model"])
    def acknowledge_drift(body: AcknowledgeDrift, session: overrider) -> Done:
        """Somebody has looked into it: the model is relied on again."""
        drift = console.drift
        if drift is None:
            raise InputError("drift is not watched on this ward")
        console.call(lambda: drift.acknowledge(session.account.name))
        console.acts.note("acknowledge-drift", session.account.name, reason=body.reason)
        return Done()

    @router.post("/stop", tags=["orders"])
    def stop_releases(session: giver) -> Done:
        """Stop every dose and every release from now on; the ward itself goes on watching and alarming."""
        stop(_home())  # first of all: what ails the journal must not keep it from happening
        console.acts.note("stop", session.account.name)
        return Done()

    @router.post("/resume", tags=["orders"])
    def resume_releases(session: overrider) -> Done:
        """Let releases go on."""
        resume(_home())
        console.acts.note("resume", session.account.name)
        return Done()

    def _home() -> Path:
        if console.home is None:
            raise InputError("stop: this console does not know the home whose releases it could stop")
        return console.home

    @router.get("/federation", tags=["federation"])
    def federation(_: partner) -> dict[str, Any]:
        """Rounds of the federation and the privacy spent; `is_configured` is false where no folder was named."""
        if console.federation is None:
            return {"is_configured": False}
        return {"is_configured": True, **console.federation()}

    return router
