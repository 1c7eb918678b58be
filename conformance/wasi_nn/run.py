"""Run the WASI-NN cases through this project's host, with each runtime behind it: one JSON object a line.

`python conformance/wasi_nn/run.py [engine | onnx_runtime | reference]...`, exit code 1 where a case fails.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smallhold.decide.local import open_bundle
from smallhold.device.wasi_nn import Guest, Limits, Model
from smallhold.errors import GuestError

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "v1"
LIMITS = Limits(seconds=2.0, fuel=200_000_000, memory_bytes=64 * 2**20)


def run_cases(runtime: str, *only: str) -> Iterator[dict[str, Any]]:
    """Every case, or those that are named, in an instance of its own, on the golden bundle."""
    bundle = open_bundle(GOLDEN / "bundle", backend=runtime, trusted_keys=GOLDEN / "trusted_keys")  # type: ignore[arg-type]
    models = {"golden": Model(bundle.backend, bundle.tokenizer)}
    wasm = (HERE / "guest.wat").read_bytes()
    for case in json.loads((HERE / "cases.json").read_text()):
        if only and case["name"] not in only:
            continue
        problem = check_case(case, Guest(wasm, models, limits=LIMITS))
        status = "pass" if problem is None else "fail"
        yield {"runtime": runtime, "case": case["name"], "status": status, "problem": problem}


def check_case(case: dict[str, Any], guest: Guest) -> str | None:
    """What is wrong with an outcome, or None."""
    try:
        found = guest.call(case["name"])
    except GuestError as error:
        return None if case["expected"] == "stopped" else str(error)
    if case["expected"] == "stopped":
        return f"was not stopped: returned {found}"
    if found != 0:
        return f"step {found} failed: {guest.calls.refusals}"
    if "logits" in case:
        logits = struct.unpack(f"<{len(case['logits'])}f", guest.memory(1024, 4 * len(case["logits"])))
        if any(abs(a - b) > case["tolerance"] for a, b in zip(logits, case["logits"], strict=True)):
            return f"logits: expected {case['logits']}, got {list(logits)}"
    return None


if __name__ == "__main__":
    is_failed = False
    for name in sys.argv[1:] or ("engine", "onnx_runtime", "reference"):
        for row in run_cases(name):
            is_failed = is_failed or row["status"] == "fail"
            print(json.dumps(row), flush=True)
    sys.exit(is_failed)
