"""What WASI-NN costs a decision: a guest that asks through the host, beside the same calls of the session in Python.

Both sides take the same inputs and read the same two logits after each event: an hour as a signal token, a card of five
observation words, or a text of 40 tokens that is tried behind a prefix and forgotten. They take turns in one process,
on one thread; counted is the processor time of that thread, the guest's own included. `random 25M` has random weights:
it says something about speed alone.

    python bench/wasi_nn.py [--rounds 30] [--model hospital] [--runtime engine] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smallhold.decide.local import open_bundle
from smallhold.device.backends import Backend
from smallhold.device.wasi_nn import Guest, Limits, Model
from smallhold.evaluate.run import machine

MODELS = Path(__file__).parents[1] / "models"
RUNTIMES = ("engine", "onnx_runtime")
Event = NDArray[np.float32] | NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison.

    Attributes:
        model: Whose weights.
        runtime: What computes.
        event: What is new before a decision.
        calls: Calls into the host a decision: 3 by the ABI alone, 1 by `smallhold_nn.step`.
        native_us: Median processor time of a decision without a guest.
        wasi_us: Median processor time of a decision through WASI-NN.
        ratio: Median over the rounds of wasi / native.
        ratio_low: First decile.
        ratio_high: Last decile.
    """

    model: str
    runtime: str
    event: str
    calls: int
    native_us: float
    wasi_us: float
    ratio: float
    ratio_low: float
    ratio_high: float


def main() -> None:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, metavar="N", help="rounds of both sides; default 30")
    parser.add_argument("--model", choices=("hospital", "random"), help="this one alone")
    parser.add_argument("--runtime", choices=RUNTIMES, help="this one alone")
    parser.add_argument("--fuel", action="store_true", help="count the guest's instructions, as the command does")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the rows as JSON")
    args = parser.parse_args()
    print(
        f"{'model':11} {'runtime':13} {'event':13} {'calls':>5} {'native':>10} {'WASI-NN':>10}  wasi / native (deciles)"
    )
    rows = []
    runtimes = (args.runtime,) if args.runtime else RUNTIMES
    for name, runtime, backend in backends(args.model, runtimes):
        for event, events in workloads(backend):
            for row in compare(name, runtime, event, backend, events, args.rounds, 10**15 if args.fuel else 0):
                rows.append(row)
                print(
                    f"{row.model:11} {row.runtime:13} {row.event:13} {row.calls:5} {row.native_us:7.1f} us "
                    f"{row.wasi_us:7.1f} us  {row.ratio:.3f} ({row.ratio_low:.3f} to {row.ratio_high:.3f})",
                    flush=True,
                )
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"machine": machine(), "rows": [asdict(row) for row in rows]}, indent=1) + "\n")


def backends(model: str | None, runtimes: tuple[str, ...]) -> Iterator[tuple[str, str, Backend]]:
    """Each model on each runtime."""
    for runtime in runtimes if model != "random" else ():
        bundle = open_bundle(MODELS / "hospital", backend=runtime, trusted_keys=MODELS / "trusted_keys")  # type: ignore[arg-type]
        yield "hospital", runtime, bundle.backend
    if model != "hospital":
        yield from random_model(runtimes)


def random_model(runtimes: tuple[str, ...]) -> Iterator[tuple[str, str, Backend]]:
    """25 million random parameters in 8 bits; needs the extra `train`."""
    import torch

    from smallhold.bundle.gguf import trunk_gguf
    from smallhold.bundle.onnx_graph import trunk_onnx
    from smallhold.bundle.weights import read_weights
    from smallhold.compress.quantize import quantize_checkpoint
    from smallhold.device.backends.engine import EngineBackend
    from smallhold.device.backends.onnx_runtime import OnnxRuntimeBackend
    from smallhold.learn.checkpoint import save_trunk
    from smallhold.learn.model import Trunk, TrunkConfig

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = TrunkConfig(
        vocab_size=4096,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=512,
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder, quantized = Path(scratch) / "fp32", Path(scratch) / "q8_0"
        save_trunk(Trunk(config), folder)
        quantize_checkpoint(folder, quantized)
        weights = read_weights(quantized)
    if "engine" in runtimes:
        yield "random 25M", "engine", EngineBackend(trunk_gguf(weights, name="random", tokens=[]))
    if "onnx_runtime" in runtimes:
        yield "random 25M", "onnx_runtime", OnnxRuntimeBackend(trunk_onnx(weights))


def workloads(backend: Backend) -> Iterator[tuple[str, list[Event]]]:
    """Kinds of events, and the events of one patient or of a few texts."""
    rng = np.random.default_rng(0)
    hours: list[Event] = [rng.normal(size=(1, backend.width)).astype(np.float32) for _ in range(48)]
    cards: list[Event] = [rng.integers(0, backend.vocab_size, 5).astype(np.int32) for _ in range(23)]
    texts: list[Event] = [rng.integers(0, backend.vocab_size, 40).astype(np.int32) for _ in range(4)]
    yield "signal token", hours
    yield "five words", cards
    yield "text tried", texts


def compare(
    model: str, runtime: str, event: str, backend: Backend, events: list[Event], rounds: int, fuel: int
) -> Iterator[Row]:
    """Let the sides take turns.

    Raises:
        SystemExit: the sides do not read the same logits.
    """
    rows = [5, 6]
    is_tried = event == "text tried"
    times = max(1, 240 // len(events)) if backend.width < 512 else 1
    guest = Guest(
        guest_of(events, rows, is_tried).encode(), {"m": Model(backend)}, limits=Limits(seconds=600, fuel=fuel)
    )
    if guest.call("open"):
        raise SystemExit(f"the guest could not begin: {guest.calls.refusals}")
    native = _native(backend, events, rows, is_tried)
    seconds: list[tuple[float, ...]] = []
    for _ in range(rounds + 1):
        marks = [time.thread_time()]
        expected = native(times)
        marks.append(time.thread_time())
        for name in ("run", "run_steps"):
            code = guest.call(name, times)
            marks.append(time.thread_time())
            found = np.frombuffer(guest.memory(OUTPUT, 8), np.float32)
            if code or not np.array_equal(found, expected):
                raise SystemExit(f"{runtime}, {event}: expected {expected}, got {found}: {guest.calls.refusals}")
        seconds.append(tuple(np.diff(marks)))
    measured = np.array(seconds[1:])  # the first round finds cold caches
    per_event = np.median(measured, axis=0) / (times * len(events)) * 1e6
    for column, calls in ((1, 3), (2, 1)):
        ratios = measured[:, column] / measured[:, 0]
        low, high = np.percentile(ratios, [10, 90])
        numbers = [round(float(x), 4) for x in (per_event[0], per_event[column], np.median(ratios), low, high)]
        yield Row(model, runtime, event, calls, *numbers)


def _native(
    backend: Backend, events: list[Event], rows: list[int], is_tried: bool
) -> Callable[[int], NDArray[np.float32]]:
    """All events so many times over; returns the last logits, (2,)."""
    inputs = [event if event.dtype == np.float32 else event.tolist() for event in events]
    session = backend.session()
    session.append([1])

    def follow(times: int) -> NDArray[np.float32]:
        for _ in range(times):
            session.rewind(1)
            for item in inputs:
                session.append(item)
                logits = session.score([], [-1], rows)
        return logits[0]

    def read(times: int) -> NDArray[np.float32]:
        for _ in range(times):
            for item in inputs:
                logits = session.score(item, [len(item) - 1], rows)
        return logits[0]

    return read if is_tried else follow


OUTPUT, _FREE = 1024, 4096
_IMPORTS = {"load_by_name": 3, "init_execution_context": 2, "set_input": 3, "compute": 1, "get_output": 5}


def guest_of(events: list[Event], rows: list[int], is_tried: bool) -> str:
    """A guest that holds the events, sets each, computes, and reads two logits."""
    segments, free = [(0, b"m#session")], _FREE

    def place(content: bytes) -> int:
        nonlocal free
        at, free = free, free + (len(content) + 15) // 16 * 16
        segments.append((at, content))
        return at

    def record(tensor: Event) -> bytes:
        kind, content = (1 if tensor.dtype == np.float32 else 4), tensor.tobytes()
        shape = place(struct.pack(f"<{tensor.ndim}I", *tensor.shape))
        return struct.pack("<5I", shape, tensor.ndim, kind, place(content), len(content))

    def numbers(*values: int) -> int:
        return place(record(np.array(values, np.int32)))

    asked, first, one = numbers(*rows), numbers(1), numbers(1)
    records = [record(event) for event in events]
    begin = place(b"".join(records))
    end = begin + 20 * len(events)
    imports = '(import "smallhold_nn" "step" (func $step (param i32 i32 i32 i32 i32) (result i32))) ' + " ".join(
        f'(import "wasi_ephemeral_nn" "{name}" (func ${name} (param {"i32 " * arity}) (result i32)))'
        for name, arity in _IMPORTS.items()
    )
    data = " ".join(f'(data (i32.const {at}) "{_escaped(content)}")' for at, content in segments)
    rewind = "" if is_tried else f"(call $must (call $set_input (i32.const 0) (i32.const 4) (i32.const {one})))"
    index, record_at = f"(i32.const {int(is_tried)})", "(local.get $at)"
    three = (
        f"(call $must (call $set_input (i32.const 0) {index} {record_at})) (call $must (call $compute (i32.const 0)))"
        f"(call $must (call $get_output (i32.const 0) (i32.const 0) (i32.const {OUTPUT}) (i32.const 8) (i32.const 40)))"
    )
    one_call = f"(call $must (call $step (i32.const 0) {index} {record_at} (i32.const {OUTPUT}) (i32.const 8)))"
    return f"""(module {imports} (memory (export "memory") {free // 65536 + 1}) {data}
      (global $bad (mut i32) (i32.const 0))
      (func $must (param $code i32) (global.set $bad (i32.or (global.get $bad) (local.get $code))))
      (func (export "open") (result i32)
        (call $must (call $load_by_name (i32.const 0) (i32.const 9) (i32.const 32)))
        (call $must (call $init_execution_context (i32.load (i32.const 32)) (i32.const 36)))
        (call $must (call $set_input (i32.const 0) (i32.const 3) (i32.const {asked})))
        (call $must (call $set_input (i32.const 0) (i32.const 0) (i32.const {first})))
        (call $must (call $compute (i32.const 0)))
        (global.get $bad))
      {_loop("run", rewind, begin, end, three)} {_loop("run_steps", rewind, begin, end, one_call)})"""


def _loop(name: str, before: str, begin: int, end: int, body: str) -> str:
    """A function that does `body` with every record, so many times over."""
    return f"""(func (export "{name}") (param $times i32) (result i32) (local $at i32)
        (loop $again
          (local.set $at (i32.const {begin})) {before}
          (loop $next {body}
            (br_if $next (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 20))) (i32.const {end}))))
          (br_if $again (local.tee $times (i32.sub (local.get $times) (i32.const 1)))))
        (global.get $bad))"""


def _escaped(content: bytes) -> str:
    return "".join(f"\\{byte:02x}" for byte in content)


if __name__ == "__main__":
    main()
