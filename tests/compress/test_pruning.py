"""Depth, width and Wanda: what is measured, what stays, and that identity settings change nothing."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="pruning needs torch, the extra 'train'")

import torch
from torch.nn import functional as F

from smallhold.compress.calibration import CalibrationSet, observe
from smallhold.compress.prune_depth import block_influence, prune_depth
from smallhold.compress.prune_width import measure_importance, prune_width, select_width
from smallhold.compress.wanda import prune_wanda, wanda_mask
from smallhold.errors import RecipeError, ShapeError

from .small_models import FEATURES, logits_of, make_signal_model, make_trunk, patients, signal_logits_of, tokens

TEXT = CalibrationSet(tokens=tokens(), batch_size=4)


def test_block_influence_is_that_of_the_slow_twin() -> None:
    trunk = make_trunk()
    x, expected = trunk.embed(tokens()), []
    with torch.no_grad():
        for i in range(3):
            before: list[torch.Tensor] = []
            handle = trunk.blocks[i].register_forward_hook(lambda m, args, out, b=before: b.extend([args[0], out]))
            trunk.hidden(x)
            handle.remove()
            cosines = [
                float(a @ b / a.norm() / b.norm())
                for a, b in zip(before[0].flatten(0, 1), before[1].flatten(0, 1), strict=True)
            ]
            expected.append(1 - sum(cosines) / len(cosines))
    torch.testing.assert_close(
        block_influence(trunk, TEXT), torch.tensor(expected, dtype=torch.float64), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("feature", FEATURES)
def test_the_layer_that_does_nothing_goes_first(feature: str) -> None:
    trunk = make_trunk(feature)
    with torch.no_grad():
        for part in ("self_attn.o_proj", "mlp.down_proj"):
            for parameter in trunk.blocks[1].get_submodule(part).parameters():
                parameter.zero_()
    small, kept = prune_depth(trunk, TEXT, num_layers=2)
    assert kept == [0, 2]
    torch.testing.assert_close(logits_of(small), logits_of(trunk), rtol=0, atol=1e-5)


def test_depth_is_measured_again_after_each_layer() -> None:
    trunk = make_trunk(num_hidden_layers=5)
    small, kept = prune_depth(trunk, TEXT, num_layers=3)
    by_hand, left = trunk, list(range(5))
    for _ in range(2):
        weakest = int(block_influence(by_hand, TEXT).argmin())
        del left[weakest]
        by_hand, _ = prune_depth(by_hand, TEXT, num_layers=len(left))
    assert kept == left
    assert torch.equal(logits_of(small), logits_of(by_hand))


@pytest.mark.parametrize("feature", FEATURES)
def test_full_depth_and_width_change_nothing(feature: str) -> None:
    model = make_signal_model(feature)
    config = model.trunk.config
    for same in (
        prune_depth(model, TEXT, num_layers=3)[0],
        prune_width(
            model,
            patients(),
            hidden_size=64,
            intermediate_size=96,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
        )[0],
        prune_wanda(model, TEXT, sparsity=0.0),
    ):
        torch.testing.assert_close(logits_of(same), logits_of(model), rtol=0, atol=1e-5)
        torch.testing.assert_close(signal_logits_of(same), signal_logits_of(model), rtol=0, atol=1e-5)


def test_importance_is_that_of_the_slow_twin() -> None:
    trunk = make_trunk()
    seen: dict[str, list[torch.Tensor]] = {"down": [], "o": [], "norm": []}
    observe(
        trunk,
        CalibrationSet(tokens=tokens(), batch_size=1),
        inputs={
            "model.layers.1.mlp.down_proj": seen["down"].append,
            "model.layers.1.self_attn.o_proj": seen["o"].append,
        },
        outputs={"model.norm": seen["norm"].append},
    )
    importance = measure_importance(trunk, TEXT)
    column = trunk.blocks[1].mlp.down_proj.weight[:, 3].detach().norm()
    windows = [x[0, :, 3].abs().mean() for x in seen["down"]]
    assert float(importance.channels[1, 3]) == pytest.approx(float(torch.stack(windows).norm() * column), rel=1e-4)
    windows = [x[0, :, 16:32].norm(dim=1).mean() for x in seen["o"]]  # the second of four heads of 16
    assert float(importance.heads[1, 1]) == pytest.approx(float(torch.stack(windows).norm()), rel=1e-4)
    other = measure_importance(trunk, TEXT, across_tokens="l2", across_windows="mean")
    windows = [x[0, :, 3].norm() for x in seen["down"]]
    assert float(other.channels[1, 3]) == pytest.approx(float(torch.stack(windows).mean() * column), rel=1e-4)
    assert all(float(e.mean()) == pytest.approx(1, abs=1e-5) for e in importance.energy.values())


def test_channels_that_do_nothing_go_first_in_every_layer() -> None:
    model = make_signal_model()
    with torch.no_grad():
        for layer, block in enumerate(model.trunk.blocks):
            block.mlp.up_proj.weight[layer : layer + 48] = 0
    small, selection = prune_width(model, TEXT, intermediate_size=48)
    assert selection.channels is not None
    assert [row.tolist() for row in selection.channels] == [
        [i for i in range(96) if not layer <= i < layer + 48] for layer in range(3)
    ]
    torch.testing.assert_close(logits_of(small), logits_of(model), rtol=0, atol=1e-5)


def test_heads_go_by_groups_or_within_all_groups() -> None:
    trunk = make_trunk(num_attention_heads=8, head_dim=16)
    importance = measure_importance(trunk, TEXT)
    scores = importance.heads.view(3, 2, 4)
    whole = select_width(importance, trunk.config, num_key_value_heads=1)
    assert whole.heads is not None and whole.kv_heads is not None
    for layer in range(3):
        best = int(scores[layer].sum(dim=1).argmax())
        assert whole.kv_heads[layer].tolist() == [best]
        assert whole.heads[layer].tolist() == list(range(4 * best, 4 * best + 4))
    within = select_width(importance, trunk.config, num_attention_heads=4)
    assert within.heads is not None
    for layer in range(3):
        for group in range(2):
            kept = within.heads[layer].view(2, 2)[group] - 4 * group
            assert set(kept.tolist()) == set(scores[layer, group].topk(2).indices.tolist())
    for change in ({"num_key_value_heads": 1}, {"num_attention_heads": 2}):
        small, _ = prune_width(trunk, TEXT, **change)  # type: ignore[arg-type]
        assert torch.isfinite(logits_of(small)).all()


def test_the_norms_are_restored_when_hidden_units_go() -> None:
    """Half of the units are nearly silent: without the correction every norm's output would be smaller by a root."""
    model = make_signal_model()
    silent = torch.arange(0, 64, 2)
    with torch.no_grad():
        model.trunk.model.embed_tokens.weight[:, silent] *= 1e-3
        for name, parameter in model.trunk.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter[silent] *= 1e-3
    small, selection = prune_width(model, TEXT, hidden_size=32)
    assert selection.hidden is not None and not set(selection.hidden.tolist()) & set(silent.tolist())
    assert small.encoder.up.weight.shape == (64, 32)
    difference = (logits_of(small) - logits_of(model)).norm() / logits_of(model).norm()
    assert difference < 0.02


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"hidden_size": 65}, "expected hidden_size from 1 to 64, got 65"),
        ({"intermediate_size": 0}, "expected intermediate_size from 1 to 96, got 0"),
        ({"num_attention_heads": 3}, "3 heads cannot form 2 equal groups of at most 2"),
        ({"num_attention_heads": 4, "num_key_value_heads": 1}, "4 heads cannot form 1 equal groups of at most 2"),
    ],
)
def test_impossible_widths_are_refused(widths: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        prune_width(make_trunk(), TEXT, **widths)
    with pytest.raises(RecipeError, match="expected 1 to 3 layers, got 4"):
        prune_depth(make_trunk(), TEXT, num_layers=4)


def test_wanda_by_hand() -> None:
    weight = torch.tensor([[1.0, -3.0, 2.0, 0.5], [1.0, 1.0, 1.0, 1.0]])
    mask = wanda_mask(weight, torch.tensor([1.0, 0.1, 1.0, 8.0]), sparsity=0.5)
    assert mask.tolist() == [[True, True, False, False], [True, True, False, False]]
    with pytest.raises(ShapeError, match=r"expected weight \(O, I\) and input_norm \(I,\)"):
        wanda_mask(weight, torch.ones(3), sparsity=0.5)
    with pytest.raises(ValueError, match=r"sparsity: expected a fraction in \[0, 1\), got 1"):
        wanda_mask(weight, torch.ones(4), sparsity=1)


def test_wanda_keeps_more_of_the_output_than_magnitude() -> None:
    trunk = make_trunk(hidden_size=64)
    with torch.no_grad():  # inputs of very different size: magnitude alone misjudges
        for name, parameter in trunk.named_parameters():
            if "layernorm" in name:
                parameter.copy_(torch.logspace(-1.5, 0.5, 64))
    ours = prune_wanda(trunk, TEXT, sparsity=0.5)
    magnitude = make_trunk(hidden_size=64)
    magnitude.load_state_dict(trunk.state_dict())
    with torch.no_grad():
        for name, parameter in magnitude.named_parameters():
            if ".layers." in name and parameter.ndim == 2:
                parameter.masked_fill_(wanda_mask(parameter, torch.ones(parameter.shape[1]), sparsity=0.5), 0)
    layer = ours.blocks[0].self_attn.q_proj.weight
    assert ((layer == 0).sum(dim=1) == 32).all()
    assert torch.equal(ours.model.embed_tokens.weight, trunk.model.embed_tokens.weight)
    assert F.mse_loss(logits_of(ours), logits_of(trunk)) < F.mse_loss(logits_of(magnitude), logits_of(trunk))


def test_calibration_refuses_what_cannot_be_read() -> None:
    with pytest.raises(ShapeError, match="expected tokens"):
        CalibrationSet()
    with pytest.raises(ShapeError, match="channels and static belong together"):
        CalibrationSet(channels=torch.zeros(1, 2, 4))
    with pytest.raises(ShapeError, match="patients need a model with a signal door"):
        block_influence(make_trunk(), patients())


def test_observing_leaves_the_model_as_it_was() -> None:
    model = make_signal_model().train()
    block_influence(model, TEXT)
    assert model.training and model.trunk.blocks[0].training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
