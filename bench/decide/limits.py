"""What no runtime on this machine can beat, one thread: reading the weights, and multiplying by them in 8 bits."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

_ROUNDS = 7


def read_gb_per_second(size_bytes: int) -> float:
    """Fastest reading of so many bytes again and again, from cache or memory as it comes: best of three sums."""
    words = np.ones(size_bytes // 8, np.uint64)
    floats = torch.ones(size_bytes // 4)
    integers = torch.ones(size_bytes // 8, dtype=torch.int64)
    seconds = min(_seconds(words.sum), _seconds(floats.sum), _seconds(integers.sum))
    return size_bytes / seconds / 1e9


def int8_giga_macs_per_second(rows: int) -> float:
    """Fastest product of 8-bit matrices with so many rows, by torch; the best of a few shapes."""
    best = 0.0
    for inner, columns in ((192, 512), (512, 192), (576, 1536), (1024, 1024), (2048, 8192)):
        left = torch.randint(-127, 128, (max(rows, 32), inner), dtype=torch.int8)
        right = torch.randint(-127, 128, (columns, inner), dtype=torch.int8).T
        seconds = _seconds(lambda left=left, right=right: torch._int_mm(left, right))
        best = max(best, left.shape[0] * inner * columns / seconds / 1e9)
    return best


def _seconds(work: Callable[[], object]) -> float:
    """Processor seconds of one call, the least of several rounds of at least 20 ms."""
    torch.set_num_threads(1)
    times = 1
    best = np.inf
    for _ in range(_ROUNDS):
        while True:
            begun = time.thread_time()
            for _ in range(times):
                work()
            spent = time.thread_time() - begun
            if spent >= 0.02:
                break
            times *= 2
        best = min(best, spent / times)
    return float(best)
