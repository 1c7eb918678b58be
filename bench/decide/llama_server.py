"""llama-server as a contestant: an HTTP client that keeps its connection, and the server's processor time from outside.

Ways of asking:

- `one token`: its API used best. One token is generated among the two choices, and their probabilities come back. A
  bias lifts the two above the vocabulary, because the trunk was trained to tell them apart and nothing else there.
- `json`: stock. The decision's token, then the object in JSON, is generated token by token under a grammar of token
  ids. The trunk never wrote JSON, so what is sampled is rejected and the whole vocabulary checked at every token.
- `json, free`: as many tokens with the bias in the grammar's place: what a model that had learnt the JSON would cost.
"""

from __future__ import annotations

import http.client
import json
import math
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from bench.decide.process import ContestantError, Outcome, Process, settled_cpu_seconds
from bench.decide.workload import Workload

Way = Literal["one token", "json", "json, free"]
CONTEXT = 512
_LIFT = 100.0  # far above any logit
_DEADLINE_SECONDS = 120.0


class LlamaServer:
    """One server with one slot."""

    def __init__(
        self,
        program: Path,
        model: Path,
        workload: Workload,
        way: Way,
        *,
        answer: Sequence[int],
        log: Path,
        threads: int = 1,
        flags: Sequence[str] = (),
    ) -> None:
        """Start it, and wait until it is ready.

        Args:
            program: `llama-server`.
            model: GGUF file.
            workload: What is asked.
            way: How it is asked.
            answer: Tokens of the JSON that follows the decision's token.
            log: Where its messages go.
            threads: Of its computations.
            flags: Further options.

        Raises:
            ContestantError: it did not become ready.
        """
        self._workload = workload
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [program, "-m", model, "--host", "127.0.0.1", "--port", str(port), "-t", str(threads)]
        command += ["-np", "1", "-c", str(CONTEXT), "--cache-ram", "0", *flags]
        self._process = Process(command, log=log, answers_lines=False)
        self.pid = self._process.pid
        self._client = http.client.HTTPConnection("127.0.0.1", port, timeout=_DEADLINE_SECONDS)
        self._body = _body(way, workload.rows, answer)
        self._read = _probabilities if way == "one token" else _choice
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def run(self, group: int) -> Outcome:
        """Answer a group of events.

        Raises:
            ContestantError: the server refused, or answered what was not asked.
        """
        self._client.close()  # the server ends a connection that was silent for five seconds, as between two turns
        asked = self._workload.groups[group]
        self._ask({"prompt": asked.prefix, "n_predict": 0, "cache_prompt": True})
        outcome = Outcome()
        begun = settled_cpu_seconds(self.pid)
        for event in range(len(asked.events)):
            start = time.perf_counter()
            said = self._ask({"prompt": asked.prompt(event), **self._body})
            margin = self._read(said, self._workload.rows)
            outcome.wall_ms.append((time.perf_counter() - start) * 1e3)
            outcome.margins.append(margin)
        outcome.cpu_seconds = settled_cpu_seconds(self.pid) - begun
        return outcome

    def first(self) -> None:
        """Answer the first event of the first group alone."""
        self._client.close()
        said = self._ask({"prompt": self._workload.groups[0].prompt(0), **self._body})
        self._read(said, self._workload.rows)

    def stop(self) -> None:
        """End it."""
        self._client.close()
        self._process.stop()

    def _ask(self, body: dict[str, Any]) -> dict[str, Any]:
        try:
            self._client.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
            response = self._client.getresponse()
            data = response.read()
        except OSError as error:
            raise self._process.failure(f"gave no answer: {error}") from error
        if response.status != 200:
            raise ContestantError(f"llama-server answered {response.status}: {data[:300]!r}")
        said: dict[str, Any] = json.loads(data)
        return said

    def _wait_until_ready(self) -> None:
        until = time.monotonic() + _DEADLINE_SECONDS
        while time.monotonic() < until:
            if not self._process.is_running():
                raise self._process.failure("ended before it was ready")
            try:
                self._client.request("GET", "/health")
                response = self._client.getresponse()
                response.read()
                if response.status == 200:
                    return
            except OSError:
                self._client.close()
            time.sleep(0.005)
        raise self._process.failure(f"was not ready in {_DEADLINE_SECONDS:.0f} s")


def _body(way: Way, rows: tuple[int, int], answer: Sequence[int]) -> dict[str, Any]:
    body: dict[str, Any] = {"cache_prompt": True, "temperature": 0, "return_tokens": True}
    lifted = {"logit_bias": [[row, _LIFT] for row in rows]}
    if way == "one token":
        chain = {"samplers": ["top_k", "temperature"], "top_k": 2, "temperature": 1, "post_sampling_probs": True}
        return body | lifted | chain | {"n_predict": 1, "n_probs": 2, "response_fields": ["completion_probabilities"]}
    if way == "json, free":
        return body | lifted | {"n_predict": 1 + len(answer), "ignore_eos": True}
    spelled = " ".join(f"<[{token}]>" for token in answer)
    grammar = f"root ::= (<[{rows[0]}]> | <[{rows[1]}]>) {spelled}"
    return body | {"n_predict": 1 + len(answer), "grammar": grammar}


def _probabilities(said: dict[str, Any], rows: tuple[int, int]) -> float:
    found = {item["id"]: float(item["prob"]) for item in said["completion_probabilities"][0]["top_probs"]}
    if set(found) != set(rows):
        raise ContestantError(f"llama-server: expected probabilities of {rows}, got {found}")
    return math.log(max(found[rows[1]], 1e-30) / max(found[rows[0]], 1e-30))


def _choice(said: dict[str, Any], rows: tuple[int, int]) -> float:
    first = said["tokens"][0]
    if first not in rows:
        raise ContestantError(f"llama-server: expected one of {rows} first, got {said['tokens']}")
    return math.inf if first == rows[1] else -math.inf
