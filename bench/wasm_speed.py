"""The engine as WebAssembly, in Node and in Chromium, beside the native library: one thread, the hospital's trunk.

Two samples: a prompt of 240 tokens, then two choices read; and 48 hours appended one by one, two choices read at each.
Contestants take turns; the unit is processor time: of the calling thread for the library, of the process for Node, of
the page's main thread for Chromium. The first rounds warm the compilers up and are not counted.

    python bench/wasm_speed.py [--rounds 15] [--out runs/wasm-speed]

Needs both modules (engine/build.sh wasm32-unknown-unknown, and the same with `relaxed` behind it), the library (cargo
build --release), Node and Chromium; what is missing is left out and said.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smallhold.device.backends.engine import EngineBackend, kernel_families
from smallhold.evaluate.run import machine

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[1]
GGUF = ROOT / "models" / "hospital" / "gguf" / "trunk.gguf"
MODULES = ROOT / "engine" / "target" / "wasm32-unknown-unknown" / "release"
PLAIN, RELAXED = "smallhold_engine.wasm", "smallhold_engine_relaxed.wasm"
SAMPLES = ("prompt", "hours")
PROMPT, HOURS, DECIDING = 240, 48, [7, 9]
WARM_UP = 4
LONGEST_SECONDS = 60
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
Contestant = Callable[[str], float]  # a sample's milliseconds of processor time


def main() -> None:
    """Measure, print a table and write `result.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="rounds of every contestant; default 15")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "wasm-speed", metavar="DIR")
    args = parser.parse_args()
    with ExitStack() as stack:
        contestants: dict[str, Contestant] = {}
        families = kernel_families()
        for name in dict.fromkeys([family for family in families if family == "avx2"] + [families[0]]):
            contestants[f"native {name}"] = native(name)
        in_page = stack.enter_context(browser()) if CHROMIUM else None
        for module in (PLAIN, RELAXED):
            if not (MODULES / module).is_file():
                print(f"left out: {MODULES / module} is missing: engine/build.sh wasm32-unknown-unknown")
                continue
            label = "relaxed" if module == RELAXED else "wasm"
            if shutil.which("node"):
                contestants[f"Node {label}"] = stack.enter_context(node(module))
            if in_page:
                contestants[f"Chromium {label}"] = in_page(module)
        found = measure(contestants, args.rounds)
    args.out.mkdir(parents=True, exist_ok=True)
    temporary = args.out / "result.tmp"
    temporary.write_text(json.dumps({"machine": machine(), "rounds": args.rounds, "milliseconds": found}, indent=1))
    temporary.replace(args.out / "result.json")
    print_table(found)


def measure(contestants: dict[str, Contestant], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds by contestant and sample, one number a round; an hour's where hours are appended."""
    found: dict[str, dict[str, list[float]]] = {name: {sample: [] for sample in SAMPLES} for name in contestants}
    for number in range(WARM_UP + rounds):
        for sample in SAMPLES:
            for name, run in contestants.items():
                milliseconds = run(sample) / (HOURS if sample == "hours" else 1)
                if number >= WARM_UP:
                    found[name][sample].append(milliseconds)
        print(f"round {number + 1} of {WARM_UP + rounds}", flush=True)
    return found


def native(family: str) -> Contestant:
    """The library, in this process."""
    backend = EngineBackend(GGUF, kernels=family)
    ids = [(37 * i) % 8000 for i in range(PROMPT)]
    hour = np.full((1, 192), 0.1, dtype=np.float32)

    def run(sample: str) -> float:
        session, begun = backend.session(), time.thread_time()
        for step in [ids] if sample == "prompt" else [hour] * HOURS:
            session.append(step)
            session.score([], [-1], DECIDING)
        return (time.thread_time() - begun) * 1000

    return run


def relaxed_flags() -> list[str]:
    """What Node needs to be told for relaxed SIMD: up to version 20 it lies behind a flag."""
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, timeout=60, check=True).stdout  # noqa: S607
    return ["--experimental-wasm-relaxed-simd"] if int(version.removeprefix("v").split(".")[0]) <= 20 else []


@contextmanager
def node(module: str) -> Iterator[Contestant]:
    """A module in a process of Node."""
    flags = relaxed_flags() if module == RELAXED else []
    words = ["node", *flags, ROOT / "bench" / "wasm_speed.js", MODULES / module, GGUF]
    process = subprocess.Popen(list(map(str, words)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own words
    assert process.stdin is not None and process.stdout is not None  # noqa: S101 - asked for above
    deadline = threading.Timer(LONGEST_SECONDS, process.kill)
    deadline.start()
    answer = process.stdout.readline()
    deadline.cancel()
    if not answer:
        raise SystemExit(f"{' '.join(map(str, words))}: ended with {process.wait(LONGEST_SECONDS)}")

    def run(sample: str) -> float:
        print(sample, file=process.stdin, flush=True)
        return float(process.stdout.readline())  # type: ignore[union-attr]

    try:
        yield run
    finally:
        process.kill()
        process.wait(LONGEST_SECONDS)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".js": "text/javascript"}  # noqa: RUF012

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def browser() -> Iterator[Callable[[str], Contestant]]:
    """Opens modules in pages of one Chromium."""
    from playwright.sync_api import sync_playwright

    handler = functools.partial(_Quiet, directory=str(ROOT))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with sync_playwright() as playwright:
            opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
            url = f"http://127.0.0.1:{server.server_port}"
            yield lambda module: _page(opened.new_page(), url, module)
            opened.close()
    finally:
        server.shutdown()
        server.server_close()


def _page(page: Page, url: str, module: str) -> Contestant:
    page.set_default_timeout(LONGEST_SECONDS * 1000)
    page.goto(f"{url}/browser/icon.svg")
    page.evaluate(
        """async ([wasm, gguf]) => {
            const { contestant } = await import("/bench/wasm_speed.js");
            const bytes = async (name) => (await fetch(name)).arrayBuffer();
            globalThis.asked = await contestant(await bytes(wasm), new Uint8Array(await bytes(gguf)));
        }""",
        [f"/{(MODULES / module).relative_to(ROOT)}", f"/{GGUF.relative_to(ROOT)}"],
    )
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def thread_time() -> float:
        metrics: list[dict[str, Any]] = session.send("Performance.getMetrics")["metrics"]
        return next(float(item["value"]) for item in metrics if item["name"] == "ThreadTime")

    def run(sample: str) -> float:
        begun = thread_time()
        page.evaluate("(sample) => asked[sample]()", sample)
        return (thread_time() - begun) * 1000

    return run


def print_table(found: dict[str, dict[str, list[float]]]) -> None:
    """Medians with their spread, and the speed as a share of native AVX2's: the median of the rounds' ratios."""
    first = next(iter(found))
    print(f"| | prompt of {PROMPT}, ms | share of {first} | an hour, ms | share of {first} |")
    print("| --- | --- | --- | --- | --- |")
    for name, samples in found.items():
        cells = []
        for sample, digits in (("prompt", 1), ("hours", 3)):
            own, least, most = statistics.median(samples[sample]), min(samples[sample]), max(samples[sample])
            pairs = zip(found[first][sample], samples[sample], strict=True)
            share = statistics.median(theirs / ours for theirs, ours in pairs)
            cells.append(f"{own:.{digits}f} ({least:.{digits}f} to {most:.{digits}f}) | {share:.0%}")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
