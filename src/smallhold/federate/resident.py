"""Server and sites as processes of their own, behind local sockets.

A site loads its model and its rows once and then answers requests; the server keeps the rounds. What an engine starts
for every message holds a path and a few lines, in whatever environment it runs, and never imports torch (this module
needs numpy and safetensors, no more).

A frame is eight bytes of length, a line of JSON, and a blob. The sockets lie in folders that their owner alone may
enter; every wait has a deadline.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallhold.errors import FederationError, QuorumError, SmallholdError, UpdateRefused
from smallhold.federate.messages import MAX_BYTES

if TYPE_CHECKING:
    from smallhold.federate.server import RoundServer
    from smallhold.federate.site import Site

#: A frame: what is asked or answered, and a blob.
Frame = tuple[dict[str, Any], bytes]
_LENGTH = 8
_MOST_HEAD = 1 << 24  # the names of a hundred thousand sites
# Linux allows 108 bytes with the closing zero, macOS 104.
_LONGEST_PATH = 100


def answer_for_site(site: Site) -> Callable[[Frame], Frame]:
    """What a site's socket answers: `respond` trains and gives the update, `name` says who it is."""

    def answer(frame: Frame) -> Frame:
        head, blob = frame
        if head.get("ask") == "name":
            return {"site": site.name}, b""
        if head.get("ask") == "respond":
            return {}, site.respond(blob)
        raise FederationError(f"site {site.name}: no such question {head.get('ask')!r}")

    return answer


def answer_for_server(server: RoundServer) -> Callable[[Frame], Frame]:
    """What the server's socket answers: `request`, `receive`, `close_round`, each with where the job stands."""

    def answer(frame: Frame) -> Frame:
        head, blob = frame
        match head.get("ask"):
            case "status":
                return _status(server), b""
            case "request":
                return _status(server), server.request()
            case "receive":
                server.receive(blob, sender=head.get("sender"))
                return {"round": server.round}, b""  # not the names of thousands of sites, after each of them
            case "close_round":
                # Asked again after a lost answer, the round or its turn is closed already.
                if head.get("round") == server.round and head.get("turn", server.turn) == server.turn:
                    server.close_round()
                return _status(server), b""
            case other:
                raise FederationError(f"server: no such question {other!r}")

    return answer


def _status(server: RoundServer) -> dict[str, Any]:
    return {
        "job": server.job.digest,
        "round": server.round,
        "turn": server.turn,
        "is_finished": server.is_finished,
        "waiting_for": [] if server.is_finished else list(server.waiting_for),
        "cohort": [] if server.is_finished else list(server.cohort),
        "least": server.job.least,
        "deadline_seconds": server.job.deadline_seconds,
        "model": server.base,
    }


@contextmanager
def listening(path: Path, answer: Callable[[Frame], Frame]) -> Iterator[None]:
    """Answer on a socket in a thread for as long as the context lasts; one question at a time.

    Args:
        path: Of the socket; its folder is made, for its owner alone, or is that already. A socket that a killed process
            left is replaced.
        answer: Called with each question; an error it raises is carried to whoever asked.

    Raises:
        FederationError: the path is too long for a socket, its folder is open to others, or somebody answers there
            already.
    """
    _check_length(path)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if (mode := path.parent.stat().st_mode & 0o777) & 0o077:  # who may enter may ask; not ours to close, it may be /tmp
        raise FederationError(
            f"{path.parent}: others may enter this folder (mode {mode:o}), expected 700",
            hint="name a socket in a folder that is not there yet, or chmod 700 the folder",
        )
    if path.exists():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(2.0)
            if probe.connect_ex(str(path)) == 0:
                raise FederationError(f"{path}: a process answers there already")
        path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stopped = threading.Event()
    try:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(16)
        listener.settimeout(0.2)
        thread = threading.Thread(target=_serve, args=(listener, answer, stopped), daemon=True)
        thread.start()
        yield
        stopped.set()
        thread.join(timeout=10.0)
    finally:
        stopped.set()
        listener.close()
        path.unlink(missing_ok=True)


def ask(path: Path, head: dict[str, Any], blob: bytes = b"", *, timeout_seconds: float) -> Frame:
    """Ask a resident process.

    Raises:
        FederationError: what it answered with, of the same class where it is one of a federation's.
        OSError: nobody listens.
        TimeoutError: no answer in time.
    """
    _check_length(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_seconds)
        connection.connect(str(path))
        _send(connection, head, blob)
        answer, content = _receive(connection)
    if "error" in answer:
        raise _error(answer["error"])
    return answer, content


def ask_patiently(path: Path, head: dict[str, Any], blob: bytes = b"", *, timeout_seconds: float) -> Frame:
    """As `ask`, and again where the resident process is being started anew.

    Every question may be asked twice: a site keeps its answer, the server counts an update and closes a round once.
    An update that was counted before the answer was lost is refused as `replayed`.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            return ask(path, head, blob, timeout_seconds=max(0.1, deadline - time.monotonic()))
        except OSError:  # TimeoutError is one too
            if time.monotonic() + 1.0 > deadline:
                raise
            time.sleep(0.5)


def _serve(listener: socket.socket, answer: Callable[[Frame], Frame], stopped: threading.Event) -> None:
    while not stopped.is_set():
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        except OSError:
            return
        with connection:
            connection.settimeout(60.0)
            try:
                frame = _receive(connection)
                try:
                    head, blob = answer(frame)
                except SmallholdError as error:
                    head, blob = {"error": _described(error)}, b""
                except OSError as error:  # a full disk: whoever asked should know, and may ask again
                    head, blob = {"error": {"kind": "FederationError", "message": str(error)}}, b""
                _send(connection, head, blob)
            except (OSError, ValueError):
                continue  # whoever asked is gone, or spoke nonsense


def _described(error: SmallholdError) -> dict[str, Any]:
    found = {"kind": type(error).__name__, "message": str(error), "hint": error.hint}
    if isinstance(error, UpdateRefused):
        found |= {"reason": error.reason, "detail": str(error).partition(": ")[2]}
    return found


def _error(described: dict[str, Any]) -> FederationError:
    message, hint = str(described.get("message")), described.get("hint")
    if described.get("kind") == "UpdateRefused":
        return UpdateRefused(str(described.get("reason")), str(described.get("detail")))
    if described.get("kind") == "QuorumError":
        return QuorumError(message, hint=hint)
    return FederationError(message, hint=hint)


def _send(connection: socket.socket, head: dict[str, Any], blob: bytes) -> None:
    line = json.dumps(head).encode() + b"\n"
    connection.sendall((len(line) + len(blob)).to_bytes(_LENGTH, "big") + line)
    if blob:  # without one the other side has all it needs, may have answered, and be gone
        connection.sendall(blob)


def _receive(connection: socket.socket) -> Frame:
    length = int.from_bytes(_exactly(connection, _LENGTH), "big")
    if length > MAX_BYTES + _MOST_HEAD:
        raise ValueError(f"expected at most {MAX_BYTES} bytes, got {length}")
    data = _exactly(connection, length)
    line, end, blob = data.partition(b"\n")
    head = json.loads(line) if end and len(line) < _MOST_HEAD else None
    if not isinstance(head, dict):
        raise ValueError("expected a line of JSON and a blob")
    return head, blob


def _exactly(connection: socket.socket, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        part = connection.recv(min(count - len(found), 1 << 20))
        if not part:
            raise OSError("the other side went away")
        found += part
    return bytes(found)


def _check_length(path: Path) -> None:
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise FederationError(
            f"{path}: too long for a local socket, at most {_LONGEST_PATH} bytes; choose a shorter one"
        )
