"""`POST /decide` on loopback: real sockets, good clients, bad clients and slow ones."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.engine.program import LONGEST_SECONDS, MODELS
from tests.engine_library import PROGRAM, build_engine

JSON = {"Content-Type": "application/json"}
HEAD = b"POST /decide HTTP/1.1\r\nHost: localhost\r\n"
TEXT = json.dumps({"task": "triage", "text": "Itchy red patches on both elbows."})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    build_engine()
    words = [PROGRAM, MODELS / "hospital", "--host-has-verified", "--listen", "localhost:0"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = process.stderr.readline()
    assert said.startswith("listening on http://127.0.0.1:"), said
    yield int(said.removesuffix("/decide\n").rsplit(":", 1)[1])
    assert process.poll() is None, "the server ended"
    process.kill()
    process.communicate(timeout=LONGEST_SECONDS)


def ask(
    port: int, body: str | bytes, *, method: str = "POST", path: str = "/decide", headers: dict[str, str] = JSON
) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONGEST_SECONDS)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def raw(port: int, data: bytes) -> bytes:
    """What comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=LONGEST_SECONDS) as stream:
        stream.sendall(data)
        stream.shutdown(socket.SHUT_WR)
        parts = []
        while part := stream.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def test_a_connection_is_kept_and_a_patient_outlives_it(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONGEST_SECONDS)
    said = []
    for request in (
        {"task": "icu-risk", "patient": "h", "static": [0.0] * 9},
        {"task": "icu-risk", "patient": "h", "observe": [["HR", 130]], "close": True},
    ):
        connection.request("POST", "/decide", json.dumps(request), JSON)
        said.append(json.loads(connection.getresponse().read()))
    local = connection.sock.getsockname()
    connection.request("GET", "/health")
    assert json.loads(connection.getresponse().read()) == {"status": "ok"}
    assert connection.sock.getsockname() == local  # the same connection all along
    connection.close()
    assert [item["bins"] for item in said] == [0, 1]
    status, answer = ask(port, json.dumps({"task": "icu-risk", "patient": "h", "decide": True}))
    assert (status, answer["bins"]) == (200, 1)
    assert sum(answer["answers"]["in_hospital_death"]["probabilities"].values()) == pytest.approx(1)


def test_clients_at_once_get_their_own_answers(port):
    found: dict[int, Any] = {}

    def one(number: int) -> None:
        for _ in range(5):
            found[number] = ask(port, json.dumps({"id": number, "task": "triage", "text": f"cough for {number} days"}))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONGEST_SECONDS)
    assert {number: (status, answer["id"]) for number, (status, answer) in found.items()} == {
        number: (200, number) for number in range(8)
    }


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ({"body": TEXT}, 200),
        ({"body": TEXT, "headers": {"Content-Type": "application/json; charset=utf-8"}}, 200),
        ({"body": TEXT, "headers": JSON | {"Expect": "100-continue"}}, 200),
        ({"body": "{"}, 400),
        ({"body": '{"task":"none"}'}, 400),
        # What a page in a browser could send without asking first.
        ({"body": TEXT, "headers": {"Content-Type": "text/plain"}}, 415),
        ({"body": TEXT, "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 415),
        ({"body": TEXT, "headers": {}}, 415),
        ({"body": TEXT, "headers": JSON | {"Host": "evil.example"}}, 421),
        ({"body": TEXT, "headers": JSON | {"Host": "127.0.0.1.evil.example:80"}}, 421),
        ({"body": TEXT, "headers": JSON | {"Host": "[::1]:9"}}, 200),
        ({"body": TEXT, "headers": JSON | {"Host": "127.0.0.2:80"}}, 200),
        ({"body": "", "method": "GET"}, 405),
        ({"body": "", "method": "OPTIONS", "headers": {"Origin": "https://evil.example"}}, 405),
        ({"body": TEXT, "path": "/"}, 404),
        ({"body": TEXT, "path": "/decide/../x"}, 404),
        ({"body": TEXT, "headers": JSON | {"X-Long": "x" * 40_000}}, 431),
        ({"body": b"", "headers": JSON | {"Content-Length": "99999999"}}, 413),
        ({"body": b"", "headers": JSON | {"Content-Length": "-1"}}, 400),
    ],
)
def test_what_is_answered_and_what_is_refused(port, words, status):
    found, answer = ask(port, **words)
    assert found == status
    assert ("error" in answer) == (status != 200)


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"\xff\xfe\r\n\r\n",
        b"POST /decide HTTP/2\r\n\r\n",
        b"POST /decide HTTP/1.1\r\nno colon\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST /decide HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"Host: evil.example\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"Content-Length : 2\r\n\r\n{}",
        HEAD + b"Transfer-Encoding : chunked\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
def test_what_is_not_http_is_refused(port, data):
    assert raw(port, data).startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 411 ", b"HTTP/1.1 421 "))


@pytest.mark.parametrize("data", [b"", b"POST /dec", HEAD + b"Content-Length: 9\r\n\r\n{}"])
def test_a_client_that_leaves_half_way_hurts_nobody(port, data):
    raw(port, data)
    assert ask(port, TEXT)[0] == 200


@pytest.mark.slow
def test_slow_clients_hold_up_nobody_and_are_cut_off(port):
    streams = [socket.create_connection(("127.0.0.1", port), timeout=LONGEST_SECONDS) for _ in range(20)]
    begun = time.monotonic()
    for stream in streams:
        stream.sendall(b"POST /decide HTTP/1.1\r\n")
    assert ask(port, TEXT)[0] == 200
    assert time.monotonic() - begun < 8
    for _ in range(40):  # a byte now and then does not buy time
        time.sleep(0.5)
        if all(is_closed(stream) for stream in streams):
            break
    assert all(is_closed(stream) for stream in streams)
    assert time.monotonic() - begun < 20


def is_closed(stream: socket.socket) -> bool:
    """Whether the other side has closed; sends a byte of a header that never ends otherwise."""
    stream.setblocking(False)
    try:
        stream.send(b"X")
        return stream.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
