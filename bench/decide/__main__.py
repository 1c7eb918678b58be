"""Our engine beside what people use: the same trained weights, the same decisions, in processor time.

    python -m bench.decide [--quick]

`make bench-decide` builds the engine and the peers first. Writes `runs/bench-decide/result.json` (ratios: rates are
ours / theirs, memory is ours / theirs), `details.json` (everything) and, of a whole run, `docs/images/decide.svg`. A
peer that is missing is named, and the exit code is 1 where a ratio is missing for it.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.decide import models
from bench.decide.contestants import Contestant, Field, Starter, hospital_field
from bench.decide.limits import int8_giga_macs_per_second, read_gb_per_second
from bench.decide.machine import Energy
from bench.decide.measure import Running, Say, take_turns
from bench.decide.picture import draw
from bench.decide.process import ENVIRONMENT, ContestantError, rss_mb, settled_cpu_seconds
from bench.decide.result import QUIET, headline, write_json
from bench.decide.turns import Turn, agreement, kept, summary
from bench.decide.workload import GGUF, ROOT, WINDOW, Calibration, Workload, hospital_workload, open_task

from smallhold.evaluate.run import machine

OUT = ROOT / "runs" / "bench-decide"
PICTURE = ROOT / "docs" / "images" / "decide.svg"
KINDS = ("stream", "window")
#: Decisions may differ where our margin is nearer to even than this: 8-bit activations are rounded differently.
NEAR_EVEN = 0.1
_COLD_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    rounds: int
    seconds: float
    stays: int
    checked_stays: int
    windows: int
    colds: int
    shapes: tuple[tuple[str, int, int], ...]
    """Shape, bits, rounds."""


QUICK = Size(rounds=2, seconds=0.3, stays=2, checked_stays=4, windows=10, colds=1, shapes=(("25M", 8, 1),))
WHOLE = Size(
    rounds=7,
    seconds=1.0,
    stays=4,
    checked_stays=16,
    windows=20,
    colds=5,
    shapes=(("25M", 8, 3), ("135M", 8, 2), ("1B", 4, 1)),
)


def main() -> int:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few minutes: whether everything runs, no figures")
    args = parser.parse_args()
    size = QUICK if args.quick else WHOLE
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begun:5.0f} s] {text}", flush=True)

    OUT.mkdir(parents=True, exist_ok=True)
    task = open_task()
    workload = hospital_workload(task, stays=size.checked_stays, windows=size.windows)
    calibration = Calibration.of(task)
    starter = Starter(OUT, workload, lambda text: task.bundle.tokenizer.encode(text).ids, margin=calibration.margin)
    entered = hospital_field(starter)
    for name, why in entered.missing.items():
        say(f"missing: {name}: {why}")
    details: dict[str, Any] = {
        "machine": machine(),
        "is_quick": args.quick,
        "workload": describe(workload, size),
        "missing": dict(entered.missing),
    }
    details["limits"] = limits(workload, size)
    details |= measure(entered, workload, size, calibration.alert, details["missing"], say)
    details["cold"] = {
        c.name: cold(c, size.colds) for c in entered.contestants if c.threads == 1 and c.name not in details["missing"]
    }
    say("cold starts measured")
    details["shapes"] = {
        f"{shape}, {bits} bits": shapes(starter, shape, bits, rounds, say) for shape, bits, rounds in size.shapes
    }
    details["times_the_limit"] = distances(details)
    details["energy"] = "joules of RAPL" if Energy().joules() is not None else "RAPL cannot be read: processor time"
    details["seconds"] = time.monotonic() - begun
    result = headline(details)
    write_json(OUT / "details.json", details)
    write_json(OUT / "result.json", result)
    if not args.quick:
        draw(details, PICTURE)
    report(details, result)
    return 0 if all(value is not None for value in result.values()) else 1


def describe(workload: Workload, size: Size) -> dict[str, Any]:
    """What was asked, in numbers."""
    cards = [len(tokens) for i in workload.of("stream") for tokens in workload.groups[i].events]
    return {
        "timed_stays": size.stays,
        "cards_per_stay": len(workload.card_ends),
        "tokens_per_card": sum(cards) / len(cards),
        "window_tokens": WINDOW,
        "prefix_tokens": len(workload.groups[-1].prefix),
        "seconds_a_turn": size.seconds,
        "rounds": size.rounds,
    }


def measure(
    entered: Field, workload: Workload, size: Size, alert: float, missing: dict[str, str], say: Say
) -> dict[str, Any]:
    """Start everybody, compare their decisions, and let them take turns, quiet and beside a hog."""
    running: dict[str, Running] = {}
    by_name = {contestant.name: contestant for contestant in entered.contestants}
    try:
        for name, contestant in by_name.items():
            try:
                running[name] = contestant.start()
            except ContestantError as error:
                missing[name] = str(error)
                say(f"missing: {name}: {error}")
        say(f"{len(running)} contestants run")
        decisions = compare(by_name, running, workload, alert, missing, say)
        found: dict[str, Any] = {"decisions": decisions, "turns": {}}
        for is_hogged in (False, True):
            for threads in (1, 2):
                for kind in KINDS:
                    some = {
                        name: one
                        for name, one in running.items()
                        if name not in missing and by_name[name].threads == threads and kind in by_name[name].kinds
                    }
                    label = f"{kind}, {threads} thread{'s' * (threads > 1)}, {'beside a hog' if is_hogged else 'quiet'}"
                    rounds = size.rounds if threads == 1 else max(2, size.rounds // 2)
                    groups = workload.of(kind)[: size.stays]
                    turns = take_turns(some, groups, rounds=rounds, seconds=size.seconds, is_hogged=is_hogged, say=say)
                    found["turns"][label] = {name: condensed(turns[name], by_name[name].role) for name in turns}
                    say(f"{label}: {len(some)} contestants")
        found["rss_mb"] = {name: rss_mb(one.pid) for name, one in running.items() if name not in missing}
        found["disk_mb"] = {name: disk_mb(by_name[name].files) for name in found["rss_mb"] if by_name[name].files}
        found["roles"] = {name: by_name[name].role for name in running}
        return found
    finally:
        for one in running.values():
            one.stop()


def compare(
    by_name: dict[str, Contestant],
    running: dict[str, Running],
    workload: Workload,
    alert: float,
    missing: dict[str, str],
    say: Say,
) -> dict[str, Any]:
    """Whether everybody decides what `transformers` decides in float32 with the same values."""
    margins: dict[str, dict[str, list[float]]] = {}
    for name, one in running.items():
        try:
            margins[name] = {
                kind: [margin for group in workload.of(kind) for margin in one.run(group).margins]
                for kind in by_name[name].kinds
            }
        except ContestantError as error:
            missing[name] = str(error)
            say(f"missing: {name}: {error}")
    oracle = next((name for name in ("transformers", "engine") if name in margins), None)
    if oracle is None:
        raise SystemExit("error: neither transformers nor the engine runs, so there is nothing to compare with")
    rows = {}
    for name, said in margins.items():
        if by_name[name].is_exact:
            rows[name] = {kind: agreement(margins[oracle][kind], said[kind], alert) for kind in said}
            worst = max(row["widest_disagreement"] for row in rows[name].values())
            if worst > NEAR_EVEN:
                missing[name] = f"decides differently at a margin of {worst:.2f}: a speed without equal decisions"
                say(f"missing: {name}: {missing[name]}")
    say(f"decisions compared with {oracle}'s")
    positive = {
        kind: {"choices": share(margins[oracle][kind], 0.0), "alerts": share(margins[oracle][kind], alert)}
        for kind in KINDS
    }
    return {"oracle": oracle, "near_even": NEAR_EVEN, "positive": positive, "rows": rows}


def share(margins: list[float], turn: float) -> float:
    """Part of the margins that reach a value."""
    return sum(margin >= turn for margin in margins) / len(margins)


def condensed(turns: list[Turn], role: str) -> dict[str, Any]:
    """A contestant's row of one condition, with the rates of its rounds for paired ratios."""
    some = kept(turns)
    row: dict[str, Any] = {"role": role, "turns_thrown_away": len(turns) - len(some)}
    if some:
        row |= summary(some)
        row["rates"] = {str(turn.round): turn.events / turn.cpu_seconds for turn in some}
    return row


def cold(contestant: Contestant, times: int) -> dict[str, float]:
    """Wall and processor seconds from the start of a process to its first decision; medians, files in memory."""
    spent = [_cold_command(contestant) if contestant.command else _cold_start(contestant) for _ in range(times)]
    return {"wall_s": median(wall for wall, _ in spent), "cpu_s": median(cpu for _, cpu in spent)}


def _cold_command(contestant: Contestant) -> tuple[float, float]:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(  # noqa: S603 - one of our own commands
        [str(word) for word in (*contestant.command, "--once")],
        capture_output=True,
        timeout=_COLD_SECONDS,
        check=False,
        env=os.environ | ENVIRONMENT,
    )
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise ContestantError(f"{contestant.name}: {done.stderr[-300:].decode(errors='replace')}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _cold_start(contestant: Contestant) -> tuple[float, float]:
    start = time.monotonic()
    one = contestant.start()
    try:
        one.first()
        return time.monotonic() - start, settled_cpu_seconds(one.pid)
    finally:
        one.stop()


def limits(workload: Workload, size: Size) -> dict[str, float]:
    """Floors of one thread for the trained model, in ms of processor time an event."""
    asked = models.work(GGUF)
    cards = [len(t) for i in workload.of("stream")[: size.stays] for t in workload.groups[i].events]
    read, multiply = read_gb_per_second(asked.layer_bytes), int8_giga_macs_per_second(WINDOW)
    weights_ms = asked.layer_bytes / read / 1e6
    return {
        "read_gb_per_second": read,
        "int8_giga_macs_per_second": multiply,
        "window_ms": max(weights_ms, WINDOW * asked.layer_macs / multiply / 1e6),
        "stream_ms": max(weights_ms, sum(cards) / len(cards) * asked.layer_macs / multiply / 1e6),
    }


def distances(details: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Processor time of a decision over what no runtime can beat, alone on one thread."""
    found: dict[str, dict[str, float]] = {}
    for kind in KINDS:
        floor = details["limits"][f"{kind}_ms"]
        rows = details["turns"][f"{kind}, {QUIET}"]
        found[kind] = {name: row["cpu_ms"] / floor for name, row in rows.items() if "cpu_ms" in row}
    return found


def shapes(starter: Starter, shape: str, bits: int, rounds: int, say: Say) -> dict[str, Any]:
    """The same events on random weights of a larger shape: engine, llama.cpp and, where it fits, ONNX Runtime."""
    gguf, onnx = models.random_model(OUT / "models", shape, bits)
    few = starter.workload.first(events=3 if shape == "1B" else 10)
    starter.ask(few, f"events-{shape}.txt")
    commands = {"engine": starter.driver("engine", gguf)}
    for flash, note in ((True, ""), (False, ", -fa off")):
        commands[f"our logic on llama.cpp{note}"] = starter.driver("llama", gguf, flash=flash)
    if onnx.exists():
        commands["ONNX Runtime"] = starter.worker("onnx_runtime", onnx)
    found: dict[str, Any] = {}
    running: dict[str, Running] = {}
    try:
        for name, command in commands.items():
            if not Path(command[0]).exists():
                found[name] = {"missing": "not built"}
                continue
            running[name] = starter.driven(f"{name} {shape}", command)()
        for kind in KINDS:
            groups = few.of(kind)
            turns = take_turns(running, groups, rounds=rounds, seconds=0.0, is_hogged=False, say=say)
            for name, some in turns.items():
                found.setdefault(name, {})[kind] = condensed(some, name)
        for name, one in running.items():
            found[name]["rss_mb"] = rss_mb(one.pid)
    finally:
        for one in running.values():
            one.stop()
    say(f"{shape}, {bits} bits, random weights: {', '.join(found)}")
    return found


def disk_mb(files: tuple[Path, ...]) -> float:
    """Bytes of files and folders, in MB of 10^6; a link counts as nothing, what it leads to is listed itself."""
    total = 0
    for path in files:
        inside = path.rglob("*") if path.is_dir() else [path]
        total += sum(item.stat().st_size for item in inside if item.is_file() and not item.is_symlink())
    return total / 1e6


def report(details: dict[str, Any], result: dict[str, Any]) -> None:
    """Print the tables."""
    for label, rows in details["turns"].items():
        print(f"\n{label}\n{'':42} {'a second':>9} {'cpu ms':>8} {'p50 ms':>8} {'p99 ms':>8}  turns (thrown away)")
        for name, row in rows.items():
            if "cpu_ms" not in row:
                print(f"{name:42} {'every turn had time stolen' if row['turns_thrown_away'] else 'fell out'}")
                continue
            print(
                f"{name:42} {row['events_per_second_per_core']:9.1f} {row['cpu_ms']:8.2f} {row['p50_ms']:8.2f} "
                f"{row['p99_ms']:8.2f}  {row['turns']} ({row['turns_thrown_away']})"
            )
    print(f"\n{'':42} {'MB':>7} {'MB disk':>8} {'cold s':>7}  equal choices, widest margin of a different one")
    for name, used in details["rss_mb"].items():
        checked = details["decisions"]["rows"].get(name, {}).values()
        first = details["cold"].get(name, {}).get("wall_s", float("nan"))
        equal = min((row["equal_choices"] for row in checked), default=float("nan"))
        widest = max((row["widest_disagreement"] for row in checked), default=float("nan"))
        disk = details["disk_mb"].get(name, float("nan"))
        print(f"{name:42} {used:7.1f} {disk:8.1f} {first:7.2f}  {equal:.4f}, {widest:.3f}")
    for name, why in details["missing"].items():
        print(f"missing: {name}: {why}")
    print()
    for name, value in result.items():
        print(f"{name:36} {'missing' if value is None else f'{value:.3f}'}")


if __name__ == "__main__":
    sys.exit(main())
