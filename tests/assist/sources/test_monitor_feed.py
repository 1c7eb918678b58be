from __future__ import annotations

import math
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.assist.sources.broker import Broker, free_port
from tests.assist.sources.waiting import take, wait_until

from smallhold.assist.hospital import HospitalLimits
from smallhold.assist.sources import Inbox
from smallhold.assist.sources.address import parse_address
from smallhold.assist.sources.feed_sinks import MllpSink, MqttSink
from smallhold.assist.sources.intake import Intake, Reading
from smallhold.assist.sources.mllp import MllpOptions, MllpSource
from smallhold.assist.sources.monitor_feed import InboxSink, play
from smallhold.assist.sources.mqtt import MqttOptions, MqttSource
from smallhold.cli.main import main
from smallhold.errors import EndpointError, InputError
from smallhold.records import Observation
from smallhold.sectors.hospital.codes import HospitalCodes
from smallhold.sectors.hospital.parameters import PARAMETERS
from smallhold.sectors.hospital.simulator import simulate_ward
from smallhold.sectors.hospital.stays import Stay, readings

STAYS = simulate_ward(3, 7, 6)
TOTAL = sum(len(list(readings(stay))) for stay in STAYS)


class Recorder:
    def __init__(self) -> None:
        self.batches: list[tuple[float, list[Reading]]] = []

    def send(self, batch: Sequence[Reading]) -> int:
        self.batches.append((time.monotonic(), list(batch)))
        return len(batch)

    def close(self, deadline_seconds: float) -> None:
        pass


def expected(stays: Sequence[Stay]) -> list[tuple[str, str, float]]:
    return sorted(
        (stay.record_id, PARAMETERS[code].name, float(f"{value:.10g}"))
        for stay in stays
        for _, code, value in readings(stay)
    )


def received(taken: Sequence[Observation]) -> list[tuple[str, str, float]]:
    return sorted((one.patient, one.code, float(f"{one.value:.10g}")) for one in taken)


def test_the_clock_of_the_stays_is_mapped_to_now() -> None:
    recorder, speed = Recorder(), 36_000.0  # an hour in a tenth of a second
    before = time.time_ns() // 1_000_000
    begun = time.monotonic()
    report = play(STAYS, recorder, speed=speed, clock=lambda: before)
    minutes = {stay.record_id: [minute for minute, _, _ in readings(stay)] for stay in STAYS}
    sent = {stay.record_id: [0.0] * 0 for stay in STAYS}
    for at, batch in recorder.batches:
        assert len({(one.patient, one.t_measured_ms) for one in batch}) == 1
        for one in batch:
            sent[one.patient].append(one.t_measured_ms - before)
            assert at - begun >= (one.t_measured_ms - before) / 1000 - 0.05  # nothing is dated in the future
    for patient, times in sent.items():
        assert times == pytest.approx([minute * 60_000 / speed for minute in minutes[patient]], abs=1)
    assert (report.sent, report.refused, report.is_complete) == (TOTAL, 0, True)
    assert 0.01 * speed < report.reached_speed <= 1.01 * speed


def test_all_readings_pass_through_the_inbox_at_full_speed_and_the_gate_knows_their_units() -> None:
    inbox = Inbox(per_patient=32)
    taken: list[Observation] = []
    taker = threading.Thread(target=lambda: taken.extend(take(inbox, TOTAL, 30)))
    taker.start()
    report = play(STAYS, InboxSink(inbox, Intake("feed", HospitalCodes(), simulated=True)), speed=math.inf)
    taker.join(30)
    assert received(taken) == expected(STAYS)
    assert inbox.dropped == {}
    assert report.sent == TOTAL
    limits = HospitalLimits()
    assert all(limits.to_canonical(one.code, one.value, one.unit) == one.value for one in taken)
    assert all(one.provenance.simulated for one in taken)


def test_a_feed_over_mqtt_arrives_whole(tmp_path: Path) -> None:
    broker = Broker(tmp_path).start()
    try:
        address = parse_address(f"mqtt://127.0.0.1:{broker.port}")
        inbox = Inbox(per_patient=100_000)
        source = MqttSource(MqttOptions(address=address, ward="icu", client_id="c"), Intake("mqtt", HospitalCodes()))
        source.start(inbox)
        wait_until(lambda: source.status().is_connected)
        sink = MqttSink(address, "icu")
        report = play(STAYS, sink, speed=math.inf)
        sink.close(10)
        assert received(take(inbox, TOTAL, 20)) == expected(STAYS)
        assert report.sent == TOTAL
        source.stop(5)
    finally:
        broker.stop()


def test_a_feed_over_mllp_arrives_whole_over_a_server_that_restarts() -> None:
    port, inbox = free_port(), Inbox(per_patient=100_000)
    source = MllpSource(MllpOptions(port=port), Intake("hl7", HospitalCodes()))
    source.start(inbox)
    sink = MllpSink(parse_address(f"mllp://127.0.0.1:{port}"), deadline_seconds=10)
    assert play(STAYS[:1], sink, speed=math.inf).refused == 0
    source.stop(5)
    restarted = MllpSource(MllpOptions(port=port), Intake("hl7", HospitalCodes()))
    threading.Timer(0.3, restarted.start, [inbox]).start()
    assert play(STAYS[1:], sink, speed=math.inf).refused == 0
    sink.close(5)
    restarted.stop(5)
    assert received(take(inbox, TOTAL)) == expected(STAYS)
    with pytest.raises(EndpointError, match="cannot connect"):
        MllpSink(parse_address(f"mllp://127.0.0.1:{port}"))


def test_it_can_be_stopped_and_says_so() -> None:
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    begun = time.monotonic()
    report = play(STAYS, Recorder(), speed=1, stop=stop)
    assert time.monotonic() - begun < 20
    assert not report.is_complete


def test_impossible_feeds_are_refused() -> None:
    with pytest.raises(InputError, match="at least one stay"):
        play([], Recorder(), speed=1)
    with pytest.raises(InputError, match="more than 0, got 3 and 0"):
        play(STAYS, Recorder(), speed=0)
    with pytest.raises(EndpointError, match="cannot connect"):
        MqttSink(parse_address("mqtt://127.0.0.1:9"), "icu")


def test_the_command_feeds_a_server(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from smallhold.sectors.hospital.simulator import write_ward

    write_ward(simulate_ward(4, 3, 6), tmp_path / "simulated_ward")
    inbox, source = Inbox(per_patient=10_000), MllpSource(MllpOptions(port=0), Intake("hl7", HospitalCodes()))
    source.start(inbox)
    words = ["feed", "--to", f"mllp://127.0.0.1:{source.port}", "--data", str(tmp_path), "--split", "all"]
    assert main([*words, "--patients", "2", "--speed", "max"]) == 0
    assert "readings of 2 patients" in capsys.readouterr().out
    assert inbox.depth > 50
    assert main([*words, "--speed", "-1"]) == 1
    assert "--speed: expected a number of more than 0, or max, got '-1'" in capsys.readouterr().err
    source.stop(5)
    assert main([*words, "--speed", "max"]) == 1
    assert "cannot connect" in capsys.readouterr().err
    assert main(["feed", "--to", "http://localhost"]) == 1
    assert "expected mqtt://" in capsys.readouterr().err


def test_the_command_logs_in_to_a_broker_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from smallhold.sectors.hospital.simulator import write_ward

    write_ward(simulate_ward(1, 3, 6), tmp_path / "simulated_ward")
    passwords, login = tmp_path / "passwords", tmp_path / "login"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "monitor", "very-secret"], check=True)
    broker = Broker(tmp_path / "broker", settings=f"allow_anonymous false\npassword_file {passwords}").start()
    words = ["feed", "--to", f"mqtt://127.0.0.1:{broker.port}", "--data", str(tmp_path), "--split", "all"]
    words += ["--patients", "1", "--speed", "max", "--json", "--login-file", str(login)]
    try:
        login.write_text("monitor:very-secret\n")
        assert main(words) == 1
        assert "may be read by others" in capsys.readouterr().err
        login.chmod(0o600)
        assert main(words) == 0
        out, err = capsys.readouterr()
        assert '"is_complete": true' in out
        assert "very-secret" not in out + err
        login.write_text("monitor:wrong-secret\n")
        begun = time.monotonic()
        assert main(words) == 1
        assert time.monotonic() - begun < 20
        err = capsys.readouterr().err
        assert "refuses us: Not authorized" in err
        assert "wrong-secret" not in err
    finally:
        broker.stop()


def test_the_command_ends_in_good_order_on_a_signal(tmp_path: Path) -> None:
    from smallhold.sectors.hospital.simulator import write_ward

    write_ward(simulate_ward(4, 3, 6), tmp_path / "simulated_ward")
    inbox, source = Inbox(), MllpSource(MllpOptions(port=0), Intake("hl7", HospitalCodes()))
    source.start(inbox)
    url = f"mllp://127.0.0.1:{source.port}"
    words = ["feed", "--to", url, "--data", str(tmp_path), "--split", "all", "--speed", "3600", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "smallhold.cli.main", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        take(inbox, 1, 30)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
        source.stop(5)
    assert process.returncode == 130
    assert '"is_complete": false' in out
