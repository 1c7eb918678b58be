"""The sending side of MLLP: one connection, made again with growing pauses; a message at a time, and its answer."""

from __future__ import annotations

import random
import socket
import time

from smallhold.assist.sources.address import Address, Credentials, check_plaintext
from smallhold.assist.sources.mllp import BEGIN, END
from smallhold.assist.sources.mqtt import Backoff
from smallhold.errors import EndpointError

_ANSWER_LIMIT = 64 * 1024


class MllpClient:
    """Sends messages and waits for the answer to each; used from one thread.

    A message whose answer is lost is sent again with the same bytes, which the receiver knows.

    Args:
        address: Of the server.
        credentials: Files of TLS.
        unsafe_plaintext: Another machine without TLS.

    Raises:
        InputError: messages would travel between machines in the clear, or a file is wrong.
    """

    def __init__(
        self, address: Address, *, credentials: Credentials | None = None, unsafe_plaintext: bool = False
    ) -> None:
        check_plaintext(address.host, uses_tls=address.uses_tls, unsafe_plaintext=unsafe_plaintext, what=str(address))
        self.address = address
        self._context = (credentials or Credentials()).client_context() if address.uses_tls else None
        self._socket: socket.socket | None = None
        self._rest = b""

    def connect(self, timeout_seconds: float) -> None:
        """Connect now.

        Raises:
            OSError: nobody listens there, or TLS fails.
        """
        self.close()
        plain = socket.create_connection((self.address.host, self.address.port), timeout_seconds)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host = self.address.host
        self._socket = plain if self._context is None else self._context.wrap_socket(plain, server_hostname=host)

    def ask(self, message: bytes, control_id: str, deadline_seconds: float) -> tuple[str, str]:
        """Send one message, reconnecting as long as there is time.

        Args:
            message: HL7 v2 without its frame.
            control_id: Its MSH-10; answers to other messages are passed over.
            deadline_seconds: For all of it.

        Returns:
            MSA-1 and the text of ERR-8, empty where there is none.

        Raises:
            EndpointError: no answer in time.
        """
        deadline = time.monotonic() + deadline_seconds
        backoff = Backoff(0.1, 2.0, random.SystemRandom().random)
        while True:
            left = deadline - time.monotonic()
            try:
                if left <= 0:
                    raise TimeoutError("timed out")
                if self._socket is None:
                    self.connect(left)
                assert self._socket is not None  # noqa: S101 - `connect` has set it
                self._socket.settimeout(left)
                self._socket.sendall(BEGIN + message + END)
                return self._answer_to(self._socket, control_id, deadline)
            except OSError as error:
                self.close()
                if time.monotonic() + backoff.peek() > deadline:
                    raise EndpointError(f"{self.address}: no answer within {deadline_seconds:g} s: {error}") from error
                time.sleep(backoff.next_seconds())

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._rest = None, b""

    def _answer_to(self, connection: socket.socket, control_id: str, deadline: float) -> tuple[str, str]:
        while True:
            code, about, text = _read_answer(self._frame(connection, deadline))
            if about == control_id:
                return code, text

    def _frame(self, connection: socket.socket, deadline: float) -> bytes:
        while END not in self._rest:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            part = connection.recv(4096)
            if not part or len(self._rest) > _ANSWER_LIMIT:
                raise ConnectionResetError("the server hung up")
            self._rest += part
        frame, _, self._rest = self._rest.partition(END)
        return frame


def _read_answer(frame: bytes) -> tuple[str, str, str]:
    """MSA-1, MSA-2 and ERR-8; empty where they are missing."""
    code = about = text = ""
    for line in frame.decode("utf-8", "replace").replace("\n", "\r").split("\r"):
        fields = line.split("|")
        if fields[0] == "MSA":
            code, about = (*fields[1:3], "", "")[:2]
        elif fields[0] == "ERR" and len(fields) > 8:
            text = fields[8]
    return code, about, text
