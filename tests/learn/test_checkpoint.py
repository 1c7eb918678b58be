from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="checkpoints are written with torch, the extra 'train'")

import torch
from safetensors.numpy import load_file, save_file

from smallhold.errors import DataError, RecipeError
from smallhold.learn.checkpoint import ENCODER_FILE, load_signal_model, read_checkpoint, save_checkpoint, save_trunk
from smallhold.learn.families import config_from_json, config_to_json
from smallhold.learn.model import SignalModel, TrunkConfig


def test_a_model_survives_its_checkpoint(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    model = load_signal_model(make_checkpoint())
    save_checkpoint(model, tmp_path / "again", {"seed": 0})
    again = load_signal_model(tmp_path / "again")
    for (name, a), (_, b) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert not again.training
    assert again.trunk.lm_head.weight is again.trunk.model.embed_tokens.weight  # type: ignore[union-attr]
    assert sorted(p.name for p in (tmp_path / "again").iterdir()) == [
        "config.json",
        "model.safetensors",
        ENCODER_FILE,
        "smallhold.json",
    ]


def test_an_untied_head_is_kept(make_checkpoint: Callable[..., Path]) -> None:
    checkpoint = read_checkpoint(make_checkpoint(tie_word_embeddings=False))
    assert "lm_head.weight" in checkpoint.trunk
    assert "lm_head.weight" not in read_checkpoint(make_checkpoint()).trunk


def test_a_trunk_alone_is_a_checkpoint_without_encoder(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    save_trunk(load_signal_model(make_checkpoint()).trunk, tmp_path / "trunk")
    checkpoint = read_checkpoint(tmp_path / "trunk")
    assert checkpoint.encoder == {}
    assert checkpoint.about == {}
    with pytest.raises(DataError, match=rf"{ENCODER_FILE} is missing"):
        load_signal_model(tmp_path / "trunk")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(make_checkpoint: Callable[..., Path], name: str) -> None:
    folder = make_checkpoint()
    (folder / name).unlink()
    with pytest.raises(DataError, match=rf"checkpoint .*: missing: {name}"):
        read_checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", ENCODER_FILE, "smallhold.json"])
@pytest.mark.parametrize("damage", ["empty", "half", "garbage"])
def test_a_damaged_file_is_refused(make_checkpoint: Callable[..., Path], name: str, damage: str) -> None:
    path = make_checkpoint() / name
    data = path.read_bytes()
    path.write_bytes({"empty": b"", "half": data[: len(data) // 2], "garbage": b"\xff\xfe" * 50}[damage])
    with pytest.raises(DataError, match="truncated or malformed"):
        read_checkpoint(path.parent)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("model.safetensors", lambda t: t.pop("model.embed_tokens.weight")),
        ("model.safetensors", lambda t: t.pop("model.layers.0.mlp.up_proj.weight")),
        ("model.safetensors", lambda t: t.update({"model.norm.weight": np.zeros(7, np.float32)})),
        (ENCODER_FILE, lambda t: t.pop("static.weight")),
        (ENCODER_FILE, lambda t: t.update({"basis.weight": np.zeros(3, np.float32)})),
        (ENCODER_FILE, lambda t: t.update({"up.weight": np.zeros((3, 3), np.float32)})),
    ],
)
def test_tensors_that_do_not_fit_the_configuration_are_refused(
    make_checkpoint: Callable[..., Path], file: str, change: Callable
) -> None:
    folder = make_checkpoint()
    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file)
    with pytest.raises(DataError, match=r"tensors do not fit config\.json"):
        load_signal_model(folder)


def test_a_configuration_survives_its_json_form() -> None:
    config = TrunkConfig(vocab_size=300, num_key_value_heads=2, rope_theta=500.0, tie_word_embeddings=False)
    assert config_from_json(config_to_json(config)) == config
    with pytest.raises(RecipeError, match="vocab_size"):
        config_from_json({"model_type": "llama"})


def test_rotary_base_is_found_where_newer_transformers_write_it() -> None:
    value = config_to_json(TrunkConfig(vocab_size=300))
    del value["rope_theta"]
    value["rope_parameters"] = {"rope_type": "default", "rope_theta": 777.0}
    assert config_from_json(value).rope_theta == 777.0


def test_logits_of_choices_are_rows_of_all_logits(make_checkpoint: Callable[..., Path]) -> None:
    model = load_signal_model(make_checkpoint(num_channels=11))
    channels, static = torch.randn(2, 5, 11), torch.randn(2, 3)
    with torch.no_grad():
        picked = model.choice_logits(channels, static, torch.tensor([7, 3]))
        everything = model.trunk(model.encoder(channels, static))[:, 1:]
        torch.testing.assert_close(picked, everything[..., [7, 3]])
        # The decision of bin 2 has not seen what comes later.
        changed = channels.clone()
        changed[:, 3:] = 9.0
        torch.testing.assert_close(model.choice_logits(changed, static, torch.tensor([7, 3]))[:, :3], picked[:, :3])


def test_dropout_acts_in_training_alone_and_keeps_one_mask_over_time() -> None:
    torch.manual_seed(0)
    model = SignalModel(TrunkConfig(vocab_size=10, hidden_size=32, num_hidden_layers=1), 11, 3)
    model.set_dropout(0.5)
    channels, static, rows = torch.randn(1, 4, 11), torch.randn(1, 3), torch.tensor([0, 1])
    first, second = (model.choice_logits(channels, static, rows) for _ in range(2))
    assert not torch.equal(first, second)
    model.eval()
    assert torch.equal(model.choice_logits(channels, static, rows), model.choice_logits(channels, static, rows))
    dropout = next(m for m in model.train().modules() if type(m).__name__ == "_SequenceDropout")
    out = dropout(torch.ones(3, 6, 32))
    assert torch.equal(out, out[:, :1].expand_as(out))
    assert set(out.unique().tolist()) == {0.0, 2.0}
