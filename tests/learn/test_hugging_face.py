"""Local directories in Hugging Face's layout: shards, types of number, and everything that is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="checkpoints are read with torch, the extra 'train'")
pytest.importorskip("transformers", reason="transformers writes what we read, the extra 'test'")

import torch
import transformers
from safetensors.torch import load_file, save_file

from smallhold.errors import DataError
from smallhold.learn.hugging_face import INDEX, WEIGHTS, read_hugging_face

SHAPE = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture
def phi(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = transformers.Phi3Config(**SHAPE, pad_token_id=0)
    transformers.Phi3ForCausalLM(config).save_pretrained(tmp_path / "phi")
    return tmp_path / "phi"


def change(folder: Path, edit) -> None:
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)


def test_fused_matrices_are_split(phi: Path) -> None:
    stored = load_file(phi / WEIGHTS)
    _, trunk = read_hugging_face(phi)
    whole = stored["model.layers.1.self_attn.qkv_proj.weight"].numpy()
    for i, part in enumerate("qkv"):
        name = f"model.layers.1.self_attn.{part}_proj.weight"
        np.testing.assert_array_equal(trunk[name], whole[32 * i : 32 * (i + 1)])
    np.testing.assert_array_equal(
        trunk["model.layers.0.mlp.up_proj.weight"], stored["model.layers.0.mlp.gate_up_proj.weight"].numpy()[48:]
    )
    assert not any("qkv" in name or "gate_up" in name for name in trunk)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_shards_in_any_float_become_the_same_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE)).to(dtype)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert (tmp_path / INDEX).exists()
    _, trunk = read_hugging_face(tmp_path)
    assert set(trunk) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert trunk[name].dtype == np.float32
        np.testing.assert_array_equal(trunk[name], tensor.float().numpy())


def test_pickles_are_not_read(phi: Path) -> None:
    (phi / WEIGHTS).unlink()
    (phi / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(DataError, match=r"missing: model\.safetensors") as caught:
        read_hugging_face(phi)
    assert "pytorch_model.bin is a pickle, which may run code" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), "do not fit config.json: model.norm.weight is missing"),
        (lambda t: t.update({"model.extra": torch.zeros(2)}), "do not fit config.json: model.extra is unknown"),
        (lambda t: t.update({"model.norm.weight": torch.zeros(7)}), r"model.norm.weight: expected \(32,\), got \(7,\)"),
        (
            lambda t: t.update({"model.norm.weight": torch.zeros(32, dtype=torch.int8)}),
            "expected float32, float16 or bfloat16, got int8",
        ),
        (
            lambda t: t.update({"model.layers.0.self_attn.qkv_proj.weight": torch.zeros(95, 32)}),
            r"expected 96 rows, got \(95, 32\)",
        ),
        (lambda t: t.clear(), "and 18 more"),
    ],
)
def test_other_tensors_than_the_configuration_has_are_refused(phi: Path, edit, message: str) -> None:
    change(phi, edit)
    with pytest.raises(DataError, match=message):
        read_hugging_face(phi)


def test_what_follows_from_the_rest_is_left_out(phi: Path) -> None:
    change(phi, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)}))
    assert "model.layers.0.self_attn.rotary_emb.inv_freq" not in read_hugging_face(phi)[1]


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "/etc/passwd", "model.bin"])
def test_an_index_names_only_files_beside_it(phi: Path, name: str) -> None:
    (phi / WEIGHTS).rename(phi / "model-00001-of-00001.safetensors")
    (phi / INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    with pytest.raises(DataError, match="expected names of safetensors files beside it"):
        read_hugging_face(phi)


def test_a_missing_shard_is_named(phi: Path) -> None:
    (phi / WEIGHTS).unlink()
    (phi / INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": "model-2.safetensors"}}))
    with pytest.raises(DataError, match="missing: "):
        read_hugging_face(phi)
