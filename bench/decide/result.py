"""The ratios that sum a run up, and files that appear whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from smallhold.device.durable_file import write_durably

QUIET, HOGGED = "1 thread, quiet", "1 thread, beside a hog"
ENGINE, LLAMA = "engine", "our logic on llama.cpp"
#: Ratio of rates to workload and role of the peer.
RATES = {
    "event_vs_llama_server_stock": ("window", "llama-server stock"),
    "stream_vs_llama_server_stock": ("stream", "llama-server stock"),
    "event_vs_llama_server_best": ("window", "llama-server best"),
    "stream_vs_llama_server_best": ("stream", "llama-server best"),
    "event_vs_our_logic_on_llama": ("window", LLAMA),
    "event_vs_genai_best": ("window", "genai"),
}


def headline(details: dict[str, Any]) -> dict[str, float | None]:
    """The ratios of a run: rates ours / theirs, memory ours / theirs; None where a side is missing.

    Of several variants of a peer the fastest on that workload counts, and the leanest for memory.
    """
    found: dict[str, float | None] = {}
    for name, (kind, role) in RATES.items():
        rows = details["turns"].get(f"{kind}, {QUIET}", {})
        peer = fastest(rows, role)
        ratio = None if peer is None or ENGINE not in rows else paired(rows[ENGINE], rows[peer])
        found[name] = None if ratio is None else ratio["median"]
    memory, roles = details["rss_mb"], details["roles"]
    theirs = [used for name, used in memory.items() if roles[name] == LLAMA]
    found["rss_vs_llama"] = memory[ENGINE] / min(theirs) if theirs and ENGINE in memory else None
    found["p99_over_p50_hog"] = details["turns"].get(f"window, {HOGGED}", {}).get(ENGINE, {}).get("p99_over_p50")
    return found


def fastest(rows: dict[str, Any], role: str) -> str | None:
    """The variant of a role with the highest rate; None where none has a turn that counts."""
    rates = {
        name: row["events_per_second_per_core"]
        for name, row in rows.items()
        if row["role"] == role and "events_per_second_per_core" in row
    }
    return max(rates, key=rates.__getitem__) if rates else None


def paired(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float] | None:
    """Our rate over theirs, round by round, so that what slows the machine down slows both.

    Returns:
        `median`, `low` and `high` (10th and 90th percentile); None when they share no round.
    """
    mine, peers = ours.get("rates", {}), theirs.get("rates", {})
    ratios = [mine[number] / peers[number] for number in mine if number in peers]
    if not ratios:
        return None
    low, median, high = np.percentile(ratios, (10, 50, 90)).tolist()
    return {"median": median, "low": low, "high": high}


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a file that is whole or absent; what is not finite becomes null."""
    write_durably(path, [json.dumps(_finite(value), indent=1, allow_nan=False).encode() + b"\n"], mode=0o644)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
