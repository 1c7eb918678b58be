from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load_file, save_file

pytest.importorskip("torch", reason="checkpoints are written with torch, the extra 'train'")

import torch

from smallhold.bundle.weights import QUANTIZED_FILE, QuantizedWeight, read_weights
from smallhold.compress.quantize import quantize_checkpoint, quantize_weight
from smallhold.device.durable_file import write_durably
from smallhold.errors import DataError, ShapeError
from smallhold.learn.checkpoint import load_signal_model, read_checkpoint, save_trunk
from smallhold.learn.hugging_face import WEIGHTS
from smallhold.learn.model import Trunk
from smallhold.learn.trunk_config import TrunkConfig


def test_a_group_by_hand() -> None:
    weight = np.zeros((1, 32), np.float32)
    weight[0, :4] = [127, -63.4, 0.6, 0.4]  # the step is 1
    quantized = quantize_weight(weight)
    assert quantized.values[0, :4].tolist() == [127, -63, 1, 0]
    assert quantized.scale.tolist() == [[1.0]]


def test_a_group_of_zeros_stays_zero() -> None:
    quantized = quantize_weight(np.zeros((3, 64), np.float32))
    assert not quantized.dequantize().any()


def slow_twin(row: np.ndarray) -> list[float]:
    """One row, number by number, in Python's own floats."""
    out: list[float] = []
    for start in range(0, len(row), 32):
        group = [float(x) for x in row[start : start + 32]]
        scale = float(np.float16(np.float32(max(abs(x) for x in group)) / np.float32(127)))
        for x in group:
            steps = round(x / scale) if scale else 0  # round half to even, as numpy does
            out.append(scale * max(-127, min(127, steps)))
    return out


@settings(deadline=None, max_examples=100)
@given(
    arrays(np.float32, (2, 64), elements=st.floats(-50, 50, width=32)),
    st.sampled_from([1.0, 1e-3, 1e3]),
)
def test_no_weight_is_off_by_more_than_the_stated_bound(weight: np.ndarray, size: float) -> None:
    weight = (weight * np.float32(size)).astype(np.float32)
    restored = quantize_weight(weight).dequantize().astype(np.float64)
    step = np.repeat(np.abs(weight.reshape(2, 2, 32)).max(axis=2) / 127.0, 32, axis=1)
    rounding_of_the_scale = 127 * np.maximum(step * 2.0**-11, 2.0**-25)
    assert (np.abs(restored - weight) <= 0.5 * step * (1 + 2**-10) + rounding_of_the_scale).all()


@settings(deadline=None, max_examples=60)
@given(
    arrays(np.float32, (2, 64), elements=st.floats(-50, 50, width=32)),
    st.sampled_from([1.0, 1e-2, 1e3]),
    st.sampled_from([8, 4]),
)
def test_what_was_rounded_once_is_not_rounded_again(weight: np.ndarray, size: float, bits: int) -> None:
    # Float16 scales below the smallest normal number are coarse: there a step cannot always be found again.
    weight = np.where(np.abs(weight) < 1, 1, weight) * np.float32(size)
    once = quantize_weight(weight.astype(np.float32), bits).dequantize()
    np.testing.assert_array_equal(quantize_weight(once, bits).dequantize(), once)


def test_every_number_is_that_of_the_slow_twin() -> None:
    weight = np.random.default_rng(0).normal(size=(5, 96)).astype(np.float32)
    restored = quantize_weight(weight).dequantize()
    for row, expected in zip(restored, weight, strict=True):
        np.testing.assert_allclose(row, slow_twin(expected), rtol=1e-6)


@settings(deadline=None, max_examples=60)
@given(arrays(np.float32, (2, 64), elements=st.floats(-50, 50, width=32)), st.sampled_from([1.0, 1e-2, 1e3]))
def test_four_bits_are_never_worse_than_ggml_would_round(weight: np.ndarray, size: float) -> None:
    weight = (weight * np.float32(size)).astype(np.float32)
    groups = weight.reshape(-1, 32).astype(np.float64)
    largest = np.take_along_axis(groups, np.abs(groups).argmax(axis=1)[:, None], axis=1)
    step = (largest / -8).astype(np.float16).astype(np.float64)
    plain = np.clip(np.rint(groups / np.where(step == 0, 1, step)), -8, 7) * step
    ours = quantize_weight(weight, 4)
    assert ours.values.min() >= -8
    assert ours.values.max() <= 7
    error = ((ours.dequantize().reshape(-1, 32) - groups) ** 2).sum(axis=1)
    # Float32 sums can order two nearly equal candidates the other way round.
    assert (error <= ((plain - groups) ** 2).sum(axis=1) * (1 + 1e-4) + 1e-12).all()


def test_bits_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ShapeError, match="bits: expected 8 or 4, got 6"):
        quantize_weight(np.zeros((1, 32), np.float32), 6)


def test_four_bits_keep_the_encoder_in_eight(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    errors = quantize_checkpoint(make_checkpoint(tie_word_embeddings=False), tmp_path / "small", bits=4)
    weights = read_weights(tmp_path / "small")
    for name, weight in {**weights.trunk, **weights.encoder}.items():
        if not isinstance(weight, QuantizedWeight):
            assert "norm" in name or "bias" in name or name == "static.weight"
            continue
        is_encoder = name in weights.encoder
        assert weight.bits == (8 if is_encoder else 4)
        assert (errors[name] < 0.01) if is_encoder else (0.03 < errors[name] < 0.15)


def test_quantizing_again_changes_nothing() -> None:
    first = quantize_weight(np.random.default_rng(1).normal(size=(4, 64)).astype(np.float32))
    second = quantize_weight(first.dequantize())
    np.testing.assert_array_equal(second.values, first.values)
    np.testing.assert_array_equal(second.scale, first.scale)


@pytest.mark.parametrize("shape", [(2, 33), (32,), (2, 2, 32)])
def test_rows_that_32_does_not_divide_are_refused(shape: tuple) -> None:
    with pytest.raises(ShapeError, match=r"expected \(O, I\) with I a multiple of 32, got"):
        quantize_weight(np.zeros(shape, np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    weight = np.zeros((1, 32), np.float32)
    weight[0, 5] = value
    with pytest.raises(ValueError, match="holds NaN or infinity; the training run has diverged"):
        quantize_weight(weight)


def test_weights_beyond_a_float16_scale_are_refused() -> None:
    with pytest.raises(ValueError, match="does not fit a float16 scale"):
        quantize_weight(np.full((1, 32), 1e8, np.float32))


def test_a_quantized_checkpoint_is_read_by_transformers(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers reads the checkpoint, the extra 'test'")
    errors = quantize_checkpoint(make_checkpoint(), tmp_path / "small")
    assert len(errors) == 15 + 3
    assert all(0 < error < 0.01 for error in errors.values())
    model, info = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path / "small", output_loading_info=True, local_files_only=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ours = load_signal_model(tmp_path / "small").trunk
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        expected = ours(ours.model.embed_tokens(tokens))
        torch.testing.assert_close(model.eval().float()(tokens).logits, expected, rtol=0, atol=1e-4)


def test_vectors_and_rows_that_32_does_not_divide_stay_as_they_were(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    source = make_checkpoint(tie_word_embeddings=False, intermediate_size=80)  # 80 columns: no multiple of 32
    errors = quantize_checkpoint(source, tmp_path / "small")
    before, after = read_checkpoint(source).trunk, read_checkpoint(tmp_path / "small").trunk
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {name for name in errors if name.startswith(("model.", "lm_head."))}
    assert {"model.embed_tokens.weight", "lm_head.weight"} < changed
    assert not any("norm" in name or "down_proj" in name for name in changed)


def test_the_same_checkpoint_gives_the_same_integers(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    source = make_checkpoint()
    for name in ("a", "b"):
        quantize_checkpoint(source, tmp_path / name)
    assert (tmp_path / "a" / QUANTIZED_FILE).read_bytes() == (tmp_path / "b" / QUANTIZED_FILE).read_bytes()


def test_weights_that_cannot_be_rounded_name_their_checkpoint(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    source = shutil.copytree(make_checkpoint(), tmp_path / "source")
    tensors = load_file(source / WEIGHTS)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = np.nan
    save_file(tensors, source / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"source: model\.layers\.1\.mlp\.up_proj\.weight: .*holds NaN"):
        quantize_checkpoint(source, tmp_path / "small")
    assert not (tmp_path / "small").exists()


def test_a_checkpoint_with_nothing_to_round_is_refused(tmp_path: Path) -> None:
    narrow = TrunkConfig(
        vocab_size=259,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    save_trunk(Trunk(narrow), tmp_path / "narrow")
    with pytest.raises(DataError, match="no matrix has rows that 32 divides"):
        quantize_checkpoint(tmp_path / "narrow", tmp_path / "small")
    assert not (tmp_path / "small").exists()


def test_a_twin_that_was_not_finished_is_not_taken_for_whole(
    make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, twin = make_checkpoint(), tmp_path / "small"
    quantize_checkpoint(source, twin)
    for last in range(1, 6):  # killed at each of the files, over the twin that is there
        written: list[Path] = []

        def until(path: Path, chunks: Any, written: list[Path] = written, last: int = last, **more: Any) -> None:
            written.append(path)
            if len(written) == last:
                raise KeyboardInterrupt
            write_durably(path, chunks, **more)

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr("smallhold.compress.quantize.write_durably", until)
            quantize_checkpoint(source, twin, bits=4)
        with pytest.raises(DataError, match=r"missing: config\.json"):
            read_weights(twin)
    quantize_checkpoint(source, twin, bits=4)
    assert read_weights(twin).trunk


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing: config\.json, model\.safetensors"):
        quantize_checkpoint(tmp_path, tmp_path / "small")
    assert not (tmp_path / "small").exists()
