"""What a teacher said about one token, in at most 32 bytes: the likeliest tokens exactly, the others by a draw.

A record of fixed length, most significant bit first::

    rest | head ids | head probabilities | tail ids | padding to a whole byte

The *head* are the most likely tokens with their probabilities, the *tail* tokens are drawn from all others, each
standing for an equal part of the rest. Top-k alone is a biased target: it tells the student nothing about what lies
beyond, or that there is nothing. Drawing the tail makes the expected target the teacher's own distribution (Anshumann
et al. 2025, "Sparse Logit Sampling", arXiv:2503.16870, who draw everything; keeping the head exact lowers the variance
and a drawn token needs no probability beside it). The draw is systematic: one uniform number places all of them.

Probabilities are stored as round(-log p / step), step = 16 nats / (2^bits - 1).

**What quantization costs.** Let p be the probabilities of the K head tokens and the rest, q what is read back. Every
log-probability above -16 is off by at most step / 2 before normalisation, and those below are raised to e^-16, so
KL(p || q) <= step^2 / 8 + 2 (K + 1) e^-16 nats (Hoeffding's lemma): 4.9e-4 + 2.3e-7 (K + 1) with 8 bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smallhold.errors import RecipeError, ShapeError

#: Log-probabilities below minus this are stored as this.
SPAN = 16.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordLayout:
    """How a record is laid out.

    Attributes:
        vocab_size: V; an id takes as many bits as V - 1.
        head: K, most likely tokens with probabilities.
        tail: S, tokens drawn from the rest; 0 = the rest has no names.
        probability_bits: Of each log-probability.
    """

    vocab_size: int
    head: int
    tail: int
    probability_bits: int = 8

    def __post_init__(self) -> None:
        """Refuse what cannot be laid out."""
        if not 1 <= self.head < self.vocab_size or self.tail < 0:
            raise RecipeError(
                f"cache: expected 1 to {self.vocab_size - 1} head tokens and 0 or more drawn ones, got {self.head} "
                f"and {self.tail}"
            )
        if not 4 <= self.probability_bits <= 16:
            raise RecipeError(f"cache.probability_bits: expected 4 to 16, got {self.probability_bits}")

    @classmethod
    def fitting(cls, vocab_size: int, *, num_bytes: int = 32, head: int | None = None) -> RecordLayout:
        """The layout that fills `num_bytes` a token: `head` exact tokens (default: about half of the bits), then draws.

        Raises:
            RecipeError: too few bytes for one token.
        """
        id_bits, probability_bits = max(1, (vocab_size - 1).bit_length()), 8
        room = 8 * num_bytes - probability_bits
        most = min(room // (id_bits + probability_bits), vocab_size - 1)
        chosen = max(1, room // 2 // (id_bits + probability_bits)) if head is None else head
        if not 1 <= chosen <= most:
            raise RecipeError(f"cache: {num_bytes} bytes a token hold 1 to {most} head tokens, got {chosen}")
        tail = (room - chosen * (id_bits + probability_bits)) // id_bits
        return cls(vocab_size=vocab_size, head=chosen, tail=tail, probability_bits=probability_bits)

    @property
    def id_bits(self) -> int:
        """Bits of one id."""
        return max(1, (self.vocab_size - 1).bit_length())

    @property
    def num_bytes(self) -> int:
        """Bytes of a record."""
        bits = self.probability_bits * (1 + self.head) + self.id_bits * (self.head + self.tail)
        return -(-bits // 8)

    @property
    def step(self) -> float:
        """Distance of two stored log-probabilities, nats."""
        return float(SPAN / (2**self.probability_bits - 1))

    @property
    def kl_bound(self) -> float:
        """Most nats that quantization may cost a token; see the module's text."""
        return self.step**2 / 8 + 2 * (self.head + 1) * math.exp(-SPAN)


@dataclass(frozen=True, slots=True, eq=False)
class SparseTargets:
    """Records as arrays, (...) being any shape.

    Attributes:
        head_ids: (..., K) int64, most likely first.
        head_logprobs: (..., K) float32.
        rest_logprob: (...) float32; with the head's it sums to probability 1.
        tail_ids: (..., S) int64, each worth exp(rest_logprob) / S; one may occur several times.
    """

    head_ids: NDArray[np.int64]
    head_logprobs: NDArray[np.float32]
    rest_logprob: NDArray[np.float32]
    tail_ids: NDArray[np.int64]


def pack_logits(layout: RecordLayout, logits: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Records of a teacher's logits.

    Args:
        layout: Of the records.
        logits: (N, V) finite.
        rng: Places the draws; N numbers are taken.

    Returns:
        (N, num_bytes).

    Raises:
        ShapeError: another vocabulary, or a logit that is not finite.
    """
    if logits.ndim != 2 or logits.shape[1] != layout.vocab_size:
        raise ShapeError(f"cache: expected logits (N, {layout.vocab_size}), got {logits.shape}")
    if not np.isfinite(logits).all():
        raise ShapeError("cache: the teacher's logits hold NaN or infinity")
    unsorted = np.argpartition(logits, -layout.head, axis=1)[:, -layout.head :]
    order = np.argsort(-np.take_along_axis(logits, unsorted, axis=1), axis=1, kind="stable")
    head_ids = np.take_along_axis(unsorted, order, axis=1)
    highest = logits.max(axis=1, keepdims=True)
    mass = np.exp(logits - highest)
    log_total = np.log(mass.sum(axis=1, keepdims=True, dtype=np.float64))
    head = (np.take_along_axis(logits, head_ids, axis=1) - highest).astype(np.float64) - log_total
    np.put_along_axis(mass, head_ids, 0.0, axis=1)
    cumulative = mass.cumsum(axis=1, dtype=np.float64)
    tail_ids = _draw(cumulative, layout.tail, rng)
    rest = np.log(np.maximum(cumulative[:, -1:], 1e-300)) - log_total
    steps = _quantize(np.concatenate([rest, head], axis=1), layout)
    return _to_bytes(
        [
            (steps[:, :1], layout.probability_bits),
            (head_ids, layout.id_bits),
            (steps[:, 1:], layout.probability_bits),
            (tail_ids, layout.id_bits),
        ]
    )


def unpack(layout: RecordLayout, records: NDArray[np.uint8]) -> SparseTargets:
    """Read records (..., num_bytes).

    Raises:
        ShapeError: records of another length.
    """
    if records.shape[-1] != layout.num_bytes:
        raise ShapeError(f"cache: expected records of {layout.num_bytes} bytes, got {records.shape[-1]}")
    shape = records.shape[:-1]
    rest, head_ids, head, tail_ids = _from_bytes(
        records.reshape(-1, layout.num_bytes),
        [
            (1, layout.probability_bits),
            (layout.head, layout.id_bits),
            (layout.head, layout.probability_bits),
            (layout.tail, layout.id_bits),
        ],
    )
    logprobs = -np.concatenate([rest, head], axis=1) * layout.step
    logprobs -= np.log(np.exp(logprobs).sum(axis=1, keepdims=True))
    return SparseTargets(
        head_ids.reshape(*shape, layout.head),
        logprobs[:, 1:].astype(np.float32).reshape(*shape, layout.head),
        logprobs[:, 0].astype(np.float32).reshape(shape),
        tail_ids.reshape(*shape, layout.tail),
    )


def _quantize(logprobs: NDArray[np.float64], layout: RecordLayout) -> NDArray[np.int64]:
    highest = 2**layout.probability_bits - 1
    return np.clip(np.rint(-logprobs / layout.step), 0, highest).astype(np.int64)


def _draw(cumulative: NDArray[np.float64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Systematic draws (N, S) of columns by cumulative mass (N, V): S points a row at equal distances."""
    offset = rng.random((len(cumulative), 1))
    points = (offset + np.arange(count)) / max(count, 1) * cumulative[:, -1:]
    found = [np.searchsorted(row, at, side="right") for row, at in zip(cumulative, points, strict=True)]
    columns: NDArray[np.int64] = np.minimum(np.array(found, dtype=np.int64), cumulative.shape[1] - 1)
    return columns


def _to_bytes(fields: list[tuple[NDArray[np.int64], int]]) -> NDArray[np.uint8]:
    """Columns of whole numbers, each with its width in bits, side by side: (N, bytes)."""
    rows = len(fields[0][0])
    bits = [
        ((values[:, :, None] >> np.arange(width - 1, -1, -1)) & 1)
        .astype(np.uint8)
        .reshape(rows, values.shape[1] * width)
        for values, width in fields
    ]
    return np.packbits(np.concatenate(bits, axis=1), axis=1)


def _from_bytes(records: NDArray[np.uint8], fields: list[tuple[int, int]]) -> list[NDArray[np.int64]]:
    """Undo `_to_bytes`: for every field its columns, given how many they are and their width in bits."""
    counts = [count for count, _ in fields]
    width = np.repeat([width for _, width in fields], counts)
    end = width.cumsum()
    first, skipped = np.divmod(end - width, 8)
    # A column lies in the four bytes from the one in which it begins.
    padded = np.pad(records, ((0, 0), (0, 3))).astype(np.int64)
    word = sum(padded[:, first + i] << 8 * (3 - i) for i in range(4))
    return np.split(word >> (32 - skipped - width) & (1 << width) - 1, np.cumsum(counts)[:-1], axis=1)
