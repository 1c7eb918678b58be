"""The six functions of `wasi_ephemeral_nn`, as a guest calls them.

Source: wasi-nn.witx of https://github.com/WebAssembly/wasi-nn, lowered as WASI's other preview 1 functions are: lists
are address and count, results go to an address, the return value is an error code.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from smallhold.device.wasi_nn.errno import Errno, Refusal
from smallhold.device.wasi_nn.limits import Limits
from smallhold.device.wasi_nn.memory import GuestMemory
from smallhold.device.wasi_nn.models import Context, Graph, Model, Room, find_graph
from smallhold.errors import CapacityError, DeadlineError, InputError, SmallholdError

MODULE = "wasi_ephemeral_nn"
OWN_MODULE = "smallhold_nn"
_U32 = 0xFFFFFFFF
_ONNX, _AUTODETECT = 1, 5
_ENCODINGS, _TARGETS = 6, 3
_CPU = 0
_MOST_NAME_BYTES = 256
_MOST_REFUSALS = 20


class Arguments(Protocol):
    """Arguments of a call, two 64-bit words each; only the low half of the first counts for an i32."""

    def __getitem__(self, index: int) -> int:
        """A word."""


class Calls:
    """The state behind one guest's calls.

    Attributes:
        refusals: Why calls were refused, the first twenty.
        deadline: `time.monotonic()` after which no pass is begun.
    """

    def __init__(self, models: Mapping[str, Model], limits: Limits, memory: GuestMemory) -> None:
        self._models, self._limits, self._memory = models, limits, memory
        self._graphs: list[Graph] = []
        self._contexts: list[Context] = []
        self._room = Room(limits, self._context)
        self.refusals: list[str] = []
        self.deadline = float("inf")

    def functions(self) -> list[tuple[str, str, int, Callable[[Arguments], int]]]:
        """Module, name, number of arguments, and the function."""
        return [
            (MODULE, "load", 5, self.load),
            (MODULE, "load_by_name", 3, self.load_by_name),
            (MODULE, "init_execution_context", 2, self.init_execution_context),
            (MODULE, "set_input", 3, self.set_input),
            (MODULE, "compute", 1, self.compute),
            (MODULE, "get_output", 5, self.get_output),
            (OWN_MODULE, "step", 5, self.step),
        ]

    def refused(self, function: str, error: Exception) -> int:
        """The code for a failure; remember why.

        Raises:
            Exception: what is nobody's mistake goes on as it is.
        """
        match error:
            case Refusal():
                errno = error.errno
            case DeadlineError():
                raise error
            case InputError():
                errno = Errno.INVALID_ARGUMENT
            case CapacityError() | MemoryError():
                errno = Errno.TOO_LARGE
            case SmallholdError():
                errno = Errno.RUNTIME_ERROR
            case _:
                raise error
        if len(self.refusals) < _MOST_REFUSALS:
            self.refusals.append(f"{function}: {errno.name.lower()}: {error}")
        return errno

    def load(self, given: Arguments) -> int:
        """A model that the guest brings: only where it was granted, and only ONNX."""
        start, count, encoding, target, result = (given[2 * i] & _U32 for i in range(5))
        if encoding >= _ENCODINGS:
            raise Refusal(Errno.INVALID_ENCODING, f"encoding: expected 0 to {_ENCODINGS - 1}, got {encoding}")
        if target >= _TARGETS:
            raise Refusal(Errno.INVALID_ARGUMENT, f"target: expected 0 to {_TARGETS - 1}, got {target}")
        if not self._limits.model_bytes:
            raise Refusal(Errno.UNSUPPORTED_OPERATION, "models of the guest's own were not granted: open one by name")
        if encoding not in (_ONNX, _AUTODETECT) or target != _CPU:
            raise Refusal(Errno.UNSUPPORTED_OPERATION, f"expected ONNX on the CPU, got {encoding} on {target}")
        if count != 1:
            raise Refusal(Errno.INVALID_ARGUMENT, f"builder: expected one part, got {count}")
        address, size = self._memory.words(start, 2)
        if size > self._limits.model_bytes:
            raise Refusal(Errno.TOO_LARGE, f"model: expected at most {self._limits.model_bytes} bytes, got {size}")
        from smallhold.device.wasi_nn.onnx_graph import OnnxGraph  # a guest's own model is rare

        self._memory.words(result, 1)  # refused before the model is loaded
        return self._keep_graph(OnnxGraph(self._memory.bytes(address, size).tobytes()), result)

    def load_by_name(self, given: Arguments) -> int:
        """A model that the host offers."""
        address, size, result = given[0] & _U32, given[2] & _U32, given[4] & _U32
        if size > _MOST_NAME_BYTES:
            raise Refusal(Errno.NOT_FOUND, f"name: expected at most {_MOST_NAME_BYTES} bytes, got {size}")
        name = self._memory.bytes(address, size).tobytes().decode(errors="replace")
        return self._keep_graph(find_graph(self._models, name), result)

    def init_execution_context(self, given: Arguments) -> int:
        """A new context of a graph."""
        handle, result = given[0] & _U32, given[2] & _U32
        if handle >= len(self._graphs):
            raise Refusal(Errno.INVALID_ARGUMENT, f"graph {handle}: there are {len(self._graphs)}")
        if len(self._contexts) >= self._limits.handles:
            raise Refusal(Errno.BUSY, f"{self._limits.handles} contexts are open, and no more may be")
        self._memory.set_word(result, len(self._contexts))
        self._contexts.append(self._graphs[handle].open(self._room))
        return Errno.SUCCESS

    def set_input(self, given: Arguments) -> int:
        """One input of a context; the tensor is copied."""
        context = self._context(given[0] & _U32)
        context.set_input(given[2] & _U32, self._memory.tensor(given[4] & _U32, self._limits.tensor_bytes))
        return Errno.SUCCESS

    def compute(self, given: Arguments) -> int:
        """Run a context."""
        if time.monotonic() > self.deadline:
            raise DeadlineError("the guest's time is over")
        self._context(given[0] & _U32).compute()
        return Errno.SUCCESS

    def get_output(self, given: Arguments) -> int:
        """Copy an output of the last `compute` into the guest."""
        outputs, index = self._context(given[0] & _U32).outputs, given[2] & _U32
        if index >= len(outputs):
            raise Refusal(Errno.INVALID_ARGUMENT, f"output {index}: there are {len(outputs)}; compute first")
        content, room = outputs[index], given[6] & _U32
        if len(content) > room:
            raise Refusal(Errno.TOO_LARGE, f"output {index}: {len(content)} bytes into room for {room}")
        place = self._memory.bytes(given[4] & _U32, len(content))
        self._memory.set_word(given[8] & _U32, len(content))
        place[:] = content
        return Errno.SUCCESS

    def step(self, given: Arguments) -> int:
        """`set_input`, `compute` and output 0 in one call: context, index, tensor, buffer, room. Not in the ABI.

        Output 0 has to fill the room exactly. Where it does not, the pass has been made, and `get_output` gives it.
        """
        if time.monotonic() > self.deadline:
            raise DeadlineError("the guest's time is over")
        context, room = self._context(given[0] & _U32), given[8] & _U32
        place = self._memory.bytes(given[6] & _U32, room)
        context.set_input(given[2] & _U32, self._memory.tensor(given[4] & _U32, self._limits.tensor_bytes))
        context.compute()
        content = context.outputs[0]
        if len(content) != room:
            raise Refusal(Errno.TOO_LARGE, f"step: output 0 has {len(content)} bytes, the room {room}")
        place[:] = content
        return Errno.SUCCESS

    def _context(self, handle: int) -> Context:
        if handle >= len(self._contexts):
            raise Refusal(Errno.INVALID_ARGUMENT, f"context {handle}: there are {len(self._contexts)}")
        return self._contexts[handle]

    def _keep_graph(self, graph: Graph, result: int) -> int:
        if len(self._graphs) >= self._limits.handles:
            raise Refusal(Errno.BUSY, f"{self._limits.handles} graphs are open, and no more may be")
        self._memory.set_word(result, len(self._graphs))
        self._graphs.append(graph)
        return Errno.SUCCESS
