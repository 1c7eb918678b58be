"""Both runtimes, torch and transformers compute the same logits from one checkpoint."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is one of the four implementations compared, the extra 'train'")

import torch

from smallhold.device.backends import Backend
from smallhold.learn.checkpoint import load_signal_model

SHAPES = ("full attention", "grouped queries", "one key head", "own head")


def sequences(backend: Backend, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, backend.vocab_size, (count, backend.context_length))


def all_logits(backend: Backend, tokens: np.ndarray) -> np.ndarray:
    at = list(range(tokens.shape[1]))
    return np.stack([backend.session().score(row.tolist(), at) for row in tokens])


def torch_logits(load: Callable[..., Backend], shape: str, tokens: np.ndarray) -> np.ndarray:
    trunk = load_signal_model(load.folder(shape)).trunk  # type: ignore[attr-defined]
    with torch.no_grad():
        return trunk(trunk.model.embed_tokens(torch.from_numpy(tokens))).numpy()


def test_both_runtimes_agree_on_ten_thousand_positions(load: Callable[..., Backend]) -> None:
    positions = 0
    for shape in SHAPES:
        reference, shipped = load("reference", shape), load("onnx_runtime", shape)
        tokens = sequences(reference, 20)
        ours, theirs = all_logits(reference, tokens), all_logits(shipped, tokens)
        assert np.abs(ours).max() > 3  # far from the zeros that would agree anyway
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4)
        noise = np.random.default_rng(1).normal(size=(2, 20, 64, reference.width)).astype(np.float32)
        for batch in noise:
            for row in batch:
                at = list(range(64))
                np.testing.assert_allclose(
                    shipped.session().score(row, at), reference.session().score(row, at), rtol=0, atol=1e-4
                )
        positions += tokens.size + noise.shape[0] * noise.shape[1] * noise.shape[2]
    assert positions > 10_000


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("runtime", ["reference", "onnx_runtime", "engine"])
def test_the_torch_model_and_the_runtimes_agree(load: Callable[..., Backend], runtime: str, shape: str) -> None:
    backend = load(runtime, shape)
    tokens = sequences(backend, 4)
    np.testing.assert_allclose(all_logits(backend, tokens), torch_logits(load, shape, tokens), rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_loads_a_checkpoint_unchanged_and_agrees(load: Callable[..., Backend], shape: str) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers reads the checkpoint, the extra 'test'")
    model, info = transformers.LlamaForCausalLM.from_pretrained(
        load.folder(shape),  # type: ignore[attr-defined]
        output_loading_info=True,
        local_files_only=True,
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    tokens = sequences(load("reference", shape), 4)
    with torch.no_grad():
        theirs = model.eval().float()(torch.from_numpy(tokens)).logits.numpy()
    np.testing.assert_allclose(torch_logits(load, shape, tokens), theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_eight_bit_weights_are_the_same_on_both_runtimes(load: Callable[..., Backend], shape: str) -> None:
    reference, shipped = (load(runtime, shape, is_quantized=True) for runtime in ("reference", "onnx_runtime"))
    tokens = sequences(reference, 8)
    ours, theirs = all_logits(reference, tokens), all_logits(shipped, tokens)
    # `onnx_runtime` also rounds activations to 8 bits: some 0.4 % of a row's largest one in every product.
    relative = np.linalg.norm(theirs - ours, axis=2) / np.linalg.norm(ours, axis=2)
    assert np.median(relative) < 0.02
    plain = all_logits(load("reference", shape), tokens)
    assert 0 < np.median(np.linalg.norm(ours - plain, axis=2) / np.linalg.norm(plain, axis=2)) < 0.05


@pytest.mark.parametrize(("rows", "columns"), [(32, 32), (64, 128), (352, 128), (128, 352)])
def test_eight_bit_products_do_not_depend_on_the_other_rows(rows: int, columns: int) -> None:
    import onnx
    import onnxruntime as ort

    rng = np.random.default_rng(rows)
    values = rng.integers(1, 256, (rows, columns // 32, 32)).astype(np.uint8)
    scale = rng.random(rows * columns // 32).astype(np.float32)
    node = onnx.helper.make_node(
        "MatMulNBits",
        ["x", "values", "scale"],
        ["y"],
        domain="com.microsoft",
        **{"K": columns, "N": rows, "bits": 8, "block_size": 32, "accuracy_level": 4},
    )
    float32 = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node],
        "product",
        [onnx.helper.make_tensor_value_info("x", float32, ["T", columns])],
        [onnx.helper.make_tensor_value_info("y", float32, ["T", rows])],
        [onnx.numpy_helper.from_array(values, "values"), onnx.numpy_helper.from_array(scale, "scale")],
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)
    runtime = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = rng.normal(size=(50, columns)).astype(np.float32)
    together = runtime.run(None, {"x": x})[0]
    for size in (1, 2, 7):
        alone = np.concatenate([runtime.run(None, {"x": x[i : i + size]})[0] for i in range(0, 50, size)])
        np.testing.assert_array_equal(alone, together)
