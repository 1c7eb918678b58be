"""The console's application: routes over a live ward, each behind a session and a right.

Routes are plain functions: FastAPI runs them on threads of its own, and everything that touches the ward goes through
`LiveWard.call`, which has a deadline. `docs/reference/console.md` lists them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse

from smallhold.assist.care import Care
from smallhold.assist.drift import DriftMonitor
from smallhold.assist.live import LiveWard
from smallhold.console.accounts import Accounts
from smallhold.console.acts import Acts, NoSuchBedError, NoSuchItemError
from smallhold.console.audit import Audit
from smallhold.console.events import Broadcaster
from smallhold.console.guard import MAX_BODY_BYTES, Guard, refuse
from smallhold.console.login import Doorkeeper, LoginRefused
from smallhold.console.patient.pairing import Pairings
from smallhold.console.recorder import Recorder
from smallhold.console.routes_bed import bed_router
from smallhold.console.routes_patient import patient_reports_router
from smallhold.console.routes_ward import ward_router
from smallhold.console.views import overview
from smallhold.device.journal import Journal
from smallhold.errors import DeadlineError, InputError, JournalError, PolicyError, SmallholdError
from smallhold.version import __version__

STATIC = Path(__file__).with_name("static")
_LOG = logging.getLogger("smallhold.console")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleOptions:
    """How the console behaves.

    Attributes:
        checks_host: `Host` must name loopback; for a console that listens there.
        is_secure: It is reached over TLS.
        idle_seconds: A session without a person's request for so long ends.
        absolute_seconds: No session lasts longer.
        call_seconds: The ward answers within so long, or the request fails.
        most_viewers: Streams of events at once.
        needed_prescribers: Persons who sign a prescription, 1 or 2.
        requests_a_second: Of one session, on average; three times as many at once.
    """

    checks_host: bool = True
    is_secure: bool = False
    idle_seconds: float = 3_600.0
    absolute_seconds: float = 43_200.0
    call_seconds: float = 5.0
    most_viewers: int = 64
    needed_prescribers: int = 1
    requests_a_second: float = 20.0


@dataclass(slots=True, kw_only=True)
class Console:
    """What the routes share.

    Attributes:
        ward: The live ward.
        care: Its medication and messages.
        recorder: Follows its steps.
        acts: What people can do.
        doors: Who is logged in.
        audit: Looks into the journal.
        broadcaster: Sends pictures of the ward.
        about: What runs here: bundle, card, backend, policy, `is_simulated`.
        drift: Shared by the beds, None where drift is not watched.
        is_silent: The model is on trial.
        federation: Reads rounds and privacy spent; None where no folder was named.
        sources: How what feeds the ward is doing.
        options: See `ConsoleOptions`.
        home: Holds the file that stops every release; None where nothing is released.
    """

    ward: LiveWard
    care: Care
    recorder: Recorder
    acts: Acts
    doors: Doorkeeper
    audit: Audit
    broadcaster: Broadcaster
    about: Mapping[str, Any]
    drift: DriftMonitor | None
    is_silent: bool
    federation: Callable[[], Mapping[str, Any]] | None
    sources: Callable[[], list[dict[str, Any]]]
    options: ConsoleOptions = field(default_factory=ConsoleOptions)
    home: Path | None = None

    def call(self, action: Callable[[], T]) -> T:
        """Run something on the ward's thread.

        Raises:
            DeadlineError: the ward is busy or over.
        """
        return self.ward.call(action, self.options.call_seconds)


def make_app(
    ward: LiveWard,
    care: Care,
    accounts: Accounts,
    *,
    journal: Journal,
    audit: Audit,
    recorder: Recorder,
    about: Mapping[str, Any],
    drift: DriftMonitor | None = None,
    is_silent: bool = False,
    federation: Callable[[], Mapping[str, Any]] | None = None,
    sources: Callable[[], list[dict[str, Any]]] = lambda: [],
    options: ConsoleOptions | None = None,
    pairings: Pairings | None = None,
    extra_routers: Iterable[APIRouter] = (),
    home: Path | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> FastAPI:
    """The staff's page and its API.

    Args:
        ward: The live ward; it must run, or no route that asks it answers.
        care: Its medication and messages.
        accounts: Who may log in.
        journal: The ward's.
        audit: Looks into it.
        recorder: Follows the ward: its `note` is the ward's `on_step`.
        about: See `Console`.
        drift: See `Console`.
        is_silent: See `Console`.
        federation: See `Console`.
        sources: See `Console`.
        options: See `ConsoleOptions`.
        pairings: Of the patient's page, where one is served: staff pair devices and take them away.
        extra_routers: Further routes, under whatever prefix they have, behind the same guard.
        home: See `Console`.
        monotonic: Stopwatch in seconds, for sessions and limits.

    Returns:
        The application; `app.state.console` is the `Console` that routers may use.
    """
    options = options or ConsoleOptions()
    acts = Acts(ward, care, journal, recorder, needed_prescribers=options.needed_prescribers)
    console = Console(
        ward=ward,
        care=care,
        recorder=recorder,
        acts=acts,
        doors=Doorkeeper(accounts, options, acts.note, monotonic),
        audit=audit,
        broadcaster=Broadcaster(
            lambda: ward.call(lambda: overview(ward, care, recorder), options.call_seconds),
            most_viewers=options.most_viewers,
        ),
        about=about,
        drift=drift,
        is_silent=is_silent,
        federation=federation,
        sources=sources,
        options=options,
        home=home,
    )
    app = FastAPI(
        title="Smallhold console",
        version=__version__,
        description="The staff's view of a live ward. Research software; not a medical device.",
        openapi_url="/api/openapi.json",
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        max_body_size=MAX_BODY_BYTES,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.console = console
    app.include_router(ward_router(console))
    app.include_router(bed_router(console))
    app.include_router(patient_reports_router(console, pairings))
    for router in extra_routers:
        app.include_router(router)

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    app.mount("/static", StaticFiles(directory=STATIC))
    _explain_errors(app)
    app.add_middleware(Guard, checks_host=options.checks_host, is_secure=options.is_secure)
    return app


def _explain_errors(app: FastAPI) -> None:
    """Every error in one form, and never what was sent: it may be a password."""

    def handle(kind: type[Exception], status: int, *, is_logged: bool = False) -> None:
        async def answer(_request: Request, error: Exception) -> Response:
            if is_logged:
                _LOG.error("a request failed", exc_info=error)
                return refuse(status, "internal error; the log says more")
            return refuse(status, str(error), error.hint if isinstance(error, SmallholdError) else None)

        app.add_exception_handler(kind, answer)

    handle(NoSuchBedError, 404)
    handle(NoSuchItemError, 404)
    handle(InputError, 409)
    handle(PolicyError, 409)
    handle(DeadlineError, 503)
    handle(JournalError, 503)
    handle(SmallholdError, 500)
    handle(Exception, 500, is_logged=True)

    async def invalid(_request: Request, error: Exception) -> Response:
        told = []
        if isinstance(error, RequestValidationError):
            told = [
                f"{'.'.join(str(part) for part in item['loc'])[:120]}: {item['msg'][:200]}" for item in error.errors()
            ]
        return refuse(422, "; ".join(told[:5]) or "the request cannot be read")

    app.add_exception_handler(RequestValidationError, invalid)

    async def refused(_request: Request, error: Exception) -> Response:
        headers = None
        if isinstance(error, LoginRefused):
            if error.wait_seconds:
                headers = {"Retry-After": str(int(error.wait_seconds) + 1)}
            return refuse(error.status, str(error), None, headers)
        raise error

    app.add_exception_handler(LoginRefused, refused)

    async def unknown(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        words = {400: "the body cannot be read", 404: "no such address", 405: "this method is not allowed here"}
        headers: Any = error.headers if isinstance(error, HTTPException) else None
        allow: dict[str, str] | None = dict(headers) if headers else None
        return refuse(status, f"{request.method} {request.url.path[:128]}: {words.get(status, 'refused')}", None, allow)

    app.add_exception_handler(HTTPException, unknown)
