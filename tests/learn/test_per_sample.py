import pytest

pytest.importorskip("torch", reason="adapters need torch, the extra 'train'")

import torch
from torch import nn

from smallhold.errors import InputError, ShapeError
from smallhold.learn.lora import LoraLinear, add_lora
from smallhold.learn.model import SignalModel, TrunkConfig
from smallhold.learn.per_sample import PerSampleGradients, clipped_sum

CONFIG = TrunkConfig(
    vocab_size=64,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
)


class Adapted(nn.Module):
    """A signal model with adapters whose halves are both drawn, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.model = SignalModel(CONFIG, num_channels=5, num_static=3)
        add_lora(self.model, rank=2, seed=0)
        for module in self.model.modules():
            if isinstance(module, LoraLinear):
                nn.init.normal_(module.lora_b, std=0.3)  # at zero the other half would get no gradient
        self.head = nn.Linear(16, 1)

    def losses(self, channels: torch.Tensor, static: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        hidden = self.model.trunk.hidden(self.model.encoder(channels, static))[:, 1:]
        logits = self.head(hidden)[..., 0]
        target = label[:, None].expand_as(logits)
        return nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)

    def maps(self) -> dict[str, nn.Module]:
        found = {name: m for name, m in self.named_modules() if isinstance(m, LoraLinear)}
        return {**found, "head": self.head}

    def trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.named_parameters() if p.requires_grad}


@pytest.fixture
def batch():
    torch.manual_seed(2)
    return torch.randn(6, 4, 5), torch.randn(6, 3), torch.tensor([0.0, 1, 1, 0, 1, 0])


def test_each_gradient_is_the_one_that_the_example_has_alone(batch):
    model = Adapted()
    with PerSampleGradients(model.maps()) as watched:
        losses = model.losses(*batch)
    gradients = watched.of(losses)
    assert set(gradients) == set(model.trained())
    for n in range(6):
        model.zero_grad(set_to_none=True)
        model.losses(*(part[n : n + 1] for part in batch)).sum().backward()
        for name, parameter in model.trained().items():
            torch.testing.assert_close(gradients[name][n], parameter.grad, atol=1e-5, rtol=1e-4)


def test_their_sum_is_the_gradient_of_the_sum(batch):
    model = Adapted()
    with PerSampleGradients(model.maps()) as watched:
        losses = model.losses(*batch)
    gradients = watched.of(losses)
    model.losses(*batch).sum().backward()
    for name, parameter in model.trained().items():
        torch.testing.assert_close(gradients[name].sum(0), parameter.grad, atol=1e-5, rtol=1e-4)


def test_no_example_moves_the_sum_by_more_than_the_norm(batch):
    model = Adapted()
    with PerSampleGradients(model.maps()) as watched:
        losses = 1e3 * model.losses(*batch)
    gradients = watched.of(losses)
    whole, norms = clipped_sum(gradients, clip_norm=0.7)
    assert (norms > 0.7).all()
    for n in range(6):
        without, _ = clipped_sum(
            {name: torch.cat([value[:n], value[n + 1 :]]) for name, value in gradients.items()}, clip_norm=0.7
        )
        moved = sum(float((whole[name] - without[name]).double().square().sum()) for name in whole) ** 0.5
        assert 0.69 < moved <= 0.7 + 1e-6


def test_short_gradients_are_left_as_they_are_and_broken_ones_count_as_none():
    gradients = {"w": torch.tensor([[0.3, 0.4], [float("nan"), 1.0], [3.0, 4.0]])}
    total, norms = clipped_sum(gradients, clip_norm=1.0)
    torch.testing.assert_close(total["w"], torch.tensor([0.3 + 0.6, 0.4 + 0.8]), atol=1e-4, rtol=0)
    assert norms[0] == pytest.approx(0.5) and norms[2] == pytest.approx(5.0)


def test_misuse_is_refused():
    with pytest.raises(InputError, match="expected a linear map or one with an adapter, got Embedding"):
        PerSampleGradients({"e": nn.Embedding(2, 3)})
    with pytest.raises(InputError, match="clip_norm: expected a number above 0"):
        clipped_sum({"w": torch.zeros(1, 2)}, clip_norm=0)
    with pytest.raises(ShapeError, match="one number of examples"):
        clipped_sum({"w": torch.zeros(1, 2), "b": torch.zeros(2, 2)}, clip_norm=1)


def test_hooks_are_gone_afterwards(batch):
    model = Adapted()
    with PerSampleGradients(model.maps()) as watched:
        pass
    assert watched.of(model.losses(*batch)) == {}
