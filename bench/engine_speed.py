"""Prefill and decode of the engine beside ONNX Runtime and llama.cpp, on equal weights, by shape, bits and threads.

Contestants take turns in one process, llama.cpp's `llama-bench` between the rounds. The unit is processor time, which a
busy machine disturbs least: of this process; of `llama-bench` by the difference between a long and a short run, which
takes loading and warming up away. Wall time stands beside it. Random weights: speed only, no quality.

    python bench/engine_speed.py [--shapes 25m 135m hospital] [--bits 8 4] [--threads 1 2] [--rounds 9]
                                 [--families avx512vnni avx2] [--llama-bench PATH] [--folder runs/engine-speed]

Models are written to the folder once and found there again; `result.json` is written there after every row.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from smallhold.bundle.gguf import trunk_gguf
from smallhold.bundle.onnx_graph import trunk_onnx
from smallhold.bundle.weights import read_weights
from smallhold.compress.quantize import quantize_checkpoint
from smallhold.device.backends import Backend
from smallhold.device.backends.engine import EngineBackend, kernel_families
from smallhold.device.backends.onnx_runtime import OnnxRuntimeBackend
from smallhold.evaluate.run import machine
from smallhold.learn.checkpoint import save_trunk
from smallhold.learn.model import Trunk, TrunkConfig

SHAPES = {
    "25m": TrunkConfig(
        vocab_size=4096,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=1024,
    ),
    "135m": TrunkConfig(  # SmolLM2-135M
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=1024,
        rope_theta=100_000.0,
    ),
    "hospital": TrunkConfig(  # the trunk of models/hospital
        vocab_size=8264,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=8,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=1024,
    ),
}
PROMPT, ANSWER = 256, 32
Seconds = tuple[float, float]  # of processor and wall


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--bits", nargs="+", type=int, choices=(8, 4), default=[8, 4])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="rounds of every contestant; default 9")
    parser.add_argument("--families", nargs="+", metavar="NAME", help="of kernels; default: the fastest")
    parser.add_argument("--llama-bench", type=Path, metavar="PATH", help="llama.cpp's program; default: without")
    parser.add_argument("--no-onnx-runtime", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("runs/engine-speed"))
    args = parser.parse_args()
    families = args.families or kernel_families()[:1]
    rows: list[dict[str, Any]] = []
    print(f"{machine()}; {PROMPT} tokens, then {ANSWER} one by one; {args.rounds} rounds; random weights", flush=True)
    for shape in args.shapes:
        for bits in args.bits:
            gguf, onnx = _models(args.folder, shape, bits)
            for threads in args.threads:
                contestants: dict[str, Callable[[], dict[str, Seconds]]] = {}
                for family in families:
                    backend = EngineBackend(gguf, kernels=family, num_threads=threads)
                    contestants[f"engine {family}"] = _turn(backend)
                if not args.no_onnx_runtime:
                    graph = onnx.read_bytes()
                    contestants["onnx_runtime"] = _turn(OnnxRuntimeBackend(graph, num_threads=threads))
                if args.llama_bench:
                    contestants["llama.cpp"] = _llama(args.llama_bench, gguf, threads)
                rows += _race(contestants, args.rounds, {"shape": shape, "bits": bits, "threads": threads})
                part = args.folder / "result.part"
                part.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))
                part.replace(args.folder / "result.json")


def _race(
    contestants: dict[str, Callable[[], dict[str, Seconds]]], rounds: int, about: dict[str, Any]
) -> list[dict[str, Any]]:
    found: dict[str, list[dict[str, Seconds]]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, run in contestants.items():
            seconds = run()
            if turn:  # the first warms up
                found[name].append(seconds)
    rows = []
    first = next(iter(contestants))
    for work in ("prefill", "decode"):
        for name, turns in found.items():
            cpu, wall = (np.array([turn[work][i] for turn in turns]) * 1e3 for i in (0, 1))
            ratio = cpu / np.array([turn[work][0] * 1e3 for turn in found[first]])
            row = {
                **about,
                "work": work,
                "who": name,
                "cpu_ms": float(np.median(cpu)),
                "cpu_ms_low_high": [float(x) for x in np.percentile(cpu, (10, 90))],
                "wall_ms": float(np.median(wall)),
                "cpu_over_first": [float(x) for x in np.percentile(ratio, (50, 10, 90))],
            }
            rows.append(row)
            low, high = row["cpu_ms_low_high"]
            middle, least, most = row["cpu_over_first"]
            print(
                f"{about['shape']:9} {about['bits']} bits {about['threads']} threads  {work:8}{name:20} cpu "
                f"{row['cpu_ms']:8.2f} ms ({low:.2f} to {high:.2f})  wall {row['wall_ms']:8.2f}  "
                f"/ first {middle:.2f} ({least:.2f} to {most:.2f})",
                flush=True,
            )
    return rows


def _turn(backend: Backend) -> Callable[[], dict[str, Seconds]]:
    """A prompt and an answer; decode is the time of one token."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, backend.vocab_size, PROMPT + ANSWER).tolist()

    def run() -> dict[str, Seconds]:
        session = backend.session()
        a = (time.process_time(), time.perf_counter())
        session.append(tokens[:PROMPT])
        session.score([], [-1])
        b = (time.process_time(), time.perf_counter())
        for token in tokens[PROMPT:]:
            session.append([token])
            session.score([], [-1])
        c = (time.process_time(), time.perf_counter())
        return {"prefill": (b[0] - a[0], b[1] - a[1]), "decode": ((c[0] - b[0]) / ANSWER, (c[1] - b[1]) / ANSWER)}

    return run


def _llama(program: Path, gguf: Path, threads: int) -> Callable[[], dict[str, Seconds]]:
    """The same work by llama.cpp: a prompt, and tokens one by one behind a prompt of that length."""
    works = {"prefill": ["-p", str(PROMPT), "-n", "0"], "decode": ["-p", "0", "-n", str(ANSWER), "-d", str(PROMPT)]}

    def once(work: str, times: int) -> tuple[float, float]:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [str(program), "-m", str(gguf), "-t", str(threads), "-r", str(times), "-o", "json", *works[work]]
        done = subprocess.run(  # noqa: S603 - the program that the caller names
            command, capture_output=True, text=True, timeout=600, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return cpu, float(json.loads(done.stdout)[0]["avg_ns"]) * 1e-9

    def run() -> dict[str, Seconds]:
        found = {}
        for work in works:
            (short, _), (long, wall) = once(work, 1), once(work, 5)
            # A run behind a prompt computes the prompt again each time: it is taken away by prefill's own time.
            cpu = (long - short) / 4
            if work == "decode":
                cpu -= found["prefill"][0]
            share = 1 if work == "prefill" else ANSWER
            found[work] = (cpu / share, wall / share)
        return found

    return run


def _models(folder: Path, shape: str, bits: int) -> tuple[Path, Path]:
    """GGUF and ONNX of one checkpoint, written unless they are there."""
    gguf, onnx = (folder / f"{shape}-q{bits}.{kind}" for kind in ("gguf", "onnx"))
    if not (gguf.exists() and onnx.exists()):
        import torch

        torch.manual_seed(0)
        folder.mkdir(parents=True, exist_ok=True)
        full, twin = folder / f"{shape}-f32", folder / f"{shape}-q{bits}"
        save_trunk(Trunk(SHAPES[shape]), full)
        quantize_checkpoint(full, twin, bits=bits)
        weights = read_weights(twin)
        tokens = [f"t{i}" for i in range(SHAPES[shape].vocab_size)]
        for path, data in ((gguf, trunk_gguf(weights, name=shape, tokens=tokens)), (onnx, trunk_onnx(weights))):
            path.with_suffix(".part").write_bytes(data)
            path.with_suffix(".part").replace(path)
    return gguf, onnx


if __name__ == "__main__":
    main()
