"""What every request passes before its handler: whose it is, where it came from, how large it is, and how often."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from smallhold.console.patient.pairing import PairingRefused, Pairings
from smallhold.console.patient.rate import RateLimit, RateLimited
from smallhold.errors import DeadlineError, InputError, JournalError, SmallholdError

COOKIE = "smallhold_patient"
CSRF_HEADER = "x-smallhold-csrf"
MOST_BODY_BYTES = 64 * 1024
_LOCAL_NAMES = frozenset({"localhost"})
_CSP = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; connect-src 'self'; "
    "worker-src 'self'; manifest-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
_STATUS: tuple[tuple[type[SmallholdError], int], ...] = (
    (RateLimited, 429),
    (PairingRefused, 403),
    (DeadlineError, 503),
    (JournalError, 503),
    (InputError, 422),
)

Handler = Callable[[Request], Awaitable[Response]]


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """A request that goes no further."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def guarded_route(pairings: Pairings, hosts: tuple[str, ...]) -> type[APIRoute]:
    """The class of all routes of one router.

    A handler named `open_*` needs no session; every other finds it in `request.state.session`, and its token in
    `request.state.token`. What is not GET needs the page's own Origin, and with a session its CSRF token.
    """
    by_session = RateLimit(300, 60)
    by_address = RateLimit(6000, 60)  # a whole ward may come from one address
    names = _LOCAL_NAMES | set(hosts)

    class GuardedRoute(APIRoute):
        def get_route_handler(self) -> Any:
            handle = super().get_route_handler()
            needs_session = not self.name.startswith("open_")

            async def guarded(request: Request) -> Response:
                try:
                    _check_place(request, names)
                    by_address.spend(_address(request), "requests")
                    if needs_session:
                        _check_session(request, pairings)
                        by_session.spend(request.state.session.id, "requests")
                    response: Response = await handle(request)
                except (SmallholdError, Refused, RequestValidationError, ClientDisconnect) as error:
                    response = _told(error)
                for name, value in _HEADERS.items():
                    response.headers.setdefault(name, value)
                response.headers.setdefault("cache-control", "no-store")
                return response

            return guarded

    return GuardedRoute


def _check_place(request: Request, names: frozenset[str]) -> None:
    """The page's own address, its own origin, and a body that is small JSON."""
    host = request.headers.get("host", "")
    name = urlsplit(f"//{host}").hostname or ""
    if not {name, "*"} & names and not _is_loopback(name):  # a name that another site let point to this machine
        raise Refused(421, "this page is not known by that name")
    if request.method in ("GET", "HEAD"):
        return
    if request.headers.get("origin") != f"{request.url.scheme}://{host}":
        raise Refused(403, "this request did not come from the page itself")
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refused(415, "expected application/json")
    length = request.headers.get("content-length", "")
    if not length.isascii() or not length.isdigit():
        raise Refused(411, "expected the length of the body")
    if int(length) > MOST_BODY_BYTES:
        raise Refused(413, f"expected at most {MOST_BODY_BYTES} bytes")


def _check_session(request: Request, pairings: Pairings) -> None:
    token = request.cookies.get(COOKIE, "")
    is_token = len(token) == 64 and all(c in "0123456789abcdef" for c in token)
    session = pairings.session(token) if is_token else None
    if session is None:
        raise Refused(401, "this device is not paired, or no longer")
    if request.method not in ("GET", "HEAD"):
        said = request.headers.get(CSRF_HEADER, "").encode("latin-1")
        if not secrets.compare_digest(said, pairings.csrf(token).encode()):
            raise Refused(403, "this request lacks the page's token")
    request.state.session, request.state.token = session, token


def _told(error: Exception) -> Response:
    """The answer to what went wrong; nothing of the request is repeated."""
    if isinstance(error, Refused):
        return JSONResponse({"error": str(error)}, error.status)
    if isinstance(error, RequestValidationError):
        places = sorted({".".join(str(part) for part in item["loc"])[:100] for item in error.errors()})
        return JSONResponse({"error": f"malformed: {', '.join(places[:5])}"}, 422)
    if isinstance(error, ClientDisconnect):
        return Response(status_code=499)
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
    wait = {"retry-after": str(round(error.wait_seconds) + 1)} if isinstance(error, RateLimited) else None
    return JSONResponse({"error": str(error) if status < 500 else "not now; try again"}, status, headers=wait)


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
