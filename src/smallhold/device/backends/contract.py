"""What every runtime offers: the session contract.

A session is one causal sequence with its key-value cache. Positions enter by either door: token ids, or embedding
vectors that a signal encoder made. Closed choices are read with `score`, which leaves the sequence as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from smallhold.errors import CapacityError, ShapeError

FloatArray = NDArray[np.float32]

#: (T,) token ids, or (T, D) float32 embeddings.
Inputs = Sequence[int] | FloatArray


class Session(Protocol):
    """One sequence and its cache; not safe for use from two threads at once."""

    @property
    def length(self) -> int:
        """Positions appended so far."""

    @property
    def kv_bytes(self) -> int:
        """Memory that the cache takes now, in bytes."""

    def append(self, inputs: Inputs) -> None:
        """Add positions for good.

        Raises:
            CapacityError: the context length would be exceeded; the session is unchanged.
            ShapeError: embeddings are not (T, D), or a token id is outside the vocabulary.
        """

    def score(self, inputs: Inputs, at: Sequence[int], rows: Sequence[int] | None = None) -> FloatArray:
        """Logits of the next token at chosen positions, in one pass; the session is unchanged.

        Args:
            inputs: Positions to try after the present end, possibly none.
            at: K indices into `inputs`; -1 stands for the last position that was appended. -1 is known
                only directly after an `append`, not after a `rewind`.
            rows: R token ids whose logits are asked for; None asks for all V. A runtime may compute no others.

        Returns:
            (K, R) or (K, V) float32.

        Raises:
            CapacityError: the context length would be exceeded.
            ShapeError: as for `append`; an index or a row does not exist.
        """

    def fork(self) -> Session:
        """An independent copy of the sequence."""

    def rewind(self, length: int) -> None:
        """Forget all positions from `length` on."""


class Backend(Protocol):
    """A loaded model that opens sessions."""

    name: str
    vocab_size: int
    width: int
    context_length: int

    def session(self) -> Session:
        """An empty sequence."""


def split_doors(inputs: Inputs, width: int, vocab_size: int) -> tuple[NDArray[np.int64], FloatArray]:
    """Check inputs and bring both doors to one form.

    Returns:
        ids (T,) with -1 where an embedding stands, and embeddings (T, D), zero where an id stands.

    Raises:
        ShapeError: see `Session.append`.
    """
    if isinstance(inputs, np.ndarray) and inputs.dtype == np.float32:
        if inputs.ndim != 2 or inputs.shape[1] != width:
            raise ShapeError(f"embeddings: expected (T, {width}) float32, got {inputs.shape}")
        return np.full(len(inputs), -1, dtype=np.int64), np.ascontiguousarray(inputs)
    ids = np.asarray(inputs if len(inputs) else np.zeros(0, np.int64))
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise ShapeError(f"tokens: expected (T,) integers, got shape {ids.shape} of {ids.dtype}")
    if len(ids) and (ids.min() < 0 or ids.max() >= vocab_size):
        raise ShapeError(f"tokens: ids must lie in [0, {vocab_size}), got {ids.min()} to {ids.max()}")
    return ids.astype(np.int64), np.zeros((len(ids), width), dtype=np.float32)


def check_capacity(length: int, added: int, context_length: int) -> None:
    """Refuse what does not fit.

    Raises:
        CapacityError: the message names all three numbers.
    """
    if length + added > context_length:
        raise CapacityError(
            f"context is full: {length} positions and {added} more exceed the context length {context_length}",
            hint="rewind, or start a new session from a summary of this one",
        )


def check_rewind(length: int, to: int) -> None:
    """Refuse a rewind to a place that does not exist.

    Raises:
        ShapeError: `to` is outside [0, length].
    """
    if not 0 <= to <= length:
        raise ShapeError(f"rewind: expected a length in [0, {length}], got {to}")


def check_rows(rows: Sequence[int] | None, vocab_size: int) -> None:
    """Refuse rows of a vocabulary that does not have them.

    Raises:
        ShapeError: a row is outside [0, V).
    """
    for row in rows or ():
        if not 0 <= row < vocab_size:
            raise ShapeError(f"rows: ids must lie in [0, {vocab_size}), got {row}")


def check_at(at: Sequence[int], added: int, is_last_known: bool) -> None:
    """Refuse positions whose logits do not exist.

    Raises:
        ShapeError: an index is outside [-1, T), or -1 is asked for when it is not known.
    """
    for index in at:
        if not -1 <= index < added:
            raise ShapeError(f"at: expected indices in [-1, {added}), got {index}")
        if index == -1 and not is_last_known:
            raise ShapeError("at: -1 is known only directly after an append, not at the start or after a rewind")
