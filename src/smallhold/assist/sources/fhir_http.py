"""The HTTP of the FHIR endpoint: who may ask, how much, how long, and what is answered."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import socket
import threading
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from smallhold.assist.sources.address import Credentials, check_plaintext
from smallhold.assist.sources.fhir import MAX_BYTES, Item, bundle_entries, read_observation
from smallhold.assist.sources.intake import Codes, Intake
from smallhold.assist.sources.plain_text import parse_whole
from smallhold.assist.sources.receipts import Countdown
from smallhold.assist.sources.strict_json import MalformedError, parse_json
from smallhold.device.listen import is_loopback
from smallhold.errors import InputError

_RECORD_SECONDS = 5.0
_PATHS = frozenset({"/fhir", "/fhir/Observation", "/fhir/Bundle"})
_CONTENT_TYPES = frozenset({"application/fhir+json", "application/json"})
_SHORTEST_TOKEN = 16
_ISSUE = {  # FHIR's issue types for what this door says
    HTTPStatus.UNAUTHORIZED: "login",
    HTTPStatus.FORBIDDEN: "forbidden",
    HTTPStatus.NOT_FOUND: "not-found",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too-long",
    HTTPStatus.UNPROCESSABLE_ENTITY: "processing",
    HTTPStatus.SERVICE_UNAVAILABLE: "transient",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FhirOptions:
    """How to listen.

    Attributes:
        host: Address.
        port: 0 takes a free one.
        token: What requests must bear (`Authorization: Bearer`); None = nothing, on loopback alone.
        credentials: Ours, and in `ca_file` the authorities of the senders' certificates; None = no TLS.
        unsafe_plaintext: Other machines without TLS.
        max_body_bytes: Largest body.
        max_connections: One more is closed at once.
        request_seconds: From a connection, or the end of the answer before, to the end of the next answer.

    Raises:
        InputError: a value is impossible, or strangers on other machines could send readings.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    token: str | None = field(default=None, repr=False)
    credentials: Credentials | None = None
    unsafe_plaintext: bool = False
    max_body_bytes: int = 2 * 2**20
    max_connections: int = 16
    request_seconds: float = 20.0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535 or self.max_connections < 1:
            raise InputError(
                "FHIR: expected a port from 0 to 65535 and at least 1 connection, "
                f"got {self.port} and {self.max_connections}"
            )
        if not 0 < self.max_body_bytes <= MAX_BYTES or not 0 < self.request_seconds < float("inf"):
            raise InputError(
                f"FHIR: expected max_body_bytes from 1 to {MAX_BYTES} and request_seconds of more than 0, "
                f"got {self.max_body_bytes} and {self.request_seconds}"
            )
        if self.token is not None and (len(self.token) < _SHORTEST_TOKEN or not self.token.isascii()):
            raise InputError(f"FHIR: expected a token of at least {_SHORTEST_TOKEN} ASCII characters")
        check_plaintext(
            self.host,
            uses_tls=self.credentials is not None,
            unsafe_plaintext=self.unsafe_plaintext,
            what=f"http://{self.host}",
        )
        if self.token is None and not is_loopback(self.host):
            raise InputError("FHIR: other machines could send readings, and there is no token", hint="give a token")


class FhirHttpServer(ThreadingHTTPServer):
    """Gives every connection a thread, up to as many as there are places."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, options: FhirOptions, intake: Intake, codes: Codes) -> None:
        self.options = options
        self.intake = intake
        self.codes = codes
        self.address_family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        self._context = None if options.credentials is None else options.credentials.server_context()
        self._places = threading.BoundedSemaphore(options.max_connections)
        self._connections: set[socket.socket] = set()
        super().__init__((options.host, options.port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection its place and thread, or close it."""
        if not self._places.acquire(blocking=False):
            self.intake.refuse("too_many_connections")
            self.shutdown_request(request)
            return
        self._connections.add(request)
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started: the place is free again
            self._connections.discard(request)
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer on the connection's own thread, and give the place back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.discard(request)
            self._places.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands, then answer."""
        if self._context is not None:
            request.settimeout(self.options.request_seconds)  # the handshake, too; on the connection's own thread
            request = self._context.wrap_socket(request, server_side=True)
            self._connections.add(request)
        try:
            super().finish_request(request, client_address)
        finally:
            self._connections.discard(request)
            if self._context is not None:
                request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A sender that goes away in the middle, or fails the handshake, is no event of ours."""

    def server_close(self) -> None:
        """Stop listening and cut all connections."""
        super().server_close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _RefusedError(Exception):
    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: FhirHttpServer
    protocol_version = "HTTP/1.1"
    server_version = "smallhold"
    sys_version = ""
    # Head and body in one packet at once: sent apart, the second waits 40 ms for the acknowledgement of the first.
    wbufsize = -1
    disable_nagle_algorithm = True

    def setup(self) -> None:
        self.request.settimeout(self.server.options.request_seconds)
        super().setup()

    def handle_one_request(self) -> None:
        # The socket's own time is for one read; who sends a byte now and then would hold a place for ever.
        cut = threading.Timer(self.server.options.request_seconds, self._cut)
        cut.daemon = True
        cut.start()
        try:
            super().handle_one_request()
        finally:
            cut.cancel()

    def _cut(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_POST(self) -> None:
        try:
            path, data = self._checked()
            resource = parse_json(data, max_bytes=self.server.options.max_body_bytes)
            if not isinstance(resource, dict):
                raise MalformedError("expected a JSON object")
            is_bundle = resource.get("resourceType") == "Bundle"
            if path != "/fhir" and path != f"/fhir/{'Bundle' if is_bundle else 'Observation'}":
                raise MalformedError(f"resourceType: expected {path.rpartition('/')[2]}")
            status, answer = self._take_bundle(resource) if is_bundle else self._take_observation(resource)
        except MalformedError as error:
            self.server.intake.refuse("malformed", str(error))
            status, answer = HTTPStatus.BAD_REQUEST, _outcome("error", "structure", str(error))
        except _RefusedError as error:
            self.server.intake.refuse("refused", str(error))
            self.close_connection = True  # the body was not read
            status, answer = error.status, _outcome("error", _ISSUE.get(error.status, "invalid"), str(error))
        except OSError:
            raise  # the sender is gone
        except Exception as error:  # whatever it was, the sender gets an answer and the status a count
            self.server.intake.refuse("internal", type(error).__name__)
            status, answer = HTTPStatus.INTERNAL_SERVER_ERROR, _outcome("error", "exception", "not taken")
        self._answer(status, answer)

    def _checked(self) -> tuple[str, bytes]:
        options = self.server.options
        path = self.path.rstrip("/")
        if "Origin" in self.headers:
            raise _RefusedError(HTTPStatus.FORBIDDEN, "pages in browsers may not send readings")
        if is_loopback(options.host) and not _names_loopback(self.headers.get("Host", "")):
            raise _RefusedError(HTTPStatus.FORBIDDEN, "Host: expected this machine's loopback")
        if options.token is not None:
            given = self.headers.get("Authorization", "")
            # Digests have one length, so that comparing them tells nothing about the token's.
            digests = (hashlib.sha256(text.encode()).digest() for text in (given, f"Bearer {options.token}"))
            if not hmac.compare_digest(*digests):
                raise _RefusedError(HTTPStatus.UNAUTHORIZED, "Authorization: expected the bearer token")
        if path not in _PATHS:
            raise _RefusedError(HTTPStatus.NOT_FOUND, f"expected one of {', '.join(sorted(_PATHS))}")
        if self.headers.get_content_type() not in _CONTENT_TYPES:
            raise _RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Content-Type: expected application/fhir+json")
        lengths = self.headers.get_all("Content-Length", [])
        length = parse_whole(lengths[0]) if len(lengths) == 1 and "Transfer-Encoding" not in self.headers else None
        if length is None:
            raise _RefusedError(HTTPStatus.LENGTH_REQUIRED, "expected one Content-Length and no Transfer-Encoding")
        if length > options.max_body_bytes:
            raise _RefusedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"expected at most {options.max_body_bytes} bytes, got {length}"
            )
        data = self.rfile.read(length)
        if len(data) < length:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "the body ended too early")
        return path, data

    def _take_observation(self, resource: dict[str, Any]) -> tuple[HTTPStatus, dict[str, Any]]:
        (reasons,) = self._offer([read_observation(resource, self.server.codes)])
        if reasons is None:
            return HTTPStatus.CREATED, _outcome("information", "informational", "taken")
        return HTTPStatus.UNPROCESSABLE_ENTITY, _outcome("error", "processing", f"not taken: {', '.join(reasons)}")

    def _take_bundle(self, bundle: dict[str, Any]) -> tuple[HTTPStatus, dict[str, Any]]:
        # Read as a whole before anything of it is taken.
        read = [
            None if entry is None else read_observation(entry, self.server.codes) for entry in bundle_entries(bundle)
        ]
        results = iter(self._offer([items for items in read if items is not None]))
        entries = [_entry(None if items is None else (next(results),)) for items in read]
        answer: dict[str, Any] = {"resourceType": "Bundle", "type": "batch-response"}
        return HTTPStatus.OK, answer | ({"entry": entries} if entries else {})  # FHIR knows no empty arrays

    def _offer(self, resources: list[list[Item]]) -> list[list[str] | None]:
        """For each resource None when at least one reading was taken, otherwise why none was.

        Raises:
            _RefusedError: what was taken is not on record in time; sent again it is not doubled.
        """
        recorded = threading.Event()
        waiting = Countdown(recorded.set)
        results = [self._offer_one(items, waiting) for items in resources]
        waiting.close()
        if not recorded.wait(_RECORD_SECONDS):
            raise _RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "not on record yet; send it again")
        return results

    def _offer_one(self, items: list[Item], waiting: Countdown) -> list[str] | None:
        reasons: set[str] = set()
        is_taken = False
        for item in items:
            if isinstance(item, str):
                self.server.intake.pass_over(item)
                reasons.add(item)
            elif (reason := self.server.intake.offer(item, waiting.one())) is None:
                is_taken = True
            else:
                reasons.add(reason)
        return None if is_taken else sorted(reasons) or ["value"]

    def _answer(self, status: HTTPStatus, resource: dict[str, Any]) -> None:
        body = json.dumps(resource, separators=(",", ":")).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/fhir+json; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if status == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """What the library itself refuses, without a word of what was sent."""
        self.close_connection = True
        status = HTTPStatus(code)
        self.server.intake.refuse("refused", f"HTTP {status.value} {status.phrase}")
        self._answer(status, _outcome("error", _ISSUE.get(status, "invalid"), status.phrase))

    def log_message(self, format: str, *args: object) -> None:
        """Counts and the last error are in the source's status; nothing that was sent goes to a terminal."""


def _names_loopback(host: str) -> bool:
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return is_loopback(name)


def _entry(result: tuple[list[str] | None] | None) -> dict[str, Any]:
    """The answer to one entry of a Bundle; None where it holds no Observation."""
    if result is None:
        outcome = _outcome("information", "not-supported", "only Observations are taken")
        return {"response": {"status": "200 OK", "outcome": outcome}}
    (reasons,) = result
    if reasons is None:
        return {"response": {"status": "201 Created"}}
    outcome = _outcome("error", "processing", f"not taken: {', '.join(reasons)}")
    return {"response": {"status": "422 Unprocessable Entity", "outcome": outcome}}


def _outcome(severity: str, code: str, text: str) -> dict[str, Any]:
    return {
        "resourceType": "OperationOutcome",
        "issue": [{"severity": severity, "code": code, "diagnostics": text}],
    }
