from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="checkpoints are written with torch, the extra 'train'")
pytest.importorskip("gguf", reason="the official reader is the package gguf, the extra 'test'")

import gguf

from smallhold.bundle.gguf import encoder_gguf, trunk_gguf, write_gguf
from smallhold.bundle.weights import QuantizedWeight, read_weights
from smallhold.compress.quantize import quantize_checkpoint, quantize_weight
from smallhold.device.gguf import read_gguf, unpermute_rope


def official(data: bytes, tmp_path: Path) -> tuple[dict, dict]:
    """Metadata and float32 tensors as ggml's own package reads them."""
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    reader = gguf.GGUFReader(path)
    meta = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    tensors = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    return meta, {name: array.astype(np.float32) for name, array in tensors.items()}


@pytest.mark.parametrize("is_quantized", [False, True], ids=["fp32", "q8_0"])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_the_official_package_reads_the_same_tensors_and_metadata(
    make_checkpoint: Callable[..., Path],
    quantize: Callable[[Path], Path],
    tmp_path: Path,
    kv_heads: int,
    is_quantized: bool,
) -> None:
    folder = make_checkpoint(num_key_value_heads=kv_heads, tie_word_embeddings=kv_heads == 2)
    weights = read_weights(quantize(folder) if is_quantized else folder)
    data = trunk_gguf(weights, name="name", tokens=["a", "Ġb", "é"])
    meta, tensors = official(data, tmp_path)
    ours = read_gguf(data)
    assert meta == ours.metadata
    assert meta["llama.attention.head_count_kv"] == kv_heads
    assert meta["tokenizer.ggml.tokens"] == ["a", "Ġb", "é"]
    assert meta["general.file_type"] == (7 if is_quantized else 0)
    assert set(tensors) == set(ours.tensors)
    for name, array in tensors.items():
        np.testing.assert_array_equal(array, ours.tensors[name])
    assert ours.encodings["blk.0.ffn_up.weight"] == ("Q8_0" if is_quantized else "F32")
    assert ours.encodings["token_embd.weight"] == ("Q8_0" if is_quantized else "F32")
    assert ours.encodings["output_norm.weight"] == "F32"
    assert ("output.weight" in tensors) == (kv_heads == 4)


def test_rows_of_queries_are_paired_as_ggml_rotates_them(make_checkpoint: Callable[..., Path]) -> None:
    folder = make_checkpoint()
    weights = read_weights(folder)
    stored = read_gguf(trunk_gguf(weights, name="x", tokens=[])).tensors["blk.0.attn_q.weight"]
    original = weights.checkpoint.trunk["model.layers.0.self_attn.q_proj.weight"]
    # Head 0 has rows 0-7: row 0 turns with row 4 in halves, and they become neighbours in pairs.
    for place, row in enumerate([0, 4, 1, 5, 2, 6, 3, 7, 8, 12]):
        np.testing.assert_array_equal(stored[place], original[row])
    np.testing.assert_array_equal(unpermute_rope(stored, 4), original)


def test_equal_weights_give_equal_bytes(make_checkpoint: Callable[..., Path]) -> None:
    folder = make_checkpoint()
    first, second = (trunk_gguf(read_weights(folder), name="x", tokens=[]) for _ in range(2))
    assert first == second


def test_the_signal_encoder_is_a_file_that_the_official_package_reads(
    make_checkpoint: Callable[..., Path], quantize: Callable[[Path], Path], tmp_path: Path
) -> None:
    weights = read_weights(quantize(make_checkpoint(num_channels=22)))
    meta, tensors = official(encoder_gguf(weights, task="icu-risk"), tmp_path)
    assert meta["general.architecture"] == "smallhold-signal"
    assert meta["smallhold.signal.channels"] == 22
    plain = weights.checkpoint.encoder["basis.weight"]
    assert tensors["basis.weight"].shape == (32, 96)  # 4 * 22 columns and 8 of zeros
    np.testing.assert_array_equal(tensors["basis.weight"][:, :88], plain)
    assert not tensors["basis.weight"][:, 88:].any()


META = st.dictionaries(
    st.text("abc.", min_size=1, max_size=8),
    st.text(max_size=10)
    | st.integers(0, 2**32 - 1)
    | st.floats(width=32, allow_nan=False)
    | st.lists(st.text(max_size=4))
    | st.lists(st.integers(-(2**31), 2**31 - 1)),
    max_size=5,
)


@settings(deadline=None, max_examples=60)
@given(
    meta=META,
    shapes=st.lists(st.tuples(st.integers(1, 4), st.sampled_from([32, 64])), max_size=4),
    seed=st.integers(0, 9),
)
def test_what_is_written_is_read_back(meta: dict, shapes: list, seed: int) -> None:
    rng = np.random.default_rng(seed)
    meta.pop("general.alignment", None)
    tensors: dict = {}
    for i, shape in enumerate(shapes):
        weight = rng.normal(size=shape).astype(np.float32)
        tensors[f"t{i}"] = (weight, quantize_weight(weight), quantize_weight(weight, 4))[i % 3]
    file = read_gguf(write_gguf(meta, tensors))
    assert file.metadata == meta
    for name, weight in tensors.items():
        expected = weight.dequantize() if isinstance(weight, QuantizedWeight) else weight
        np.testing.assert_array_equal(file.tensors[name], expected)


def test_the_official_package_reads_four_bits(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    quantize_checkpoint(make_checkpoint(num_key_value_heads=2), tmp_path / "small", bits=4)
    weights = read_weights(tmp_path / "small")
    data = trunk_gguf(weights, name="x", tokens=[])
    meta, tensors = official(data, tmp_path)
    ours = read_gguf(data)
    assert meta["general.file_type"] == 2
    assert ours.encodings["blk.0.ffn_up.weight"] == "Q4_0"
    assert ours.encodings["token_embd.weight"] == "Q4_0"
    for name, array in tensors.items():
        np.testing.assert_array_equal(array, ours.tensors[name])
    plain = weights.trunk["model.layers.0.mlp.up_proj.weight"]
    assert isinstance(plain, QuantizedWeight)
    np.testing.assert_array_equal(ours.tensors["blk.0.ffn_up.weight"], plain.dequantize())


def test_the_vocabulary_says_what_text_never_spells(make_checkpoint: Callable[..., Path]) -> None:
    tokens = ["<pad>", "<bos>", "<eos>", "a", "b", "ab", "<triage>"]
    data = trunk_gguf(
        read_weights(make_checkpoint()), name="x", tokens=tokens, merges=["a b"], special={"<bos>", "<triage>"}
    )
    meta = read_gguf(data).metadata
    assert meta["tokenizer.ggml.merges"] == ["a b"]
    assert meta["tokenizer.ggml.token_type"] == [1, 3, 1, 1, 1, 1, 3]
    assert (meta["tokenizer.ggml.bos_token_id"], meta["tokenizer.ggml.eos_token_id"]) == (1, 2)
    assert meta["tokenizer.ggml.pre"] == "gpt-2"


def test_metadata_of_another_type_is_our_own_bug() -> None:
    with pytest.raises(TypeError, match="GGUF metadata cannot hold dict"):
        write_gguf({"x": {}}, {})


def test_the_keys_without_which_llama_cpp_does_not_load_a_model_are_there(small_bundle: Any) -> None:
    metadata = read_gguf((small_bundle.path / "gguf" / "trunk.gguf").read_bytes()).metadata
    assert metadata["tokenizer.ggml.merges"] == []
    assert metadata["general.quantization_version"] == 2
