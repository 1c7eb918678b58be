"""The engine as WebAssembly in wasmtime, called from Python: the module of browsers, and the one of WASI."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from conformance.compare import FloatArray
from conformance.models import Model
from conformance.prompts import Prompt
from conformance.target import Absent, Failed, Request, Target, build_engine
from conformance.targets.one_file import one_file

TRIPLES = ("wasm32-unknown-unknown", "wasm32-wasip1")
POSITIONS = {"scalar": 500}
_MESSAGE_BYTES = 512


def targets() -> list[Target]:
    """One target a module and family."""
    try:
        import wasmtime  # noqa: F401
    except ImportError:
        raise Absent("wasmtime is missing: pip install 'smallhold[wasm]'") from None
    modules = [(triple, Compiled(build_engine(triple) / "smallhold_engine.wasm")) for triple in TRIPLES]
    return [
        Target(
            name=f"engine, {triple} in wasmtime, {family}",
            logits=partial(_logits, compiled, family),
            decide=partial(_decide, compiled, family),
            positions=POSITIONS.get(family, 10_000),
            is_exact_in_pieces=True,
        )
        for triple, compiled in modules
        for family in compiled.start().kernels()
    ]


class Compiled:
    """A module, compiled once for all of its instances."""

    def __init__(self, path: Path) -> None:
        import wasmtime

        self.engine = wasmtime.Engine()
        self.module = wasmtime.Module.from_file(self.engine, str(path))
        self.linker = wasmtime.Linker(self.engine)
        self.linker.define_wasi()

    def start(self) -> Instance:
        """A fresh instance."""
        return Instance(self)


class Instance:
    """The C interface, called with numbers that are places in the module's memory."""

    def __init__(self, compiled: Compiled) -> None:
        import wasmtime

        self.store = wasmtime.Store(compiled.engine)
        self.store.set_wasi(wasmtime.WasiConfig())
        self.exports = compiled.linker.instantiate(self.store, compiled.module).exports(self.store)
        if "_initialize" in self.exports:
            self.call("_initialize")
        self.message = self.call("smallhold_room", _MESSAGE_BYTES)

    def kernels(self) -> list[str]:
        """Kernel families, the fastest first."""
        return self.text(self.call("smallhold_kernels")).split()

    def call(self, name: str, *arguments: int) -> Any:
        """Call an export."""
        return self.exports[name](self.store, *arguments)

    def check(self, name: str, *arguments: int) -> None:
        """Call what returns a code and writes a sentence.

        Raises:
            Failed: the code is not 0.
        """
        if self.call(name, *arguments, self.message):
            raise Failed(self.text(self.message))

    def put(self, data: bytes) -> int:
        """Copy bytes into the module; they stay until `free`."""
        at = self.call("smallhold_room", max(len(data), 1))
        if not at:
            raise Failed(f"no room for {len(data)} bytes")
        self.exports["memory"].write(self.store, data, at)
        return int(at)

    def free(self, at: int, length: int) -> None:
        """Let go of what `put` copied."""
        self.call("smallhold_room_free", at, max(length, 1))

    def get(self, at: int, length: int) -> bytes:
        """Bytes of the module's memory."""
        return bytes(self.exports["memory"].read(self.store, at, at + length))

    def number(self, at: int) -> int:
        """A 32-bit number of the module's memory."""
        return int(struct.unpack("<I", self.get(at, 4))[0])

    def text(self, at: int) -> str:
        """Text up to a zero."""
        found = b""
        while b"\0" not in found:
            found += self.get(at + len(found), 256)  # less at the end of the memory
        return found[: found.index(b"\0")].decode()


def _logits(compiled: Compiled, family: str, model: Model, prompts: Sequence[Prompt]) -> Iterator[FloatArray]:
    instance = compiled.start()
    data = model.gguf.read_bytes()
    handle, info = instance.put(bytes(4)), instance.put(bytes(32))
    weights, name = instance.put(data), instance.put(family.encode() + b"\0")
    instance.check("smallhold_model_from_bytes", weights, len(data), name, handle, info)
    instance.free(weights, len(data))
    opened = instance.number(handle)
    for prompt in prompts:
        session, found = instance.call("smallhold_session_new", opened), []
        for i, part in enumerate(prompt.parts):
            is_embedded, count = isinstance(part, np.ndarray), len(part)
            given = np.asarray(part, "<f4" if is_embedded else "<u4").tobytes()
            size = 4 * count * model.vocab_size
            places = np.arange(count, dtype="<i8").tobytes()
            inputs, at, out = instance.put(given), instance.put(places), instance.put(bytes(size))
            doors = (0, inputs) if is_embedded else (inputs, 0)
            instance.check("smallhold_session_score", session, *doors, count, at, count, 0, 0, out)
            found.append(np.frombuffer(instance.get(out, size), "<f4").reshape(count, model.vocab_size))
            if i + 1 < len(prompt.parts):
                instance.check("smallhold_session_append", session, *doors, count)
            for place, length in ((inputs, len(given)), (at, len(places)), (out, size)):
                instance.free(place, length)
        instance.call("smallhold_session_free", session)
        yield np.concatenate(found)


def _decide(compiled: Compiled, family: str, bundle: Path, keys: Path, requests: Sequence[Request]) -> list[Request]:
    instance = compiled.start()
    with one_file(bundle, keys) as (packed, pem):
        data, text = packed.read_bytes(), pem.read_bytes() + b"\0"
    handle, name = instance.put(bytes(4)), instance.put(family.encode() + b"\0")
    instance.check(
        "smallhold_program_from_bytes",
        *(instance.put(data), len(data), instance.put(text), int(time.time()), name, handle),
    )
    program, answers = instance.number(handle), []
    for request in requests:
        line = json.dumps(request).encode()
        asked, place = instance.put(line), instance.put(bytes(4))
        instance.call("smallhold_program_ask", program, asked, len(line), place)
        answers.append(json.loads(instance.text(instance.number(place))))
        instance.free(asked, len(line))
        instance.free(place, 4)
    return answers
