"""Every target, by name of its row or of its rows; a new one is one function and one line here."""

from __future__ import annotations

from collections.abc import Callable

from conformance.target import Absent, Target
from conformance.targets import arm64, chromium, llama, node, python, wasi_nn, wasm, webgpu


def untested(reason: str) -> Callable[[], list[Target]]:
    """A target that no machine of ours runs."""

    def targets() -> list[Target]:
        raise Absent(reason)

    return targets


#: A row's name is the target's own; the one here stands for all of them where they cannot run.
TARGETS: dict[str, Callable[[], list[Target]]] = {
    "reference (numpy)": python.reference,
    "ONNX Runtime": python.onnx_runtime,
    "engine, native": python.engine,
    "engine, arm64 (qemu)": arm64.targets,
    "engine, wasm in Node": node.targets,
    "engine, wasm in Chromium": chromium.targets,
    "engine, wasm in wasmtime": wasm.targets,
    "WASI-NN (wasmtime)": wasi_nn.targets,
    "ONNX Runtime Web, WebGPU": webgpu.targets,
    "llama.cpp": llama.targets,
    "engine on Android": untested("no Android device or emulator here"),
    "engine on iOS": untested("no Apple device here"),
    "engine on macOS": untested("no Apple device here"),
    "engine on Windows": untested("no Windows machine here"),
}
