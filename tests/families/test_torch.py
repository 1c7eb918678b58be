"""Every family in torch equals `transformers`, and a checkpoint that we write is one that it reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the trunk is in torch, the extra 'train'")
pytest.importorskip("transformers", reason="transformers is what we compare with, the extra 'test'")

import torch
import transformers

from smallhold.learn.checkpoint import save_trunk
from smallhold.learn.families import FAMILIES
from smallhold.learn.hugging_face import read_hugging_face
from smallhold.learn.model import Trunk
from smallhold.learn.trunk_config import TrunkConfig

from .cases import CASES, WINDOW
from .conftest import Saved


def load(folder: Path) -> Trunk:
    config, arrays = read_hugging_face(folder)
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    trunk = Trunk(config)
    trunk.load_state_dict(state)
    return trunk.eval()


def logits_of(trunk: Trunk, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return trunk(trunk.embed(torch.tensor([ids])))[0].numpy()


def test_there_is_a_case_of_every_family(saved: Callable[[str], Saved]) -> None:
    assert {read_hugging_face(saved(case).folder)[0].model_type for case in CASES} == set(FAMILIES)


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(saved: Callable[[str], Saved], case: str) -> None:
    model = saved(case)
    trunk = load(model.folder)
    assert np.abs(model.logits).max() > 3  # far from zeros, which would agree anyway
    np.testing.assert_allclose(logits_of(trunk, model.ids), model.logits, rtol=0, atol=1e-4)
    if (window := trunk.config.sliding_window) is not None:
        assert window == WINDOW < len(model.ids)


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_that_we_write_is_read_by_transformers(
    saved: Callable[[str], Saved], case: str, tmp_path: Path
) -> None:
    model = saved(case)
    trunk = load(model.folder)
    save_trunk(trunk, tmp_path)
    assert load(tmp_path).config == trunk.config
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager", local_files_only=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.no_grad():
        again = theirs.eval()(torch.tensor([model.ids])).logits[0].numpy()
    np.testing.assert_allclose(again, model.logits, rtol=0, atol=1e-5)


def test_a_window_hides_what_lies_before_it() -> None:
    torch.manual_seed(0)
    types = ("sliding_attention", "sliding_attention")
    trunk = Trunk(TrunkConfig(vocab_size=50, num_hidden_layers=2, sliding_window=4, layer_types=types)).eval()
    ids = torch.randint(0, 50, (1, 12))
    changed = ids.clone()
    changed[0, 0] = (changed[0, 0] + 1) % 50
    with torch.no_grad():
        one, other = (trunk(trunk.embed(x))[0] for x in (ids, changed))
    reach = 1 + 2 * (4 - 1)  # two layers, three positions back each
    assert not torch.equal(one[reach - 1], other[reach - 1])
    assert torch.equal(one[reach:], other[reach:])


def test_a_plain_llama_has_the_parameters_and_random_numbers_that_it_always_had() -> None:
    torch.manual_seed(0)
    trunk = Trunk(TrunkConfig(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=1))
    assert list(trunk.state_dict()) == [
        "model.embed_tokens.weight",
        *(
            f"model.layers.0.{name}.weight"
            for name in (
                "input_layernorm",
                "self_attn.q_proj",
                "self_attn.k_proj",
                "self_attn.v_proj",
                "self_attn.o_proj",
                "post_attention_layernorm",
                "mlp.gate_proj",
                "mlp.up_proj",
                "mlp.down_proj",
            )
        ),
        "model.norm.weight",
        "lm_head.weight",
    ]
    # Measured before the decoder had features: a run that is resumed must not notice them.
    total = sum(float(parameter.detach().double().abs().sum()) for parameter in trunk.parameters())
    assert total == pytest.approx(270.0405751158585, rel=1e-9)
