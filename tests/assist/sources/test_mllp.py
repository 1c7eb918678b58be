from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.assist.sources.broker import make_certificates
from tests.assist.sources.test_hl7 import MONITOR
from tests.assist.sources.waiting import take, wait_until

from smallhold.assist.sources import Inbox
from smallhold.assist.sources.address import Credentials
from smallhold.assist.sources.intake import Intake
from smallhold.assist.sources.mllp import BEGIN, END, MllpOptions, MllpSource
from smallhold.assist.sources.receipts import Receipts
from smallhold.errors import InputError
from smallhold.sectors.hospital.codes import HospitalCodes


def message(number: int) -> bytes:
    return MONITOR.replace(b"|41|P", b"|%d|P" % number)


class Sender:
    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        self._rest = b""

    def answer(self) -> bytes:
        while END not in self._rest:
            part = self.socket.recv(4096)
            assert part, "closed without an answer"
            self._rest += part
        answer, _, self._rest = self._rest.partition(END)
        return answer.removeprefix(BEGIN)

    def ask(self, text: bytes) -> bytes:
        self.socket.sendall(BEGIN + text + END)
        return self.answer()

    def is_closed(self) -> bool:
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True


@pytest.fixture
def server() -> Iterator[tuple[MllpSource, Inbox]]:
    options = MllpOptions(port=0, max_message_bytes=8192, max_connections=3, idle_seconds=30.0)
    source, inbox = MllpSource(options, Intake("hl7", HospitalCodes())), Inbox()
    source.start(inbox)
    yield source, inbox
    source.stop(5)


def test_a_message_is_in_the_inbox_before_it_is_answered(server: tuple[MllpSource, Inbox]) -> None:
    source, inbox = server
    sender = Sender(source.port)
    assert b"MSA|AA|41\r" in sender.ask(message(41))
    assert inbox.depth == 3
    assert [(one.code, one.value, one.unit) for one in take(inbox, 3)] == [
        ("HR", 72, "/min"),
        ("Temp", 37.25, "Cel"),
        ("SaO2", 55, "%"),
    ]
    assert b"MSA|AA|41\r" in sender.ask(message(41))  # its answer was lost: sent again
    assert inbox.depth == 0
    assert source.status().refused == {"not_numeric": 2, "status": 2, "value": 2, "duplicate": 3}
    assert b"MSA|AE|" in sender.ask(b"nonsense")
    assert b"MSA|AR|41\r" in sender.ask(MONITOR.replace(b"ORU^R01", b"ADT^A01"))
    assert b"MSA|AA|42\r" in sender.ask(message(42))  # the connection goes on


def test_a_message_is_answered_when_its_readings_are_on_record() -> None:
    options = MllpOptions(port=0, record_seconds=0.3)
    source, inbox = MllpSource(options, Intake("hl7", HospitalCodes())), Inbox(receipts=Receipts())
    source.start(inbox)
    sender = Sender(source.port)
    answer = sender.ask(message(41))
    assert b"MSA|AE|41\r" in answer
    assert b"not on record yet" in answer
    waiting = take(inbox, 3)
    source._options = replace(options, record_seconds=20.0)  # what follows is to be on record in time
    sender.socket.sendall(BEGIN + message(41) + END)  # sent again, as it was told to
    wait_until(lambda: source.status().refused.get("duplicate") == 3)
    for one in waiting:
        inbox.settle(one)
    assert b"MSA|AA|41\r" in sender.answer()
    assert inbox.depth == 0
    source.stop(5)


def test_fragments_and_several_messages_in_one_packet(server: tuple[MllpSource, Inbox]) -> None:
    source, inbox = server
    sender = Sender(source.port)
    sender.socket.sendall(b"".join(BEGIN + message(number) + END + b"\r\n" for number in (1, 2, 3)))
    assert [sender.answer().split(b"\r")[1] for _ in range(3)] == [b"MSA|AA|1", b"MSA|AA|2", b"MSA|AA|3"]
    for byte in BEGIN + message(4) + END:
        sender.socket.sendall(bytes([byte]))
    assert b"MSA|AA|4\r" in sender.answer()
    assert inbox.depth == 12


def test_too_much_and_unframed_senders_are_cut_off(server: tuple[MllpSource, Inbox]) -> None:
    source, inbox = server
    large = Sender(source.port)
    large.socket.sendall(BEGIN + b"x" * 20_000)
    assert large.is_closed()
    unframed = Sender(source.port)
    unframed.socket.sendall(b"GET / HTTP/1.1\r\n\r\n" + END)
    assert unframed.is_closed()
    half = Sender(source.port)
    half.socket.sendall(BEGIN + MONITOR[:200])
    half.socket.close()
    wait_until(lambda: source.status().refused == {"too_large": 1, "framing": 2})
    assert inbox.depth == 0
    assert b"MSA|AA|5\r" in Sender(source.port).ask(message(5))


def test_a_slow_sender_is_cut_off() -> None:
    source = MllpSource(MllpOptions(port=0, idle_seconds=2.0), Intake("hl7", HospitalCodes()))
    source.start(inbox := Inbox())
    begun = time.monotonic()
    slow = Sender(source.port)
    slow.socket.settimeout(30)
    slow.socket.sendall(BEGIN + b"MSH|")
    assert slow.is_closed()
    assert 1 < time.monotonic() - begun < 30
    assert inbox.depth == 0
    source.stop(5)


def test_one_connection_more_than_allowed_is_closed(server: tuple[MllpSource, Inbox]) -> None:
    source, _ = server
    held = [Sender(source.port) for _ in range(3)]
    assert all(b"MSA|AA" in one.ask(message(number)) for number, one in enumerate(held, start=1))
    assert Sender(source.port).is_closed()
    assert source.status().refused["too_many_connections"] == 1
    held[0].socket.close()
    wait_until(lambda: _is_answered(source.port))


def _is_answered(port: int) -> bool:
    try:
        return b"MSA|AA" in Sender(port).ask(message(9))
    except (AssertionError, OSError):
        return False


def test_mutual_tls(tmp_path: Path) -> None:
    files = make_certificates(tmp_path)
    ours = Credentials(ca_file=files["ca"], certificate_file=files["server"], key_file=files["server_key"])
    source, inbox = MllpSource(MllpOptions(port=0, credentials=ours), Intake("hl7", HospitalCodes())), Inbox()
    source.start(inbox)
    theirs = Credentials(ca_file=files["ca"], certificate_file=files["client"], key_file=files["client_key"])
    assert b"MSA|AA|41\r" in Sender(source.port, theirs.client_context()).ask(message(41))
    with pytest.raises((ssl.SSLError, OSError, AssertionError)):
        Sender(source.port, Credentials(ca_file=files["ca"]).client_context()).ask(message(42))
    assert inbox.depth == 3
    source.stop(5)


def test_a_taken_port_and_an_open_door_are_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        source = MllpSource(MllpOptions(port=taken.getsockname()[1]), Intake("hl7", HospitalCodes()))
        with pytest.raises(InputError, match=r"cannot listen: .*in use"):
            source.start(Inbox())
    with pytest.raises(InputError, match="another machine"):
        MllpOptions(host="0.0.0.0")
    with pytest.raises(InputError, match="must show a certificate"):
        MllpOptions(host="0.0.0.0", credentials=Credentials(certificate_file=Path("a"), key_file=Path("b")))


def test_stop_ends_open_connections_in_time(server: tuple[MllpSource, Inbox]) -> None:
    source, _ = server
    sender = Sender(source.port)
    sender.ask(message(1))
    begun = time.monotonic()
    source.stop(60)
    assert time.monotonic() - begun < 20
    assert sender.is_closed()
    assert not source.status().is_connected
