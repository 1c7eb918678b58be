"""CDS Hooks over HTTP: routes to mount in another application, an application of their own, and a server.

Extra `serve`. Every request is bounded in size and time before anything of it is understood. Without tokens it answers
this machine alone; pages of browsers may not ask unless their origin is named.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from smallhold.assist.interop.cds_auth import TokenError, TokenGate
from smallhold.assist.interop.cds_hooks import CdsService
from smallhold.assist.interop.cds_request import CdsError
from smallhold.assist.sources.strict_json import MalformedError, parse_json
from smallhold.device.listen import is_loopback, listen
from smallhold.errors import InputError, SmallholdError

_LOG = logging.getLogger("smallhold.interop.cds")
_STOP_SECONDS = 5
Answer = Callable[[], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class CdsOptions:
    """How to listen.

    Attributes:
        host: Address; loopback where there is no token gate.
        port: 0 takes a free one.
        certificate_file: Our certificate chain, PEM; other machines are answered over TLS alone, as CDS Hooks says.
        key_file: Its private key, PEM without a passphrase.
        origins: Origins of browser pages that may ask.
        max_body_bytes: Largest request.
        timeout_seconds: From a request's arrival to its answer.

    Raises:
        InputError: a value is impossible, or other machines could ask without TLS.
    """

    host: str = "127.0.0.1"
    port: int = 8090
    certificate_file: Path | None = None
    key_file: Path | None = None
    origins: tuple[str, ...] = ()
    max_body_bytes: int = 2 * 2**20
    timeout_seconds: float = 5.0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise InputError(f"port: expected 0 to 65535, got {self.port}")
        if self.max_body_bytes < 1024 or not 0 < self.timeout_seconds < float("inf"):
            raise InputError("expected max_body_bytes of at least 1024 and a positive timeout_seconds")
        if (self.certificate_file is None) != (self.key_file is None):
            raise InputError("TLS: certificate and key belong together: expected both or neither")
        if not is_loopback(self.host) and self.certificate_file is None:
            raise InputError(
                f"host {self.host}: other machines could ask without TLS",
                hint="give --certificate-file and --key-file, or leave --host away",
            )


def cds_routes(
    service: CdsService,
    *,
    gate: TokenGate | None = None,
    max_body_bytes: int = 2 * 2**20,
    timeout_seconds: float = 5.0,
) -> list[Route]:
    """The routes of a service, to be mounted at any path of a Starlette or FastAPI application.

    Args:
        service: Answers.
        gate: Checks tokens; None only where the application itself lets nobody but this machine or staff in. Discovery
            needs no token.
        max_body_bytes: Largest request.
        timeout_seconds: From a request's arrival to its answer.
    """

    async def discovery(_request: Request) -> Response:
        return JSONResponse(service.discovery())

    async def call(request: Request) -> Response:
        return await _answer(request, lambda body: service.call(request.path_params["service"], body))

    async def feedback(request: Request) -> Response:
        def take(body: Any) -> Any:
            service.feedback(request.path_params["service"], body)
            return None

        return await _answer(request, take)

    async def _answer(request: Request, act: Callable[[Any], Any]) -> Response:
        try:
            async with asyncio.timeout(timeout_seconds):
                return await _act(request, act)
        except TimeoutError:
            return _problem(503, "no answer in time")
        except CdsError as error:
            return _problem(error.status, str(error))
        except TokenError as error:
            return _problem(401, f"Authorization: {error}", {"WWW-Authenticate": "Bearer"})
        except ClientDisconnect:
            return Response(status_code=400)
        except SmallholdError as error:
            _LOG.warning("a request could not be answered: %s", type(error).__name__)
            return _problem(503, "the ward or its journal cannot be used at the moment")
        except Exception as error:  # the text may hold what was sent
            _LOG.error("a request failed: %s", type(error).__name__)
            return _problem(500, "internal error")

    async def _act(request: Request, act: Callable[[Any], Any]) -> Response:
        if gate is not None:
            gate.check(request.headers.get("authorization", ""), request.url.path)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise CdsError(415, "Content-Type: expected application/json")
        body = await _read(request, max_body_bytes)
        value = await run_in_threadpool(act, body)
        return Response(status_code=200) if value is None else JSONResponse(value)

    return [
        Route("/cds-services", discovery, methods=["GET"]),
        Route("/cds-services/{service}", call, methods=["POST"]),
        Route("/cds-services/{service}/feedback", feedback, methods=["POST"]),
    ]


def cds_app(service: CdsService, options: CdsOptions, *, gate: TokenGate | None = None) -> ASGIApp:
    """An application of the routes alone.

    Raises:
        InputError: other machines could ask without tokens.
    """
    if gate is None and not is_loopback(options.host):
        raise InputError(
            f"host {options.host}: other machines could ask without a token", hint="give --clients FILE and --base-url"
        )
    routes = cds_routes(
        service, gate=gate, max_body_bytes=options.max_body_bytes, timeout_seconds=options.timeout_seconds
    )
    middleware: list[Middleware] = []
    if options.origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(options.origins),
                allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type"],
            )
        )
    app = Starlette(routes=routes, middleware=middleware)
    return _SameMachine(app, options.origins, checks_host=is_loopback(options.host))


def serve_cds(
    service: CdsService, options: CdsOptions, *, gate: TokenGate | None = None, announce: Callable[[str], None]
) -> None:
    """Answer until SIGTERM or SIGINT.

    Raises:
        InputError: the address cannot be used, or other machines could ask without tokens or TLS.
    """
    app = cds_app(service, options, gate=gate)
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ssl_certfile=options.certificate_file,
        ssl_keyfile=None if options.key_file is None else str(options.key_file),
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    listening = listen(options.host, options.port)
    scheme = "http" if options.certificate_file is None else "https"
    host, port = listening.getsockname()[:2]
    announce(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}")
    with listening:
        uvicorn.Server(config).run(sockets=[listening])


class _SameMachine:
    """On loopback, refuses names that are not this machine (DNS rebinding) and pages whose origin was not named."""

    def __init__(self, app: ASGIApp, origins: Sequence[str], *, checks_host: bool) -> None:
        self._app, self._origins, self._checks_host = app, frozenset(origins), checks_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            host = headers.get("host", "")
            name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
            if self._checks_host and not is_loopback(name):
                await _problem(403, "Host: expected a name of this machine")(scope, receive, send)
                return
            origin = headers.get("origin")
            if origin is not None and origin not in self._origins:
                await _problem(403, "Origin: pages of this origin may not ask")(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def _read(request: Request, most: int) -> Any:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > most:
            raise CdsError(413, f"body: expected at most {most} bytes")
    try:
        return parse_json(bytes(data), max_bytes=most)
    except MalformedError as error:
        raise CdsError(400, f"body: {error}") from error


def _problem(status: int, text: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": text}, status, headers)
