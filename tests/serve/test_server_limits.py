"""Servers under their own conditions: keys, full queues, deadlines, clients that leave, signals."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time

import httpx
import openai
import pytest

from smallhold.cli.main import main
from smallhold.device.listen import is_loopback, listen
from smallhold.errors import InputError
from smallhold.serve.guard import host_name
from smallhold.serve.server import ServerOptions, read_api_key

from .running import GOLDEN, GOLDEN_KEYS, HOSPITAL, HOSPITAL_KEYS, LONG, LONGEST_SECONDS, start

KEY = "a-key-of-some-length"


@pytest.fixture
def running(tmp_path):
    """start(...) with a home of its own; every server still up is ended."""
    started = []

    def begin(*words, bundle=HOSPITAL, keys=HOSPITAL_KEYS, environment=None):
        home = {"SMALLHOLD_HOME": str(tmp_path / "home"), "HOME": str(tmp_path), **(environment or {})}
        started.append(start(bundle, keys, *words, environment=home, cwd=tmp_path))
        return started[-1]

    yield begin
    for server in started:
        if server.process.poll() is None:
            server.process.kill()
            server.process.communicate(timeout=LONGEST_SECONDS)


def test_a_key_is_asked_of_everybody_and_a_page_must_be_allowed(running):
    origin = {"Origin": "https://page.example"}
    words = ("--allow-origin", origin["Origin"])
    server = running(*words, bundle=GOLDEN, keys=GOLDEN_KEYS, environment={"SMALLHOLD_API_KEY": KEY})
    assert server.client().completions.create(model="icu-risk-golden", prompt="a", max_tokens=1).choices
    with httpx.Client(base_url=server.url, trust_env=False) as http:
        for sent in (None, "Bearer wrong", KEY, f"Basic {KEY}"):
            answer = http.get("/v1/models", headers={} if sent is None else {"Authorization": sent})
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        assert http.get("/metrics").status_code == 401
        assert http.get("/health").json() == {"status": "ok"}
        # A browser asks for permission first, without the key.
        asked = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        assert http.options("/v1/completions", headers=asked).status_code == 200
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0).models.list()
    with server.http() as http:
        answer = http.get("/v1/models", headers=origin)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin["Origin"])
        other = http.get("/v1/models", headers={"Origin": "https://other.example"})
        assert other.status_code == 403 and "access-control-allow-origin" not in other.headers
    code, out, err = server.stop()
    assert code == 0 and KEY not in out + err


def test_a_full_queue_is_429_and_a_client_that_leaves_makes_room(running):
    server = running("--queue-length", 0)
    client = server.client()
    stream = client.completions.create(**LONG, stream=True)
    next(iter(stream))
    with pytest.raises(openai.RateLimitError, match="busy") as caught:
        client.completions.create(model="hospital", prompt="a", max_tokens=1)
    assert int(caught.value.response.headers["retry-after"]) >= 1
    with server.http() as http:
        assert http.get("/health", timeout=5).status_code == 200  # the event loop is free all the while
    stream.close()
    server.wait_for_metric('smallhold_requests_total{route="/v1/completions",status="200"}', 1)
    assert client.completions.create(model="hospital", prompt="a", max_tokens=1).choices
    assert server.metric("smallhold_completion_tokens_total") < 900  # the stream ended long before its time


def test_a_late_answer_is_504_and_a_late_stream_ends_with_an_error(running):
    server = running("--timeout-seconds", 0.1)
    client = server.client()
    with pytest.raises(openai.InternalServerError, match=r"no answer within 0\.1 seconds") as caught:
        client.completions.create(**LONG)
    assert (caught.value.status_code, caught.value.code) == (504, "timeout")
    with pytest.raises(openai.APIError, match="no answer within"):
        for _ in client.completions.create(**LONG, stream=True):
            pass
    # A body that never comes is late as well.
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=LONGEST_SECONDS) as slow:
        slow.sendall(
            f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            "Content-Length: 50\r\n\r\n{".encode()
        )
        assert slow.recv(4096).startswith(b"HTTP/1.1 504")


def test_sigterm_lets_a_request_end_and_then_the_process_with_0(running):
    server = running("--shutdown-seconds", LONGEST_SECONDS)
    asked = {**LONG, "max_tokens": 60, "stream": True}
    stream = iter(server.client().completions.create(**asked))
    next(stream)
    server.process.send_signal(signal.SIGTERM)
    rest = list(stream)
    assert rest[-1].choices[0].finish_reason == "length"
    server.process.communicate(timeout=LONGEST_SECONDS)
    assert server.process.returncode == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/health", trust_env=False)


def test_told_again_and_again_the_process_still_ends_with_0(running):
    process = running().process
    deadline = time.monotonic() + LONGEST_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.001)
    assert process.returncode == 0


def test_sigterm_has_a_deadline(running):
    server = running("--shutdown-seconds", 0.05)
    stream = iter(server.client().completions.create(**LONG, stream=True))
    next(stream)
    begun = time.monotonic()
    code, _, err = server.stop()
    assert (code, err) == (0, "")
    assert time.monotonic() - begun < 20
    with pytest.raises(openai.APIError, match="the server is stopping"):
        for _ in stream:
            pass


def test_a_server_that_is_killed_within_a_stream_leaves_nothing(running, tmp_path):
    server = running()
    before = sorted(tmp_path.rglob("*"))
    stream = iter(server.client().completions.create(**LONG, stream=True))
    next(stream)
    server.stop(signal.SIGKILL)
    with pytest.raises((openai.APIError, httpx.HTTPError)):
        for _ in stream:
            pass
    assert sorted(tmp_path.rglob("*")) == before
    port = int(server.url.rpartition(":")[2])
    listen("127.0.0.1", port).close()  # the port is free at once


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (
            (GOLDEN, "--trusted-keys", GOLDEN_KEYS, "--host", "0.0.0.0"),
            "other machines could ask, and there is no API key",
        ),
        ((GOLDEN, "--trusted-keys", HOSPITAL_KEYS), "signed by nobody this device trusts"),
        ((GOLDEN, "--trusted-keys", GOLDEN_KEYS, "--api-key-file", "absent"), "cannot be read: No such file"),
        ((GOLDEN, "--trusted-keys", GOLDEN_KEYS, "--port", 99999), "--port: expected 0 to 65535"),
        ((GOLDEN, "--trusted-keys", GOLDEN_KEYS, "--allow-origin", "*"), "--allow-origin: expected an origin"),
        ((GOLDEN.parent,), "not a bundle"),
    ],
    ids=str,
)
def test_a_server_that_must_not_start_says_why(words, problem, capsys, monkeypatch):
    monkeypatch.delenv("SMALLHOLD_API_KEY", raising=False)
    assert main(["serve", *map(str, words)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and problem in err


def test_a_port_that_is_taken_is_said():
    with listen("127.0.0.1", 0) as sock, pytest.raises(InputError, match=r"cannot listen on 127\.0\.0\.1 port"):
        listen("127.0.0.1", sock.getsockname()[1])


def test_keys_are_read_and_checked(tmp_path, monkeypatch):
    monkeypatch.delenv("SMALLHOLD_API_KEY", raising=False)
    assert read_api_key(None) is None
    path = tmp_path / "key"
    path.write_text(KEY + "\n")
    assert read_api_key(path) == KEY
    monkeypatch.setenv("SMALLHOLD_API_KEY", KEY + "2")
    assert (read_api_key(None), read_api_key(path)) == (KEY + "2", KEY)
    for bad in ("", "short", "sixteen letters and spaces", "schlüssel-schlüssel"):
        path.write_text(bad)
        with pytest.raises(InputError) as caught:
            read_api_key(path)
        assert not bad or bad not in str(caught.value)


def test_options_are_checked_before_anything_is_loaded():
    for wrong in ({"queue_length": -1}, {"timeout_seconds": 0.0}, {"max_body_bytes": 0}, {"port": -1}):
        with pytest.raises(InputError):
            ServerOptions(**wrong)
    assert ServerOptions(host="0.0.0.0", api_key=KEY).host == "0.0.0.0"
    assert ServerOptions(host="::1").api_key is None


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1:80", True),
        ("[::1]:8000", True),
        ("LocalHost:1", True),
        ("", False),
        ("0.0.0.0", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("[::2]", False),
    ],
)
def test_only_loopback_is_this_machine(host, expected):
    assert is_loopback(host_name(host)) is expected


def test_the_server_loads_nothing_that_only_training_needs():
    code = (
        "import importlib, pkgutil, sys, smallhold.serve as serve\n"
        "for module in pkgutil.iter_modules(serve.__path__, 'smallhold.serve.'):\n"
        "    importlib.import_module(module.name)\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LONGEST_SECONDS)
    loaded = set(done.stdout.split())
    assert "llguidance" in loaded, done.stderr
    assert not loaded & {"torch", "transformers", "sklearn", "scipy", "onnx", "fastapi", "opentelemetry"}
