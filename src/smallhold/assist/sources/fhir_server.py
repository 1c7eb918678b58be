"""A small endpoint that takes FHIR Observations and Bundles: `POST /fhir/Observation`, `/fhir/Bundle` and `/fhir`.

It is a door and not a FHIR server: nothing can be read back, and a transaction is taken as a batch, each entry by
itself. A page in a browser on this machine cannot use it: requests with an `Origin`, or under a name that is not this
machine's, are refused (cross-site requests, DNS rebinding).
"""

from __future__ import annotations

import threading

from smallhold.assist.sources.fhir_http import FhirHttpServer, FhirOptions
from smallhold.assist.sources.inbox import Inbox
from smallhold.assist.sources.intake import Codes, Intake
from smallhold.assist.sources.source import SourceStatus
from smallhold.errors import InputError

__all__ = ["FhirOptions", "FhirSource"]


class FhirSource:
    """Listens; `is_connected` says whether it does.

    Guarantee: success is answered only after the readings are on record where the inbox keeps receipts, and in the
    inbox otherwise; what is sent again is not doubled.

    Args:
        options: See `FhirOptions`.
        intake: Where readings go.
        codes: What the sector knows.
    """

    def __init__(self, options: FhirOptions, intake: Intake, codes: Codes) -> None:
        self._options = options
        self._intake = intake
        self._codes = codes
        self._server: FhirHttpServer | None = None
        self._thread: threading.Thread | None = None
        self.port = options.port
        """Where it listens, once started."""

    def start(self, inbox: Inbox) -> None:
        """Listen.

        Raises:
            InputError: the address is taken or not this machine's.
        """
        self._intake.open(inbox)
        try:
            self._server = FhirHttpServer(self._options, self._intake, self._codes)
        except OSError as error:
            where = f"http://{self._options.host}:{self._options.port}"
            raise InputError(f"{where}: cannot listen: {error.strerror}") from error
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=[0.1], name=f"source-{self._intake.name}", daemon=True
        )
        self._thread.start()
        self._intake.connected(True)

    def stop(self, deadline_seconds: float) -> None:
        """Stop listening and close all connections."""
        if self._server is not None and self._thread is not None:
            server, self._server = self._server, None
            server.shutdown()
            server.server_close()
            self._thread.join(max(deadline_seconds, 0))
            self._intake.connected(False)

    def status(self) -> SourceStatus:
        """How it is doing."""
        return self._intake.status()
