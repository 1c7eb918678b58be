"""A small random model of each family, made by `transformers` itself, with every feature of the family switched on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

#: Shorter than the sequences that are compared.
WINDOW = 24
_SMALL = {"vocab_size": 320, "num_hidden_layers": 2, "max_position_embeddings": 256}
_WIDTH_576 = {
    **_SMALL,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}  # SmolLM2-135M
_LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}

#: Case to configuration class and members. Widths of small published models where time allows, else narrower.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {**_WIDTH_576, "attention_bias": True, "mlp_bias": True}),
    "llama-3.2": (
        "LlamaConfig",
        {
            **_SMALL,
            "hidden_size": 512,
            "intermediate_size": 1024,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 128,
            "tie_word_embeddings": True,
            "rope_parameters": {**_LLAMA3, "original_max_position_embeddings": 32},
        },
    ),
    "llama-linear": (
        "LlamaConfig",
        {**_WIDTH_576, "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
    ),
    "smollm2": (
        "LlamaConfig",
        {**_WIDTH_576, "rope_parameters": {"rope_type": "default", "rope_theta": 1e5}, "tie_word_embeddings": True},
    ),
    "mistral": (
        "MistralConfig",
        {
            **_SMALL,
            "hidden_size": 512,
            "intermediate_size": 1024,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 96,
            "sliding_window": WINDOW,
        },
    ),
    "qwen2": (
        "Qwen2Config",
        {
            **_SMALL,
            "hidden_size": 896,
            "intermediate_size": 1216,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
    ),
    "qwen2-windows": (
        "Qwen2Config",
        {
            **_SMALL,
            "hidden_size": 256,
            "intermediate_size": 512,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "max_window_layers": 1,
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "rope_theta": 1e6,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "qwen3": (
        "Qwen3Config",
        {
            **_SMALL,
            "hidden_size": 1024,
            "intermediate_size": 768,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "tie_word_embeddings": True,
        },
    ),
    "smollm3": (
        "SmolLM3Config",
        {
            **_SMALL,
            "num_hidden_layers": 4,
            "hidden_size": 512,
            "intermediate_size": 1024,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "pad_token_id": 0,
        },
    ),
    "gemma2": (
        "Gemma2Config",
        {
            **_SMALL,
            "hidden_size": 512,
            "intermediate_size": 1024,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 256,
            "sliding_window": WINDOW,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 20.0,
            "query_pre_attn_scalar": 144,
        },
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {
            **_SMALL,
            "num_hidden_layers": 3,
            "hidden_size": 640,
            "intermediate_size": 2048,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "phi3": (
        "Phi3Config",
        {
            **_SMALL,
            "hidden_size": 768,
            "intermediate_size": 2048,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "sliding_window": WINDOW,
            "pad_token_id": 0,
        },
    ),
    "phi3-long": (
        "Phi3Config",
        {
            **_SMALL,
            "hidden_size": 512,
            "intermediate_size": 1024,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "pad_token_id": 0,
            "original_max_position_embeddings": 128,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.75,
                "short_factor": [1 + i / 40 for i in range(48)],
                "long_factor": [2 + i / 10 for i in range(48)],
            },
        },
    ),
}


def make_model(case: str, seed: int = 0, **others: Any) -> Any:
    """A model of `transformers`, in evaluation mode, whose logits are far from zero and whose attention is uneven.

    `others` stand in for members of the case.
    """
    import transformers

    name, members = CASES[case]
    torch.manual_seed(seed)
    config = getattr(transformers, name)(**{**members, **others})
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for label, parameter in model.named_parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=1.5 * parameter.shape[1] ** -0.5)
            else:
                low = -0.5 if label.endswith("bias") or "gemma" in case else 0.5
                torch.nn.init.uniform_(parameter, low, low + 1)
    return model


def save_model(case: str, folder: Path, **options: Any) -> Any:
    """Make it and save it as `transformers` does; returns the model."""
    model = make_model(case)
    model.save_pretrained(folder, **options)
    return model
