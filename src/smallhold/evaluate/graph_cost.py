"""What one decision costs with a graph alone: time, memory and, where the machine counts it, energy.

`python -m smallhold.evaluate.graph_cost GRAPH POSITIONS DECISIONS` prints JSON. A fresh interpreter measures each
graph, so that the resident set is its own; only what a device loads is imported.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TypedDict

import numpy as np

from smallhold.device.backends.onnx_runtime import OnnxRuntimeBackend
from smallhold.errors import BackendError
from smallhold.evaluate.cold_start import resident_bytes

#: Intel's and AMD's running average power limit, one counter a processor; the kernel lets only root read it.
_ENERGY_COUNTERS = Path("/sys/class/powercap")
_WARM_UP = 5


class GraphCost(TypedDict):
    """What was measured.

    Attributes:
        p50_ms: Processor time of the deciding thread, median: one position appended, one row of logits read.
        p95_ms: The same, 95th percentile.
        resident_bytes: Resident set of a process that holds this graph and one session.
        joules: Energy of all processors for one decision, idle draw included; None where the machine does not say.
    """

    p50_ms: float
    p95_ms: float
    resident_bytes: int
    joules: float | None


def measure_graph(graph: Path, *, positions: int, decisions: int, timeout_seconds: float = 120.0) -> GraphCost:
    """Run this module in a fresh interpreter.

    Args:
        graph: An `.onnx` file of `bundle/onnx_graph.py`.
        positions: How many a sequence holds when it starts anew; the cache grows up to there, as during a stay.
        decisions: How many are timed.
        timeout_seconds: For all of it.

    Raises:
        BackendError: the fresh process failed, or took longer.
    """
    # -P: a `json.py` in the working directory is no part of Python.
    words = [sys.executable, "-P", "-m", "smallhold.evaluate.graph_cost", str(graph), str(positions), str(decisions)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout_seconds, check=False)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise BackendError(f"{graph.name}: expected {decisions} decisions within {timeout_seconds:g} s") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BackendError(f"{graph.name}: the measuring process ended with exit code {done.returncode}: {last}")
    cost: GraphCost = json.loads(done.stdout)
    return cost


def _measure(graph: bytes, positions: int, decisions: int) -> GraphCost:
    backend = OnnxRuntimeBackend(graph)
    tokens = np.random.default_rng(0).normal(size=(positions, 1, backend.width)).astype(np.float32)
    session = backend.session()
    spent = []
    before: dict[str, tuple[int, int]] = {}
    for number in range(decisions + _WARM_UP):
        if number == _WARM_UP:
            before = _energy_counters()
        if session.length == positions:
            session.rewind(0)
        begun = time.thread_time()
        session.append(tokens[session.length])
        session.score([], [-1])
        if number >= _WARM_UP:
            spent.append((time.thread_time() - begun) * 1e3)
    spent_joules = _joules(before, _energy_counters())
    joules = None if spent_joules is None else spent_joules / decisions
    p50, p95 = np.percentile(spent, (50, 95))
    return {"p50_ms": float(p50), "p95_ms": float(p95), "resident_bytes": resident_bytes(), "joules": joules}


def _energy_counters() -> dict[str, tuple[int, int]]:
    """Each processor package's counter and where it wraps, in microjoules; empty where the machine does not say."""
    try:
        return {
            package.name: (int((package / "energy_uj").read_text()), int((package / "max_energy_range_uj").read_text()))
            for package in sorted(_ENERGY_COUNTERS.glob("intel-rapl:[0-9]*"))
            if package.name.count(":") == 1
        }
    except (OSError, ValueError):
        return {}


def _joules(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> float | None:
    """Energy between two readings; a counter that is smaller afterwards has wrapped once."""
    if not before or before.keys() != after.keys():
        return None
    spent = 0
    for name, (count, wraps_at) in after.items():
        since = count - before[name][0]
        spent += since if since >= 0 else since + wraps_at
    return spent / 1e6


if __name__ == "__main__":
    print(json.dumps(_measure(Path(sys.argv[1]).read_bytes(), int(sys.argv[2]), int(sys.argv[3]))))
