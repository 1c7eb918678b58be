import pytest

pytest.importorskip("torch", reason="adapters need torch, the extra 'train'")

import torch

from smallhold.errors import RecipeError, ShapeError
from smallhold.learn.lora import LoraLinear, add_lora, merge_lora, set_parameters
from smallhold.learn.model import Trunk, TrunkConfig

CONFIG = TrunkConfig(
    vocab_size=64,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
)
IDS = torch.arange(12).view(1, 12)


@pytest.fixture
def trunk():
    torch.manual_seed(0)
    return Trunk(CONFIG)


def logits(trunk):
    return trunk(trunk.embed(IDS))


def test_an_adapted_model_begins_as_the_model_it_adapts(trunk):
    before = logits(trunk).detach()
    adapters = add_lora(trunk, rank=3, seed=0)
    assert torch.equal(logits(trunk), before)
    assert len(adapters) == 2 * 7 * 2  # seven maps a layer, two halves each; not the head, which the embedding shares
    assert {name for name, p in trunk.named_parameters() if p.requires_grad} == set(adapters)


def test_only_adapters_learn_and_merging_changes_nothing_but_rounding(trunk):
    frozen = {name: p.detach().clone() for name, p in trunk.named_parameters()}
    adapters = add_lora(trunk, rank=3, seed=0)
    optimizer = torch.optim.SGD(adapters.values(), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        logits(trunk).logsumexp(-1).mean().backward()
        optimizer.step()
    assert all(p.abs().max() > 0 for name, p in adapters.items() if name.endswith("lora_b"))
    after = logits(trunk).detach()
    plain = {name.replace(".frozen", ""): p for name, p in trunk.named_parameters() if name not in adapters}
    assert all(torch.equal(p, frozen[name]) for name, p in plain.items())
    merge_lora(trunk)
    assert set(dict(trunk.named_parameters())) == set(frozen)
    torch.testing.assert_close(logits(trunk), after)


def test_the_formula_by_hand():
    linear = torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 2.0]]))
    adapted = LoraLinear(linear, rank=1, alpha=3.0)
    with torch.no_grad():
        adapted.lora_a.copy_(torch.tensor([[0.5, -1.0]]))
        adapted.lora_b.copy_(torch.tensor([[2.0]]))
    assert adapted(torch.tensor([[1.0, 1.0]])).item() == pytest.approx(3 + 3 * 2 * -0.5)


def test_what_does_not_fit_is_refused(trunk):
    with pytest.raises(RecipeError, match="rank of at least 1"):
        add_lora(trunk, rank=0, seed=0)
    adapters = add_lora(trunk, rank=2, seed=0)
    values = {name: p.detach() for name, p in adapters.items()}
    name = next(iter(values))
    with pytest.raises(ShapeError, match="adapters"):
        set_parameters(adapters, {k: v for k, v in values.items() if k != name})
    with pytest.raises(ShapeError, match=name.split(".")[-1]):
        set_parameters(adapters, values | {name: torch.zeros(1, 1)})
