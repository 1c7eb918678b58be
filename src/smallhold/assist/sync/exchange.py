"""How batches get from one device to another: files in a folder, or HTTP on loopback.

Both carry the same signed batches. A batch that is cut, altered, forged, late or doubled is harmless: it is refused or
changes nothing, and what it should have brought is offered again.
"""

from __future__ import annotations

import hashlib
import http.client
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from smallhold.assist.sync.message import Batch
from smallhold.assist.sync.node import SyncNode, Taken
from smallhold.device.durable_file import write_durably
from smallhold.errors import InputError, JournalError

_MOST_BYTES = 64 * 2**20
_TIMEOUT_SECONDS = 30.0


@dataclass(slots=True)
class Exchanged:
    """What one exchange with one peer came to; `error` says why nothing was taken."""

    peer: str
    taken: Taken | None = None
    sent: int = 0
    error: str = ""


def sync_folder(
    node: SyncNode, folder: Path, key: Ed25519PrivateKey, peers: Mapping[str, Ed25519PublicKey]
) -> list[Exchanged]:
    """Take what lies in a folder for this device, and leave there what the peers have not got.

    The folder holds one file for each direction, replaced whole. Call it on both sides, again and again; two calls on
    each side bring everything that fits into one batch. The files hold patients' data in the clear, mode 0600: the
    folder is as confidential as the journal.

    Args:
        node: This device.
        folder: Shared with the peers: a mounted drive, a stick.
        key: Signs what is sent.
        peers: Name to public key.

    Raises:
        JournalError: this device's journal cannot be written, or is an older copy of what a peer has.
        OSError: the folder cannot be written.
    """
    results = []
    for peer in sorted(peers):
        result, outgoing = Exchanged(peer), node.greeting(peer)
        incoming = folder / _name(peer, node.device)
        if incoming.is_file():
            try:
                if incoming.stat().st_size > _MOST_BYTES:
                    raise InputError(f"larger than {_MOST_BYTES} bytes")
                batch = Batch.from_bytes(incoming.read_bytes(), peers, to=node.device)
                if batch.sender != peer:
                    raise InputError(f"signed by {batch.sender!r}")
                result.taken = node.take(batch)
                outgoing = node.batch_for(batch)
            except (InputError, OSError) as error:
                result.error = f"{incoming}: {error}"
        write_durably(folder / _name(node.device, peer), [outgoing.to_bytes(key)])
        result.sent = len(outgoing.messages)
        results.append(result)
    return results


def sync_http(
    node: SyncNode,
    url: str,
    peer: str,
    key: Ed25519PrivateKey,
    peers: Mapping[str, Ed25519PublicKey],
    *,
    timeout_seconds: float = _TIMEOUT_SECONDS,
) -> Exchanged:
    """Exchange batches with a serving node until neither side has anything new.

    Args:
        node: This device.
        url: `http://127.0.0.1:PORT`.
        peer: The serving node's name.
        key: Signs what is sent.
        peers: Name to public key.
        timeout_seconds: For each request.

    Returns:
        What was taken and sent in all; `error` when the network or the peer failed, and what was taken before stands.

    Raises:
        JournalError: this device's journal cannot be written, or is an older copy of what the peer has.
    """
    result, outgoing, before = Exchanged(peer, Taken()), node.greeting(peer), None
    while True:
        try:
            batch = Batch.from_bytes(_post(url, outgoing.to_bytes(key), timeout_seconds), peers, to=node.device)
        except (InputError, OSError, http.client.HTTPException) as error:
            result.error = str(error) or type(error).__name__
            return result
        result.sent += len(outgoing.messages)
        _add(result, node.take(batch))
        outgoing, after = node.batch_for(batch), (batch.have, node.have)
        if after == before or not (outgoing.messages or batch.messages):
            return result
        before = after


class SyncServer:
    """Serves one node over HTTP; loopback by default, every request signed by a known peer.

    Args:
        node: The serving node.
        key: Signs the answers.
        peers: Name to public key.
        host: Where to listen.
        port: 0 takes a free one.
    """

    def __init__(
        self,
        node: SyncNode,
        key: Ed25519PrivateKey,
        peers: Mapping[str, Ed25519PublicKey],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            timeout = _TIMEOUT_SECONDS

            def do_POST(self) -> None:
                try:
                    length = int(self.headers.get("Content-Length", "-1"))
                    if not 0 <= length <= _MOST_BYTES:
                        raise InputError(f"Content-Length: expected 0 to {_MOST_BYTES}, got {length}")
                    batch = Batch.from_bytes(self.rfile.read(length), peers, to=node.device)
                    with lock:
                        node.take(batch)
                        answer = node.batch_for(batch).to_bytes(key)
                    status = 200
                except (InputError, ValueError) as error:
                    status, answer = 400, str(error).encode()
                except JournalError as error:
                    status, answer = 503, str(error).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing: requests carry patients' data."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="smallhold-sync", daemon=True)

    def start(self) -> SyncServer:
        """Serve on a thread of its own."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop serving; requests under way are broken off."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)


def _post(url: str, data: bytes, timeout_seconds: float) -> bytes:
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None:
        raise InputError(f"url: expected http://HOST:PORT, got {url!r}")
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_seconds)
    try:
        connection.request("POST", "/", body=data)
        response = connection.getresponse()
        answer = response.read(_MOST_BYTES + 1)
    finally:
        connection.close()
    if response.status != 200:
        raise InputError(f"{url} answered {response.status}: {answer[:200].decode(errors='replace')}")
    return answer


def _add(result: Exchanged, part: Taken) -> None:
    total = result.taken = result.taken or Taken()
    total.acts += part.acts
    total.conflicts += part.conflicts
    total.refused += part.refused
    total.records += part.records
    total.duplicates += part.duplicates
    total.gaps += part.gaps
    total.skewed += part.skewed


def _name(sender: str, to: str) -> str:
    """Names of devices can hold anything; those of files are digests of them."""
    return f"sync-{hashlib.sha256(f'{sender}/{to}'.encode()).hexdigest()[:32]}.json"
