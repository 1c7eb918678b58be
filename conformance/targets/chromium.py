"""The engine as WebAssembly in headless Chromium."""

from __future__ import annotations

import http.server
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from conformance.compare import FloatArray
from conformance.models import Model
from conformance.prompts import Prompt, encode
from conformance.target import DRIVERS, WRAPPER, Absent, Failed, Request, Target, build_engine
from conformance.targets.one_file import one_file

POSITIONS = {"scalar": 500}
DEFAULT_POSITIONS = 2_000  # what it computes is what Node does; the way in and out is another
LONGEST_MS = 600_000
#: `ask(page, name, ...)`: a function of a module of the page, its promise raced by the clock.
CALL = """([module, name, given, limit]) => Promise.race([
  import(module).then((found) => found[name](...given)),
  new Promise((_, refuse) => setTimeout(() => refuse(new Error(`${name}: not done within ${limit} ms`)), limit)),
])"""
BLANK = b"<!doctype html><title>conformance</title>"
QUIET = ("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync")
NO_GPU = ("--disable-gpu",)
TYPES = {".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm"}


def targets() -> list[Target]:
    """One target a family of the module."""
    module = build_engine("wasm32-unknown-unknown") / "smallhold_engine.wasm"
    files = engine_files(module)
    with page_of(files) as (page, _):
        families = ask(page, "kernels")
    return [
        Target(
            name=f"engine, wasm in Chromium, {family}",
            logits=partial(_logits, files, family),
            decide=partial(_decide, files, family),
            positions=POSITIONS.get(family, DEFAULT_POSITIONS),
            is_exact_in_pieces=True,
        )
        for family in families
    ]


def engine_files(module: Path) -> dict[str, bytes]:
    """What every page of the engine loads."""
    return {
        "/page.mjs": (DRIVERS / "page.mjs").read_bytes(),
        "/logits.mjs": (DRIVERS / "logits.mjs").read_bytes(),
        "/smallhold_engine.js": WRAPPER.read_bytes(),
        "/engine.wasm": module.read_bytes(),
    }


@contextmanager
def page_of(files: Mapping[str, bytes], switches: Sequence[str] = NO_GPU) -> Iterator[tuple[Any, list[bytes]]]:
    """A page of Chromium whose server has these files, and what the page posts.

    Raises:
        Absent: Chromium, or what drives it, is missing.
        Failed: the page threw; the message is its own.
    """
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        raise Absent("playwright is missing: pip install 'smallhold[test]'") from None
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        raise Absent("Chromium is missing: apt-get install chromium, or make system")
    with _serving(files) as (address, posted), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=[*QUIET, *switches])
        try:
            page = browser.new_page()
            page.set_default_timeout(LONGEST_MS)
            page.goto(address)
            yield page, posted
        except Error as error:
            raise Failed(f"Chromium: {error.message[:500]}") from error
        finally:
            browser.close()


def ask(page: Any, name: str, *given: Any, module: str = "/page.mjs") -> Any:
    """What a function of a module of the page gives.

    Raises:
        playwright.sync_api.Error: it threw, or was not done in time.
    """
    return page.evaluate(CALL, [module, name, list(given), LONGEST_MS])


def split(posted: Sequence[bytes], prompts: Sequence[Prompt], vocab_size: int) -> Iterator[FloatArray]:
    """Logits (T, V) of each prompt, of what was posted part by part."""
    parts = iter(posted)
    for prompt in prompts:
        data = b"".join(next(parts, b"") for _ in prompt.parts)
        if len(data) != 4 * len(prompt) * vocab_size:
            raise Failed(f"Chromium: expected {4 * len(prompt) * vocab_size} bytes of logits, got {len(data)}")
        yield np.frombuffer(data, "<f4").reshape(len(prompt), vocab_size)


def _logits(files: dict[str, bytes], family: str, model: Model, prompts: Sequence[Prompt]) -> Iterator[FloatArray]:
    served = {**files, "/weights": model.gguf.read_bytes(), "/prompts": encode(prompts)}
    with page_of(served) as (page, posted):
        ask(page, "logits", family)
    yield from split(posted, prompts, model.vocab_size)


def _decide(
    files: dict[str, bytes], family: str, bundle: Path, keys: Path, requests: Sequence[Request]
) -> list[Request]:
    with one_file(bundle, keys) as (packed, pem):
        served = {**files, "/bundle": packed.read_bytes(), "/keys": pem.read_bytes()}
    with page_of(served) as (page, _):
        answers: list[Request] = ask(page, "decide", family, list(requests))
    return answers


@contextmanager
def _serving(files: Mapping[str, bytes]) -> Iterator[tuple[str, list[bytes]]]:
    """A server on loopback; what is posted to it is kept in order."""
    posted: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = BLANK if self.path == "/" else files.get(self.path)
            self.send_response(200 if data is not None else 404)
            self.send_header("Content-Type", TYPES.get(Path(self.path).suffix, "text/html; charset=utf-8"))
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

        def do_POST(self) -> None:
            posted.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", posted
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)
