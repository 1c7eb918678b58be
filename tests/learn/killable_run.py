"""A training run to be killed: `killable_run.py STATE_FILE STEPS` forks one child for each line on stdin.

The parent imports torch once and computes nothing, so that a child starts at once and cleanly. For each line it
answers with the child's process id, and when the child has ended with its exit status (negative: the signal).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from smallhold.learn.loop import LoopConfig, train


def make_model() -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))


def loss(model: nn.Module, step: int, rng: np.random.Generator) -> Tensor:
    x = torch.from_numpy(rng.normal(size=(8, 4)).astype(np.float32))
    noise = torch.rand(8, 1) * 0.1  # torch's generator is part of the state too
    return ((model(x) - x.prod(dim=1, keepdim=True) + noise) ** 2).mean()


def run(state_file: Path, steps: int) -> nn.Module:
    torch.set_num_threads(1)
    model = make_model()
    config = LoopConfig(steps=steps, warmup_steps=20, seed=3, use_bf16=False)
    train(model, loss, config, state_file, inputs_digest="x", progress=lambda *_: None, slice_seconds=0.0)
    return model


def main() -> None:
    state_file, steps = Path(sys.argv[1]), int(sys.argv[2])
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            run(state_file, steps)
            os._exit(0)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
