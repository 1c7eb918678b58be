from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="checkpoints are written with torch, the extra 'train'")
pytest.importorskip("onnx", reason="graphs are written with onnx, the extra 'train'")

import onnx

from smallhold.bundle.onnx_graph import trunk_onnx
from smallhold.bundle.weights import read_weights


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
    assert len(blocks) == 2 * 7  # layers times matrices
    for node in blocks:
        attributes = {a.name: a.i for a in node.attribute}
        assert (attributes["bits"], attributes["block_size"], attributes["accuracy_level"]) == (8, 32, 4)
    assert len(small.SerializeToString()) < 0.7 * len(plain.SerializeToString())
