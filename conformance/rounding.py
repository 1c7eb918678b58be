"""How far rounding alone moves the oracle: what a runtime that rounds its activations may be off, position by position.

A runtime on weights of 8 or 4 bits rounds activations to 8 bits, 32 of them to a scale, and the oracle does not. Where
the scales lie a little elsewhere, other digits tip over, and at some positions the path goes on from there far away. So
the oracle is asked again with its activations rounded, `GRIDS` times with scales that differ at random, and every
position gets its own measure: the largest distance from the unrounded oracle. Nothing here is taken from a runtime.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from conformance.compare import FloatArray, relative_distance
from conformance.prompts import Prompt
from smallhold.device.backends.reference import ReferenceBackend

GRIDS = 8
_GROUP = 32
_LARGEST = 127


class RoundedOracle(ReferenceBackend):
    """The oracle with activations of 8 bits."""

    def __init__(self, gguf: bytes, seed: int) -> None:
        """Read the weights; the seed says how the scales differ.

        Raises:
            BackendError: as of `ReferenceBackend`.
        """
        super().__init__(gguf)
        self._rng = np.random.default_rng(seed)

    def _activations(self, x: FloatArray) -> FloatArray:
        """The multiples of a scale that lie nearest; it is up to 1/127 above the one that just holds the largest."""
        groups = x.reshape(len(x), -1, _GROUP)
        largest = np.abs(groups).max(axis=2, keepdims=True)
        above = 1 + self._rng.random(largest.shape, dtype=np.float32) / _LARGEST
        scale = np.where(largest > 0, largest * above / _LARGEST, np.float32(1))
        return (np.rint(groups / scale) * scale).reshape(x.shape)


def logits(oracle: ReferenceBackend, prompts: Iterable[Prompt]) -> list[FloatArray]:
    """Logits (T, V) of each prompt."""
    found = []
    with threadpool_limits(1):  # the products are small, and threads that wait for one another cost more than they give
        for prompt in prompts:
            session, parts = oracle.session(), []
            for part in prompt.parts:
                parts.append(session.score(part, list(range(len(part)))))
                session.append(part)
            found.append(np.concatenate(parts))
    return found


def moves(gguf: Path, prompts: list[Prompt], expected: list[FloatArray]) -> list[FloatArray]:
    """(T,) of each prompt: how far from `expected` rounding moved the oracle, at the most, over all grids."""
    data = gguf.read_bytes()
    most = [np.zeros(len(prompt), np.float32) for prompt in prompts]
    for seed in range(GRIDS):
        rounded = logits(RoundedOracle(data, seed), prompts)
        for i, (found, wanted) in enumerate(zip(rounded, expected, strict=True)):
            most[i] = np.maximum(most[i], relative_distance(found, wanted))
    return most
