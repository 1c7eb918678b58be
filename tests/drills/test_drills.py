"""What goes wrong on a ward, made to go wrong: the floor keeps alarming or a technical alarm says why, and whatever was
acknowledged is on record afterwards.
"""

from __future__ import annotations

import random
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.assist.sources.broker import Broker, free_port

from smallhold.device.journal_verify import verify

from .ward import BAD, BEDS, Monitor, WardProcess, until, wait_until_up

Told = Callable[[str, Any], None]
NUM_KILLS = 5


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    started = Broker(tmp_path / "broker", settings="allow_anonymous true\nautosave_interval 1").start()
    yield started
    started.stop()


def url_of(broker: Broker) -> str:
    return f"mqtt://127.0.0.1:{broker.port}"


@pytest.fixture
def ward(tmp_path: Path, broker: Broker) -> Iterator[WardProcess]:
    process = WardProcess(tmp_path / "ward", url_of(broker))
    yield process
    process.kill()


def alarms_again(ward: WardProcess, monitor: Monitor, bed: str) -> float:
    """Make a bed bad and wait for the floor's HIGH on its line; returns the seconds it took."""
    before = len(ward.said)
    monitor.send(bed, BAD)
    return until(
        lambda: any(bed in line and "HIGH" in line and "NEWS2" in line for line in ward.said[before:]),
        what=f"a HIGH of {bed}; said: {''.join(ward.said[-5:])}",
    )


def check_record(ward: WardProcess, acknowledged: list[str]) -> dict[str, int]:
    """All that was acknowledged is on record, nothing of it accepted twice, and the journal verifies."""
    until(lambda: set(acknowledged) <= set(ward.recorded_ids()), what="the acknowledged readings on record")
    ward.stop()
    recorded = ward.recorded_ids()
    assert set(acknowledged) <= set(recorded)
    accepted = [value["id"] for kind, value in ward.entries() if kind == "reading" and not value["reasons"]]
    accepted += [
        value["observation"]["id"]
        for kind, value in ward.entries()
        if kind == "step" and value.get("observation") and value["gate"]["is_accepted"]
    ]
    twice = len(accepted) - len(set(accepted))
    assert twice == 0
    verify(ward.journal, ward.home.device_key().public_key())
    return {"acknowledged": len(acknowledged), "lost": len(set(acknowledged) - set(recorded)), "twice": twice}


def test_kill_of_the_ward_at_random_moments(ward: WardProcess, broker: Broker, record_property: Told) -> None:
    rng = random.Random(7)
    ward.start()
    wait_until_up(ward, url_of(broker))
    monitor = Monitor(url_of(broker))
    monitor.begin()
    for _ in range(NUM_KILLS):
        time.sleep(0.3 + 1.5 * rng.random())
        ward.kill()
        ward.start()
    seconds = alarms_again(ward, monitor, "bed-2")
    told = check_record(ward, monitor.end())
    for name, value in {"kills": NUM_KILLS, "alarm_after_start_s": round(seconds, 2), **told}.items():
        record_property(name, value)


def test_a_full_disk(ward: WardProcess, broker: Broker, record_property: Told) -> None:
    ward.start(most_file_bytes=300_000)
    wait_until_up(ward, url_of(broker))
    monitor = Monitor(url_of(broker))
    monitor.begin()
    until(lambda: ward.has_said("journal-unavailable|journal cannot be written"), 60, what="the technical alarm")
    seconds = alarms_again(ward, monitor, "bed-3")
    monitor.end()
    assert ward.stop() == 1  # what is missing from the record is said by the exit code, too
    # With room again the ward goes on where it stood, and the journal is whole.
    monitor = Monitor(url_of(broker))
    ward.said.clear()
    ward.start()
    until(lambda: sum(kind == "ward-start" for kind, _ in ward.entries()) >= 2, 60, what="the second start")
    alarms_again(ward, monitor, "bed-4")
    monitor.end()
    ward.stop()
    verify(ward.journal, ward.home.device_key().public_key())
    record_property("alarm_s", round(seconds, 2))


def test_a_broker_that_restarts(ward: WardProcess, broker: Broker, record_property: Told) -> None:
    ward.start()
    wait_until_up(ward, url_of(broker))
    monitor = Monitor(url_of(broker))
    monitor.begin()
    for _ in range(3):
        time.sleep(0.7)
        broker.stop()
        time.sleep(0.3)
        broker.start()
    seconds = alarms_again(ward, monitor, "bed-1")
    for name, value in {"alarm_after_s": round(seconds, 2), **check_record(ward, monitor.end())}.items():
        record_property(name, value)


class Cable:
    """A connection between ward and broker that can be cut: bytes vanish, nothing is closed."""

    def __init__(self, target: int) -> None:
        self.port, self.is_cut = free_port(), False
        self._target = target
        self._server = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._target), 5)
            except OSError:
                return
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65536):
                while self.is_cut:
                    time.sleep(0.05)
                other.sendall(data)
        except OSError:
            pass
        one.close()
        other.close()

    def close(self) -> None:
        self._server.close()


def test_a_network_that_is_cut(tmp_path: Path, broker: Broker, record_property: Told) -> None:
    cable = Cable(broker.port)
    ward = WardProcess(tmp_path / "ward", f"mqtt://127.0.0.1:{cable.port}", options=("--lost-after", "3"))
    try:
        ward.start()
        wait_until_up(ward, url_of(broker))
        monitor = Monitor(url_of(broker))
        monitor.begin()
        until(lambda: len(ward.recorded_ids()) > 20, what="readings")
        cable.is_cut = True
        silent = until(
            lambda: ward.has_said("No usable reading of heart rate"), 30, what="the technical alarm of a lost signal"
        )
        cable.is_cut = False
        seconds = alarms_again(ward, monitor, "bed-5")
        told = check_record(ward, monitor.end())
    finally:
        ward.kill()
        cable.close()
    for name, value in {"told_after_s": round(silent, 2), "alarm_after_s": round(seconds, 2), **told}.items():
        record_property(name, value)


def test_a_model_that_is_corrupt(tmp_path: Path, broker: Broker, record_property: Told) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(Path(__file__).parents[2] / "models/hospital", bundle)
    trunk = bundle / "onnx/trunk.onnx"
    data = bytearray(trunk.read_bytes())
    data[len(data) // 2] ^= 1
    trunk.write_bytes(data)
    ward = WardProcess(tmp_path / "ward", url_of(broker), bundle=bundle)
    try:
        ward.start()
        wait_until_up(ward, url_of(broker))
        assert ward.has_said("the bundle is refused")
        monitor = Monitor(url_of(broker))
        monitor.send(BEDS[0], BAD)
        seconds = until(lambda: ward.has_said("bed-1.*DEGRADED floor: NEWS2"), what="the floor alone")
        assert ward.has_said("There is no model; the deterministic scores go on alone")
        monitor.end()
    finally:
        ward.kill()
    record_property("alarm_s", round(seconds, 2))


def test_a_second_ward_on_the_same_home(ward: WardProcess, tmp_path: Path, broker: Broker) -> None:
    ward.start()
    wait_until_up(ward, url_of(broker))
    second = WardProcess(tmp_path / "ward", url_of(broker))
    second.start()
    until(lambda: second.has_said("error"), 60, what="the refusal")
    assert second.has_said("journal|another"), second.said
    monitor = Monitor(url_of(broker))
    alarms_again(ward, monitor, "bed-1")
    monitor.end()
    second.kill()
