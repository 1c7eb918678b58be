"""Who may ask: checks of every request before anything of it is read.

A server on loopback is reachable from every page in a browser on the same machine. Two checks close that door: the
`Host` must name this machine (a page that lets its own name point here is found out by its name: DNS rebinding), and a
request that carries an `Origin` is answered only when that origin was allowed on the command line.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smallhold.device.listen import is_loopback
from smallhold.serve.metrics import Metrics
from smallhold.serve.request_error import RequestError

#: Paths that need no key: they say nothing but whether the server is up.
OPEN_PATHS = frozenset(("/health",))


class Guard:
    """Wraps the application: refuses strangers, counts and times.

    Args:
        app: What is guarded.
        api_key: What requests must bear; None = nothing.
        checks_host: Whether the `Host` must name this machine's loopback; a server that other machines reach has names
            that it cannot know, and a key instead.
        origins: Origins of browser pages that may ask.
        metrics: Where requests are counted.
        routes: Paths that are counted by name.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        api_key: str | None,
        checks_host: bool,
        origins: Collection[str],
        metrics: Metrics,
        routes: Collection[str],
    ) -> None:
        self._app, self._metrics = app, metrics
        self._key_digest = None if api_key is None else hashlib.sha256(api_key.encode()).digest()
        self._checks_host, self._origins = checks_host, frozenset(origins)
        self._routes = frozenset(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.monotonic(), 500

        async def count(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            try:
                self._check(scope["path"], Headers(scope=scope))
            except RequestError as error:
                await JSONResponse(error.body, error.status, error.headers)(scope, receive, count)
            else:
                await self._app(scope, receive, count)
        finally:
            route = scope["path"] if scope["path"] in self._routes else "other"
            self._metrics.observe_request(route, status, time.monotonic() - begun)

    def _check(self, path: str, headers: Headers) -> None:
        if self._checks_host and not is_loopback(host_name(headers.get("host", ""))):
            raise RequestError("Host: expected a name of this machine, such as 127.0.0.1 or localhost", status=403)
        origin = headers.get("origin")
        if origin is not None and origin not in self._origins:
            raise RequestError("Origin: pages of this origin may not ask; see --allow-origin", status=403)
        if self._key_digest is None or path in OPEN_PATHS:
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        # Digests are equally long whatever was sent, so that the time of comparing tells nothing.
        digest = hashlib.sha256(key.strip().encode()).digest()
        if scheme.lower() != "bearer" or not hmac.compare_digest(digest, self._key_digest):
            raise RequestError(
                "Authorization: expected 'Bearer' and this server's API key", status=401, code="invalid_api_key"
            )


def host_name(header: str) -> str:
    """The name in a `Host` header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]
