"""What HTTP costs: a completion of 16 tokens asked of a server, beside the same passes on a session.

python bench/serve.py [BUNDLE TRUSTED_KEYS]
"""

from __future__ import annotations

import http.client
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from smallhold.decide.local import open_bundle
from smallhold.serve.generate import Generator, Order
from smallhold.serve.prefix_cache import BLOCK
from smallhold.serve.sampling import Sampling
from smallhold.serve.vocabulary import Vocabulary

PROMPT = "The patient was admitted with chest pain and shortness of breath. On examination"
NUM_TOKENS, ROUNDS, CLIENTS = 16, 30, 4


def main() -> None:
    """Measure, print one JSON object."""
    bundle = Path(sys.argv[1] if len(sys.argv) > 1 else "models/hospital")
    keys = Path(sys.argv[2] if len(sys.argv) > 2 else "models/trusted_keys")
    words = ["serve", str(bundle), "--trusted-keys", str(keys), "--port", "0", "--json"]
    server = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "smallhold.cli.main", *words], stdout=subprocess.PIPE, text=True
    )
    try:
        line = server.stdout.readline() if server.stdout else ""
        address = json.loads(line)["url"].removeprefix("http://")
        print(json.dumps(measure(bundle, keys, address), indent=1))
    finally:
        server.terminate()
        server.wait(30)


def measure(bundle: Path, keys: Path, address: str) -> dict[str, object]:
    """Milliseconds for each way, in an order that changes, so that other work on the machine hits all of them alike."""
    opened = open_bundle(bundle, trusted_keys=keys)
    vocabulary = Vocabulary(opened.read("tokenizer.json").decode(), opened.backend.vocab_size)
    context = opened.backend.context_length
    generator = Generator(opened.backend, vocabulary, context_length=context, cached_prompts=4)
    prompt = vocabulary.encode(PROMPT)
    order = Order(max_tokens=NUM_TOKENS, sampling=Sampling(temperature=0))
    connection = http.client.HTTPConnection(address, timeout=120)

    def session() -> None:
        """The passes of the model alone, the prefix reused as the server reuses it."""
        branch = kept.fork()
        branch.append(prompt[len(prompt) // BLOCK * BLOCK :])
        for left in range(NUM_TOKENS, 0, -1):
            token = int(branch.score([], [-1])[0].argmax())
            if left > 1:
                branch.append([token])

    kept = opened.backend.session()
    kept.append(prompt[: len(prompt) // BLOCK * BLOCK])
    ways: dict[str, Callable[[], object]] = {
        "session": session,
        "generator": lambda: list(generator.run(prompt, order, lambda: None)),
        "http": lambda: ask(connection, is_streamed=False),
        "http_stream": lambda: ask(connection, is_streamed=True),
        "health": lambda: get(connection, "/health"),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    rng = random.Random(0)
    for _ in range(ROUNDS):
        for name, way in rng.sample(sorted(ways.items()), len(ways)):
            begun = time.perf_counter()
            way()
            times[name].append((time.perf_counter() - begun) * 1e3)
    found: dict[str, object] = {f"{name}_ms_p50": round(sorted(t)[len(t) // 2], 2) for name, t in times.items()}
    found |= {f"{name}_ms_min": round(min(t), 2) for name, t in times.items()}
    return {**found, "requests_per_second": requests_per_second(address), "clients": CLIENTS, "tokens": NUM_TOKENS}


def ask(connection: http.client.HTTPConnection, *, is_streamed: bool) -> bytes:
    """One completion."""
    body = {"prompt": PROMPT, "max_tokens": NUM_TOKENS, "temperature": 0, "stream": is_streamed}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    return connection.getresponse().read()


def get(connection: http.client.HTTPConnection, path: str) -> bytes:
    """One page."""
    connection.request("GET", path)
    return connection.getresponse().read()


def requests_per_second(address: str) -> float:
    """Completions a second with several clients at once."""

    def work() -> None:
        connection = http.client.HTTPConnection(address, timeout=120)
        for _ in range(ROUNDS // CLIENTS):
            ask(connection, is_streamed=False)

    threads = [threading.Thread(target=work) for _ in range(CLIENTS)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return round(ROUNDS // CLIENTS * CLIENTS / (time.perf_counter() - begun), 1)


if __name__ == "__main__":
    main()
