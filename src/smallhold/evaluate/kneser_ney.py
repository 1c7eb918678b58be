"""Interpolated modified Kneser-Ney: the n-gram model that a neural one has to beat.

Source: Chen and Goodman 1999, An empirical study of smoothing techniques for language modeling, Computer Speech and
Language 13(4), sections 2 and 3 (modified Kneser-Ney with discounts estimated from counts of counts).

Counts are exact and nothing is pruned. An n-gram is a path in a tree, and a node's number stands for its whole path,
so that (number of the parent) * V + token fits in 64 bits for any order and vocabulary, without hashing. The nodes of
one level lie in sorted order of that key: a lookup is a binary search for each token of the n-gram.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smallhold.errors import DataError, InputError

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]

# When counts of counts are too few to estimate from: the values that KenLM falls back to as well.
_FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
# Windows that are looked up at once: keeps memory in the tens of megabytes.
_CHUNK = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KneserNey:
    """A fitted model. Level k holds the k-grams; level 0 is the root.

    Attributes:
        order: Tokens in the longest n-gram.
        vocab_size: V; probabilities sum to one over the ids 0 to V - 1.
        bos: Fills the context before the begin of a document.
        keys: For each level from 1: (n,) sorted, parent * V + token.
        own: For each level from 1: (n + 1,) the part of the probability that the n-gram's own count gives; the last
            entry, 0, stands for every n-gram that was never seen.
        backoff: For each level from 0 to order - 1: (n + 1,) the part that a context leaves to the shorter one; the
            last entry, 1, stands for every context that was never seen.
    """

    order: int
    vocab_size: int
    bos: int
    keys: tuple[Ids, ...]
    own: tuple[Floats, ...]
    backoff: tuple[Floats, ...]

    def probabilities(self, windows: Ids) -> Floats:
        """Probability of the last token of each window after the others.

        Args:
            windows: (N, order) token ids.

        Returns:
            (N,) greater than 0 for every token in the vocabulary.

        Raises:
            InputError: another width than the order, or an id outside the vocabulary.
        """
        if windows.ndim != 2 or windows.shape[1] != self.order:
            raise InputError(f"windows must be (N, {self.order}), got {windows.shape}")
        if windows.size and not 0 <= windows.min() <= windows.max() < self.vocab_size:
            raise InputError(f"token ids must lie in [0, {self.vocab_size}), got {windows.min()} to {windows.max()}")
        probability = np.full(len(windows), 1 / self.vocab_size)
        for k in range(1, self.order + 1):
            context = np.zeros(len(windows), np.int64)
            for level in range(1, k):
                context = self._child(level, context, windows[:, self.order - k + level - 1])
            node = self._child(k, context, windows[:, -1])
            # -1, never seen, finds the last entry.
            probability = self.own[k - 1][node] + self.backoff[k - 1][context] * probability
        return probability

    def nats(self, documents: Sequence[Ids]) -> Floats:
        """(n,) minus the natural logarithm of each document's probability; its end is not predicted."""
        return np.array([self._nats(document) for document in documents])

    def _nats(self, document: Ids) -> float:
        padded = np.concatenate([np.full(self.order - 1, self.bos), document]).astype(np.int64)
        if len(document) == 0:
            return 0.0
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.order)
        chunks = (windows[start : start + _CHUNK] for start in range(0, len(windows), _CHUNK))
        return -sum(float(np.log(self.probabilities(chunk)).sum()) for chunk in chunks)

    def _child(self, level: int, parent: Ids, token: Ids) -> Ids:
        """Numbers at `level` of the children that the nodes have for the tokens; -1 where there is none."""
        keys = self.keys[level - 1]
        wanted = parent * self.vocab_size + token
        found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where((parent >= 0) & (keys[found] == wanted), found, -1)


def fit_kneser_ney(documents: Sequence[Ids], *, order: int = 5, vocab_size: int, bos: int) -> KneserNey:
    """Count and smooth.

    Every document is preceded by order - 1 opening marks, as in the source; they are given, never predicted. No
    n-gram reaches across documents.

    Args:
        documents: Token ids of each training document, without marks.
        order: Tokens in the longest n-gram.
        vocab_size: V.
        bos: Id of the opening mark.

    Returns:
        The model; 14 million tokens take some 2 GB and 20 seconds.

    Raises:
        InputError: order < 1.
        DataError: there is no token, or an id is outside the vocabulary or the opening mark.
    """
    if order < 1:
        raise InputError(f"order must be at least 1, got {order}")
    tokens = _joined(documents, order, vocab_size, bos)
    keys: list[Ids] = []
    firsts: list[Ids] = []  # of each node: where its n-gram first ends
    nodes: list[Ids] = []  # of each position: the node of the n-gram that ends there
    # (1) The tree. An n-gram that would reach across documents ends in an opening mark, and those are never counted.
    for level in range(order):
        parent = np.zeros(len(tokens), np.int64)
        if level:
            parent[1:] = nodes[-1][:-1]
        key, first, node = np.unique(parent * vocab_size + tokens, return_index=True, return_inverse=True)
        keys.append(key)
        firsts.append(first)
        nodes.append(node)
    # (2) What is counted: how often the longest n-grams occur; of shorter ones, how many tokens stand before them.
    is_predicted = tokens != bos
    counts = [np.bincount(nodes[-1][is_predicted], minlength=len(keys[-1]))]
    for level in range(order - 1, 0, -1):
        longer = firsts[level][is_predicted[firsts[level]]]
        counts.insert(0, np.bincount(nodes[level - 1][longer], minlength=len(keys[level - 1])))
    del nodes, firsts
    # (3) Discount, and give what was taken off to the shorter context.
    own: list[Floats] = []
    backoff: list[Floats] = []
    for level in range(order):
        num_parents = len(keys[level - 1]) if level else 1
        parent, count = keys[level] // vocab_size, counts[level]
        discount = np.array([0.0, *discounts(count)])[np.minimum(count, 3)]
        total = np.bincount(parent, weights=count, minlength=num_parents)
        taken = np.bincount(parent, weights=discount, minlength=num_parents)
        is_context = total > 0
        own.append(np.append((count - discount) / np.where(is_context, total, 1.0)[parent], 0.0))
        backoff.append(np.append(np.where(is_context, taken / np.where(is_context, total, 1.0), 1.0), 1.0))
    return KneserNey(
        order=order, vocab_size=vocab_size, bos=bos, keys=tuple(keys), own=tuple(own), backoff=tuple(backoff)
    )


def discounts(counts: NDArray[np.int64]) -> tuple[float, float, float]:
    """What is taken off a count of one, of two, and of three or more (Chen and Goodman 1999, equation 17).

    Returns:
        Each between 0 and the count that it is taken off; fixed values where a count of counts is zero or the
        estimate leaves that range, as happens on very little text.
    """
    n1, n2, n3, n4 = (int(np.count_nonzero(counts == n)) for n in (1, 2, 3, 4))
    if not (n1 and n2 and n3 and n4):
        return _FALLBACK_DISCOUNTS
    y = n1 / (n1 + 2 * n2)
    estimate = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    is_sound = all(0 <= d <= n for n, d in enumerate(estimate, 1))
    return estimate if is_sound else _FALLBACK_DISCOUNTS


def _joined(documents: Sequence[Ids], order: int, vocab_size: int, bos: int) -> Ids:
    """All documents in a row, each after its opening marks."""
    opening = np.full(order - 1, bos, np.int64)
    if not any(len(document) for document in documents):
        raise DataError(f"n-grams: expected at least one token to count, got {len(documents)} empty documents")
    for i, document in enumerate(documents):
        if len(document) and (document.min() < 0 or document.max() >= vocab_size or (document == bos).any()):
            raise DataError(
                f"n-grams: document {i}: expected ids from 0 to {vocab_size - 1} other than the opening mark {bos}"
            )
    return np.concatenate([part for document in documents for part in (opening, document)]).astype(np.int64)
