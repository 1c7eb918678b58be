"""Choose the next token from logits: greedy, or by chance from a seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from smallhold.errors import BackendError

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen. Checked where the request is read.

    Attributes:
        temperature: Divides the logits; 0 takes the most probable token, the lower id of equals.
        top_p: Nucleus: the fewest tokens that together are at least this probable (Holtzman et al. 2020,
            arXiv:1904.09751, section 3.1); 1 keeps all.
        top_k: So many of the most probable tokens, and their equals; 0 keeps all.
        frequency_penalty: Taken off a token's logit for each time it was generated.
        presence_penalty: Taken off once, when it was generated at all.
        logit_bias: Token to what is added to its logit.
        seed: Makes the choice repeatable; None draws one.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None


class Sampler:
    """One answer's chooser; it remembers what was generated.

    Args:
        sampling: How.
        index: Number of the answer among those to one request; each has its own chance.
    """

    def __init__(self, sampling: Sampling, index: int) -> None:
        self._sampling = sampling
        self._random = np.random.default_rng(None if sampling.seed is None else [sampling.seed, index])
        self._counts: dict[int, int] = {}
        self._biased = np.fromiter(sampling.logit_bias, dtype=np.int64)
        self._bias = np.fromiter(sampling.logit_bias.values(), dtype=np.float64)

    def choose(self, logits: FloatArray, allowed: BoolArray) -> int:
        """Choose a token and remember it.

        Args:
            logits: (V,).
            allowed: (V,) False where a token may not be chosen.

        Raises:
            BackendError: a logit is not finite, or nothing is allowed.
        """
        scores = self._adjusted(logits)
        scores[~allowed] = -np.inf
        token = int(np.argmax(scores))
        if not np.isfinite(logits).all() or scores[token] == -np.inf:
            raise BackendError("no token can be chosen: a logit is not finite, or none is allowed")
        if self._sampling.temperature > 0:
            token = self._draw(scores)
        self._counts[token] = self._counts.get(token, 0) + 1
        return token

    def _adjusted(self, logits: FloatArray) -> NDArray[np.float64]:
        scores = logits.astype(np.float64)
        scores[self._biased] += self._bias
        frequency, presence = self._sampling.frequency_penalty, self._sampling.presence_penalty
        if frequency or presence:
            for token, count in self._counts.items():
                scores[token] -= frequency * count + presence
        return scores

    def _draw(self, scores: NDArray[np.float64]) -> int:
        if 0 < self._sampling.top_k < len(scores):
            scores[scores < np.partition(scores, -self._sampling.top_k)[-self._sampling.top_k]] = -np.inf
        with np.errstate(over="ignore"):  # at a temperature near 0 all but the best go to -inf, as they should
            weights = np.exp((scores - scores.max()) / self._sampling.temperature)
        if self._sampling.top_p < 1:
            order = np.argsort(-weights, kind="stable")
            before = np.cumsum(weights[order]) - weights[order]
            before[0] = -1  # the most probable one stays whatever top_p is
            weights[order[before >= self._sampling.top_p * weights.sum()]] = 0
        edges = np.cumsum(weights)
        # The first edge beyond the draw: a token of weight 0 has no room between its edges and is never met.
        return int(np.searchsorted(edges, self._random.random() * edges[-1], side="right"))


def log_softmax(logits: FloatArray) -> NDArray[np.float64]:
    """Log-probabilities (..., V) in natural logarithms."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found
