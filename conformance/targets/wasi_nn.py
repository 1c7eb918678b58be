"""A guest in WebAssembly that reads logits through WASI-NN, with the engine and with ONNX Runtime behind the host."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from conformance.compare import FloatArray
from conformance.models import Model
from conformance.prompts import Prompt
from conformance.target import DRIVERS, Absent, Failed, Target, build_engine
from smallhold.device.backends import Backend
from smallhold.device.backends.engine import EngineBackend
from smallhold.device.backends.onnx_runtime import OnnxRuntimeBackend
from smallhold.errors import SmallholdError

_F32, _I32 = 1, 4  # tensor types of the ABI


def targets() -> list[Target]:
    """One target a runtime behind the host."""
    try:
        import smallhold.device.wasi_nn  # noqa: F401
    except ImportError as error:
        raise Absent(f"{error}: pip install 'smallhold[wasm]'") from None
    build_engine()
    return [
        Target(
            name="WASI-NN (wasmtime), engine behind it",
            logits=_logits(lambda model: EngineBackend(model.gguf)),
            is_exact_in_pieces=True,
        ),
        Target(
            name="WASI-NN (wasmtime), ONNX Runtime behind it",
            logits=_logits(lambda model: OnnxRuntimeBackend(model.onnx.read_bytes())),
        ),
    ]


def _logits(open_backend: Callable[[Model], Backend]) -> Callable[[Model, Sequence[Prompt]], Iterator[FloatArray]]:
    from smallhold.device.wasi_nn import Guest, Limits
    from smallhold.device.wasi_nn import Model as Offered

    text = (DRIVERS / "wasi_nn.wat").read_text()
    limits = Limits(seconds=120, tensor_bytes=64 * 2**20)  # the guest asks for every logit of a prompt

    def logits(model: Model, prompts: Sequence[Prompt]) -> Iterator[FloatArray]:
        offered = {"trunk": Offered(open_backend(model))}
        for prompt in prompts:
            data = "".join(f"\\{byte:02x}" for byte in _parts(prompt))
            guest = Guest(text.replace("PROMPT", data).encode(), offered, limits=limits)
            try:
                at = guest.call("ask")
            except SmallholdError as error:
                raise Failed(f"the guest broke off: {error}; {'; '.join(guest.calls.refusals)}") from error
            said = guest.memory(at, 4 * len(prompt) * model.vocab_size)
            yield np.frombuffer(said, "<f4").reshape(len(prompt), model.vocab_size)

    return logits


def _parts(prompt: Prompt) -> bytes:
    """A prompt as drivers/wasi_nn.wat reads it."""
    said = b""
    for i, part in enumerate(prompt.parts):
        is_embedded = isinstance(part, np.ndarray)
        data = np.asarray(part, "<f4" if is_embedded else "<i4").tobytes()
        kind, width = (_F32, part.shape[1]) if isinstance(part, np.ndarray) else (_I32, 0)
        said += struct.pack("<5I", kind, len(part), width, len(data), i + 1 == len(prompt.parts)) + data
    return said
