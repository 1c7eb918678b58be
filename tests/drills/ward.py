"""A ward as a process of its own, with a roster, a broker and a monitor that sends; to be killed and started again."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from smallhold.device.home import Home, init
from smallhold.device.journal import read_entries
from smallhold.errors import JournalError

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models/hospital"
BEDS = tuple(f"bed-{number}" for number in range(1, 6))
#: NEWS2 9: what the floor must call people for, whatever else is broken.
BAD = {"9279-1": (31.0, "/min"), "8480-6": (84.0, "mm[Hg]"), "8867-4": (136.0, "/min")}
CALM = {"9279-1": (15.0, "/min"), "8480-6": (124.0, "mm[Hg]"), "8867-4": (76.0, "/min")}


def write_roster(path: Path) -> Path:
    lines = ["format = 1"]
    for bed in BEDS:
        lines += [f"[patients.{bed}]", "age = 70", 'sex = "F"', 'icu_type = "medical"']
    path.write_text("\n".join(lines))
    return path


class WardProcess:
    """`smallhold bedside` on a roster of five; what it prints is read as it comes."""

    def __init__(self, folder: Path, url: str, *, bundle: Path = MODEL, options: tuple[str, ...] = ()) -> None:
        self.folder, self.home = folder, Home(folder / "home")
        folder.mkdir(parents=True, exist_ok=True)
        if not self.home.path.exists():
            init(self.home)
        self.roster = write_roster(folder / "roster.toml")
        self.words = [
            sys.executable, "-m", "smallhold.cli.main", "bedside", str(bundle),
            "--trusted-keys", str(ROOT / "models/trusted_keys"), "--home", str(self.home.path),
            "--roster", str(self.roster), "--mqtt", url, "--plain", "--profile", "eu", *options,
        ]  # fmt: skip
        self.said: list[str] = []
        self._process: subprocess.Popen[str] | None = None

    @property
    def journal(self) -> Path:
        return self.home.path / "journal.db"

    def start(self, *, most_file_bytes: int | None = None) -> None:
        def limit() -> None:
            if most_file_bytes is not None:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (most_file_bytes, most_file_bytes))

        self._process = subprocess.Popen(
            self.words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=limit,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.said.extend(iter(process.stdout.readline, ""))

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def stop(self) -> int:
        assert self._process is not None
        self._process.terminate()
        code = self._process.wait(30)
        self._process = None
        return code

    def has_said(self, pattern: str) -> bool:
        return any(re.search(pattern, line) for line in list(self.said))

    def entries(self) -> Iterator[tuple[str, dict[str, Any]]]:
        try:
            found = list(read_entries(self.journal, 0, key=self.home.device_key()))
        except JournalError:
            return  # the file is there, its tables not yet
        for entry, payload in found:
            if payload is not None and payload.startswith(b"{"):
                yield entry.kind, json.loads(payload)

    def recorded_ids(self) -> list[str]:
        """Identifiers of every reading on record, accepted or refused, in order."""
        found = []
        for kind, value in self.entries():
            if kind == "reading":
                found.append(value["id"])
            elif kind == "step" and value.get("observation"):
                found.append(value["observation"]["id"])
        return found


class Monitor:
    """Sends readings of the five beds with quality of service 1, and knows which of them the broker took."""

    def __init__(self, url: str, *, name: str = "m", every_seconds: float = 0.02) -> None:
        from smallhold.assist.sources.address import Credentials, parse_address
        from smallhold.assist.sources.mqtt import make_client

        address = parse_address(url)
        self.client = make_client(
            client_id=f"monitor-{time.monotonic_ns()}", address=address, credentials=Credentials(), login=None,
            connect_timeout_seconds=5, reconnects=True,
        )  # fmt: skip
        self._published: set[int] = set()
        self.client.on_publish = lambda _client, _user, mid, _reason, _properties: self._published.add(mid)
        self.client.reconnect_delay_set(0.1, 0.5)
        self.client.max_queued_messages_set(0)
        self.client.connect(address.host, address.port)
        self.client.loop_start()
        self._sent: dict[int, str] = {}  # number of the message to identifier of the reading
        self._name = name
        self._every = every_seconds
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._number = 0

    def send(self, patient: str, values: dict[str, tuple[float, str]]) -> None:
        for code, (value, unit) in values.items():
            self._number += 1
            identifier = f"{self._name}{self._number}"
            body = {"id": identifier, "value": value + self._number % 3, "unit": unit, "t": time.time_ns() // 1_000_000}
            # Without a connection it is queued, and sent when there is one.
            told = self.client.publish(f"smallhold/icu/{patient}/{code}", json.dumps(body), qos=1)
            self._sent[told.mid] = identifier

    def begin(self) -> None:
        def beat() -> None:
            number = 0
            while not self._stop.wait(self._every):
                self.send(BEDS[number % len(BEDS)], CALM)
                number += 1

        self._thread = threading.Thread(target=beat, daemon=True)
        self._thread.start()

    def end(self) -> list[str]:
        """Stop sending; identifiers that the broker acknowledged."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(10)
        until(lambda: set(self._sent) <= self._published, 20, what="the broker's acknowledgements")
        self.client.disconnect()
        self.client.loop_stop()
        return [self._sent[mid] for mid in sorted(self._published)]


def wait_until_up(ward: WardProcess, url: str) -> None:
    """A ward writes that it starts and subscribes in no set order; what comes before its first subscription no broker
    keeps for it. So readings of a monitor of its own are sent until one is on record.
    """
    until(lambda: ward.journal.exists() and any(kind == "ward-start" for kind, _ in ward.entries()), 60, what="a start")
    probe = Monitor(url, name="probe", every_seconds=0.2)
    probe.begin()
    until(lambda: bool(ward.recorded_ids()), what="a reading on record")
    probe.end()


def until(holds: Callable[[], bool], seconds: float = 30.0, *, what: str = "") -> float:
    """Wait for something; returns the seconds it took."""
    begun = time.monotonic()
    while not holds():
        assert time.monotonic() - begun < seconds, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - begun
