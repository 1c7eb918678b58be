"""A console over a real live ward: its own thread, a real journal, floor and a logistic specialist beside each bed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI
from starlette.testclient import TestClient
from tests.assist.small_ward import PROVENANCE, Logistic, make_ward

from smallhold.assist import Bedside, Watchdog
from smallhold.assist.alarm import AlarmTimes
from smallhold.assist.care import Care
from smallhold.assist.gate import Tolerances
from smallhold.assist.hospital import NEWS2_RULES, HospitalLimits
from smallhold.assist.live import LiveSettings, LiveWard
from smallhold.assist.live_state import LiveState
from smallhold.assist.medication.board import table_check
from smallhold.assist.orders.interactions import load_interactions
from smallhold.assist.sources import Inbox
from smallhold.console.accounts import Accounts, Role, make_account
from smallhold.console.app import ConsoleOptions, make_app
from smallhold.console.audit import Audit
from smallhold.console.recorder import Recorder
from smallhold.device.journal import Journal
from smallhold.records import Observation
from smallhold.sectors.hospital.floor import FloorState

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
PASSWORD = "correct horse battery"
PEOPLE = {
    "Nora": Role.NURSE,
    "Paul": Role.PHYSICIAN,
    "Petra": Role.PHYSICIAN,
    "Olga": Role.OFFICER,
    "Emil": Role.ENGINEER,
}
BAD = {"RespRate": (30.0, "/min"), "SysABP": (85.0, "mm[Hg]"), "HR": (135.0, "/min")}  # NEWS2 9
ORIGIN = "http://127.0.0.1"
ABOUT = {"is_simulated": True, "is_rehearsal": True, "profile": "eu", "bundle_error": None, "card": "# Card"}
# One digest for all: each costs a quarter of a second.
_ONE = make_account("one", Role.NURSE, PASSWORD)
KNOWN = {name: replace(_ONE, name=name, role=role) for name, role in PEOPLE.items()}
ACCOUNTS = Accounts(KNOWN.values())


class Station:
    """Everything of one console; close it."""

    def __init__(
        self,
        folder: Path,
        *,
        bin_ms: int = 1_000,
        is_silent: bool = False,
        options: ConsoleOptions | None = None,
        **more: Any,
    ) -> None:
        self._folder, self._bin_ms, self._is_silent = folder, bin_ms, is_silent
        self.inbox = Inbox()
        self._stop, self._is_made = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._is_made.wait(20)
        self.app: FastAPI = self.remake(options=options, **more)
        self._number = 0

    def remake(self, *, about: Mapping[str, Any] = ABOUT, **more: Any) -> FastAPI:
        """Another application over the same ward."""
        return make_app(
            self.ward, self.care, ACCOUNTS, journal=self.journal, audit=Audit(self.journal.path, KEY),
            recorder=self.recorder, about=about, **more,
        )  # fmt: skip

    def _run(self) -> None:
        """Everything of the ward belongs to the thread that runs it."""
        with ExitStack() as stack:
            self.journal = stack.enter_context(Journal.open(self._folder / "journal.db", key=KEY))
            state = LiveState(self._folder / "ward.db")
            stack.callback(state.close)
            self.recorder = Recorder(HospitalLimits(), alarm_choice="yes")
            watchdog = Watchdog(1.0)

            def make_bed(run_id: str, patient: str) -> Bedside:
                ward = replace(
                    make_ward(run_id), limits=HospitalLimits(), rules=NEWS2_RULES, clock="utc", thin_ms=60_000,
                    watched={"HR": 3_600_000}, alarm_times=AlarmTimes(), simulated=True, tolerances=Tolerances(),
                )  # fmt: skip
                bed = Bedside(patient, ward, FloorState(patient), specialist=Logistic(patient), watchdog=watchdog)
                bed.supervise(is_silent=self._is_silent)
                return bed

            settings = LiveSettings(bin_ms=self._bin_ms)
            note = self.recorder.note
            self.ward = LiveWard(self.inbox, make_bed, self.journal, settings, state=state, on_step=note)
            table = load_interactions()
            self.care = Care(self.ward, self.journal, check_drug=lambda _: table_check(table, ["penicillin"]))
            self.ward.on_tick = self.care.remind
            self._is_made.set()
            self.ward.run(self._stop)

    def put(self, patient: str = "bed-1", readings: dict[str, tuple[float, str]] | None = None) -> None:
        """Readings of now, and wait until the ward has taken them."""
        before = self.ward.counts.readings
        readings = {"HR": (80.0, "/min")} if readings is None else readings
        for code, (value, unit) in readings.items():
            self._number += 1
            now = int(time.time() * 1e3)
            self.inbox.put(
                Observation(
                    id=f"{patient}-{self._number}", patient=patient, code=code, value=value, unit=unit,
                    t_measured_ms=now, t_received_ms=now, provenance=PROVENANCE,
                )
            )  # fmt: skip
        self.wait(lambda: self.ward.counts.readings >= before + len(readings))

    def wait(self, is_so: Callable[[], Any], seconds: float = 10.0) -> None:
        deadline = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.01)

    def client(self, name: str | None = None) -> Client:
        return Client(self, name)

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)


class Client:
    """One browser, as far as the API is concerned; logged in when a name is given."""

    def __init__(self, station: Station, name: str | None) -> None:
        self.http = TestClient(station.app, base_url=ORIGIN, raise_server_exceptions=False)
        self.headers = {"Origin": ORIGIN}
        if name is not None:  # without the password's quarter of a second; logging in has tests of its own
            doors = station.app.state.console.doors
            token, session = doors.sessions.begin(KNOWN[name], doors._now())
            self.http.cookies.set(doors.cookie, token)
            self.headers["X-CSRF-Token"] = session.csrf

    def get(self, path: str, **parameters: Any) -> Any:
        return self.http.get(path, params=parameters)

    def post(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        return self.http.post(path, json=body, headers=self.headers if headers is None else headers)

    def delete(self, path: str) -> Any:
        return self.http.delete(path, headers=self.headers)
