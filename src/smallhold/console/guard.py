"""Checks of every request before anything of it is read, and the headers of every answer.

Three checks keep other pages of the same browser out, beside the cookie's SameSite=Strict and the CSRF token: `Host`
must name this machine where the console listens on loopback (DNS rebinding), what changes something must bear an
`Origin` that is the console's own, and its body must be JSON, which no form can send.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smallhold.device.listen import is_loopback

MAX_BODY_BYTES = 64 * 1024
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_KNOWN = _SAFE | {"POST", "DELETE"}
#: No inline script or style, nothing from elsewhere, no frame around it, no text that becomes markup.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; manifest-src 'self'; "
    "worker-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


class Guard:
    """Wraps the application.

    Args:
        app: What is guarded.
        checks_host: `Host` must name loopback.
        is_secure: Reached over TLS: browsers are told to stay with it.
        hosts: Further names under which it is reached on loopback.
    """

    def __init__(self, app: ASGIApp, *, checks_host: bool, is_secure: bool, hosts: Iterable[str] = ()) -> None:
        self._app, self._checks_host, self._is_secure = app, checks_host, is_secure
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)  # the patient's page has a policy of its own, for its engine
                headers.setdefault("Cache-Control", "no-store")
                if self._is_secure:
                    headers["Strict-Transport-Security"] = "max-age=31536000"
            await send(message)

        refusal = self._check(scope["method"], scope["path"], Headers(scope=scope))
        if refusal is not None:
            await refusal(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)

    def _check(self, method: str, path: str, headers: Headers) -> JSONResponse | None:
        host = headers.get("host", "")
        if self._checks_host and not is_loopback(_name(host)) and _name(host) not in self._hosts:
            return refuse(403, "Host: expected a name of this machine, such as 127.0.0.1 or localhost")
        if method in _SAFE or method not in _KNOWN or not path.startswith(("/api/", "/patient/")):
            return None
        scheme = "https" if self._is_secure else "http"
        if headers.get("origin") != f"{scheme}://{host}":
            return refuse(403, "Origin: expected the console's own page")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        if has_body and kind != "application/json":
            return refuse(415, "Content-Type: expected application/json")
        return None


def refuse(status: int, error: str, hint: str | None = None, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error as every one is told."""
    return JSONResponse({"error": error, "hint": hint}, status, headers)


def _name(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
