"""Alarms out as ORU^R40 to real MLLP servers (python-hl7's and ours), and the acknowledgements that senders ask for."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import hl7
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hl7.mllp import start_hl7_server
from hypothesis import given, settings
from hypothesis import strategies as st

from smallhold.assist.alarm import AlarmChange, Change
from smallhold.assist.interop.alarm_outbox import AlarmOutbox
from smallhold.assist.interop.alarm_sender import AlarmSender, JournalAlarms
from smallhold.assist.interop.hl7_alarm import AlarmEvent, event_of, write_alarm
from smallhold.assist.sources import Inbox
from smallhold.assist.sources.address import Address
from smallhold.assist.sources.hl7 import Hl7Error, answers, read_oru
from smallhold.assist.sources.intake import Intake
from smallhold.assist.sources.mllp import MllpOptions, MllpSource
from smallhold.assist.sources.mllp_client import MllpClient
from smallhold.cli.main import main
from smallhold.errors import InputError, JournalError
from smallhold.records import AlertState, Priority
from smallhold.sectors.hospital.codes import HospitalCodes

from ..sources.test_hl7 import MONITOR
from ..test_live import BAD, Clocks, Ward
from .test_fhir_out import LIVE, NOW_MS, alert

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


class Manager:
    """An alert manager of another make: python-hl7's server, which answers each message with a code."""

    def __init__(self, code: Callable[[hl7.Message], str | None] = lambda _: "CA", port: int = 0) -> None:
        self.messages: list[hl7.Message] = []
        self.port = port
        self._code = code
        self._loop = asyncio.new_event_loop()
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._main(),), daemon=True)
        self._thread.start()
        assert self._is_ready.wait(10)

    async def _main(self) -> None:
        self._stopped = asyncio.Event()
        self._writers: set[Any] = set()
        server = await start_hl7_server(self._converse, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        self._is_ready.set()
        await self._stopped.wait()
        server.close()
        for writer in self._writers:
            writer.close()

    async def _converse(self, reader: Any, writer: Any) -> None:
        self._writers.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                message = await reader.readmessage()
                self.messages.append(message)
                code = self._code(message)
                if code is None:
                    return writer.close()
                writer.writemessage(message.create_ack(code))
                await writer.drain()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)

    def client(self) -> MllpClient:
        return MllpClient(Address("mllp", "127.0.0.1", self.port))


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def change(what: Change = Change.RAISED, state: AlertState = AlertState.ACTIVE, **members: Any) -> AlarmChange:
    return AlarmChange(what, NOW_MS, alert(state=state, **members))


def facets(message: hl7.Message) -> dict[str, str]:
    return {str(obx[3][0][1]): str(obx[5]) for obx in message.segments("OBX")}


def test_an_alarm_by_hand() -> None:
    raw = write_alarm(AlarmEvent(alert(), "start", NOW_MS), "c-1", NOW_MS, number=0)
    message = hl7.parse(raw.decode())
    assert str(message.segment("MSH")[9]) == "ORU^R40^ORU_R40"
    assert [str(message.segment("MSH")[field]) for field in (10, 11, 12, 15, 16)] == ["c-1", "P", "2.6", "AL", "NE"]
    assert str(message.segment("PID")[3]) == "p^^^SMALLHOLD^PI"
    assert str(message.segment("OBR")[4]) == "196616^MDC_EVT_ALARM^MDC"
    assert str(message.segment("OBX")[8]) == "PH~SP"
    assert facets(message) == {
        "MDC_EVT_ALARM": "deterioration^NEWS2 is 9^99SMALLHOLD",
        "MDC_ATTR_ALERT_SOURCE": "floor",
        "MDC_ATTR_EVENT_PHASE": "start",
        "MDC_ATTR_ALARM_STATE": "active",
        "MDC_ATTR_ALARM_INACTIVATION_STATE": "enabled",
        "MDC_ATTR_ALARM_PRIORITY": "PH",
        "MDC_ATTR_ALERT_TYPE": "SP",
        "MDC_ATTR_ALERT_TEXT": "NEWS2 is 9",
    }
    simulated = alert(provenance=replace(LIVE, simulated=True))
    later = hl7.parse(write_alarm(AlarmEvent(simulated, "end", NOW_MS), "c-2", NOW_MS, number=3).decode())
    assert str(later.segment("MSH")[11]) == "T"  # training: no patient stands behind it
    assert str(later.segment("OBR")[29]) == "^p:a-1-0&SMALLHOLD"


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=60), st.text(max_size=30), st.sampled_from(Priority))
def test_no_text_breaks_a_message(text: str, patient: str, priority: Priority) -> None:
    event = AlarmEvent(alert(priority, message=text, patient=patient), "start", NOW_MS)
    raw = write_alarm(event, "c", NOW_MS, number=0)
    lines = raw.decode().split("\r")
    assert [line[:3] for line in lines] == ["MSH", "PID", "OBR"] + ["OBX"] * 8 + [""]
    assert {line.count("|") for line in lines if line.startswith("OBX")} == {14}


@pytest.mark.parametrize(
    ("what", "is_known", "phase"),
    [
        (Change.RAISED, False, "start"),
        (Change.RAISED, True, "escalate"),
        (Change.ESCALATED, True, "update"),
        (Change.ACKNOWLEDGED, True, "update"),
        (Change.RETURNED, True, "continue"),
        (Change.RETURNED, False, "present"),
        (Change.RESOLVED, True, "end"),
    ],
)
def test_phases(what: Change, is_known: bool, phase: str) -> None:
    assert event_of(change(what), is_known=is_known).phase == phase


def test_alarms_wait_for_a_manager_that_is_away_and_arrive_in_order_after_a_restart(tmp_path: Path) -> None:
    gone = Manager()
    port = gone.port
    gone.stop()
    outbox = AlarmOutbox(tmp_path / "q.db")
    outbox.put([change(), change(Change.ACKNOWLEDGED, AlertState.ACKNOWLEDGED)])
    client = MllpClient(Address("mllp", "127.0.0.1", port))
    sender = AlarmSender(outbox, client, first_pause_seconds=0.05, answer_seconds=0.5)
    sender.start()
    time.sleep(0.2)
    sender.stop(15)
    outbox.close()  # the process ends; what was not acknowledged is in the file

    again = AlarmOutbox(tmp_path / "q.db")
    again.put([change(Change.RESOLVED, AlertState.RESOLVED)])
    assert again.counts() == (3, 0)
    manager = Manager(port=port)
    sender = AlarmSender(again, manager.client(), first_pause_seconds=0.05)
    sender.start()
    wait_for(lambda: sender.status().sent == 3)
    sender.stop(5)
    assert [facets(one)["MDC_ATTR_EVENT_PHASE"] for one in manager.messages] == ["start", "update", "end"]
    assert facets(manager.messages[1])["MDC_ATTR_ALARM_INACTIVATION_STATE"] == "alert-acknowledged"
    assert again.counts() == (0, 0)
    manager.stop()


def test_a_lost_answer_is_the_same_message_again(tmp_path: Path) -> None:
    told: list[str | None] = [None, "CE", "CA"]  # hangs up without an answer, then an error, then well
    manager = Manager(lambda _: told.pop(0))
    outbox = AlarmOutbox(tmp_path / "q.db")
    outbox.put([change()])
    sender = AlarmSender(outbox, manager.client(), first_pause_seconds=0.01)
    sender.start()
    wait_for(lambda: sender.status().sent == 1)
    sender.stop(5)
    assert len({str(one) for one in manager.messages}) == 1 and len(manager.messages) == 3
    manager.stop()


def test_what_the_manager_refuses_does_not_hold_up_the_next(tmp_path: Path) -> None:
    manager = Manager(lambda m: "CR" if "bad" in str(m) else "CE" if "ill" in str(m) else "AA")
    outbox = AlarmOutbox(tmp_path / "q.db")
    outbox.put([change(message="bad"), change(message="ill", id="a-2"), change(message="good", id="a-3")])
    sender = AlarmSender(outbox, manager.client(), first_pause_seconds=0.001)
    sender.start()
    wait_for(lambda: sender.status().sent == 1)
    sender.stop(5)
    assert outbox.counts() == (0, 2)
    assert len(manager.messages) == 1 + 5 + 1
    manager.stop()


def test_our_own_listener_takes_readings_and_no_alarms(tmp_path: Path) -> None:
    source = MllpSource(MllpOptions(port=0), Intake("hl7", HospitalCodes()))
    source.start(Inbox())
    outbox = AlarmOutbox(tmp_path / "q.db")
    outbox.put([change()])
    sender = AlarmSender(outbox, MllpClient(Address("mllp", "127.0.0.1", source.port)))
    sender.start()
    wait_for(lambda: outbox.counts() == (0, 1))
    assert "CR" in sender.status().last_error and "ORU" in sender.status().last_error
    sender.stop(5)
    source.stop(5)


def test_a_full_queue_takes_all_of_it_or_nothing(tmp_path: Path) -> None:
    outbox = AlarmOutbox(tmp_path / "q.db", most=1)
    with pytest.raises(JournalError, match="full"):
        outbox.put([change(), change(id="a-2")], next_seq=7)
    assert outbox.counts() == (0, 0) and outbox.next_seq is None
    assert outbox.put([change()], next_seq=7) == 1
    assert outbox.next_seq == 7
    outbox.close()
    for use in (outbox.oldest, outbox.counts, lambda: outbox.done(1)):
        with pytest.raises(JournalError, match=r"q\.db could not be"):
            use()
    (tmp_path / "other.db").write_bytes(b"not a database, but long enough to be looked at" * 50)
    with pytest.raises(JournalError, match="could not be opened"):
        AlarmOutbox(tmp_path / "other.db")
    with pytest.raises(InputError, match="without TLS"):
        MllpClient(Address("mllp", "192.0.2.1", 2575))


def test_a_wards_alarms_from_its_journal_each_once(tmp_path: Path) -> None:
    ward = Ward(tmp_path, Clocks())
    outbox = AlarmOutbox(tmp_path / "q.db")
    alarms = JournalAlarms(tmp_path / "journal.db", outbox, KEY)
    assert outbox.counts() == (0, 0)
    for code, (value, unit) in BAD.items():
        ward.put(code, value, unit)
    ward.turn(2)
    assert alarms.look() >= 1 and alarms.look() == 0
    ward.live.acknowledge("p", "deterioration", "nurse")
    assert alarms.look() == 1
    # Another process goes on where this one stopped: nothing twice.
    waiting = outbox.counts()
    again = JournalAlarms(tmp_path / "journal.db", outbox, KEY)
    assert again.look() == 0 and outbox.counts() == waiting
    # A gateway that is new tells of what stands.
    fresh = AlarmOutbox(tmp_path / "fresh.db")
    JournalAlarms(tmp_path / "journal.db", fresh, KEY)
    pending = fresh.oldest()
    assert pending is not None and b"|present|" in pending.body
    assert b"|alert-acknowledged|" in pending.body
    ward.die()


def test_the_command_sends_and_says_what_waits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ward = Ward(tmp_path, Clocks())
    for code, (value, unit) in BAD.items():
        ward.put(code, value, unit)
    ward.turn(2)
    ward.die()
    manager, queue = Manager(), tmp_path / "q.db"
    where = ["--journal", str(tmp_path / "journal.db"), "--queue", str(queue), "--seconds", "60"]
    home = tmp_path / "home" / "keys"
    home.mkdir(parents=True)
    words = ["interop", "alarms", "--home", str(tmp_path / "home"), "--to", f"mllp://127.0.0.1:{manager.port}", *where]
    assert main(words) == 1
    assert "sealed" in capsys.readouterr().err  # of another device: its key is not here
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (home / "device.pem").write_bytes(KEY.private_bytes(*form))
    (home / "device.pem").chmod(0o600)

    def end_when_all_is_sent() -> None:
        wait_for(lambda: bool(manager.messages) and not _waiting(queue))
        signal.pthread_kill(main_thread, signal.SIGTERM)

    main_thread = threading.get_ident()
    ender = threading.Thread(target=end_when_all_is_sent)
    ender.start()
    assert main([*words, "--json"]) == 0
    ender.join(10)
    assert '"waiting": 0' in capsys.readouterr().out
    assert facets(manager.messages[0])["MDC_ATTR_EVENT_PHASE"] == "present"
    manager.stop()


def _waiting(queue: Path) -> int:
    outbox = AlarmOutbox(queue)
    try:
        return outbox.counts()[0]
    finally:
        outbox.close()


def asking(accept: str, answer: str) -> bytes:
    """The monitor's message with MSH-15 and MSH-16."""
    head, _, rest = MONITOR.decode().partition("\r")
    fields = head.split("|")
    fields += [""] * (16 - len(fields))
    fields[14:16] = [accept, answer]
    return ("|".join(fields) + "\r" + rest).encode()


@pytest.mark.parametrize(
    ("accept", "answer", "when_good", "when_bad"),
    [
        ("", "", ["AA"], ["AE"]),
        ("AL", "NE", ["CA"], ["CE"]),
        ("NE", "AL", ["AA"], ["AE"]),
        ("AL", "AL", ["CA", "AA"], ["CE", "AE"]),
        ("NE", "NE", [], []),
        ("ER", "ER", [], ["CE", "AE"]),
        ("SU", "SU", ["CA", "AA"], []),
        ("AL", "", ["CA"], ["CE"]),
        ("", "AL", ["AA"], ["AE"]),
    ],
)
def test_a_sender_gets_the_acknowledgements_that_it_asks_for(
    accept: str, answer: str, when_good: list[str], when_bad: list[str]
) -> None:
    header = read_oru(asking(accept, answer)).header
    good = [hl7.parse(one.decode()) for one in answers(header, "AA", NOW_MS)]
    assert [str(one.segment("MSA")[1]) for one in good] == when_good
    assert all(str(one.segment("MSA")[2]) == header.control_id for one in good)
    error = Hl7Error("malformed", 101, "why", header)
    bad = [hl7.parse(one.decode()) for one in answers(header, "AE", NOW_MS, error)]
    assert [str(one.segment("MSA")[1]) for one in bad] == when_bad


def test_an_acknowledgement_is_never_acknowledged() -> None:
    ours = answers(read_oru(asking("AL", "AL")).header, "AA", NOW_MS)
    for one in ours:
        with pytest.raises(Hl7Error) as caught:
            read_oru(one)
        assert answers(caught.value.header, caught.value.code, NOW_MS, caught.value) == ()


def test_the_listener_answers_twice_where_both_are_asked_for() -> None:
    source, inbox = MllpSource(MllpOptions(port=0), Intake("hl7", HospitalCodes())), Inbox()
    source.start(inbox)
    client = MllpClient(Address("mllp", "127.0.0.1", source.port))
    assert client.ask(asking("AL", "AL"), "41", 10)[0] == "CA"
    assert client._socket is not None
    assert b"MSA|AA|41" in client._frame(client._socket, time.monotonic() + 10)
    client.close()
    source.stop(5)
