"""The routes: files for everybody, and one patient's own data for a paired device."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, StreamingResponse

from smallhold.assist.self_report import LONGEST_TEXT
from smallhold.console.patient.assets import Asset
from smallhold.console.patient.desk import PatientDesk
from smallhold.console.patient.guard import COOKIE, Refused, guarded_route

_MOST_ACTIONS = 50
_LONGEST_COOKIE_SECONDS = 30 * 24 * 3600

Id = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
Name = Annotated[str, Field(max_length=200)]
Text = Annotated[str, Field(max_length=2 * LONGEST_TEXT)]
Time = Annotated[int, Field(ge=0, lt=2**53)]
Language = Literal["en", "fr", "ru"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Pairing(_Strict):
    code: Annotated[str, Field(max_length=64)]


class _Question(_Strict):
    text: Text
    language: Language


class _Triage(_Strict):
    where: Literal["device", "server", "nowhere"]
    choice: Annotated[str, Field(min_length=1, max_length=100)] | None
    confidence: Annotated[float, Field(ge=0, le=1)]
    has_abstained: bool
    bundle: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")]


class _Seen(_Strict):
    kind: Literal["seen"]
    id: Id
    message: Id


class _Taken(_Strict):
    kind: Literal["taken"]
    id: Id
    prescription: Name
    given_ms: Time


class _Consent(_Strict):
    kind: Literal["consent"]
    id: Id
    purpose: Name
    state: Name


class _Language(_Strict):
    kind: Literal["language"]
    id: Id
    language: Language


class _Review(_Strict):
    kind: Literal["review"]
    id: Id
    about: Annotated[str, Field(pattern="^([0-9a-f]{32})?$")]
    text: Text


class _Intake(_Strict):
    kind: Literal["intake"]
    id: Id
    t_ms: Time
    language: Language
    text: Text
    triage: _Triage
    urgency: Literal["emergency", "staff", "soon", "routine"]


_Action = Annotated[_Seen | _Taken | _Consent | _Language | _Review | _Intake, Field(discriminator="kind")]


class _Actions(_Strict):
    actions: Annotated[list[_Action], Field(min_length=1, max_length=_MOST_ACTIONS)]


def make_router(
    desk: PatientDesk, assets: Mapping[str, Asset], hosts: tuple[str, ...] = (), prefix: str = "/patient"
) -> APIRouter:
    """See `patient_router`."""
    router = APIRouter(prefix=prefix, route_class=guarded_route(desk.pairings, hosts), tags=["patient"])

    @router.post("/api/pair")
    def open_pair(request: Request, asked: _Pairing) -> JSONResponse:
        """Turn a code into a session of this device."""
        address = request.client.host if request.client is not None else ""
        token, session = desk.pairings.redeem(asked.code, address)
        response = JSONResponse({"patient": session.patient, "csrf": desk.pairings.csrf(token)})
        response.set_cookie(
            COOKIE,
            token,
            max_age=_LONGEST_COOKIE_SECONDS,
            path=_path_of(request),
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return response

    @router.get("/api/session")
    def session(request: Request) -> dict[str, str]:
        """Who this device speaks for, and the token that changes need."""
        return {"patient": request.state.session.patient, "csrf": desk.pairings.csrf(request.state.token)}

    @router.post("/api/log-out")
    def log_out(request: Request) -> JSONResponse:
        """End this device's session."""
        desk.pairings.end(request.state.session)
        response = JSONResponse({})
        response.delete_cookie(COOKIE, path=_path_of(request), httponly=True, samesite="strict")
        return response

    @router.get("/api/overview")
    def overview(request: Request) -> dict[str, Any]:
        """Messages, doses, consents and reports of this patient."""
        return desk.overview(request.state.session.patient)

    @router.get("/api/decisions")
    def decisions(request: Request) -> dict[str, Any]:
        """What was decided about this patient, and why."""
        return desk.decisions(request.state.session.patient)

    @router.get("/api/export")
    def export(request: Request) -> StreamingResponse:
        """All that is on record about this patient."""
        headers = {"content-disposition": 'attachment; filename="my-data.json"'}
        pieces = desk.export(request.state.session.patient)
        first = next(pieces)  # what can fail has failed before the answer begins
        return StreamingResponse(chain([first], pieces), media_type="application/json", headers=headers)

    @router.post("/api/triage")
    def triage(asked: _Question) -> dict[str, Any]:
        """Ask the model of this machine about a text; nothing is kept of it."""
        said = desk.triage(asked.text, asked.language)
        return {name: getattr(said, name) for name in ("where", "choice", "confidence", "has_abstained", "bundle")}

    @router.post("/api/actions")
    def actions(request: Request, asked: _Actions) -> dict[str, Any]:
        """Do what the device asks for, each once; an answer for each."""
        patient = request.state.session.patient
        return {"results": [desk.act(patient, action.model_dump()) for action in asked.actions]}

    @router.get("/{name}", include_in_schema=False)
    def open_file(name: str) -> Response:
        """A file of the page."""
        return _file(assets, name)

    @router.get("/", include_in_schema=False)
    def open_page() -> Response:
        """The page."""
        return _file(assets, "")

    return router


def _file(assets: Mapping[str, Asset], name: str) -> Response:
    asset = assets.get(name)
    if asset is None:
        raise Refused(404, "no such file")
    # The service worker keeps them by version; the browser's own cache would mix versions.
    return Response(asset.data, media_type=asset.media_type, headers={"cache-control": "no-cache"})


def _path_of(request: Request) -> str:
    """Where the page lies: the cookie goes nowhere else."""
    return request.url.path.rpartition("/api/")[0] + "/"
