"""What a decision costs on this machine: wall time of each, and events a second of processor time."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smallhold.decide.local import LocalTask
from smallhold.decide.signal import bin_of_minute
from smallhold.evaluate.result import Latency
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.parameters import PARAMETERS
from smallhold.sectors.hospital.stays import Stay


def machine() -> str:
    """Processor, cores and system in a line."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or a processor that does not say
    return f"{model}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def signal_latency(local: LocalTask, stays: Sequence[Stay]) -> dict[str, Any]:
    """Append-and-decide, bin by bin, on one thread; and readings plus decisions a CPU second of one core."""
    times: list[float] = []
    events = 0
    cpu_begun = time.process_time()
    for stay in stays:
        session = local.session(icu_risk.static_features(stay))
        bins = bin_of_minute(stay.minute, local.task.signal.bin_minutes)
        for hour in range(local.task.num_bins):
            for at in np.flatnonzero(bins == hour):
                session.observe(PARAMETERS[stay.code[at]].name, float(stay.value[at]))
                events += 1
            begun = time.perf_counter()
            session.close_bin()
            session.decide()
            times.append((time.perf_counter() - begun) * 1e3)
            events += 1
    cpu = time.process_time() - cpu_begun
    return {"latency": summarized(times), "events_per_second_per_core": events / cpu if cpu > 0 else 0.0}


def summarized(times_ms: Sequence[float]) -> Latency:
    """Percentiles and histogram of the wall times of decisions, in milliseconds."""
    p50, p99 = np.percentile(times_ms, (50, 99))
    counts, edges = np.histogram(times_ms, bins=30, range=(0, max(2 * p99, 1e-3)))
    return {
        "append_decide_ms": {"p50": float(p50), "p99": float(p99), "max": max(times_ms), "n": len(times_ms)},
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }
