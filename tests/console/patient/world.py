"""A live ward with two patients and the patient's page on a real server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.assist.small_ward import PROVENANCE, Logistic, make_ward

from smallhold.assist import Bedside, Watchdog
from smallhold.assist.care import Care
from smallhold.assist.gate import Tolerances
from smallhold.assist.hospital import HospitalLimits
from smallhold.assist.live import LiveSettings, LiveWard
from smallhold.assist.medication import Kind, Prescription
from smallhold.assist.policy import load_profile
from smallhold.assist.sources import Inbox
from smallhold.console.patient import Pairings, journalled, patient_router
from smallhold.device.journal import Journal
from smallhold.records import Alert, Observation
from smallhold.sectors.hospital.floor import FloorState

uvicorn = pytest.importorskip("uvicorn", reason="the page is served by the extra 'console'")
fastapi = pytest.importorskip("fastapi", reason="the page is served by the extra 'console'")

MODELS = Path(__file__).resolve().parents[3] / "models"
BAD = {"RespRate": (30.0, "/min"), "SysABP": (85.0, "mm[Hg]"), "HR": (135.0, "/min")}
LONGEST_SECONDS = 20.0


@dataclass
class World:
    """A ward that runs, its page, and what it said."""

    url: str
    live: LiveWard
    care: Care
    journal: Journal
    pairings: Pairings
    inbox: Inbox
    alerts: list[Alert] = field(default_factory=list)

    @property
    def origin(self) -> str:
        return self.url.removesuffix("/patient/")

    def put(self, patient: str, code: str, value: float, unit: str) -> None:
        now = time.time_ns() // 1_000_000
        self.inbox.put(
            Observation(
                id=f"{patient}-{code}-{time.monotonic_ns()}", patient=patient, code=code, value=value, unit=unit,
                t_measured_ms=now, t_received_ms=now, provenance=PROVENANCE,
            )
        )  # fmt: skip

    def until(self, is_true: Callable[[], object]) -> Any:
        deadline = time.monotonic() + LONGEST_SECONDS
        while not (found := is_true()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return found

    def now_ms(self) -> int:
        return self.live.clock.now_ms()

    def prescribe(self, patient: str, id: str, **changes: Any) -> None:
        values: dict[str, Any] = {
            "id": id, "patient": patient, "drug": "paracetamol", "dose": 500, "unit": "mg", "route": "oral",
            "kind": Kind.SCHEDULED, "start_ms": self.now_ms(), "every_ms": 6 * 3_600_000, "prescribers": ("dr A",),
        }  # fmt: skip
        item = Prescription(**{**values, **changes})
        self.live.call(lambda: self.care.board(patient).prescribe(item))


class Device:
    """A browser without a screen: keeps its cookie, says its origin and token."""

    def __init__(self, world: World, patient: str | None = None) -> None:
        self.world = world
        self.client = httpx.Client(base_url=world.url, headers={"origin": world.origin}, timeout=LONGEST_SECONDS)
        self.csrf = ""
        if patient is not None:
            told = self.client.post("api/pair", json={"code": world.pairings.new_pairing(patient)})
            assert told.status_code == 200, told.text
            self.csrf = told.json()["csrf"]

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.client.get(path, **options)

    def post(self, path: str, json: object, **headers: str) -> httpx.Response:
        return self.client.post(path, json=json, headers={"x-smallhold-csrf": self.csrf, **headers})

    def act(self, **action: object) -> dict[str, str]:
        told = self.post("api/actions", {"actions": [action]})
        assert told.status_code == 200, told.text
        return told.json()["results"][0]  # type: ignore[no-any-return]


@contextmanager
def start_world(folder: Path, *, port: int = 0, **options: Any) -> Iterator[World]:
    """A ward and its page on a server, until the block ends; `options` go to `patient_router`."""
    inbox, stop, watchdog = Inbox(), threading.Event(), Watchdog(5.0)
    journal = Journal.open(folder / "journal.db", key=Ed25519PrivateKey.from_private_bytes(bytes(32)))

    def make_bed(run_id: str, patient: str) -> Bedside:
        ward = make_ward(run_id, limits=HospitalLimits(), clock="utc", simulated=True, watched={},
            tolerances=Tolerances())  # fmt: skip
        return Bedside(patient, ward, FloorState(patient), specialist=Logistic(patient), watchdog=watchdog)

    alerts: list[Alert] = []
    live = LiveWard(inbox, make_bed, journal, LiveSettings(bin_ms=700, session_bins=None), on_alert=alerts.append)
    care = Care(live, journal)
    pairings = Pairings(folder / "paired.json", write=journalled(journal))
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    made = patient_router(live, care, journal, pairings, profile=load_profile("eu"), **options)
    app.include_router(made)
    sock = socket.create_server(("127.0.0.1", port))
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", server_header=False)
    server = uvicorn.Server(config)
    threads = [
        threading.Thread(target=live.run, args=(stop,), daemon=True),
        threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True),
    ]
    for thread in threads:
        thread.start()

    world = World(f"http://127.0.0.1:{sock.getsockname()[1]}/patient/", live, care, journal, pairings, inbox, alerts)
    for patient in ("p", "q"):
        world.put(patient, "HR", 80.0, "/min")
    world.until(lambda: len(live.beds) == 2 and server.started)
    try:
        yield world
    finally:
        server.should_exit = True
        stop.set()
        for thread in threads:
            thread.join(10)
        journal.close()
