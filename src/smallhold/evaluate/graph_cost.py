"""What one decision costs with a graph alone: time, memory and, where the machine counts it, energy.

Processors change their speed from second to second, by half and more where others share them. So a graph's decisions
take turns with those of another, the reference: how many times as long they take says what the graph costs, whatever
the machine does just then (docs/experiments.md).

`python -m smallhold.evaluate.graph_cost GRAPH REFERENCE POSITIONS DECISIONS` prints JSON. A fresh interpreter measures
each graph, so that the resident set is its own; only what a device loads is imported.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from smallhold.device.backends.onnx_runtime import OnnxRuntimeBackend
from smallhold.errors import BackendError
from smallhold.evaluate.cold_start import resident_bytes

#: Intel's and AMD's running average power limit, one counter a processor; the kernel lets only root read it.
_ENERGY_COUNTERS = Path("/sys/class/powercap")
#: Decisions of the graph alone, before memory is read; energy is counted over them.
_ALONE = 200
#: Sequences of a block: percentiles are taken in blocks, and of the blocks the median.
_SEQUENCES_PER_BLOCK = 2


class GraphCost(TypedDict):
    """What was measured.

    Attributes:
        p50_ms: Processor time of the deciding thread, median: one position appended, one row of logits read.
        p95_ms: The same, 95th percentile.
        reference_p50_ms: The reference's median, in turn with it.
        reference_p95_ms: The reference's 95th percentile.
        p50_of_reference: Median over the reference's.
        p50_of_reference_low: The same, 10th percentile of the blocks that were timed.
        p50_of_reference_high: The same, 90th percentile.
        p95_of_reference: 95th percentile over the reference's.
        resident_bytes: Resident set of a process that holds this graph and one session.
        joules: Energy of all processors for one decision, idle draw included; None where the machine does not say.
    """

    p50_ms: float
    p95_ms: float
    reference_p50_ms: float
    reference_p95_ms: float
    p50_of_reference: float
    p50_of_reference_low: float
    p50_of_reference_high: float
    p95_of_reference: float
    resident_bytes: int
    joules: float | None


def measure_graph(
    graph: Path, reference: Path, *, positions: int, decisions: int, timeout_seconds: float = 120.0
) -> GraphCost:
    """Run this module in a fresh interpreter.

    Args:
        graph: An `.onnx` file of `bundle/onnx_graph.py`.
        reference: Another, whose decisions take turns with those of `graph`.
        positions: How many a sequence holds when it starts anew; the cache grows up to there, as during a stay.
        decisions: How many are timed.
        timeout_seconds: For all of it.

    Raises:
        BackendError: the fresh process failed, or took longer.
    """
    # -P: a `json.py` in the working directory is no part of Python.
    numbers = [str(positions), str(decisions)]
    words = [sys.executable, "-P", "-m", "smallhold.evaluate.graph_cost", str(graph), str(reference), *numbers]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout_seconds, check=False)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise BackendError(f"{graph.name}: expected {decisions} decisions within {timeout_seconds:g} s") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BackendError(f"{graph.name}: the measuring process ended with exit code {done.returncode}: {last}")
    cost: GraphCost = json.loads(done.stdout)
    return cost


def measure_content(graph: bytes, reference: bytes, *, positions: int, decisions: int) -> GraphCost:
    """`measure_graph` of graphs that lie in no file."""
    with tempfile.TemporaryDirectory() as scratch:
        paths = Path(scratch) / "graph.onnx", Path(scratch) / "reference.onnx"
        for path, content in zip(paths, (graph, reference), strict=True):
            path.write_bytes(content)
        return measure_graph(*paths, positions=positions, decisions=decisions)


class _Decider:
    """A graph that decides position after position, and begins anew where a sequence is full."""

    def __init__(self, graph: bytes, positions: int) -> None:
        backend = OnnxRuntimeBackend(graph)
        self.tokens = np.random.default_rng(0).normal(size=(positions, 1, backend.width)).astype(np.float32)
        self.session = backend.session()

    def decide(self) -> float:
        """Milliseconds of processor time."""
        if self.session.length == len(self.tokens):
            self.session.rewind(0)
        begun = time.thread_time()
        self.session.append(self.tokens[self.session.length])
        self.session.score([], [-1])
        return (time.thread_time() - begun) * 1e3


def _measure(graph: bytes, reference: bytes, positions: int, decisions: int) -> GraphCost:
    measured = _Decider(graph, positions)
    measured.decide()
    before = _energy_counters()
    for _ in range(_ALONE):
        measured.decide()
    spent_joules = _joules(before, _energy_counters())
    resident = resident_bytes()
    other = _Decider(reference, positions)
    for _ in range(positions):
        other.decide()
    spent = np.array([(measured.decide(), other.decide()) for _ in range(decisions)])
    (p50, reference_p50), (p95, reference_p95) = np.median(percentiles := _by_block(spent, positions), axis=1)
    (low, p50_ratio, high), (_, p95_ratio, _) = np.percentile(
        percentiles[..., 0] / percentiles[..., 1], (10, 50, 90), axis=1
    ).T
    return {
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "reference_p50_ms": float(reference_p50),
        "reference_p95_ms": float(reference_p95),
        "p50_of_reference": float(p50_ratio),
        "p50_of_reference_low": float(low),
        "p50_of_reference_high": float(high),
        "p95_of_reference": float(p95_ratio),
        "resident_bytes": resident,
        "joules": None if spent_joules is None else spent_joules / _ALONE,
    }


def _by_block(spent: NDArray[np.float64], positions: int) -> NDArray[np.float64]:
    """(2, B, 2) median and 95th percentile, in blocks of whole sequences, of spent (N, 2)."""
    blocks = max(1, len(spent) // (_SEQUENCES_PER_BLOCK * positions))
    found = [np.percentile(block, (50, 95), axis=0) for block in np.array_split(spent, blocks)]
    return np.stack(found, axis=1)


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
    measured, beside = (Path(name).read_bytes() for name in sys.argv[1:3])
    print(json.dumps(_measure(measured, beside, int(sys.argv[3]), int(sys.argv[4]))))
