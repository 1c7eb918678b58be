"""Server-sent events over a real socket: whole pictures, changes, coming back, and no viewer too many."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from tests.console.station import ACCOUNTS, BAD, KNOWN, PASSWORD, Station

from smallhold.console.app import ConsoleOptions, make_app
from smallhold.console.events import Broadcaster
from smallhold.console.server import ServerOptions, serving
from smallhold.errors import DeadlineError, InputError


class Reader:
    """One stream, an event at a time."""

    def __init__(self, station: Station, url: str, name: str = "Nora", **headers: str) -> None:
        self.station = station
        doors = station.app.state.console.doors
        token, self.session = doors.sessions.begin(KNOWN[name], doors._now())
        self.client = httpx.Client(base_url=url, cookies={doors.cookie: token}, headers=headers, timeout=10)

    @contextmanager
    def events(self) -> Iterator[Iterator[tuple[str, str, Any]]]:
        with self.client.stream("GET", "/api/events") as answer:
            assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
            yield self._read(answer)

    def _read(self, answer: httpx.Response) -> Iterator[tuple[str, str, Any]]:
        held: dict[str, str] = {}
        for line in answer.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                held[name] = value
            elif "event" in held:
                yield held.get("id", ""), held["event"], json.loads(held["data"])
                held = {}


def test_a_viewer_gets_the_whole_then_what_changed_and_resumes_where_it_was(station: Station) -> None:
    station.put("a")
    station.put("b")
    with serving(station.app, ServerOptions(port=0)) as url:
        reader = Reader(station, url)
        with reader.events() as events:
            identity, kind, whole = next(events)
            assert kind in ("whole", "ward") and set(whole["beds"]) == {"a", "b"}
            station.put("b", BAD)
            while True:
                identity, kind, change = next(events)
                if "b" in change["beds"] and change["beds"]["b"]["alerts"]:
                    break
            assert kind == "ward" and change["order"][0] == "b"
        station.put("a", BAD)
        reader.client.headers["Last-Event-ID"] = identity
        with reader.events() as events:
            boot, _, number = identity.partition("-")
            again, kind, change = next(events)
            assert kind == "ward" and again == f"{boot}-{int(number) + 1}"  # nothing twice, nothing left out
        for strange in ("x", f"{boot}-99999", "0-1", f"{boot}--1", f"{boot}-٣"):
            reader.client.headers["Last-Event-ID"] = strange
            with reader.events() as events:
                assert next(events)[1] == "whole"


def test_a_stream_ends_with_its_session(station: Station) -> None:
    station.put("a")
    with serving(station.app, ServerOptions(port=0)) as url:
        reader = Reader(station, url)
        with reader.events() as events:
            next(events)
            station.app.state.console.doors.sessions.end(reader.session)
            assert any(kind == "end" for _, kind, _ in events)
        assert reader.client.get("/api/events").status_code == 401


def test_viewers_are_bounded_and_one_who_leaves_makes_room(tmp_path: Path) -> None:
    made = Station(tmp_path, options=ConsoleOptions(most_viewers=2))
    try:
        made.put("a")
        with serving(made.app, ServerOptions(port=0)) as url:
            one, two, three = (Reader(made, url) for _ in range(3))
            with one.events() as first:
                next(first)
                with two.events() as second:
                    next(second)
                    refused = three.client.get("/api/events")
                    assert refused.status_code == 429 and "too many pages" in refused.json()["error"]
            made.wait(lambda: made.app.state.console.broadcaster._viewers == 0)
            with three.events() as third:
                assert next(third)[2]["order"] == ["a"]
    finally:
        made.close()


def test_a_slow_viewer_gets_the_newest_picture_and_costs_no_memory() -> None:
    async def story() -> None:
        beds = [{"patient": "p", "n": 0}]
        made = Broadcaster(lambda: {"now_ms": 1, "faults": [], "beds": [dict(bed) for bed in beds]})
        viewer = made.follow("", lambda: False)
        await anext(viewer)
        for number in range(500):  # it takes nothing meanwhile
            beds[0]["n"] = number
            made._announce(made._picture())
        assert len(made._row) <= 20
        event = (await anext(viewer)).decode()
        assert "event: whole" in event and '"n":499' in event
        await viewer.aclose()  # type: ignore[attr-defined]

    asyncio.run(story())


def test_a_ward_that_does_not_answer_is_an_event_too() -> None:
    def picture() -> dict[str, Any]:
        raise DeadlineError("the ward did not answer within 5 s")

    async def story() -> None:
        viewer = Broadcaster(picture).follow("", lambda: False)
        data = json.loads((await anext(viewer)).decode().partition("data: ")[2])
        assert data["is_stuck"] and "did not answer" in data["faults"][0]
        await viewer.aclose()  # type: ignore[attr-defined]

    asyncio.run(story())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"address": "0.0.0.0"}, "passwords would go in the clear"),
        ({"certificate": Path("x")}, "expected both a certificate and its key"),
        ({"port": 99_999}, "port: expected 0 to 65535"),
    ],
)
def test_a_server_that_others_could_overhear_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ServerOptions(**options)
    assert not ServerOptions(address="0.0.0.0", unsafe_without_tls=True).is_local


def test_over_tls_the_cookie_stays_with_it(station: Station, tmp_path: Path) -> None:
    certificate, key = _certificate(tmp_path)
    options = ServerOptions(port=0, certificate=certificate, key=key)
    audit = station.app.state.console.audit
    app = make_app(
        station.ward, station.care, ACCOUNTS, journal=station.journal, audit=audit, recorder=station.recorder,
        about={}, options=ConsoleOptions(is_secure=True),
    )  # fmt: skip
    with (
        serving(app, options) as url,
        httpx.Client(base_url=url, verify=ssl.create_default_context(cafile=str(certificate)), timeout=20) as client,
    ):
        assert url.startswith("https://")
        body = {"name": "Nora", "password": PASSWORD}
        refused = client.post("/api/session", json=body, headers={"Origin": url.replace("https", "http").rstrip("/")})
        assert refused.status_code == 403
        answer = client.post("/api/session", json=body, headers={"Origin": url.rstrip("/")})
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-smallhold=") and "Secure" in cookie
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
    broken = ServerOptions(port=0, certificate=key, key=certificate)
    with pytest.raises(InputError, match="cannot be used"), serving(app, broken):
        pass


def _certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ward")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "ward.pem", folder / "ward.key"
    certificate.write_bytes(made.public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate, private
