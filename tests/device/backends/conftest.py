"""Backends of one model: every runtime, plain and 8-bit weights, with and without grouped queries."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from tests.engine_library import build_engine

from smallhold.device.backends import Backend

SHAPES = {
    "full attention": {},
    "grouped queries": {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 3},
    "one key head": {"hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 1, "intermediate_size": 96},
    "own head": {"tie_word_embeddings": False, "vocab_size": 300, "rope_theta": 500.0},
}


@pytest.fixture(scope="session")
def load(make_checkpoint: Callable[..., Path], quantize: Callable[[Path], Path]) -> Callable[..., Backend]:
    """load("reference", "grouped queries", is_quantized=True) opens a model; each is made once."""
    pytest.importorskip("onnx", reason="graphs are written with onnx, the extra 'train'")
    from smallhold.bundle.gguf import trunk_gguf
    from smallhold.bundle.onnx_graph import trunk_onnx
    from smallhold.bundle.weights import read_weights
    from smallhold.device.backends.engine import EngineBackend
    from smallhold.device.backends.onnx_runtime import OnnxRuntimeBackend
    from smallhold.device.backends.reference import ReferenceBackend

    @cache
    def folder(shape: str) -> Path:
        return make_checkpoint(**SHAPES[shape])

    @cache
    def make(runtime: str, shape: str = "full attention", *, is_quantized: bool = False) -> Backend:
        source = quantize(folder(shape)) if is_quantized else folder(shape)
        weights = read_weights(source)
        backend: Backend
        if runtime == "engine":
            build_engine()
            backend = EngineBackend(trunk_gguf(weights, name="test", tokens=[]))
        elif runtime == "reference":
            backend = ReferenceBackend(trunk_gguf(weights, name="test", tokens=[]))
        else:
            backend = OnnxRuntimeBackend(trunk_onnx(weights))
        backend.rounds_activations = runtime == "onnx_runtime" and is_quantized  # type: ignore[attr-defined]
        return backend

    make.folder = folder  # type: ignore[attr-defined]
    return make
