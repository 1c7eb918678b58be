"""What a guest opens by name: a model, its session, its tokenizer. Each is a graph with numbered inputs and outputs.

The table in docs/guides/wasi-nn.md is the contract; the constants here are its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from ctypes import create_string_buffer
from dataclasses import dataclass
from struct import pack
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from smallhold.device.backends import Backend, Inputs, Session
from smallhold.device.backends.engine import EngineSession
from smallhold.device.backends.onnx_runtime import OnnxRuntimeSession
from smallhold.device.wasi_nn.errno import Errno, Refusal
from smallhold.device.wasi_nn.limits import Limits
from smallhold.errors import SmallholdError

Tensor = NDArray[Any]

APPEND, TRY, AT, ROWS, LENGTH, COPY_OF = range(6)
_QUICK = (EngineSession, OnnxRuntimeSession)
_MOST_TEXT_BYTES = 2**18
_NAMES = ("0 (append)", "1 (try)", "2 (at)", "3 (rows)", "4 (length)", "5 (copy of)")


class Context(Protocol):
    """One execution context: inputs in, `compute`, outputs."""

    outputs: Sequence[bytes]

    def set_input(self, index: int, tensor: Tensor) -> None:
        """Take an input.

        Raises:
            Refusal: there is no such input, or this is none.
        """

    def compute(self) -> None:
        """Compute `outputs`; where a call is refused, nothing has changed.

        Raises:
            Refusal: an input is missing or impossible.
            SmallholdError: the runtime failed.
        """


class Graph(Protocol):
    """What a graph handle stands for."""

    def open(self, room: Room) -> Context:
        """A new context."""


class Room:
    """What the contexts of one guest share.

    Attributes:
        limits: Upper bounds.
        positions: Positions in all caches.
        context: Finds a context of this guest by its handle.
    """

    def __init__(self, limits: Limits, context: Callable[[int], Context]) -> None:
        self.limits, self.context, self.positions = limits, context, 0


@dataclass(frozen=True, slots=True)
class Model:
    """A model that guests may open. Whoever offers it has verified the bundle that it comes from.

    Attributes:
        backend: The runtime that holds it.
        tokenizer: A `tokenizers.Tokenizer`; None where guests bring tokens.
    """

    backend: Backend
    tokenizer: Any = None


def find_graph(models: Mapping[str, Model], name: str) -> Graph:
    """The graph of a name: `MODEL`, `MODEL#session`, `MODEL#text` or `MODEL#words`.

    Raises:
        Refusal: there is none.
    """
    base, _, part = name.partition("#")
    model = models.get(base)
    if model is None:
        raise Refusal(Errno.NOT_FOUND, f"no model {base!r}: expected one of {', '.join(models) or 'none'}")
    match part:
        case "" | "session":
            return SequenceGraph(model.backend, is_kept=bool(part))
        case "text" | "words" if model.tokenizer is not None:
            return TokenGraph(model.tokenizer, is_text=part == "text")
    raise Refusal(Errno.NOT_FOUND, f"no graph {name!r}: expected {base}, with #session, #text or #words behind it")


@dataclass(frozen=True, slots=True)
class SequenceGraph:
    """Tokens or embeddings to logits; `is_kept` says whether the sequence lives on after a `compute`."""

    backend: Backend
    is_kept: bool

    def open(self, room: Room) -> SequenceContext:
        """An empty sequence."""
        return SequenceContext(self, room)


class SequenceContext:
    """One sequence behind the session contract.

    A `compute` becomes a copy, rewinds, appends, and scores, in this order, each where it was asked for. `at` and
    `rows`, which say what to read, stay until they are set again; the other inputs are used up.
    """

    def __init__(self, graph: SequenceGraph, room: Room) -> None:
        self._graph, self._backend, self._room = graph, graph.backend, room
        self.session: Session = graph.backend.session()
        self.length, self.is_last_known = 0, False
        self.outputs: Sequence[bytes] = ()
        self._at: list[int] | None = None
        self._rows: list[int] | None = None
        # The rows, and room for their logits, as the runtimes take them.
        self._packed_rows, self._logits, self._row_index = b"", create_string_buffer(0), np.zeros(0, np.int64)
        self._append: Inputs = ()
        self._try: Inputs = ()
        self._rewind: int | None = None
        self._copy_of: SequenceContext | None = None

    def set_input(self, index: int, tensor: Tensor) -> None:
        """See `Context.set_input`."""
        if index == APPEND:
            self._append = self._positions(index, tensor)
        elif index == AT:
            self._at = self._numbers(index, tensor, -1, self._backend.context_length)
        elif index == ROWS:
            rows = self._numbers(index, tensor, 0, self._backend.vocab_size)
            self._rows, self._packed_rows = rows or None, pack(f"={len(rows)}I", *rows)
            self._logits, self._row_index = create_string_buffer(4 * len(rows)), np.array(rows, np.int64)
        elif index > COPY_OF or not self._graph.is_kept:
            raise Refusal(Errno.INVALID_ARGUMENT, f"input {index}: this graph has none")
        elif index == TRY:
            self._try = self._positions(index, tensor)
        elif index == LENGTH:
            self._rewind = self._number(index, tensor, self._backend.context_length + 1)
        else:
            other = self._room.context(self._number(index, tensor, 2**31))
            if not isinstance(other, SequenceContext) or other._graph != self._graph:
                raise Refusal(Errno.INVALID_ARGUMENT, "input 5 (copy of): a context of another graph")
            self._copy_of = other

    def compute(self) -> None:
        """See `Context.compute`."""
        if not self._graph.is_kept:
            self._compute_alone()
            return
        source = self._copy_of or self
        appended, tried, at = self._append, self._try, self._at
        added, tries = len(appended), len(tried)
        start = source.length if self._rewind is None else self._rewind
        if start > source.length:
            raise Refusal(Errno.INVALID_ARGUMENT, f"input 4 (length): expected at most {source.length}, got {start}")
        end = start + added
        is_last_known = added > 0 or (source.is_last_known and start == source.length)
        if at is None:
            at = [tries - 1] if tries or added else []
        if at and (max(at) >= tries or (min(at) < 0 and not is_last_known)):
            raise Refusal(
                Errno.INVALID_ARGUMENT,
                f"input 2 (at): expected places in the {tries} tried positions, or -1 right after an append, got {at}",
            )
        self._check_room(end, tries, len(at))
        session = self.session if self._copy_of is None else source.session.fork()
        try:
            if start < source.length:
                session.rewind(start)
            if added and not tries and len(at) == 1 and self._rows is not None and isinstance(session, _QUICK):
                logits = self._append_and_read(session, appended)
            else:
                if added:
                    session.append(appended)
                logits = session.score(tried, at, self._rows).tobytes() if at else b""
        except SmallholdError:
            self._room.positions += self.session.length - self.length  # how far the runtime came
            self.length, self.is_last_known = self.session.length, False
            raise
        self._room.positions += end - self.length
        self.session, self.length, self.is_last_known = session, end, is_last_known
        self._append, self._try, self._rewind, self._copy_of = (), (), None, None
        self.outputs = (logits, pack("<i", end))

    def _append_and_read(self, session: EngineSession | OnnxRuntimeSession, appended: Inputs) -> bytes:
        """The commonest step, without what the session checks again: that is a tenth of a small model's pass."""
        if isinstance(session, OnnxRuntimeSession):
            return session.append_and_read(appended, self._row_index).tobytes()
        if isinstance(appended, np.ndarray):
            session.append_and_read(None, appended.tobytes(), len(appended), self._packed_rows, self._logits)
        else:
            ids = pack(f"={len(appended)}I", *appended)
            session.append_and_read(ids, None, len(appended), self._packed_rows, self._logits)
        return self._logits.raw

    def _compute_alone(self) -> None:
        tokens = self._append
        if not len(tokens):
            raise Refusal(Errno.INVALID_ARGUMENT, "input 0: expected tokens or embeddings, got none")
        at = [len(tokens) - 1] if self._at is None else self._at
        if at and not 0 <= min(at) <= max(at) < len(tokens):
            raise Refusal(Errno.INVALID_ARGUMENT, f"input 2 (at): expected places in {len(tokens)} positions, got {at}")
        self._check_room(0, len(tokens), len(at))
        logits = self.session.score(tokens, at, self._rows).tobytes() if at else b""
        self._append = ()
        self.outputs = (logits, pack("<i", len(tokens)))

    def _check_room(self, end: int, tries: int, num_read: int) -> None:
        limits = self._room.limits
        if end + tries > self._backend.context_length:
            raise Refusal(
                Errno.TOO_LARGE, f"{end + tries} positions exceed the context length {self._backend.context_length}"
            )
        if self._room.positions + end - self.length > limits.positions:
            raise Refusal(Errno.TOO_LARGE, f"the contexts together hold more than {limits.positions} positions")
        width = self._backend.vocab_size if self._rows is None else len(self._rows)
        if 4 * num_read * width > limits.tensor_bytes:
            raise Refusal(
                Errno.TOO_LARGE,
                f"output 0: {num_read} x {width} logits exceed {limits.tensor_bytes} bytes: set inputs 2 and 3",
            )

    def _positions(self, index: int, tensor: Tensor) -> Inputs:
        if tensor.dtype == np.float32:
            width = self._backend.width
            if not tensor.ndim or tensor.shape[-1] != width:
                raise _wrong(index, f"embeddings (T, {width})", tensor)
            self._check_count(index, tensor.size // width)
            return tensor.reshape(-1, width)
        return self._numbers(index, tensor, 0, self._backend.vocab_size)

    def _numbers(self, index: int, tensor: Tensor, least: int, beyond: int) -> list[int]:
        if tensor.dtype.kind != "i" or max(tensor.shape, default=1) != tensor.size:
            raise _wrong(index, "a row of i32 or i64", tensor)
        self._check_count(index, tensor.size)
        numbers: list[int] = tensor.ravel().tolist()
        if numbers and not least <= min(numbers) <= max(numbers) < beyond:
            raise Refusal(Errno.INVALID_ARGUMENT, f"input {_NAMES[index]}: expected numbers in [{least}, {beyond})")
        return numbers

    def _check_count(self, index: int, count: int) -> None:
        """Refuse what no `compute` could use, before it is kept."""
        most = self._backend.vocab_size if index == ROWS else self._backend.context_length
        if count > most:
            raise Refusal(Errno.TOO_LARGE, f"input {_NAMES[index]}: expected at most {most}, got {count}")

    def _number(self, index: int, tensor: Tensor, beyond: int) -> int:
        numbers = self._numbers(index, tensor, 0, beyond)
        if len(numbers) != 1:
            raise _wrong(index, "one number", tensor)
        return numbers[0]


@dataclass(frozen=True, slots=True)
class TokenGraph:
    """Bytes to token ids: a text, in which nothing is special, or names of tokens, one a line."""

    tokenizer: Any
    is_text: bool

    def open(self, room: Room) -> TokenContext:  # noqa: ARG002 - it holds no positions
        """A context without a state."""
        return TokenContext(self)


class TokenContext:
    """See `TokenGraph`."""

    def __init__(self, graph: TokenGraph) -> None:
        self._graph = graph
        self._said: str | None = None
        self.outputs: Sequence[bytes] = ()

    def set_input(self, index: int, tensor: Tensor) -> None:
        """See `Context.set_input`."""
        if index or tensor.dtype != np.uint8:
            raise _wrong(index, "input 0 alone, UTF-8 as u8", tensor)
        if tensor.size > _MOST_TEXT_BYTES:
            raise Refusal(Errno.TOO_LARGE, f"input 0: expected at most {_MOST_TEXT_BYTES} bytes, got {tensor.size}")
        try:
            self._said = tensor.tobytes().decode()
        except UnicodeDecodeError as error:
            raise Refusal(Errno.INVALID_ARGUMENT, f"input 0: not UTF-8: {error}") from error

    def compute(self) -> None:
        """See `Context.compute`."""
        if self._said is None:
            raise Refusal(Errno.INVALID_ARGUMENT, "input 0: expected a text, got none")
        tokenizer = self._graph.tokenizer
        if self._graph.is_text:
            ids = tokenizer.encode(self._said, add_special_tokens=False).ids
        else:
            words = self._said.splitlines()
            ids = [tokenizer.token_to_id(word) for word in words]
            if None in ids:
                raise Refusal(Errno.NOT_FOUND, f"the vocabulary has no token {words[ids.index(None)]!r}")
        self.outputs = (np.array(ids, np.int32).tobytes(),)


def _wrong(index: int, expected: str, tensor: Tensor) -> Refusal:
    name = _NAMES[index] if index < len(_NAMES) else str(index)
    return Refusal(
        Errno.INVALID_ARGUMENT, f"input {name}: expected {expected}, got {list(tensor.shape)} of {tensor.dtype.name}"
    )
