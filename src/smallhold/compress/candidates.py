"""Which shapes a search looks at: every uniform shape below the teacher's that the runtimes run well."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from smallhold.bundle.weights import GROUP_SIZE
from smallhold.compress.shrink_recipe import RoundingChoice, ShapeChoice
from smallhold.learn.trunk_config import TrunkConfig

_SHARES = (1.0, 0.75, 0.5, 0.375, 0.25, 0.125)


@dataclass(frozen=True, slots=True, order=True)
class Candidate:
    """A shape and its bits.

    Attributes:
        layers: L.
        hidden: D, in whole heads.
        mlp: Channels of the gated MLP.
        heads: Query heads.
        kv_heads: Key-value heads.
        vocab: Entries of the vocabulary.
        bits: 8 or 4.
    """

    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    vocab: int
    bits: int

    def shape(self) -> ShapeChoice:
        """As a recipe says it."""
        return ShapeChoice(
            num_hidden_layers=self.layers,
            hidden_size=self.hidden,
            intermediate_size=self.mlp,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            vocab_size=self.vocab,
        )

    def rounding(self, method: str) -> RoundingChoice:
        """As a recipe says it."""
        return RoundingChoice(bits=self.bits, method=method if self.bits < 8 else "round")

    def label(self) -> str:
        """A short name."""
        return f"{self.layers}x{self.hidden}/{self.mlp}h{self.heads}k{self.kv_heads}v{self.vocab}w{self.bits}"

    def unevenness(self, teacher: TrunkConfig) -> float:
        """Ratio of the largest to the smallest share of a size that stays; 1 when all shrink alike."""
        shares = (
            self.layers / teacher.num_hidden_layers,
            self.hidden / teacher.hidden_size,
            self.mlp / teacher.intermediate_size,
            self.heads / teacher.num_attention_heads,
            self.vocab / teacher.vocab_size,
        )
        return max(shares) / min(shares)


def candidates(teacher: TrunkConfig, *, least_vocab: int, bits: Sequence[int] = (8, 4)) -> list[Candidate]:
    """All shapes, the teacher's among them, without order of merit.

    Rows are multiples of a quantization group, heads keep their width, and query heads stay a multiple of key-value
    heads, so that nothing is padded on any runtime.

    Args:
        teacher: What is there.
        least_vocab: Entries that have to stay: bytes, marks, words of the task.
        bits: Encodings to look at.
    """
    layers = sorted({max(1, round(teacher.num_hidden_layers * share)) for share in _SHARES})
    hidden = _groups(teacher.hidden_size)
    mlp = _groups(teacher.intermediate_size)
    heads = _heads(teacher)
    vocab = sorted({max(least_vocab, round(teacher.vocab_size * share)) for share in _SHARES})
    return [
        Candidate(*sizes[:3], *sizes[3], *sizes[4:])
        for sizes in itertools.product(layers, hidden, mlp, heads, vocab, bits)
    ]


def _groups(size: int) -> list[int]:
    """Shares of a size, in whole quantization groups; the size itself however it divides."""
    return sorted(
        {size}
        | {max(1, round(size * share / GROUP_SIZE)) * GROUP_SIZE for share in _SHARES[1:]} & set(range(1, size + 1))
    )


def _heads(teacher: TrunkConfig) -> list[tuple[int, int]]:
    """(query, key-value) heads: fewer groups, or as many smaller ones."""
    group = teacher.num_attention_heads // teacher.num_key_value_heads
    return sorted(
        {(kv * size, kv) for kv in range(1, teacher.num_key_value_heads + 1) for size in {1, max(1, group // 2), group}}
    )


def shortlist(
    found: Sequence[Candidate],
    cost: Mapping[Candidate, Mapping[str, float]],
    parameters: Mapping[Candidate, int],
    *,
    count: int,
) -> list[Candidate]:
    """The candidates to train: of each depth and bits those with most parameters, then the most different sizes.

    More parameters within the same budget rarely decide worse, but how they are best spread over depth, width and
    vocabulary differs from task to task; so every depth and encoding sends its largest, and training chooses.

    Args:
        found: Candidates within the budget.
        cost: What each costs, for ties: the cheaper goes first.
        parameters: Of each.
        count: At most so many.
    """
    by_kind: dict[tuple[int, int], list[Candidate]] = {}
    for candidate in sorted(found, key=lambda c: (-parameters[c], cost[c].get("p95_ms", 0.0), c)):
        by_kind.setdefault((candidate.layers, candidate.bits), []).append(candidate)
    chosen: list[Candidate] = []
    for turn in itertools.count():
        row = [kind[turn] for kind in by_kind.values() if turn < len(kind)]
        if not row or len(chosen) >= count:
            return chosen[:count]
        chosen += sorted(row, key=lambda c: (-parameters[c], c))
    return chosen


def ladder(
    found: Sequence[Candidate], size: Mapping[Candidate, float], teacher: TrunkConfig, *, count: int
) -> list[Candidate]:
    """From the smallest to the largest in about equal ratios; of candidates alike in size, the most evenly shrunk.

    Args:
        found: At least one.
        size: Of each; bytes, for example.
        teacher: What is shrunk.
        count: At most so many.
    """
    low, high = (math.log(end(size[c] for c in found)) for end in (min, max))
    rungs: dict[int, list[Candidate]] = {}
    for candidate in found:
        share = (math.log(size[candidate]) - low) / max(high - low, 1e-9)
        rungs.setdefault(min(count - 1, int(share * count)), []).append(candidate)
    return [min(rungs[i], key=lambda c: (c.unevenness(teacher), size[c], c)) for i in sorted(rungs)]
