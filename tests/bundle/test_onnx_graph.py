from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="checkpoints are written with torch, the extra 'train'")
pytest.importorskip("onnx", reason="graphs are written with onnx, the extra 'train'")

import numpy as np
import onnx

from smallhold.bundle.gguf import trunk_gguf
from smallhold.bundle.onnx_graph import trunk_onnx
from smallhold.bundle.weights import read_weights
from smallhold.compress.quantize import quantize_checkpoint
from smallhold.device.backends.onnx_runtime import OnnxRuntimeBackend
from smallhold.device.backends.reference import ReferenceBackend


def dims(value: onnx.ValueInfoProto) -> list:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def test_inputs_and_outputs_are_as_documented(make_checkpoint: Callable[..., Path]) -> None:
    model = onnx.load_from_string(trunk_onnx(read_weights(make_checkpoint(num_key_value_heads=2, num_hidden_layers=3))))
    assert {i.name: dims(i) for i in model.graph.input} == {
        "ids": ["T"],
        "embeddings": ["T", 32],
        "past": ["P", 3, 2, 2, 8],
        "at": ["K"],
    }
    assert {o.name: dims(o) for o in model.graph.output} == {"logits": ["K", 259], "present": ["T", 3, 2, 2, 8]}
    assert {p.key: p.value for p in model.metadata_props} == {"smallhold.context_length": "64"}


def test_equal_weights_give_equal_bytes(make_checkpoint: Callable[..., Path], quantize: Callable[[Path], Path]) -> None:
    for folder in (make_checkpoint(), quantize(make_checkpoint())):
        assert trunk_onnx(read_weights(folder)) == trunk_onnx(read_weights(folder))


def test_quantized_matrices_become_blockwise_products_and_nothing_else_does(
    make_checkpoint: Callable[..., Path], quantize: Callable[[Path], Path]
) -> None:
    plain = onnx.load_from_string(trunk_onnx(read_weights(make_checkpoint())))
    assert not [node for node in plain.graph.node if node.op_type == "MatMulNBits"]
    small = onnx.load_from_string(trunk_onnx(read_weights(quantize(make_checkpoint()))))
    blocks = [node for node in small.graph.node if node.op_type == "MatMulNBits"]
    assert len(blocks) == 2 * 4 + 1  # layers times products (queries, keys and values are one), and the head
    for node in blocks:
        attributes = {a.name: a.i for a in node.attribute}
        assert (attributes["bits"], attributes["block_size"], attributes["accuracy_level"]) == (8, 32, 4)
    assert len(small.SerializeToString()) < 0.4 * len(plain.SerializeToString())


@pytest.mark.parametrize("is_quantized", [False, True], ids=["fp32", "q8_0"])
def test_a_tied_head_reads_the_embedding_that_ids_are_looked_up_in(
    make_checkpoint: Callable[..., Path], quantize: Callable[[Path], Path], is_quantized: bool
) -> None:
    folder = make_checkpoint()
    model = onnx.load_from_string(trunk_onnx(read_weights(quantize(folder) if is_quantized else folder)))
    name = "model.embed_tokens.values" if is_quantized else "model.embed_tokens"
    users = {node.op_type for node in model.graph.node if name in node.input}
    assert users == {"Gather", "MatMulNBits" if is_quantized else "MatMul"}
    large = [item.name for item in model.graph.initializer if 259 in item.dims and len(item.dims) > 1]
    assert large == [name]


def test_four_bits_halve_the_layers(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    quantize_checkpoint(make_checkpoint(), tmp_path, bits=4)
    model = onnx.load_from_string(trunk_onnx(read_weights(tmp_path)))
    bits = [{a.name: a.i for a in node.attribute}["bits"] for node in model.graph.node if node.op_type == "MatMulNBits"]
    assert bits == [4] * 9  # the head, last, too
    sizes = {item.name: list(item.dims) for item in model.graph.initializer}
    assert sizes["model.layers.0.mlp.down_proj.values"] == [32, 2, 16]
    assert sizes["model.embed_tokens.values"] == [259, 1, 16]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "own head"])
def test_both_files_hold_the_same_weights(
    make_checkpoint: Callable[..., Path], tmp_path: Path, bits: int, is_tied: bool
) -> None:
    folder = make_checkpoint(num_key_value_heads=2, tie_word_embeddings=is_tied)
    quantize_checkpoint(folder, tmp_path, bits=bits)
    weights = read_weights(tmp_path)
    tokens = np.random.default_rng(0).integers(0, 259, 60).tolist()
    at = list(range(60))
    theirs = OnnxRuntimeBackend(trunk_onnx(weights)).session().score(tokens, at)
    ours = ReferenceBackend(trunk_gguf(weights, name="x", tokens=[])).session().score(tokens, at)
    # The graph also rounds activations to 8 bits; another zero point or order of nibbles would be far off.
    relative = np.linalg.norm(theirs - ours, axis=1) / np.linalg.norm(ours, axis=1)
    assert np.median(relative) < 0.02
    assert relative.max() < 0.06
