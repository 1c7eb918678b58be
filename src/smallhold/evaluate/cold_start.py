"""How long a fresh process takes to its first decision, and how much memory it holds then.

`python -m smallhold.evaluate.cold_start BUNDLE TASK SECONDS` prints JSON. Only what a device loads is imported. The
time starts just before the process is created, so the interpreter's own start counts. Every file is read and checked
against the manifest; the signature alone is not checked again.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from smallhold.errors import BackendError


def measure(bundle: Path, task: str, *, timeout_seconds: float = 60.0) -> dict[str, Any]:
    """Run this module in a fresh interpreter.

    Returns:
        `cold_start_s`: wall seconds from process start to first decision, the interpreter's own start included.
        `resident_bytes`: resident set with one patient.
        `patient_bytes`: what one further patient adds, a whole stay long; absent for a task that reads texts.

    Raises:
        BackendError: the fresh process failed, or took longer than the timeout.
    """
    begun = time.time()
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "smallhold.evaluate.cold_start", str(bundle), task, repr(begun)],
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BackendError(f"cold start: expected a decision within {timeout_seconds:g} s, got none") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BackendError(f"cold start: the fresh process ended with exit code {done.returncode}: {last}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _first_decision(bundle: str, task: str, begun: float) -> dict[str, Any]:
    from smallhold.decide.local import open_bundle
    from smallhold.decide.text_task import LocalTextTask

    # The caller has verified this bundle a moment ago.
    opened = open_bundle(bundle, unsafe_skip_verification=True)
    for name in opened.manifest.files:
        opened.read(name)
    local = opened.task(task)
    if isinstance(local, LocalTextTask):
        local.decide(local.task.question)
        return {"cold_start_s": time.time() - begun, "resident_bytes": resident_bytes()}
    session = local.session([0.0] * len(local.task.signal.static))
    session.observe(local.task.signal.parameters[0], local.task.signal.grids[0].values[0])
    session.close_bin()
    session.decide()
    seconds = time.time() - begun
    resident = resident_bytes()
    while session.bins < local.task.num_bins:
        session.close_bin()
    return {"cold_start_s": seconds, "resident_bytes": resident, "patient_bytes": session.state_bytes}


def resident_bytes() -> int:
    """Resident set now; where the system does not say (macOS), the largest so far."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    print(json.dumps(_first_decision(sys.argv[1], sys.argv[2], float(sys.argv[3]))))
