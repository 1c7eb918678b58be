"""ONNX Runtime Web on WebGPU in headless Chromium: on the processor, by SwiftShader, which shows that it is right."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from conformance.compare import FloatArray
from conformance.models import ROOT, Model
from conformance.prompts import Prompt, encode
from conformance.target import DRIVERS, Absent, Target
from conformance.targets.chromium import ask, page_of, split
from conformance.targets.llama import shown
from smallhold.device.backends.onnx_runtime import OnnxRuntimeBackend

PLACE = ROOT / "runs" / "peers" / "onnxruntime-web" / "node_modules" / "onnxruntime-web"
INSTALL = "npm install --ignore-scripts --prefix runs/peers/onnxruntime-web onnxruntime-web@1.30.0"
SWITCHES = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
POSITIONS = 200
MODULE = "/webgpu.mjs"


def targets() -> list[Target]:
    """The one target; `$SMALLHOLD_ORT_WEB` is the folder of the package where it lies elsewhere."""
    dist = Path(os.environ.get("SMALLHOLD_ORT_WEB", PLACE)) / "dist"
    wasm = "ort-wasm-simd-threaded.asyncify"
    names = {"/ort.mjs": "ort.webgpu.min.mjs", "/ort-wasm.mjs": f"{wasm}.mjs", "/ort-wasm.wasm": f"{wasm}.wasm"}
    try:
        files = {name: (dist / file).read_bytes() for name, file in names.items()}
    except OSError as error:
        raise Absent(f"ONNX Runtime Web is not in {shown(dist)}: {INSTALL}, or set SMALLHOLD_ORT_WEB") from error
    files |= {MODULE: (DRIVERS / "webgpu.mjs").read_bytes(), "/logits.mjs": (DRIVERS / "logits.mjs").read_bytes()}
    with page_of(files, SWITCHES) as (page, _):
        if (adapter := ask(page, "adapter", module=MODULE)) is None:
            raise Absent("Chromium gives no WebGPU adapter, not even SwiftShader's")

    def logits(model: Model, prompts: Sequence[Prompt]) -> Iterator[FloatArray]:
        graph = model.onnx.read_bytes()
        loaded = OnnxRuntimeBackend(graph)  # says the shape of the cache
        layers, _, kv_heads, head_dim = loaded.cache_shape
        served = {**files, "/graph": graph, "/prompts": encode(prompts)}
        with page_of(served, SWITCHES) as (page, posted):
            ask(page, "logits", [layers, kv_heads, head_dim, loaded.width], module=MODULE)
        yield from split(posted, prompts, model.vocab_size)

    return [Target(name=f"ONNX Runtime Web, WebGPU ({adapter})", logits=logits, positions=POSITIONS)]
