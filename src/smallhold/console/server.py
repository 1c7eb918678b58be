"""The console's server: beside the ward, on a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from smallhold.device.listen import is_loopback, listen
from smallhold.errors import InputError

_START_SECONDS = 20.0
_STOP_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Where the console listens.

    Attributes:
        address: A name or IP address.
        port: 0 takes a free one.
        certificate: PEM file; with `key`, TLS.
        key: PEM file of its private key.
        unsafe_without_tls: Other machines may reach it although what they send can be read on the way.
    """

    address: str = "127.0.0.1"
    port: int = 8080
    certificate: Path | None = None
    key: Path | None = None
    unsafe_without_tls: bool = False

    def __post_init__(self) -> None:
        """Refuse to send passwords in the clear.

        Raises:
            InputError: another address than loopback without TLS, half a pair of files, or no such port.
        """
        if (self.certificate is None) != (self.key is None):
            raise InputError("TLS: expected both a certificate and its key")
        if not self.is_local and not self.is_secure and not self.unsafe_without_tls:
            raise InputError(
                f"address {self.address}: other machines could reach the console, and passwords would go in the clear",
                hint="--tls-certificate FILE --tls-key FILE, or --unsafe-without-tls",
            )
        if not 0 <= self.port <= 65_535:
            raise InputError(f"port: expected 0 to 65535, got {self.port}")

    @property
    def is_local(self) -> bool:
        """Listens on loopback."""
        return is_loopback(self.address)

    @property
    def is_secure(self) -> bool:
        """Speaks TLS."""
        return self.certificate is not None


@contextmanager
def serving(app: FastAPI, options: ServerOptions) -> Iterator[str]:
    """Answer requests on a thread until the context ends.

    Yields:
        The page's address.

    Raises:
        InputError: the address does not exist here or is taken, or a TLS file cannot be used.
    """
    sock = listen(options.address, options.port)
    config = uvicorn.Config(
        app,
        loop="asyncio",
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ssl_certfile=options.certificate,
        ssl_keyfile=options.key,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=16_384,
        limit_concurrency=512,
    )
    try:
        config.load()
    except (OSError, ValueError) as error:
        sock.close()
        raise InputError(f"TLS: the certificate or its key cannot be used: {error}") from error
    app.state.console.broadcaster.open()
    server = _Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[sock])), name="console", daemon=True)
    thread.start()
    try:
        if not server.has_begun.wait(_START_SECONDS):
            raise InputError(f"the console did not begin within {_START_SECONDS:g} s")
        host, port = sock.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        yield f"{'https' if options.is_secure else 'http'}://{shown}:{port}/"
    finally:
        app.state.console.broadcaster.close()
        server.should_exit = True
        thread.join(_STOP_SECONDS)
        sock.close()


class _Server(uvicorn.Server):
    """Says when it has begun, and leaves signals to the ward."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.has_begun = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.has_begun.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
