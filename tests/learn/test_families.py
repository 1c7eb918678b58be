"""`config.json` of each family, old and new ways of writing it, and what is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="families are part of the trunk, the extra 'train'")
pytest.importorskip("transformers", reason="transformers is what we compare with, the extra 'test'")

import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from smallhold.errors import RecipeError
from smallhold.learn.families import FAMILIES, config_from_json, config_to_json
from smallhold.learn.rope import RopeScaling
from smallhold.learn.trunk_config import Layer, TrunkConfig

LLAMA = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}

#: As they lie on the hub, written by the versions of `transformers` of their day; without what does not concern us.
PUBLISHED: dict[str, dict[str, Any]] = {
    "SmolLM2-135M": {
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "max_position_embeddings": 8192,
        "num_attention_heads": 9,
        "num_hidden_layers": 30,
        "num_key_value_heads": 3,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 100000,
        "tie_word_embeddings": True,
        "vocab_size": 49152,
        "attention_bias": False,
        "mlp_bias": False,
    },
    "Llama-3.2-1B": {
        "model_type": "llama",
        "head_dim": 64,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "num_attention_heads": 32,
        "num_hidden_layers": 16,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "vocab_size": 128256,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
    },
    "Mistral-7B-v0.1": {
        "model_type": "mistral",
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "tie_word_embeddings": False,
        "vocab_size": 32000,
    },
    "Mistral-7B-v0.3": {
        "model_type": "mistral",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "vocab_size": 32768,
    },
    "Qwen2.5-0.5B": {
        "model_type": "qwen2",
        "hidden_act": "silu",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "max_position_embeddings": 32768,
        "max_window_layers": 24,
        "num_attention_heads": 14,
        "num_hidden_layers": 24,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "Qwen3-0.6B": {
        "model_type": "qwen3",
        "attention_bias": False,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "max_position_embeddings": 40960,
        "max_window_layers": 28,
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "SmolLM3-3B": {
        "model_type": "smollm3",
        "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "max_position_embeddings": 65536,
        "max_window_layers": 28,
        "num_attention_heads": 16,
        "num_hidden_layers": 36,
        "num_key_value_heads": 4,
        "no_rope_layer_interval": 4,
        "no_rope_layers": [int((i + 1) % 4 != 0) for i in range(36)],
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 5000000.0,
        "sliding_window": None,
        "use_sliding_window": False,
        "vocab_size": 128256,
    },
    "gemma-2-2b": {
        "model_type": "gemma2",
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "max_position_embeddings": 8192,
        "num_attention_heads": 8,
        "num_hidden_layers": 26,
        "num_key_value_heads": 4,
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-06,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "vocab_size": 256000,
    },
    "gemma-3-1b": {
        "model_type": "gemma3_text",
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 1152,
        "intermediate_size": 6912,
        "max_position_embeddings": 32768,
        "num_attention_heads": 4,
        "num_hidden_layers": 26,
        "num_key_value_heads": 1,
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-06,
        "rope_local_base_freq": 10000,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
        "vocab_size": 262144,
    },
    "Phi-3-mini-4k": {
        "model_type": "phi3",
        "hidden_act": "silu",
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "max_position_embeddings": 4096,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "sliding_window": 2047,
        "tie_word_embeddings": False,
        "vocab_size": 32064,
    },
    "Phi-3-mini-128k": {
        "model_type": "phi3",
        "hidden_act": "silu",
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {"type": "longrope", "short_factor": [1.05] * 48, "long_factor": [20.0] * 48},
        "rope_theta": 10000.0,
        "sliding_window": 262144,
        "tie_word_embeddings": False,
        "vocab_size": 32064,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_old_file_means_what_transformers_makes_of_it(name: str) -> None:
    old = PUBLISHED[name]
    new = transformers.AutoConfig.for_model(**old).to_dict()
    config = config_from_json(old)
    assert config_from_json(new) == config
    assert config.max_position_embeddings == (4096 if name == "Phi-3-mini-128k" else old["max_position_embeddings"])
    assert config_from_json(config_to_json(config)) == config


@pytest.mark.parametrize("model_type", FAMILIES)
def test_what_a_file_does_not_say_is_what_transformers_assumes(model_type: str) -> None:
    said = {name: value for name, value in LLAMA.items() if name != "model_type"}
    whole = transformers.AutoConfig.for_model(model_type, **said).to_dict()
    assert config_from_json({"model_type": model_type, **said}) == config_from_json(whole)


def test_features_of_the_published_models_by_hand() -> None:
    gemma = config_from_json(PUBLISHED["gemma-3-1b"])
    assert [layer.window for layer in gemma.layers[:7]] == [512] * 5 + [None, 512]
    assert [layer.rope for layer in gemma.layers[:7]] == ["local"] * 5 + ["global", "local"]
    assert (gemma.embedding_scale, gemma.norm_offset) == (1152**0.5, 1.0)
    assert gemma.qk_norm
    assert gemma.has_post_norms
    smol = config_from_json(PUBLISHED["SmolLM3-3B"])
    assert smol.unrotated_layers == tuple(range(3, 36, 4))
    assert smol.layers[3] == Layer(None, None)
    qwen = config_from_json(PUBLISHED["Qwen2.5-0.5B"])
    assert (qwen.attention_bias, qwen.output_bias, qwen.sliding_window) == (True, False, None)
    phi = config_from_json(PUBLISHED["Phi-3-mini-128k"])
    assert phi.rope_scaling is not None
    assert phi.rope_scaling.attention_factor == pytest.approx((1 + np.log(32) / np.log(4096)) ** 0.5)
    mistral = config_from_json(PUBLISHED["Mistral-7B-v0.3"])
    assert not mistral.is_plain_llama or mistral.sliding_window is None


@pytest.mark.parametrize(
    ("name", "is_plain"), [("SmolLM2-135M", True), ("Llama-3.2-1B", False), ("Mistral-7B-v0.1", False)]
)
def test_only_what_llama_cpp_computes_alike_counts_as_plain(name: str, is_plain: bool) -> None:
    assert config_from_json(PUBLISHED[name]).is_plain_llama == is_plain


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 8.0},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048},
        {
            "rope_type": "yarn",
            "factor": 40.0,
            "original_max_position_embeddings": 4096,
            "beta_fast": 20.0,
            "beta_slow": 2.0,
            "mscale": 0.707,
            "mscale_all_dim": 0.5,
            "truncate": False,
        },
    ],
    ids=["linear", "llama3", "yarn", "yarn with limits"],
)
def test_frequencies_are_those_of_transformers(rope: dict) -> None:
    value = {**LLAMA, "head_dim": 64, "max_position_embeddings": 8192, "rope_parameters": {"rope_theta": 5e5, **rope}}
    theirs, amplitude = ROPE_INIT_FUNCTIONS[rope["rope_type"]](transformers.AutoConfig.for_model(**value))
    config = config_from_json(value)
    assert config.rope_scaling is not None
    ours = 5e5 ** (-np.arange(0, 64, 2) / 64) / config.rope_scaling.divisors(5e5, 64)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5)
    assert config.rope_scaling.attention_factor == pytest.approx(amplitude)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "falcon"}, "model_type 'falcon' is not supported: expected one of llama, mistral, qwen2"),
        ({"model_type": None}, "model_type None is not supported"),
        ({"model_type": "qwen3_moe", "num_experts": 128}, "'qwen3_moe', a mixture of experts is not supported"),
        ({"model_type": "mixtral", "num_local_experts": 8}, "'mixtral', a mixture of experts is not supported"),
        ({"model_type": "gemma3", "vision_config": {}, "text_config": {}}, "'gemma3', a model of images and text is"),
        ({"num_local_experts": 8}, "num_local_experts: not supported, got 8"),
        ({"quantization_config": {"quant_method": "gptq"}}, "weights quantized by 'gptq' are not read"),
        ({"hidden_act": "relu"}, "hidden_act: expected one of silu, swish, gelu_pytorch_tanh, got 'relu'"),
        (
            {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
            "rope_type: expected one of default, linear, .*got 'dynamic'",
        ),
        ({"rope_scaling": {"type": "linear"}}, "rope_type linear: factor is missing"),
        ({"rope_scaling": {"type": "linear", "factor": -2}}, "rope factor: expected more than 0, got -2.0"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "expected 0 < low_freq_factor < high_freq_factor"),
        (
            {"model_type": "phi3", "rope_scaling": {"type": "su", "short_factor": []}, "max_position_embeddings": 9000},
            "expected a short_factor of numbers above 0",
        ),
        ({"rope_scaling": {"type": "longrope", "short_factor": [1.0]}}, "short_factor: expected 8 numbers, got 1"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: expected a whole number above 0, got 0"),
        ({"num_attention_heads": "4"}, "num_attention_heads: expected a whole number above 0, got '4'"),
        ({"num_attention_heads": 5}, "hidden_size must split into heads of even size: got 64 for 5 heads"),
        ({"num_key_value_heads": 3}, "num_key_value_heads must divide num_attention_heads: got 3 and 4"),
        (
            {"model_type": "qwen3", "layer_types": ["linear_attention"] * 4},
            "layer_types: expected full_attention or sliding_attention, got linear_attention",
        ),
        ({"model_type": "qwen3", "layer_types": ["full_attention"]}, "layer_types: expected 4, one a layer, got 1"),
        ({"model_type": "gemma2", "use_bidirectional_attention": True}, "use_bidirectional_attention: not supported"),
        (
            {
                "model_type": "gemma3_text",
                "rope_parameters": {"full_attention": {}, "sliding_attention": {"rope_type": "yarn"}},
            },
            "scaled rotary positions in sliding layers: got 'yarn'",
        ),
        ({"rms_norm_eps": None, "rope_theta": "x"}, "describes no model"),
    ],
)
def test_what_the_decoder_does_not_compute_is_refused_by_name(change: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        config_from_json({**LLAMA, **change})


def test_a_feature_that_a_family_has_no_name_for_is_not_written() -> None:
    with pytest.raises(RecipeError, match=r"model_type llama: its config\.json cannot say every feature"):
        config_to_json(TrunkConfig(vocab_size=10, qk_norm=True))


def test_scaling_of_an_unknown_kind_does_not_exist() -> None:
    with pytest.raises(RecipeError, match="rope_type: expected one of"):
        RopeScaling(rope_type="ntk")


def test_reading_shapes_takes_no_random_numbers() -> None:
    from smallhold.learn.hugging_face import parameter_shapes

    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    shapes = parameter_shapes(config_from_json(LLAMA))
    assert torch.equal(torch.rand(4), expected)
    assert shapes["lm_head.weight"] == (100, 64)
