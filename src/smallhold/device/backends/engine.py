"""Our engine over its C interface: weights mapped from the GGUF file, nothing copied on the way in or out.

The library is built from `engine/`; see `find_library` for where it is looked for. A session of the engine is freed
when its Python object goes.
"""

from __future__ import annotations

import ctypes
import os
import sys
import weakref
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smallhold.device.backends.contract import (
    FloatArray,
    Inputs,
    check_at,
    check_capacity,
    check_rewind,
    check_rows,
    split_doors,
)
from smallhold.errors import BackendError, CapacityError, ShapeError

_MESSAGE_BYTES = 512
_LAST = (-1).to_bytes(8, sys.byteorder, signed=True)
_KINDS: dict[int, type[BackendError | CapacityError | ShapeError]] = {3: ShapeError, 4: CapacityError}
_NAME = {"darwin": "libsmallhold_engine.dylib", "win32": "smallhold_engine.dll"}.get(
    sys.platform, "libsmallhold_engine.so"
)
_POINTER, _SIZE, _TEXT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p


class _Sampling(ctypes.Structure):
    _fields_ = [
        ("temperature", ctypes.c_float),
        ("top_p", ctypes.c_float),
        ("seed", ctypes.c_uint64),
        ("top_k", ctypes.c_uint32),
    ]


class _Info(ctypes.Structure):
    _fields_ = [
        ("vocab_size", ctypes.c_uint64),
        ("width", ctypes.c_uint64),
        ("context_length", ctypes.c_uint64),
        ("layers", ctypes.c_uint64),
    ]


def find_library() -> Path:
    """Where the engine's library lies: `$SMALLHOLD_ENGINE`, beside this module, or where cargo builds it.

    Raises:
        BackendError: nowhere; the message says how to build it.
    """
    if told := os.environ.get("SMALLHOLD_ENGINE"):
        places = [Path(told)]
    else:
        places = [Path(__file__).parent / _NAME, Path(__file__).parents[4] / "engine" / "target" / "release" / _NAME]
    for place in places:
        if place.is_file():
            return place
    raise BackendError(
        f"the engine's library was not found: looked at {', '.join(map(str, places))}",
        hint="cargo build --release --manifest-path engine/Cargo.toml, or set SMALLHOLD_ENGINE",
    )


@cache
def _library(path: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path))
        for name, result, arguments in (
            ("kernels", _TEXT, []),
            ("model_open", ctypes.c_int, [_TEXT, _TEXT, _POINTER, _POINTER, _TEXT]),
            ("model_from_bytes", ctypes.c_int, [_TEXT, _SIZE, _TEXT, _POINTER, _POINTER, _TEXT]),
            ("model_set_threads", ctypes.c_int, [_POINTER, _SIZE, _TEXT]),
            ("model_set_cache_bits", ctypes.c_int, [_POINTER, _SIZE, _TEXT]),
            ("model_free", None, [_POINTER]),
            ("session_new", _POINTER, [_POINTER]),
            ("session_fork", _POINTER, [_POINTER]),
            ("session_free", None, [_POINTER]),
            ("session_length", ctypes.c_uint64, [_POINTER]),
            ("session_kv_bytes", ctypes.c_uint64, [_POINTER]),
            ("session_rewind", ctypes.c_int, [_POINTER, ctypes.c_uint64, _TEXT]),
            ("session_append", ctypes.c_int, [_POINTER, _POINTER, _POINTER, _SIZE, _TEXT]),
            (
                "session_score",
                ctypes.c_int,
                [_POINTER, _POINTER, _POINTER, _SIZE, _POINTER, _SIZE, _POINTER, _SIZE, _POINTER, _TEXT],
            ),
            (
                "session_generate",
                ctypes.c_int,
                [_POINTER, _POINTER, _POINTER, _SIZE, _SIZE, _POINTER, _POINTER, _TEXT],
            ),
        ):
            function = getattr(library, f"smallhold_{name}")
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise BackendError(f"the engine's library {path} cannot be loaded: {error}") from error
    return library


def _check(code: int, message: ctypes.Array[ctypes.c_char]) -> None:
    if code:
        raise _KINDS.get(code, BackendError)(message.value.decode(errors="replace"))


class EngineBackend:
    """A model that the engine holds; see `Backend`."""

    name = "engine"

    def __init__(
        self, gguf: Path | bytes, *, kernels: str | None = None, num_threads: int = 1, cache_bits: int = 32
    ) -> None:
        """Map the weights.

        Args:
            gguf: The weight file, mapped and not copied; it must not be changed meanwhile. Or its bytes, copied.
            kernels: A family of `kernel_families`; None takes the fastest of this processor.
            num_threads: Threads of every computation; they wait without spinning, and results are the same bits.
            cache_bits: Of keys and values, 32 or 8; 8 take a quarter of the memory and are a little less exact.

        Raises:
            BackendError: the library is missing, the file is no model that the engine computes, the number of threads
                is not from 1 to 256, or the cache's bits are not 8 or 32.
        """
        self.library = _library(find_library())
        handle, info = ctypes.c_void_p(), _Info()
        message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        rest = (None if kernels is None else kernels.encode(), ctypes.byref(handle), ctypes.byref(info), message)
        if isinstance(gguf, bytes):
            code = self.library.smallhold_model_from_bytes(gguf, len(gguf), *rest)
        else:
            code = self.library.smallhold_model_open(os.fsencode(gguf), *rest)
        if code:
            raise BackendError(message.value.decode(errors="replace"))
        self.handle = handle.value
        self.vocab_size, self.width = int(info.vocab_size), int(info.width)
        self.context_length = int(info.context_length)
        weakref.finalize(self, self.library.smallhold_model_free, self.handle)
        if (num_threads != 1 and self.library.smallhold_model_set_threads(self.handle, num_threads, message)) or (
            cache_bits != 32 and self.library.smallhold_model_set_cache_bits(self.handle, cache_bits, message)
        ):
            raise BackendError(message.value.decode(errors="replace"))

    def session(self) -> EngineSession:
        """An empty sequence."""
        return EngineSession(self, self.library.smallhold_session_new(self.handle))


class EngineSession:
    """One sequence; forks share the pages of the cache until one of them writes."""

    def __init__(self, backend: EngineBackend, handle: int) -> None:
        self._backend, self._library, self._handle = backend, backend.library, handle
        self._is_last_known = False
        self._message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        weakref.finalize(self, self._library.smallhold_session_free, handle)

    @property
    def length(self) -> int:
        """Positions appended so far."""
        return int(self._library.smallhold_session_length(self._handle))

    @property
    def kv_bytes(self) -> int:
        """Bytes of the cache, pages that forks share included."""
        return int(self._library.smallhold_session_kv_bytes(self._handle))

    def append(self, inputs: Inputs) -> None:
        """See `Session.append`."""
        ids, embeddings = self._doors(inputs)
        count = len(ids) if embeddings is None else len(embeddings)
        check_capacity(self.length, count, self._backend.context_length)
        if not count:
            return
        _check(
            self._library.smallhold_session_append(
                self._handle, _address(ids), _address(embeddings), count, self._message
            ),
            self._message,
        )
        self._is_last_known = True

    def score(self, inputs: Inputs, at: Sequence[int], rows: Sequence[int] | None = None) -> FloatArray:
        """See `Session.score`."""
        ids, embeddings = self._doors(inputs)
        count = len(ids) if embeddings is None else len(embeddings)
        check_at(at, count, self._is_last_known)
        check_capacity(self.length, count, self._backend.context_length)
        check_rows(rows, self._backend.vocab_size)
        where = np.array(at, dtype=np.int64)
        asked = None if rows is None else np.array(rows, dtype=np.uint32)
        width = self._backend.vocab_size if asked is None else len(asked)
        logits = np.empty((len(where), width), dtype=np.float32)
        _check(
            self._library.smallhold_session_score(
                self._handle,
                _address(ids),
                _address(embeddings),
                count,
                _address(where),
                len(where),
                _address(asked),
                width,
                _address(logits),
                self._message,
            ),
            self._message,
        )
        return logits

    def generate(
        self,
        most: int,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[int] = (),
    ) -> list[int]:
        """Go on with at most `most` tokens, which are appended.

        Args:
            most: Tokens at most.
            temperature: Divides the logits; 0 takes the most probable token always.
            top_k: Choose among so many of the most probable tokens; 0 = all.
            top_p: Choose among the fewest that together are as probable as this; 1 = all.
            seed: The same seed draws the same tokens.
            stop: Tokens that end the text and are not part of it.

        Raises:
            CapacityError: the context has no room for so many; the session is unchanged.
            ShapeError: nothing was appended just before, or a setting lies outside its range.
        """
        check_at([-1], 0, self._is_last_known)
        check_capacity(self.length, most, self._backend.context_length)
        if not (0 <= top_k < 2**32 and 0 <= seed < 2**64):
            raise ShapeError(f"top_k: expected 0 to 2**32 - 1, got {top_k}; seed: 0 to 2**64 - 1, got {seed}")
        how, ends = _Sampling(temperature, top_p, seed, top_k), np.array(stop, dtype=np.uint32)
        tokens, count = np.empty(max(most, 1), dtype=np.uint32), ctypes.c_size_t()
        _check(
            self._library.smallhold_session_generate(
                self._handle,
                ctypes.byref(how),
                _address(ends),
                len(ends),
                most,
                _address(tokens),
                ctypes.byref(count),
                self._message,
            ),
            self._message,
        )
        return [int(token) for token in tokens[: count.value]]

    def append_and_read(
        self, ids: bytes | None, embeddings: bytes | None, count: int, rows: bytes, logits: ctypes.Array[ctypes.c_char]
    ) -> None:
        """`append`, then logits of some rows after the last position, of inputs that the caller has checked.

        Args:
            ids: (count,) uint32 below V, or None.
            embeddings: (count, D) float32, where `ids` is None.
            count: At least one, within the context.
            rows: (R,) uint32 below V.
            logits: Room for R float32, filled.
        """
        library, handle, message = self._library, self._handle, self._message
        code = library.smallhold_session_append(handle, ids, embeddings, count, message)
        code = code or library.smallhold_session_score(
            handle, b"", None, 0, _LAST, 1, rows, len(rows) // 4, logits, message
        )
        if code:
            _check(code, message)
        self._is_last_known = True

    def fork(self) -> EngineSession:
        """See `Session.fork`."""
        copy = EngineSession(self._backend, self._library.smallhold_session_fork(self._handle))
        copy._is_last_known = self._is_last_known
        return copy

    def rewind(self, length: int) -> None:
        """See `Session.rewind`."""
        before = self.length
        check_rewind(before, length)
        _check(self._library.smallhold_session_rewind(self._handle, length, self._message), self._message)
        self._is_last_known = self._is_last_known and length == before

    def _doors(self, inputs: Inputs) -> tuple[NDArray[np.uint32], FloatArray | None]:
        """Token ids (T,) and None, or no ids and embeddings (T, D)."""
        ids, embeddings = split_doors(inputs, self._backend.width, self._backend.vocab_size)
        if len(ids) and ids[0] < 0:
            return np.zeros(0, np.uint32), embeddings
        return ids.astype(np.uint32), None


def kernel_families() -> list[str]:
    """Kernel families of this processor, the fastest first.

    Raises:
        BackendError: the library is missing.
    """
    names: bytes = _library(find_library()).smallhold_kernels()
    return names.decode().split()


def _address(array: NDArray[np.generic] | None) -> int | None:
    return None if array is None else array.ctypes.data
