"""A plain ONNX graph that a guest brought, in ONNX Runtime: inputs and outputs in the graph's own order.

Nobody has signed it. The runtime's parser and its operators see what the guest wrote, and neither their memory nor
their time is bounded here: grant it to guests that you would run without a sandbox too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort

from smallhold.device.wasi_nn.errno import Errno, Refusal
from smallhold.device.wasi_nn.memory import DTYPES
from smallhold.device.wasi_nn.models import Room, Tensor

_TYPES = dict(zip(("float16", "float", "double", "uint8", "int32", "int64"), DTYPES, strict=True))


class OnnxGraph:
    """The graph, loaded.

    Raises:
        Refusal: not a graph that the runtime computes, one with tensors in other files, or of other types.
    """

    def __init__(self, data: bytes) -> None:
        # Tensors outside the graph are named by a path; it would be read with the host's rights.
        if b"location" in data:
            raise Refusal(
                Errno.INVALID_ENCODING, "model: may hold tensors in other files, the word 'location' is in it"
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self.runtime = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime raises several types, none of them public
            raise Refusal(Errno.INVALID_ENCODING, f"model: ONNX Runtime cannot load it: {error}") from error
        self.inputs = [(item.name, _dtype(item.name, item.type)) for item in self.runtime.get_inputs()]
        self.outputs = [item.name for item in self.runtime.get_outputs()]
        for item in self.runtime.get_outputs():
            _dtype(item.name, item.type)

    def open(self, room: Room) -> OnnxContext:
        """A context without inputs yet."""
        return OnnxContext(self, room)


class OnnxContext:
    """Inputs stay until they are set again."""

    def __init__(self, graph: OnnxGraph, room: Room) -> None:
        self._graph, self._room = graph, room
        self._inputs: dict[str, Tensor] = {}
        self.outputs: Sequence[bytes] = ()

    def set_input(self, index: int, tensor: Tensor) -> None:
        """See `Context.set_input`."""
        if index >= len(self._graph.inputs):
            raise Refusal(Errno.INVALID_ARGUMENT, f"input {index}: the graph has {len(self._graph.inputs)}")
        name, dtype = self._graph.inputs[index]
        if tensor.dtype != dtype:
            raise Refusal(Errno.INVALID_ARGUMENT, f"input {index}: expected {dtype.name}, got {tensor.dtype.name}")
        self._inputs[name] = tensor

    def compute(self) -> None:
        """See `Context.compute`."""
        if missing := [name for name, _ in self._graph.inputs if name not in self._inputs]:
            raise Refusal(Errno.INVALID_ARGUMENT, f"input {missing[0]!r} was not set")
        try:
            found = self._graph.runtime.run(self._graph.outputs, self._inputs)
        except Exception as error:  # as above
            raise Refusal(Errno.RUNTIME_ERROR, f"ONNX Runtime failed: {error}") from error
        if sum(tensor.nbytes for tensor in found) > self._room.limits.tensor_bytes:
            raise Refusal(Errno.TOO_LARGE, f"outputs: more than {self._room.limits.tensor_bytes} bytes")
        self.outputs = [tensor.tobytes() for tensor in found]


def _dtype(name: str, kind: str) -> np.dtype[np.generic]:
    found = _TYPES.get(kind.removeprefix("tensor(").removesuffix(")"))
    if found is None:
        raise Refusal(Errno.INVALID_ENCODING, f"model: {name!r} is {kind}, which WASI-NN does not have")
    return found
