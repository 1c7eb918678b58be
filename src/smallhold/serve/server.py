"""Listen, say where, answer until told to stop."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn

from smallhold.device.listen import is_loopback, listen
from smallhold.errors import InputError
from smallhold.serve.app import Interface, build_app
from smallhold.serve.service import Service
from smallhold.serve.worker import Worker

KEY_VARIABLE = "SMALLHOLD_API_KEY"
_SHORTEST_KEY = 16
#: A step of the model that has begun is waited for so long, then the process ends without it.
_LAST_STEP_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How to listen.

    Attributes:
        host: Address or name.
        port: 0 takes a free one.
        api_key: What requests must bear; None = nothing, on loopback alone.
        origins: Origins of browser pages that may ask, `https://example.org`.
        queue_length: Most requests that wait beside the one that runs.
        timeout_seconds: From a request's arrival to the end of its answer.
        shutdown_seconds: How long requests may go on after the server was told to stop.
        max_body_bytes: Largest body.

    Raises:
        InputError: a value is impossible, or another machine could ask without a key.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    origins: tuple[str, ...] = ()
    queue_length: int = 16
    timeout_seconds: float = 120.0
    shutdown_seconds: float = 10.0
    max_body_bytes: int = 2**20

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and self.api_key is None:
            raise InputError(
                f"--host {self.host}: other machines could ask, and there is no API key",
                hint=f"give --api-key-file FILE or set {KEY_VARIABLE}; or leave --host away",
            )
        if not 0 <= self.port <= 65535:
            raise InputError(f"--port: expected 0 to 65535, got {self.port}")
        if self.queue_length < 0:
            raise InputError(f"--queue-length: expected 0 or more, got {self.queue_length}")
        for name in ("timeout_seconds", "shutdown_seconds", "max_body_bytes"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"--{name.replace('_', '-')}: expected more than 0, got {getattr(self, name)}")
        for origin in self.origins:
            parts = urlsplit(origin)
            if (
                parts.scheme not in ("http", "https")
                or not parts.netloc
                or origin != f"{parts.scheme}://{parts.netloc}"
            ):
                raise InputError(f"--allow-origin: expected an origin such as https://example.org, got {origin!r}")


def read_api_key(path: Path | None) -> str | None:
    """The key of a file, else of the environment variable `SMALLHOLD_API_KEY`, else None.

    Raises:
        InputError: it cannot be read, is shorter than 16 characters or not plain ASCII; the message does not show it.
    """
    if path is not None:
        where = f"--api-key-file {path}"
        try:
            key = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not plain ASCII"
            raise InputError(f"{where}: cannot be read: {reason}") from None
    elif (value := os.environ.get(KEY_VARIABLE)) is not None:
        where, key = KEY_VARIABLE, value.strip()
    else:
        return None
    if len(key) < _SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise InputError(
            f"{where}: expected at least {_SHORTEST_KEY} characters of plain ASCII without spaces",
            hint="python3 -c 'import secrets; print(secrets.token_urlsafe(32))'",
        )
    return key


def serve(service: Service, options: ServerOptions, announce: Callable[[str], None]) -> bool:
    """Answer requests until SIGTERM or SIGINT; the process is to end then, and ignores both from there on.

    Args:
        service: What answers.
        options: How to listen.
        announce: Called with the address once connections are taken.

    Returns:
        Whether everything had ended in time.

    Raises:
        InputError: see `listen`.
    """
    with listen(options.host, options.port) as sock:
        worker = Worker(options.queue_length)
        interface = Interface(
            service, worker, timeout_seconds=options.timeout_seconds, max_body_bytes=options.max_body_bytes
        )
        app = build_app(
            interface,
            api_key=options.api_key,
            checks_host=is_loopback(options.host),
            origins=list(options.origins),
        )
        config = uvicorn.Config(
            app,
            loop="asyncio",
            lifespan="off",
            ws="none",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=math.ceil(options.shutdown_seconds + _LAST_STEP_SECONDS),
        )
        server = _Server(config, worker, options.shutdown_seconds, lambda: announce(_url(sock)))
        asyncio.run(server.serve(sockets=[sock]))
        worker.stop()
        return worker.join(_LAST_STEP_SECONDS)


class _Server(uvicorn.Server):
    """Says when it has begun; told to stop, lets requests end for a while, then ends them with an answer.

    It exits with code 0, where its base would raise the signal again.
    """

    def __init__(
        self, config: uvicorn.Config, worker: Worker, shutdown_seconds: float, announce: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._worker, self._shutdown_seconds, self._announce = worker, shutdown_seconds, announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        late = asyncio.get_running_loop().call_later(self._shutdown_seconds, self._worker.stop)
        await super().shutdown(sockets)
        late.cancel()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        previous = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                # Told once more while it ends, a process that is ending already must not die of it.
                signal.signal(number, signal.SIG_IGN if self.should_exit else handler)

    def _stop(self, _number: int, _frame: object) -> None:
        if self.should_exit:  # told twice: at once
            self._shutdown_seconds = 0.0
            self.force_exit = True
        self.should_exit = True


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if sock.family == socket.AF_INET6 else f"http://{host}:{port}"


def end_process(has_ended: bool) -> None:
    """Leave at once when the model's thread is still inside a step: waiting for it has no deadline."""
    if not has_ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
