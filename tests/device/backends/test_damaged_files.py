"""A weight file that is no weight file gives BackendError, whatever is wrong with it."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("onnx", reason="graphs are written with onnx, the extra 'train'")

import onnx

from smallhold.bundle.gguf import trunk_gguf, write_gguf
from smallhold.bundle.onnx_graph import trunk_onnx
from smallhold.bundle.weights import read_weights
from smallhold.device.backends.onnx_runtime import OnnxRuntimeBackend
from smallhold.device.backends.reference import ReferenceBackend
from smallhold.device.gguf import read_gguf
from smallhold.errors import BackendError

META = {
    "general.architecture": "llama",
    "llama.context_length": 8,
    "llama.embedding_length": 4,
    "llama.block_count": 0,
    "llama.attention.head_count": 2,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
}


@pytest.fixture(scope="module")
def files(make_checkpoint: Callable[..., Path]) -> tuple[bytes, bytes]:
    weights = read_weights(make_checkpoint(num_hidden_layers=1))
    return trunk_gguf(weights, name="x", tokens=["a", "b"]), trunk_onnx(weights)


@pytest.mark.parametrize("cut", [0, 3, 10, 24, 60, 500, 2000, -1])
def test_a_truncated_file_is_refused_by_both_runtimes(files: tuple[bytes, bytes], cut: int) -> None:
    with pytest.raises(BackendError, match=r"GGUF|tensor"):
        ReferenceBackend(files[0][:cut])
    with pytest.raises(BackendError, match="ONNX Runtime could not load the graph"):
        OnnxRuntimeBackend(files[1][:cut])


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=400))
def test_garbage_is_refused_by_both_runtimes(data: bytes) -> None:
    with pytest.raises(BackendError, match="GGUF"):
        ReferenceBackend(data)
    with pytest.raises(BackendError, match="ONNX Runtime could not load the graph"):
        OnnxRuntimeBackend(data)


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_flipped_bytes_of_a_gguf_header_never_give_another_error(
    files: tuple[bytes, bytes], data: st.DataObject
) -> None:
    damaged = bytearray(files[0])
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, 1400))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BackendError):
        read_gguf(bytes(damaged))


def test_a_graph_that_is_not_ours_is_refused() -> None:
    info = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "g", [info], [out])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    with pytest.raises(BackendError, match="'embeddings'"):
        OnnxRuntimeBackend(model.SerializeToString())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GGML" + bytes(40), r"expected the magic b'GGUF', got b'GGML'"),
        (b"GGUF" + struct.pack("<IQQ", 2, 0, 0), "GGUF version: expected 3, got 2"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 10**12), "truncated inside a string"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<I", 99), "unknown value type 99"),
        (
            b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, 1) + b"t" + struct.pack("<IQIQ", 1, 32, 3, 0),
            "tensor t: type Q4_1 is not one of F32, F16, Q8_0, Q4_0",
        ),
        (
            b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, 1) + b"t" + struct.pack("<IQIQ", 1, 2**62, 0, 0),
            "tensor t: expected .* bytes, the file ends after 0",
        ),
        (write_gguf({"general.alignment": 0}, {}), "truncated or malformed"),
        (write_gguf({"general.alignment": "wide"}, {}), "truncated or malformed"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 9, 1) * 20_000, "malformed"),
    ],
    ids=["magic", "version", "string", "value type", "tensor type", "size", "alignment 0", "alignment text", "nesting"],
)
def test_what_is_wrong_with_a_gguf_file_is_named(data: bytes, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        read_gguf(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"general.architecture": "qwen2"}, "expected 'llama', got 'qwen2'"),
        ({"llama.context_length": None}, "GGUF file lacks 'llama.context_length'"),
        ({"llama.embedding_length": "wide"}, "describes no model"),
        ({"llama.block_count": 1}, "GGUF file lacks 'blk.0.attn_norm.weight'"),
    ],
)
def test_a_gguf_file_that_is_no_llama_is_refused(change: dict, message: str) -> None:
    meta = {key: value for key, value in {**META, **change}.items() if value is not None}
    tensors = {"token_embd.weight": np.zeros((3, 4), np.float32), "output_norm.weight": np.ones(4, np.float32)}
    with pytest.raises(BackendError, match=message):
        ReferenceBackend(write_gguf(meta, tensors))


def test_tensors_that_plain_llama_does_not_have_are_refused_and_not_left_out(files: tuple[bytes, bytes]) -> None:
    file = read_gguf(files[0])
    for name in ("rope_freqs.weight", "blk.0.attn_q.bias"):
        extended = write_gguf(file.metadata, {**file.tensors, name: np.ones(4, np.float32)})
        with pytest.raises(BackendError, match=f"plain Llama does not have: {name}"):
            ReferenceBackend(extended)
