"""A real HTTP server on loopback that misbehaves by script and counts what it is asked, and a task to ask about."""

from __future__ import annotations

import json
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

KEY = "sk-test-0123456789abcdef"
CHOICES = ["billing", "network", "access"]
WORDS = {
    "billing": "the invoice names an amount that was never agreed",
    "network": "the line drops whenever it rains over the hill",
    "access": "my password is refused at the second door",
}


class Teacher:
    """The server: answers well unless the next entry of `script` says otherwise."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.script: list[str] = []
        self.seen: list[dict[str, Any]] = []  # bodies, in order of arrival
        self.headers: list[dict[str, str]] = []
        self.answered: Counter[str] = Counter()  # bodies whose answer was sent whole
        self.hold = threading.Event()  # set: answers may go out
        self.hold.set()
        self.extra_headers: dict[str, str] = {}
        self.content: Callable[[dict[str, Any]], str] = label_of
        self.logprobs: Callable[[dict[str, Any]], Any] = lambda body: None
        self.most_at_once, self._at_once = 0, 0
        self._context, self._lock = context, threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.hold.set()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            with connection, connection.makefile("rb") as reader:
                while self._exchange(connection, reader):
                    pass
        except OSError:
            return

    def _exchange(self, connection: socket.socket, reader: Any) -> bool:
        request = reader.readline().split()
        if not request:
            return False
        headers = {}
        while (line := reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        length = int(headers.get("content-length", 0))
        raw = reader.read(length)
        if len(raw) < length:
            return False  # whoever asked was killed in the middle of it
        body = json.loads(raw) if raw else {}
        with self._lock:
            self.seen.append(body)
            self.headers.append({**headers, ":path": request[1].decode()})
            behaviour = self.script.pop(0) if self.script else "good"
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            self.hold.wait(30)
            return self._behave(behaviour, connection, body, raw.decode())
        finally:
            with self._lock:
                self._at_once -= 1

    def _behave(self, behaviour: str, connection: socket.socket, body: dict[str, Any], raw: str) -> bool:
        name, _, value = behaviour.partition(":")
        good = json.dumps(self.completion(body)).encode() if body else b"{}"
        match name:
            case "good":
                connection.sendall(response(good, headers=self.extra_headers))
                with self._lock:
                    self.answered[raw] += 1
            case "status":
                connection.sendall(response(b'{"error": {"code": "rate_limited"}}', status=int(value)))
            case "retry_after":
                connection.sendall(response(b"{}", status=429, headers={"Retry-After": value}))
            case "retry_date":
                date = format_datetime(datetime.now(UTC) + timedelta(seconds=float(value)), usegmt=True)
                connection.sendall(response(b"{}", status=503, headers={"Retry-After": date}))
            case "github":
                headers = {"x-ratelimit-timeremaining": value, "x-ratelimit-type": "UserByMinute"}
                connection.sendall(response(b"{}", status=429, headers=headers))
            case "no_bytes":
                return False
            case "truncated_body":  # promises more than it sends, then hangs up
                connection.sendall(response(good, length=len(good) + 50)[:-5])
                return False
            case "broken_stream":  # a chunked body without its end
                head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
                connection.sendall(head + b"%x\r\n" % len(good) + good[: len(good) // 2])
                return False
            case "truncated_json":
                connection.sendall(response(good[:-20]))
            case "html":
                connection.sendall(response(b"<h1>welcome to the hotel</h1>", kind="text/html"))
            case "event_stream":
                connection.sendall(response(b"data: {}\n\n", kind="text/event-stream"))
            case "json":
                connection.sendall(response(value.encode()))
            case "huge":
                connection.sendall(response(b"[" + b"1," * (3 << 20)))
            case "slow_head" | "slow_body":
                whole = response(good)
                at = 1 if name == "slow_head" else whole.index(b"\r\n\r\n") + 6
                connection.sendall(whole[:at])
                for byte in whole[at:]:
                    time.sleep(0.05)
                    connection.sendall(bytes([byte]))
            case "silent":
                time.sleep(4)
                return False
            case "redirect":
                connection.sendall(response(b"", status=307, headers={"Location": value}))
            case "quotes_key":
                text = json.dumps({"error": {"message": f"bad key {KEY}", "code": KEY}}).encode()
                connection.sendall(response(text, status=int(value)))
            case _:
                raise AssertionError(behaviour)
        return True

    def completion(self, body: dict[str, Any]) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "logprobs": self.logprobs(body)}
        if "messages" in body:
            choice["message"] = {"role": "assistant", "content": self.content(body)}
        else:
            choice["text"] = self.content(body)
        return {
            "id": "x",
            "model": f"{body['model']}-2025",
            "choices": [choice],
            "usage": {"prompt_tokens": 40, "completion_tokens": 6, "total_tokens": 46},
        }


def response(
    body: bytes,
    *,
    status: int = 200,
    kind: str = "application/json",
    headers: dict[str, str] | None = None,
    length: int | None = None,
) -> bytes:
    lines = [
        f"HTTP/1.1 {status} X",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body) if length is None else length}",
    ]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def text_of(body: dict[str, Any]) -> str:
    """The text that a request asks about."""
    prompt = body["messages"][1]["content"] if "messages" in body else body["prompt"]
    return prompt.split("Text:\n")[1].split("\n\nAnswer with")[0]


def label_of(body: dict[str, Any]) -> str:
    """What a good teacher says of a made-up ticket."""
    text = text_of(body)
    return json.dumps({"label": next((label for label in CHOICES if WORDS[label] in text), "access")})


@pytest.fixture
def teacher() -> Iterator[Teacher]:
    made = Teacher()
    yield made
    made.close()


@dataclass
class Desk:
    """A sector of one text task with made-up rows, and recipes over it."""

    folder: Path
    texts: list[str] = field(default_factory=list)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def write(self, data_set: str = "tickets", count: int = 60) -> None:
        (self.folder / "sector.toml").write_text(
            'format = "smallhold.sector/1"\nname = "desk"\nabout = "A desk."\n[[text_task]]\nname = "queue"\n'
            'question = "Which queue?"\nfield_name = "queue"\ncondition = "a ticket"\nintended_use = "Tests."\n'
            f'known_limits = "Made up."\nchoices = {json.dumps(CHOICES)}\n[[text_task.source]]\n'
            f'data_set = "{data_set}"\ntext = ["text"]\nlabel = "label"\nlanguage = "en"\n'
        )
        (self.data / data_set).mkdir(parents=True, exist_ok=True)
        numbers = ["".join(chr(97 + int(digit)) * 5 for digit in f"{i:03d}") for i in range(count)]
        rows = [
            {"text": f"{WORDS[CHOICES[i % 3]]}, {name} {name[::-1]}", "label": CHOICES[i % 3]}
            for i, name in enumerate(numbers)
        ]
        self.texts = [row["text"] for row in rows]
        (self.data / data_set / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def recipe(self, url: str, more: str = "", **endpoint: Any) -> Path:
        """A recipe file; `more` replaces the tables that it names."""
        keys = {"model": "test-model", "base_url": url, "response_format": "schema", **endpoint}
        tables = {
            "cap": "requests = 500\ntokens = 1_000_000\n",
            "pace": "read_seconds = 20.0\nfirst_backoff_seconds = 0.02\n",
            "filters": "near_duplicate = 1.0\n",
        }
        text = f'[task]\nsector = "{self.folder}"\nname = "queue"\n[endpoint]\n'
        text += "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
        text += "".join(f"[{name}]\n{body}" for name, body in tables.items() if f"[{name}]" not in more) + more
        path = self.folder / "recipe.toml"
        path.write_text(text)
        return path


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    made = Desk(tmp_path / "desk")
    made.folder.mkdir()
    made.write()
    return made


_CALLS: list[tuple[str, Any]] = []
_IS_WATCHED = threading.Event()


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _IS_WATCHED.is_set() and event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        _CALLS.append((event, arguments[1] if event == "socket.connect" else arguments[0]))


sys.addaudithook(_watch)  # below every library: nothing in this process connects or looks a name up unseen


@pytest.fixture
def sockets() -> Iterator[list[tuple[str, Any]]]:
    """Every connection and name look-up of this process, as the interpreter itself reports them."""
    _CALLS.clear()
    _IS_WATCHED.set()
    yield _CALLS
    _IS_WATCHED.clear()


def holding(folder: Path, secret: str) -> list[str]:
    """Files below a folder that hold a text, in any of the usual spellings."""
    spellings = {secret.encode(), json.dumps(secret)[1:-1].encode(), secret.encode("utf-16-le")}
    return [
        str(path)
        for path in folder.rglob("*")
        if path.is_file() and any(spelling in path.read_bytes() for spelling in spellings)
    ]
