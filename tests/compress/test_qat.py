from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch, the extra 'train'")

import torch
from torch.nn import functional as F

from smallhold.bundle.weights import QuantizedWeight, read_weights
from smallhold.compress.qat import quantization_aware
from smallhold.compress.quantize import quantize_checkpoint
from smallhold.compress.shipped import as_shipped, round_low_bits, shipped_bits
from smallhold.errors import ShapeError
from smallhold.learn.checkpoint import load_signal_model, save_checkpoint

from .small_models import FEATURES, logits_of, make_signal_model, make_trunk, signal_logits_of, tokens


def named_weights(model) -> dict[str, torch.Tensor]:  # type: ignore[no-untyped-def]
    """Every parameter as it reads now, by its ordinary name."""
    return {
        f"{name}.{leaf}": getattr(module, leaf).detach().clone()
        for name, module in model.named_modules()
        for leaf in ("weight", "bias")
        if isinstance(getattr(module, leaf, None), torch.Tensor) and "parametrizations" not in name
    }


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("feature", ["llama", "untied", "all biases"])
def test_the_forward_pass_computes_with_the_very_weights_that_ship(bits: int, feature: str, tmp_path: Path) -> None:
    model = make_signal_model(feature, intermediate_size=80)  # 32 does not divide the rows of down_proj
    save_checkpoint(model, tmp_path / "a", {})
    quantize_checkpoint(tmp_path / "a", tmp_path / "b", bits=bits)
    twin = load_signal_model(tmp_path / "b")
    shipped, weights = named_weights(twin), read_weights(tmp_path / "b")
    quantized = {f"trunk.{name}" for name, w in weights.trunk.items() if isinstance(w, QuantizedWeight)}
    quantized |= {f"encoder.{name}" for name, w in weights.encoder.items() if isinstance(w, QuantizedWeight)}
    assert set(shipped_bits(model, bits)) == quantized
    with quantization_aware(model, bits=bits):
        for name, weight in named_weights(model).items():
            assert torch.equal(weight, shipped[name]), name
        assert torch.equal(logits_of(model), logits_of(twin))
        assert torch.equal(signal_logits_of(model), signal_logits_of(twin))


@pytest.mark.parametrize("feature", FEATURES)
def test_the_float_weights_come_back_under_their_names(feature: str) -> None:
    model = make_signal_model(feature)
    before = {name: p.detach().clone() for name, p in model.state_dict().items()}
    exact = logits_of(model)
    with quantization_aware(model, bits=4):
        assert not torch.equal(logits_of(model), exact)
    assert set(model.state_dict()) == set(before)
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    tied = model.trunk.lm_head.weight is model.trunk.model.embed_tokens.weight
    assert tied == model.trunk.config.tie_word_embeddings


def test_gradients_pass_straight_through() -> None:
    trunk = make_trunk()
    ids = tokens()
    with quantization_aware(trunk, bits=4):
        F.cross_entropy(trunk(trunk.embed(ids)).flatten(0, 1), ids.flatten()).backward()
        rounded = named_weights(trunk)
    found = {name: p.grad.clone() for name, p in trunk.named_parameters()}  # type: ignore[union-attr]
    for name, p in trunk.named_parameters():
        p.grad = None
        p.data.copy_(rounded[name])  # the slow twin: an ordinary model that holds the rounded weights
    F.cross_entropy(trunk(trunk.embed(ids)).flatten(0, 1), ids.flatten()).backward()
    for name, p in trunk.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bits", [4, 2])
def test_training_recovers_part_of_what_rounding_cost(bits: int) -> None:
    teacher, student = make_trunk(), make_trunk()
    ids = tokens(32)
    target = logits_of(teacher, ids).softmax(-1)

    def loss() -> torch.Tensor:
        said = F.log_softmax(student(student.embed(ids)), -1)
        return (target * (target.log() - said)).sum(-1).mean()

    with quantization_aware(student, bits=bits):
        start = float(loss().detach())
        optimizer = torch.optim.Adam(student.parameters(), lr=2e-3)
        for _ in range(25):
            value = loss()
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        end = float(loss().detach())
        assert not torch.equal(logits_of(student), logits_of(teacher))
    assert end < 0.7 * start


def test_rounding_is_done_once_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    import smallhold.compress.qat as qat

    calls = []
    monkeypatch.setattr(qat, "as_shipped", lambda weight, bits: calls.append(bits) or as_shipped(weight, bits))
    trunk = make_trunk()
    with quantization_aware(trunk, bits=4):
        logits_of(trunk)
        logits_of(trunk)
        assert sorted(calls) == [4] * 22  # the tied embedding and head once
        with torch.no_grad():
            for name, p in trunk.named_parameters():
                if "layers.0.mlp.up_proj" in name:
                    p.mul_(1.5)
        logits_of(trunk)
        assert len(calls) == 23


@pytest.mark.parametrize("bits", [3, 2])
def test_low_bits_hold_few_values_and_are_no_worse_than_zero(bits: int) -> None:
    weight = np.random.default_rng(0).normal(size=(5, 96)).astype(np.float32)
    rounded = round_low_bits(weight, bits)
    for row in range(5):
        for start in range(0, 96, 32):
            group = rounded[row, start : start + 32]
            assert len(set(group.tolist())) <= 2**bits
            assert ((group - weight[row, start : start + 32]) ** 2).sum() < (weight[row, start : start + 32] ** 2).sum()
    np.testing.assert_array_equal(round_low_bits(np.zeros((1, 32), np.float32), bits), 0)
    errors = [np.linalg.norm(as_shipped(torch.from_numpy(weight), b).numpy() - weight) for b in (8, 4, 3, 2)]
    assert errors == sorted(errors)


def test_other_bits_are_refused() -> None:
    with (
        pytest.raises(ShapeError, match=r"bits: expected one of \(8, 4, 3, 2\), got 5"),
        quantization_aware(make_trunk(), bits=5),
    ):
        pass
