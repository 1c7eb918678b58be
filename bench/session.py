"""One more hour at the bed: append a signal token and read two logits, on each runtime and on a peer.

The peer is `transformers.LlamaForCausalLM` in float32 with its own key-value cache, fed the same embeddings, as one
would use it without this project. "whole" answers the same question by running the whole record again, which is what a
runtime without a session does. Random weights: speed only, no quality.

    python bench/session.py [--hours 48] [--rounds 30]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaForCausalLM

from smallhold.bundle.gguf import trunk_gguf
from smallhold.bundle.onnx_graph import trunk_onnx
from smallhold.bundle.weights import read_weights
from smallhold.compress.quantize import quantize_checkpoint
from smallhold.device.backends import Backend
from smallhold.device.backends.onnx_runtime import OnnxRuntimeBackend
from smallhold.device.backends.reference import ReferenceBackend
from smallhold.evaluate.run import machine
from smallhold.learn.checkpoint import save_trunk
from smallhold.learn.model import Trunk, TrunkConfig

Hours = Callable[[], None]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=int, default=48, metavar="H", help="hours appended in a round; default 48")
    parser.add_argument("--rounds", type=int, default=30, metavar="N", help="rounds of every contestant; default 30")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    trunk = Trunk(TrunkConfig(vocab_size=259))
    tokens = np.random.default_rng(0).normal(size=(args.hours, 128)).astype(np.float32)
    with tempfile.TemporaryDirectory() as scratch:
        folder, quantized = Path(scratch) / "fp32", Path(scratch) / "q8_0"
        save_trunk(trunk, folder)
        quantize_checkpoint(folder, quantized)
        fp32, int8 = read_weights(folder), read_weights(quantized)
        peer = LlamaForCausalLM.from_pretrained(folder).eval()
        names = [str(i) for i in range(259)]
        contestants: dict[str, Hours] = {
            "transformers fp32, its cache": lambda: _peer(peer, tokens),
            "onnx_runtime int8": _appending(OnnxRuntimeBackend(trunk_onnx(int8)), tokens),
            "onnx_runtime fp32": _appending(OnnxRuntimeBackend(trunk_onnx(fp32)), tokens),
            "onnx_runtime int8, whole": _whole(OnnxRuntimeBackend(trunk_onnx(int8)), tokens),
            "reference": _appending(ReferenceBackend(trunk_gguf(fp32, name="bench", tokens=names)), tokens),
        }
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        for turn in range(args.rounds + 2):
            for name, run in contestants.items():
                begun = time.process_time()
                run()
                if turn >= 2:  # the first two warm up
                    seconds[name].append(time.process_time() - begun)
    base = np.array(seconds["transformers fp32, its cache"])
    print(f"{machine()}; {args.hours} hours a round, {args.rounds} rounds, one thread, CPU time; random weights\n")
    print(f"{'':32} {'ms an hour':>10}  peer / ours: median (10 % to 90 %)")
    for name, spent in seconds.items():
        ratio = base / np.array(spent)
        low, middle, high = np.percentile(ratio, (10, 50, 90))
        print(f"{name:32} {np.median(spent) / args.hours * 1e3:10.3f}  {middle:.2f} ({low:.2f} to {high:.2f})")


def _appending(backend: Backend, tokens: np.ndarray) -> Hours:
    def run() -> None:
        session = backend.session()
        for hour in range(len(tokens)):
            session.append(tokens[hour : hour + 1])
            session.score([], [-1])

    return run


def _whole(backend: Backend, tokens: np.ndarray) -> Hours:
    def run() -> None:
        for hour in range(1, len(tokens) + 1):
            backend.session().score(tokens[:hour], [hour - 1])

    return run


def _peer(model: LlamaForCausalLM, tokens: np.ndarray) -> None:
    cache = None
    with torch.no_grad():
        for hour in range(len(tokens)):
            out = model(
                inputs_embeds=torch.from_numpy(tokens[None, hour : hour + 1]), past_key_values=cache, use_cache=True
            )
            cache = out.past_key_values


if __name__ == "__main__":
    main()
