"""HL7 v2 over MLLP: a small server for monitors, gateways and interface engines (HL7 v2 transport, release 1).

A frame is 0x0B, the message, 0x1C 0x0D. The answer goes out after the readings are on record. The server listens on
loopback; other machines reach it over TLS with certificates on both sides, because MLLP knows no other login.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import tzinfo

from smallhold.assist.sources.address import Credentials, check_plaintext
from smallhold.assist.sources.hl7 import Hl7Error, answers, read_oru
from smallhold.assist.sources.inbox import Inbox
from smallhold.assist.sources.intake import Intake
from smallhold.assist.sources.receipts import Countdown, Settled
from smallhold.assist.sources.source import SourceStatus
from smallhold.device.listen import is_loopback
from smallhold.errors import InputError

BEGIN, END = b"\x0b", b"\x1c\x0d"
_LISTEN_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MllpOptions:
    """How to listen.

    Attributes:
        host: Address; loopback without TLS.
        port: 0 takes a free one.
        credentials: Ours, and in `ca_file` the authorities of the senders' certificates; None = no TLS.
        unsafe_plaintext: Other machines without TLS.
        zone: Of times that name none, where MSH-7 names none either; None refuses them.
        authority: See `read_oru`.
        max_message_bytes: Largest message.
        max_connections: One more is closed at once.
        idle_seconds: A connection that sends nothing for so long, or a frame that takes longer, is closed.
        record_seconds: A message that is not on record by then is answered AE, and its sender sends it again.
        answer_seconds: A sender that does not take its answer for so long is cut off.

    Raises:
        InputError: a value is impossible, or strangers on other machines could send readings.
    """

    host: str = "127.0.0.1"
    port: int = 2575
    credentials: Credentials | None = None
    unsafe_plaintext: bool = False
    zone: tzinfo | None = None
    authority: str = ""
    max_message_bytes: int = 256 * 1024
    max_connections: int = 64
    idle_seconds: float = 300.0
    answer_seconds: float = 5.0
    record_seconds: float = 5.0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise InputError(f"port: expected 0 to 65535, got {self.port}")
        if self.max_message_bytes < 1024 or self.max_connections < 1:
            raise InputError(
                "MLLP: expected max_message_bytes >= 1024 and max_connections >= 1, "
                f"got {self.max_message_bytes} and {self.max_connections}"
            )
        if not (0 < self.idle_seconds < float("inf") and 0 < self.answer_seconds < float("inf")):
            raise InputError(
                f"MLLP: expected times of more than 0 s, got idle {self.idle_seconds}, answer {self.answer_seconds}"
            )
        check_plaintext(
            self.host,
            uses_tls=self.credentials is not None,
            unsafe_plaintext=self.unsafe_plaintext,
            what=f"mllp://{self.host}",
        )
        has_no_login = self.credentials is not None and self.credentials.ca_file is None
        if has_no_login and not is_loopback(self.host):
            raise InputError(
                "MLLP: senders on other machines must show a certificate", hint="give the authorities in ca_file"
            )


@dataclass(slots=True)
class _Running:
    loop: asyncio.AbstractEventLoop
    stopped: asyncio.Event
    senders: set[asyncio.Task[None]] = field(default_factory=set)


class MllpSource:
    """Listens; `is_connected` says whether it does.

    Guarantee: AA is answered only after every usable reading of the message is on record, where the inbox keeps
    receipts, and in the inbox otherwise. A message that is sent
    again after a lost answer is answered AA again, and its readings are not doubled.

    Args:
        options: See `MllpOptions`.
        intake: Where readings go.
    """

    def __init__(self, options: MllpOptions, intake: Intake) -> None:
        self._options = options
        self._intake = intake
        self._context = None if options.credentials is None else options.credentials.server_context()
        self._running: _Running | None = None
        self._is_listening = threading.Event()
        self._failure: OSError | None = None
        self._thread = threading.Thread(target=self._run, name=f"source-{intake.name}", daemon=True)
        self.port = options.port
        """Where it listens, once started."""

    def start(self, inbox: Inbox) -> None:
        """Listen.

        Raises:
            InputError: the address is taken or not this machine's.
        """
        self._intake.open(inbox)
        self._thread.start()
        self._is_listening.wait(_LISTEN_SECONDS)
        if self._failure is not None or not self._is_listening.is_set():
            why = "no answer from the system" if self._failure is None else self._failure.strerror
            raise InputError(f"mllp://{self._options.host}:{self._options.port}: cannot listen: {why}")

    def stop(self, deadline_seconds: float) -> None:
        """Stop listening and close all connections."""
        if self._running is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended already
                self._running.loop.call_soon_threadsafe(self._running.stopped.set)
        if self._thread.ident is not None:
            self._thread.join(max(deadline_seconds, 0))

    def status(self) -> SourceStatus:
        """How it is doing."""
        return self._intake.status()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except OSError as error:
            self._failure = error
            self._intake.failed(error)
        finally:
            self._intake.connected(False)
            self._is_listening.set()

    async def _serve(self) -> None:
        self._running = running = _Running(asyncio.get_running_loop(), asyncio.Event())
        server = await asyncio.start_server(
            self._accept,
            self._options.host,
            self._options.port,
            limit=self._options.max_message_bytes,
            ssl=self._context,
            ssl_handshake_timeout=None if self._context is None else self._options.answer_seconds,
        )
        self.port = server.sockets[0].getsockname()[1]
        self._intake.connected(True)
        self._is_listening.set()
        await running.stopped.wait()
        server.close()
        for sender in running.senders:
            sender.cancel()
        await asyncio.gather(*running.senders, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._running is not None  # noqa: S101 - set before the server listens
        senders = self._running.senders
        task = asyncio.current_task()
        if len(senders) >= self._options.max_connections:
            self._intake.refuse("too_many_connections")
            writer.transport.abort()
            return
        if task is not None:
            senders.add(task)
        try:
            await self._converse(reader, writer)
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            pass  # the sender is silent, gone, or went in the middle of a frame: nothing of that frame was taken
        except asyncio.CancelledError:
            pass  # told to stop; there is nobody above who waits for this task's end but `_serve`
        except Exception as error:  # one sender must not end the service of the others
            self._intake.refuse("internal", type(error).__name__)
        finally:
            if task is not None:
                senders.discard(task)
            writer.transport.abort()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            # Not `wait_for`: before Python 3.12 it could lose the cancellation that ends this server.
            try:
                async with asyncio.timeout(self._options.idle_seconds):
                    frame = await reader.readuntil(END)
            except asyncio.LimitOverrunError:
                self._intake.refuse("too_large", f"more than {self._options.max_message_bytes} bytes")
                return
            except asyncio.IncompleteReadError as error:
                if error.partial.strip():
                    self._intake.refuse("framing", "the connection ended inside a frame")
                return
            # Some senders put line ends between frames.
            before, begin, message = frame[: -len(END)].partition(BEGIN)
            if before.strip() or not begin:
                self._intake.refuse("framing", "expected 0x0B before a message")
                return
            for answer in await self._take(message):
                writer.write(BEGIN + answer + END)
            async with asyncio.timeout(self._options.answer_seconds):
                await writer.drain()

    async def _take(self, message: bytes) -> tuple[bytes, ...]:
        """Take one message, and answer when its readings are on record, or say that they are not yet."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        waiting = Countdown(lambda: loop.call_soon_threadsafe(done.set))
        answer = self.receive(message, waiting.one)
        waiting.close()
        try:
            async with asyncio.timeout(self._options.record_seconds):
                await done.wait()
        except TimeoutError:
            self._intake.failed("a message was not on record in time; its sender was told to send it again")
            late = Hl7Error("late", 207, "not on record yet; send it again")
            try:
                header = read_oru(message, zone=self._options.zone, authority=self._options.authority).header
            except Hl7Error:
                return answer
            return answers(header, "AE", self._intake.clock(), late)
        return answer

    def receive(self, message: bytes, expect: Callable[[], Settled] | None = None) -> tuple[bytes, ...]:
        """Take one message without its frame.

        Args:
            message: HL7 v2.
            expect: Called once for each reading; what it returns is called when the reading is settled.

        Returns:
            The answers that it asks for, without their frames, for when all readings are settled.
        """
        try:
            report = read_oru(message, zone=self._options.zone, authority=self._options.authority)
        except Hl7Error as error:
            self._intake.refuse(error.reason, str(error))
            return answers(error.header, error.code, self._intake.clock(), error)
        for reading in report.readings:
            self._intake.offer(reading, None if expect is None else expect())
        for reason, count in report.passed_over.items():
            self._intake.pass_over(reason, count)
        return answers(report.header, "AA", self._intake.clock())
