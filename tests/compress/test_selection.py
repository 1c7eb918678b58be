from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="pruning needs torch, the extra 'train'")

import numpy as np
import torch

from smallhold.bundle.onnx_graph import trunk_onnx
from smallhold.bundle.weights import read_weights
from smallhold.compress.selection import Selection, take
from smallhold.errors import RecipeError, ShapeError
from smallhold.learn.checkpoint import load_signal_model, read_checkpoint, save_checkpoint, save_trunk

from .small_models import FEATURES, logits_of, make_signal_model, make_trunk, signal_logits_of

EVERYTHING = Selection(
    layers=torch.arange(3),
    channels=torch.arange(96).expand(3, -1),
    heads=torch.arange(4).expand(3, -1),
    kv_heads=torch.arange(2).expand(3, -1),
    hidden=torch.arange(64),
    encoder_channels=torch.arange(128),
    vocabulary=torch.arange(96),
)


@pytest.mark.parametrize("feature", FEATURES)
def test_selecting_everything_changes_no_bit(feature: str) -> None:
    model = make_signal_model(feature)
    same = take(model, EVERYTHING)
    assert same.trunk.config == model.trunk.config
    assert torch.equal(logits_of(same), logits_of(model))
    assert torch.equal(signal_logits_of(same), signal_logits_of(model))
    with torch.no_grad():
        same.trunk.model.embed_tokens.weight.zero_()
    assert logits_of(model).abs().sum() > 0, "the copy shares no memory"


@pytest.mark.parametrize("feature", FEATURES)
def test_dead_parts_can_go_without_a_trace(feature: str) -> None:
    """The slow twin of slicing: what is zero in the large model may be absent in the small one."""
    model = make_signal_model(feature)
    trunk, gone = model.trunk, [5, 40]
    head_dim = trunk.config.head_dim
    with torch.no_grad():
        for block in trunk.blocks:
            block.mlp.down_proj.weight[:, gone] = 0
            block.self_attn.o_proj.weight[:, 2 * head_dim :] = 0  # both query heads of the second key-value head
        model.encoder.down.weight[:, 7] = 0
    kept = torch.tensor([i for i in range(96) if i not in gone])
    small = take(
        model,
        Selection(channels=kept.expand(3, -1), heads=torch.tensor([[0, 1]] * 3), kv_heads=torch.tensor([[0]] * 3)),
    )
    config = small.trunk.config
    assert (config.intermediate_size, config.num_attention_heads, config.num_key_value_heads) == (94, 2, 1)
    assert config.head_dim == head_dim
    torch.testing.assert_close(logits_of(small), logits_of(model), rtol=0, atol=1e-5)
    torch.testing.assert_close(signal_logits_of(small), signal_logits_of(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize("feature", FEATURES)
def test_a_layer_that_adds_nothing_can_go(feature: str) -> None:
    model = make_trunk(feature)
    with torch.no_grad():
        block = model.blocks[0]
        for part in ("self_attn.o_proj", "mlp.down_proj"):
            for parameter in block.get_submodule(part).parameters():
                parameter.zero_()
    small = take(model, Selection(layers=torch.tensor([1, 2])))
    assert small.config.num_hidden_layers == 2
    assert small.config.layers == model.config.layers[1:]
    torch.testing.assert_close(logits_of(small), logits_of(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize("feature", FEATURES)
def test_hidden_units_are_cut_from_every_parameter(feature: str) -> None:
    """Units that are zero everywhere go; RMSNorm divides by the root of the width, which the gains make up for."""
    model = make_signal_model(feature, rms_norm_eps=1e-12)
    trunk, kept = model.trunk, torch.tensor([i for i in range(64) if i % 4])
    gone = torch.tensor([i for i in range(64) if i % 4 == 0])
    writers = ("o_proj", "down_proj")
    with torch.no_grad():
        trunk.model.embed_tokens.weight[:, gone] = 0
        if not trunk.config.tie_word_embeddings:
            trunk.lm_head.weight[:, gone] = 0
        for name, parameter in trunk.named_parameters():
            if name.split(".")[-2] in writers:
                parameter[gone] = 0
        for module in (model.encoder.basis, model.encoder.down, model.encoder.static):
            module.weight[gone] = 0
            module.bias[gone] = 0
    small = take(model, Selection(hidden=kept, encoder_channels=torch.arange(96)))
    offset, shrink = trunk.config.norm_offset, (48 / 64) ** 0.5
    with torch.no_grad():  # as many squares, fewer units: the mean square grew by 64 / 48
        for name, parameter in small.trunk.named_parameters():
            if parameter.shape == (48,) and "norm" in name:
                parameter.copy_((parameter + offset) / shrink - offset)
    assert small.trunk.config.hidden_size == 48
    assert small.trunk.config.num_attention_heads == 4
    torch.testing.assert_close(logits_of(small), logits_of(model), rtol=0, atol=1e-4)
    assert small.encoder.up.weight.shape == (96, 48)


def test_a_cut_model_is_saved_read_and_exported(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = make_signal_model("untied")
    small = take(
        model,
        Selection(
            layers=torch.tensor([0, 2]),
            channels=torch.arange(64).expand(3, -1),
            heads=torch.tensor([[0, 1]] * 3),
            kv_heads=torch.tensor([[0]] * 3),
            hidden=torch.arange(48),
            encoder_channels=torch.arange(96),
            vocabulary=torch.arange(80),
        ),
    )
    save_checkpoint(small, tmp_path / "small", {"kind": "base"})
    assert torch.equal(
        logits_of(load_signal_model(tmp_path / "small"), torch.arange(20)[None]),
        logits_of(small, torch.arange(20)[None]),
    )
    session = onnxruntime.InferenceSession(trunk_onnx(read_weights(tmp_path / "small")))
    config = small.trunk.config
    outputs = session.run(
        ["logits"],
        {
            "ids": np.arange(20),
            "embeddings": np.zeros((20, 48), np.float32),
            "past": np.zeros((0, 2, 2, 1, config.head_dim), np.float32),
            "at": np.arange(20),
        },
    )
    np.testing.assert_allclose(outputs[0], logits_of(small, torch.arange(20)[None])[0].numpy(), atol=1e-4)


def test_a_narrower_gemma_is_read_back_as_it_was(tmp_path: Path) -> None:
    small = take(make_trunk("gemma"), Selection(hidden=torch.arange(32)))
    save_trunk(small, tmp_path)
    read = read_checkpoint(tmp_path)
    assert read.config.embedding_scale == pytest.approx(32**0.5)
    again = type(small)(read.config).eval()
    state = {name: torch.from_numpy(array) for name, array in read.trunk.items()}
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    again.load_state_dict(state)
    torch.testing.assert_close(logits_of(again), logits_of(small))


def test_what_cannot_be_cut_is_refused() -> None:
    model = make_signal_model()
    with pytest.raises(ShapeError, match="heads and kv_heads belong together"):
        take(model, Selection(heads=torch.zeros(3, 2, dtype=torch.int64)))
    with pytest.raises(ShapeError, match="a query head stays without the key-value head"):
        take(model, Selection(heads=torch.tensor([[0, 3]] * 3), kv_heads=torch.tensor([[0]] * 3)))
    with pytest.raises(RecipeError, match="must divide that of heads: got 3 and 2"):
        take(model, Selection(heads=torch.tensor([[0, 1, 2]] * 3), kv_heads=torch.tensor([[0, 1]] * 3)))
    with pytest.raises(ShapeError, match="the parts do not make a model"):
        take(model, Selection(hidden=torch.arange(32)))  # the encoder's channels were forgotten
    model.trunk.register_parameter("extra", torch.nn.Parameter(torch.zeros(7)))
    with pytest.raises(ShapeError, match=r"parameter trunk\.extra \(7,\): no rule says how to cut it"):
        take(model, Selection())
