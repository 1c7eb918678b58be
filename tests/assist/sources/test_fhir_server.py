from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.bundle import Bundle
from fhir.resources.operationoutcome import OperationOutcome
from tests.assist.sources.broker import make_certificates
from tests.assist.sources.test_fhir import HEART_RATE, PRESSURE, changed
from tests.assist.sources.waiting import take, wait_until

from smallhold.assist.sources import Inbox
from smallhold.assist.sources.address import Credentials
from smallhold.assist.sources.fhir_server import FhirOptions, FhirSource
from smallhold.assist.sources.intake import Intake
from smallhold.assist.sources.receipts import Receipts
from smallhold.errors import InputError
from smallhold.sectors.hospital.codes import HospitalCodes

TOKEN = "0123456789abcdef-token"
Running = tuple[FhirSource, Inbox]


def start(**options: Any) -> Running:
    source = FhirSource(FhirOptions(port=0, **options), Intake("fhir", HospitalCodes()), HospitalCodes())
    inbox = Inbox()
    source.start(inbox)
    return source, inbox


@pytest.fixture
def server() -> Iterator[Running]:
    running = start(token=TOKEN, max_body_bytes=20_000, max_connections=3, request_seconds=30.0)
    yield running
    running[0].stop(5)


def post(
    source: FhirSource,
    body: Any,
    path: str = "/fhir/Observation",
    context: ssl.SSLContext | None = None,
    **headers: str,
) -> tuple[int, dict[str, Any]]:
    if context is None:
        connection = http.client.HTTPConnection("127.0.0.1", source.port, timeout=30)
    else:
        connection = http.client.HTTPSConnection("localhost", source.port, timeout=30, context=context)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    usual = {"Content-Type": "application/fhir+json", "Authorization": f"Bearer {TOKEN}"}
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    connection.request("POST", path, data, usual | named)
    answer = connection.getresponse()
    resource = json.loads(answer.read())
    connection.close()
    kind = {"OperationOutcome": OperationOutcome, "Bundle": Bundle}[resource["resourceType"]]
    kind.model_validate(resource)  # what we answer is FHIR for another reader
    return answer.status, resource


def told(resource: dict[str, Any]) -> str:
    return str(resource["issue"][0]["diagnostics"])


def test_an_observation_is_in_the_inbox_before_it_is_answered(server: Running) -> None:
    source, inbox = server
    assert post(source, HEART_RATE)[0] == 201
    assert inbox.depth == 1
    assert post(source, HEART_RATE)[0] == 201  # sent again: no fault, and not doubled
    assert [(one.patient, one.code, one.value) for one in take(inbox, 1)] == [("p-17", "HR", 72.5)]
    assert inbox.depth == 0
    status, outcome = post(source, changed(status="cancelled"))
    assert (status, told(outcome)) == (422, "not taken: status")
    assert post(source, changed(code={"coding": [{"system": "x", "code": "y"}]}))[0] == 422
    assert source.status().refused == {"duplicate": 1, "status": 1, "unknown_code": 1}


def test_a_bundle_is_answered_entry_by_entry(server: Running) -> None:
    source, inbox = server
    bundle = {
        "resourceType": "Bundle",
        "type": "batch",
        "entry": [
            {"resource": one, "request": {"method": "POST", "url": one["resourceType"]}}
            for one in (HEART_RATE, {"resourceType": "Patient"}, changed(status="unknown"), PRESSURE)
        ],
    }
    for path in ("/fhir/Bundle", "/fhir", "/fhir/"):
        status, answer = post(source, bundle, path)
        assert status == 200
        assert [entry["response"]["status"][:3] for entry in answer["entry"]] == ["201", "200", "422", "201"]
    assert inbox.depth == 3
    assert post(source, {"resourceType": "Bundle", "type": "batch"}, "/fhir")[0] == 200
    broken = {**bundle, "entry": [*bundle["entry"], {"resource": changed(status=None)}]}
    assert post(source, broken, "/fhir")[0] == 400
    assert inbox.depth == 3


def test_who_may_not_ask_is_refused_before_the_body_is_read(server: Running) -> None:
    source, inbox = server
    assert post(source, HEART_RATE, Authorization="Bearer wrong")[0] == 401
    assert post(source, HEART_RATE, Origin="http://evil.example")[0] == 403
    assert post(source, HEART_RATE, Host="evil.example")[0] == 403
    assert post(source, HEART_RATE, "/fhir/Patient")[0] == 404
    assert post(source, HEART_RATE, Content_Type="text/plain")[0] == 415
    assert post(source, b" " * 30_000)[0] == 413
    assert inbox.depth == 0
    assert TOKEN not in repr(source.status()) + repr(FhirOptions(token=TOKEN))


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "not JSON"),
        (b"[]", "expected a JSON object"),
        (b"[" * 19_000, "nested too deeply"),
        (b'{"resourceType": "Patient"}', "expected Observation"),
        (b'{"resourceType": "Bundle", "type": "batch"}', "resourceType: expected Observation"),
        (b'{"a": NaN}', "NaN"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_what_is_no_observation_gets_an_outcome(server: Running, body: bytes, text: str) -> None:
    status, outcome = post(server[0], body)
    assert status == 400
    assert text in told(outcome)


def test_what_breaks_us_is_answered_and_counted(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: HospitalCodes, system: str, code: str) -> str | None:
        raise RuntimeError("broken on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(HospitalCodes, "name_of", broken)
        status, outcome = post(server[0], HEART_RATE)
    assert (status, told(outcome)) == (500, "not taken")
    assert server[0].status().refused == {"internal": 1}
    assert post(server[0], HEART_RATE)[0] == 201


def test_success_is_answered_when_the_readings_are_on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smallhold.assist.sources.fhir_http._RECORD_SECONDS", 0.5)
    source = FhirSource(FhirOptions(port=0), Intake("fhir", HospitalCodes()), HospitalCodes())
    inbox = Inbox(receipts=Receipts())
    source.start(inbox)
    bundle = {"resourceType": "Bundle", "type": "batch", "entry": [{"resource": HEART_RATE}, {"resource": PRESSURE}]}
    status, outcome = post(source, bundle, "/fhir")
    assert (status, told(outcome)) == (503, "not on record yet; send it again")
    monkeypatch.setattr("smallhold.assist.sources.fhir_http._RECORD_SECONDS", 20.0)  # what follows is to be in time
    answers: list[tuple[int, dict[str, Any]]] = []
    again = threading.Thread(target=lambda: answers.append(post(source, bundle, "/fhir")))
    again.start()
    for one in take(inbox, 3):
        inbox.settle(one)
    again.join(30)
    assert answers[0][0] == 200
    assert inbox.depth == 0
    source.stop(5)


def raw(source: FhirSource, text: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", source.port), 5) as connection:
        connection.sendall(text)
        received = b""
        while part := connection.recv(4096):
            received += part
    return received


def test_what_is_no_request_is_refused(server: Running) -> None:
    source, _ = server
    head = b"POST /fhir/Observation HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Authorization: Bearer " + TOKEN.encode() + b"\r\n"
    assert b" 411 " in raw(source, head + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    assert b" 411 " in raw(source, head + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}")
    assert b" 411 " in raw(source, head + b"Content-Length: -1\r\n\r\n")
    assert b" 501 " in raw(source, b"GET / HTTP/1.1\r\n\r\n")
    assert b"Bad Request" in raw(source, b"\x16\x03\x01\r\n\r\n")
    assert post(source, HEART_RATE)[0] == 201


def test_a_slow_sender_is_cut_off_and_holds_nobody_up() -> None:
    source, _ = start(token=TOKEN, request_seconds=2.0)
    with socket.create_connection(("127.0.0.1", source.port), 5) as slow:
        slow.sendall(b"POST /fhir/Observation HTTP/1.1\r\n")
        begun = time.monotonic()
        trickle = threading.Thread(target=_trickle, args=[slow])
        trickle.start()
        assert post(source, HEART_RATE)[0] == 201
        slow.settimeout(30)
        assert _is_closed(slow)
        assert time.monotonic() - begun < 30
        trickle.join(30)
    source.stop(5)


def _trickle(slow: socket.socket) -> None:
    try:
        for _ in range(600):
            slow.sendall(b"X")
            time.sleep(0.1)
    except OSError:
        pass


def _is_closed(connection: socket.socket) -> bool:
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        pass
    return True


def test_one_connection_more_than_allowed_is_closed(server: Running) -> None:
    source, _ = server
    held = [socket.create_connection(("127.0.0.1", source.port), 5) for _ in range(3)]
    time.sleep(0.2)
    with socket.create_connection(("127.0.0.1", source.port), 5) as one_more:
        assert _is_closed(one_more)
    assert source.status().refused["too_many_connections"] == 1
    for one in held:
        one.close()
    wait_until(lambda: _is_taken(source))


def _is_taken(source: FhirSource) -> bool:
    try:
        return post(source, HEART_RATE)[0] == 201
    except (OSError, http.client.HTTPException):
        return False


def test_mutual_tls(tmp_path: Path) -> None:
    files = make_certificates(tmp_path)
    ours = Credentials(ca_file=files["ca"], certificate_file=files["server"], key_file=files["server_key"])
    source, _ = start(token=TOKEN, credentials=ours)
    theirs = Credentials(ca_file=files["ca"], certificate_file=files["client"], key_file=files["client_key"])
    assert post(source, HEART_RATE, context=theirs.client_context())[0] == 201
    with pytest.raises((OSError, http.client.HTTPException)):
        post(source, HEART_RATE, context=Credentials(ca_file=files["ca"]).client_context())
    with pytest.raises((OSError, http.client.HTTPException)):
        post(source, HEART_RATE)
    source.stop(5)


def test_open_doors_and_taken_ports_are_refused() -> None:
    with pytest.raises(InputError, match="another machine"):
        FhirOptions(host="0.0.0.0", token=TOKEN)
    with pytest.raises(InputError, match="no token"):
        FhirOptions(host="0.0.0.0", unsafe_plaintext=True)
    with pytest.raises(InputError, match="at least 16"):
        FhirOptions(token="short")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        source = FhirSource(FhirOptions(port=taken.getsockname()[1]), Intake("fhir", HospitalCodes()), HospitalCodes())
        with pytest.raises(InputError, match="cannot listen"):
            source.start(Inbox())


def test_stop_ends_open_connections_in_time() -> None:
    source, _ = start(request_seconds=60.0)
    with socket.create_connection(("127.0.0.1", source.port), 30) as idle:
        time.sleep(0.1)
        begun = time.monotonic()
        source.stop(60)
        assert _is_closed(idle)
        assert time.monotonic() - begun < 20
    assert not source.status().is_connected
