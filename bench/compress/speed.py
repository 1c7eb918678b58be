"""Prefill and decode, in processor time on one thread, in rounds that take turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
from bench.compress.readers import Reader
from numpy.typing import NDArray

#: Tokens read at once, and tokens before the one that is timed alone.
PREFILL, DECODE_AT = 256, 48
_WARM_UP = 2
_STEPS = 20

Timing = dict[str, dict[str, float]]


def time_readers(readers: Mapping[str, Reader], tokens: NDArray[np.int64], *, rounds: int) -> dict[str, Timing]:
    """Milliseconds of every reader that has something to time.

    Args:
        readers: Method to its reader.
        tokens: (T,) at least `PREFILL` ids.
        rounds: Times that each is measured; the order changes, so that other work on the machine hits all alike.

    Returns:
        Method to `prefill_ms` and `decode_ms`, each with `median`, `low` and `high` (10th and 90th percentile), and
        `over_first`: the median ratio to the first method, round by round.
    """
    works = {}
    for name, reader in readers.items():
        step = reader.decode(tokens[:DECODE_AT])
        if step is not None:
            works[name] = {"prefill_ms": _prefill(reader, tokens), "decode_ms": _steps(step)}
    spent: dict[str, dict[str, list[float]]] = {name: {kind: [] for kind in work} for name, work in works.items()}
    rng = np.random.default_rng(0)
    names = list(works)
    for turn in range(rounds + _WARM_UP):
        for i in rng.permutation(len(names)):
            for kind, work in works[names[i]].items():
                begun = time.process_time()
                count = work()
                if turn >= _WARM_UP:
                    spent[names[i]][kind].append((time.process_time() - begun) * 1e3 / count)
    return {
        name: {kind: _summary(times, spent[names[0]][kind]) for kind, times in kinds.items()}
        for name, kinds in spent.items()
    }


def _prefill(reader: Reader, tokens: NDArray[np.int64]) -> Callable[[], int]:
    def work() -> int:
        reader.logits(tokens[:PREFILL], [PREFILL - 1])
        return 1

    return work


def _steps(step: Callable[[], object]) -> Callable[[], int]:
    def work() -> int:
        for _ in range(_STEPS):
            step()
        return _STEPS

    return work


def _summary(times: list[float], first: list[float]) -> dict[str, float]:
    low, median, high = np.percentile(times, (10, 50, 90)).tolist()
    over_first = float(np.median(np.array(times) / np.array(first)))
    return {"median": median, "low": low, "high": high, "over_first": over_first}
