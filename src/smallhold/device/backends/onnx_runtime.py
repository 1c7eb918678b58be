"""ONNX Runtime: the default where Python is.

The graph (written by `bundle/onnx_graph.py`) has the cache as plain input and output. The cache is laid out with
time first, so that the past is a contiguous head of one buffer and the runtime writes the new keys and values
straight behind it (IO binding): appending copies nothing, and rewinding is setting a number.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# The packaged runtime otherwise queues usage events, with a persistent identifier of the device, in the user's cache
# for an upload. It reads this once, when it is loaded; its own switch in Python comes too late.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime as ort

from smallhold.device.backends.contract import (
    FloatArray,
    Inputs,
    check_at,
    check_capacity,
    check_rewind,
    check_rows,
    split_doors,
)
from smallhold.errors import BackendError

_FIRST_CAPACITY = 64  # positions; doubled when needed


class OnnxRuntimeBackend:
    """A graph loaded on the CPU provider."""

    name = "onnx_runtime"

    def __init__(self, graph: bytes, *, num_threads: int = 1) -> None:
        """Load the graph.

        Args:
            graph: The `.onnx` file.
            num_threads: Threads inside one operator; they wait without spinning.

        Raises:
            BackendError: the runtime refuses the graph, or it is not one of ours.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_cpu_mem_arena = False  # small tensors; the arena would only hold memory
        options.log_severity_level = 4
        try:
            self.runtime = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            inputs = {item.name: item.shape for item in self.runtime.get_inputs()}
            self.width = int(inputs["embeddings"][1])
            _, layers, two, kv_heads, head_dim = inputs["past"]
            self.cache_shape = (int(layers), int(two), int(kv_heads), int(head_dim))
            outputs = {item.name: item.shape for item in self.runtime.get_outputs()}
            self.vocab_size = int(outputs["logits"][1])
            meta = self.runtime.get_modelmeta().custom_metadata_map
            self.context_length = int(meta["smallhold.context_length"])
        except Exception as error:  # the runtime raises several types, none of them public
            raise BackendError(f"ONNX Runtime could not load the graph: {error}") from error

    def session(self) -> OnnxRuntimeSession:
        """An empty sequence."""
        return OnnxRuntimeSession(self)


class OnnxRuntimeSession:
    """One sequence with its cache buffer of (capacity, L, 2, KV, hd) float32."""

    def __init__(self, backend: OnnxRuntimeBackend) -> None:
        self._backend = backend
        capacity = min(_FIRST_CAPACITY, backend.context_length)
        self._buffer = np.zeros((capacity, *backend.cache_shape), dtype=np.float32)
        self._length = 0
        self._last_logits: FloatArray | None = None

    @property
    def length(self) -> int:
        """Positions appended so far."""
        return self._length

    @property
    def kv_bytes(self) -> int:
        """Bytes of the cache buffer, free room included."""
        return self._buffer.nbytes

    def append(self, inputs: Inputs) -> None:
        """See `Session.append`."""
        ids, embeddings = split_doors(inputs, self._backend.width, self._backend.vocab_size)
        check_capacity(self._length, len(ids), self._backend.context_length)
        if not len(ids):
            return
        self._last_logits = self._run(ids, embeddings, [len(ids) - 1])[0]
        self._length += len(ids)

    def score(self, inputs: Inputs, at: Sequence[int], rows: Sequence[int] | None = None) -> FloatArray:
        """See `Session.score`; the new positions land behind the end of the cache, where the next append overwrites."""
        ids, embeddings = split_doors(inputs, self._backend.width, self._backend.vocab_size)
        check_at(at, len(ids), self._last_logits is not None)
        check_rows(rows, self._backend.vocab_size)
        check_capacity(self._length, len(ids), self._backend.context_length)
        asked = [index for index in at if index >= 0]
        fresh = iter(self._run(ids, embeddings, asked) if asked else ())
        found = [self._last_logits if index == -1 else next(fresh) for index in at]
        whole = np.array(found, dtype=np.float32).reshape(len(found), self._backend.vocab_size)
        return whole if rows is None else whole[:, list(rows)]

    def append_and_read(self, inputs: Inputs, rows: NDArray[np.int64]) -> FloatArray:
        """`append`, then logits (R,) of rows (R,) after the last position, of rows that the caller has checked."""
        self.append(inputs)
        assert self._last_logits is not None, "append_and_read: no position was given"  # noqa: S101
        return self._last_logits[rows]

    def fork(self) -> OnnxRuntimeSession:
        """See `Session.fork`."""
        copy = OnnxRuntimeSession(self._backend)
        copy._buffer = self._buffer.copy()
        copy._length, copy._last_logits = self._length, self._last_logits
        return copy

    def rewind(self, length: int) -> None:
        """See `Session.rewind`."""
        check_rewind(self._length, length)
        if length < self._length:
            self._length = length
            self._last_logits = None

    def _run(self, ids: NDArray[np.int64], embeddings: FloatArray, at: list[int]) -> FloatArray:
        """Logits (K, V) at `at`; keys and values go into the buffer behind `length`, which stays as it is."""
        end = self._length + len(ids)
        if end > len(self._buffer):
            capacity = min(max(end, 2 * len(self._buffer)), self._backend.context_length)
            grown = np.zeros((capacity, *self._backend.cache_shape), dtype=np.float32)
            grown[: self._length] = self._buffer[: self._length]
            self._buffer = grown
        present = self._buffer[self._length : end]
        logits = np.empty((len(at), self._backend.vocab_size), dtype=np.float32)
        binding = self._backend.runtime.io_binding()
        binding.bind_cpu_input("ids", ids)
        binding.bind_cpu_input("embeddings", embeddings)
        binding.bind_cpu_input("past", self._buffer[: self._length])
        binding.bind_cpu_input("at", np.array(at, dtype=np.int64))
        binding.bind_output("present", "cpu", 0, np.float32, present.shape, present.ctypes.data)
        binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        try:
            self._backend.runtime.run_with_iobinding(binding)
        except Exception as error:  # the runtime's exception types are not public
            raise BackendError(f"ONNX Runtime failed: {error}") from error
        return logits
