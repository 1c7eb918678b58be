from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="quantization needs torch, the extra 'train'")

import torch

from smallhold.bundle.onnx_graph import trunk_onnx
from smallhold.bundle.rounding import quantize_weight
from smallhold.bundle.weights import RANGES, QuantizedWeight, read_weights
from smallhold.compress.calibration import CalibrationSet
from smallhold.compress.gptq import gptq_layers, quantize_gptq
from smallhold.errors import ShapeError
from smallhold.learn.checkpoint import load_signal_model, read_checkpoint

from .small_models import logits_of, no_progress


def correlated(inputs: int, *, rows: int = 400, seed: int = 0) -> np.ndarray:
    """(rows, inputs) with a few directions that hold most of the variance, as activations have."""
    rng = np.random.default_rng(seed)
    few = rng.normal(size=(rows, inputs // 4)) @ rng.normal(size=(inputs // 4, inputs))
    return few + 0.3 * rng.normal(size=(rows, inputs))


def output_error(weight: np.ndarray, rounded: QuantizedWeight, x: np.ndarray) -> float:
    return float(np.linalg.norm(x @ (weight - rounded.dequantize()).T) / np.linalg.norm(x @ weight.T))


def slow_twin(weight: np.ndarray, gram: np.ndarray, bits: int, damping: float) -> np.ndarray:
    """Optimal brain quantization in its given order: after each column the best correction of all columns left.

    Within a group only the group's own columns are corrected at once; the sum of what lies beyond is paid at its edge.
    No Cholesky factor: the inverse of the Hessian of the columns that are left is made anew each time.
    """
    hessian = gram + damping * np.diag(gram).mean() * np.eye(len(gram))
    left, out = weight.astype(np.float64), np.zeros_like(weight)
    for start in range(0, weight.shape[1], 32):
        scale = quantize_weight(left[:, start : start + 32].astype(np.float32), bits).scale[:, 0].astype(np.float64)
        owed = np.zeros_like(left)
        for i in range(start, start + 32):
            inverse = np.linalg.inv(hessian[i:, i:])
            for row in range(len(weight)):
                whole = np.clip(np.rint(left[row, i] / scale[row]), *RANGES[bits])
                out[row, i] = np.float32(whole * scale[row])
                correction = (left[row, i] - whole * scale[row]) / inverse[0, 0] * inverse[0]
                left[row, i : start + 32] -= correction[: start + 32 - i]
                owed[row, start + 32 :] += correction[start + 32 - i :]
        left -= owed
    return out


@pytest.mark.parametrize("bits", [8, 4])
def test_every_weight_is_that_of_the_slow_twin(bits: int) -> None:
    weight = np.random.default_rng(1).normal(size=(3, 96)).astype(np.float32)
    x = correlated(96)
    fast = quantize_gptq(weight, x.T @ x, bits=bits, damping=0.02)
    np.testing.assert_allclose(fast.dequantize(), slow_twin(weight, x.T @ x, bits, 0.02), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("seed", range(4))
def test_the_layers_output_is_nearer_than_with_rounding_to_nearest(bits: int, seed: int) -> None:
    weight = np.random.default_rng(seed).normal(size=(24, 128)).astype(np.float32)
    x, fresh = np.split(correlated(128, rows=1200, seed=seed), 2)
    ours, nearest = quantize_gptq(weight, x.T @ x, bits=bits), quantize_weight(weight, bits)
    assert output_error(weight, ours, x) < 0.8 * output_error(weight, nearest, x)
    assert output_error(weight, ours, fresh) < 0.9 * output_error(weight, nearest, fresh)  # inputs it has not seen


def test_uncorrelated_inputs_leave_rounding_to_nearest() -> None:
    weight = np.random.default_rng(2).normal(size=(4, 64)).astype(np.float32)
    ours, nearest = quantize_gptq(weight, np.eye(64)), quantize_weight(weight, 4)
    np.testing.assert_array_equal(ours.values, nearest.values)
    np.testing.assert_array_equal(ours.scale, nearest.scale)


def test_inputs_that_calibration_never_used_are_rounded_to_nearest() -> None:
    weight = np.random.default_rng(3).normal(size=(4, 64)).astype(np.float32)
    x = correlated(64)
    x[:, 32:] = 0  # the whole second group is dead
    ours, nearest = quantize_gptq(weight, x.T @ x), quantize_weight(weight, 4)
    np.testing.assert_array_equal(ours.values[:, 32:], nearest.values[:, 32:])
    assert (ours.values[:, :32] != nearest.values[:, :32]).any()
    nothing_seen = quantize_gptq(weight, np.zeros((64, 64)))
    np.testing.assert_array_equal(nothing_seen.values, nearest.values)
    assert not quantize_gptq(np.zeros((2, 32), np.float32), np.eye(32)).dequantize().any()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"expected weight \(O, I\) with I a multiple of 32 and gram \(I, I\)"):
        quantize_gptq(np.zeros((2, 32), np.float32), np.eye(31))
    with pytest.raises(ShapeError, match="bits: expected 8 or 4, got 3"):
        quantize_gptq(np.zeros((2, 32), np.float32), np.eye(32), bits=3)
    with pytest.raises(ValueError, match="calibration inputs hold NaN"):
        quantize_gptq(np.zeros((2, 32), np.float32), np.full((32, 32), np.nan))


def test_a_twin_by_gptq_is_read_exported_and_nearer(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    from smallhold.compress.quantize import quantize_checkpoint

    source = make_checkpoint(tie_word_embeddings=False, seed=5)
    model = load_signal_model(source)
    ids = torch.randint(259, (24, 48), generator=torch.Generator().manual_seed(0))
    done: list[int] = []
    chosen = gptq_layers(model, CalibrationSet(tokens=ids), bits=4, progress=lambda d, total: done.append(d))
    assert done == [1, 2]
    assert len(chosen) == 14
    quantize_checkpoint(source, tmp_path / "gptq", bits=4, chosen=chosen)
    quantize_checkpoint(source, tmp_path / "nearest", bits=4)
    weights = read_weights(tmp_path / "gptq")
    twin = read_checkpoint(tmp_path / "gptq")
    for name, weight in chosen.items():
        stored = weights.trunk[name]
        assert isinstance(stored, QuantizedWeight)
        np.testing.assert_array_equal(stored.values, weight.values)
        np.testing.assert_array_equal(stored.scale, weight.scale)
        np.testing.assert_array_equal(twin.trunk[name], weight.dequantize())
    assert len(trunk_onnx(weights)) > 0
    exact = logits_of(model, ids)
    ours = logits_of(load_signal_model(tmp_path / "gptq"), ids)
    nearest = logits_of(load_signal_model(tmp_path / "nearest"), ids)
    assert (ours - exact).norm() < (nearest - exact).norm()
    assert torch.equal(logits_of(model, ids), exact), "the model itself is left alone"


def test_a_trunk_without_a_door_is_quantized_too() -> None:
    from .small_models import make_trunk, tokens

    chosen = gptq_layers(make_trunk("gemma"), CalibrationSet(tokens=tokens()), bits=8, progress=no_progress)
    assert set(chosen) == {
        f"model.layers.{i}.{part}.weight"
        for i in range(3)
        for part in (
            *(f"self_attn.{p}_proj" for p in "qkvo"),
            *(f"mlp.{p}_proj" for p in ("gate", "up", "down")),
        )
    }
