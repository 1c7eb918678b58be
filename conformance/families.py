"""Random models of real families at true widths, beside what `transformers` computes with the same weights.

Two layers and a small vocabulary of each; everything that a layer does is there: widths, heads, biases, norms of
queries and keys, rotary bases, tied embeddings. The model is made, and its cases chosen, by `tests/families`.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

from conformance.compare import FLOAT32
from conformance.models import Model, replace_file
from conformance.prompts import random_prompts
from smallhold.bundle.gguf import BLOCK_NAMES, NAMES, trunk_gguf, write_gguf
from smallhold.bundle.onnx_graph import trunk_onnx
from smallhold.bundle.weights import ModelWeights, read_weights

#: Name to the case of `tests/families`, and to what of it is made as wide as the published model.
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "SmolLM2-135M": ("smollm2", {"intermediate_size": 1536}),
    "Qwen2.5-0.5B": ("qwen2", {"intermediate_size": 4864}),
    "Qwen3-0.6B": ("qwen3", {"intermediate_size": 3072}),
}
LONGEST = 250
PARTS = {**BLOCK_NAMES, "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}


def random_family(name: str, folder: Path, positions: int) -> Model:
    """A model of a family, its files, and what `transformers` says.

    Raises:
        ImportError: `torch` or `transformers` is missing.
    """
    import torch
    import transformers
    from tests.families.cases import make_model

    case, wide = SHAPES[name]
    model = make_model(case, **wide)
    transformers.utils.logging.disable_progress_bar()
    with TemporaryDirectory() as saved:
        model.save_pretrained(saved)
        weights = read_weights(Path(saved))
    if weights.checkpoint.config.is_plain_llama:
        gguf = trunk_gguf(weights, name=name, tokens=_vocabulary(weights.checkpoint.config.vocab_size))
    else:
        gguf = _qwen_gguf(name, weights)
    files = folder / f"{name}.gguf", folder / f"{name}.onnx"
    for path, data in zip(files, (gguf, trunk_onnx(weights)), strict=True):
        replace_file(path, data)
    prompts = random_prompts(model.config.vocab_size, _lengths(positions), seed=0)
    with torch.no_grad():
        expected = [model(torch.tensor([*prompt.parts])).logits[0].numpy() for prompt in prompts]
    return Model(
        name=f"{name} shape, random, float32",
        gguf=files[0],
        onnx=files[1],
        vocab_size=model.config.vocab_size,
        tolerance=FLOAT32,
        prompts=prompts,
        expected=expected,
        share=positions / 10_000,
    )


def _lengths(positions: int) -> list[int]:
    """Prompts within the context of the cases, 256 positions."""
    return [min(LONGEST, positions - start) for start in range(0, positions, LONGEST)]


def _vocabulary(size: int) -> list[str]:
    """Bytes, and names that stand for nothing: llama.cpp loads no trunk without a vocabulary."""
    return [*sorted(ByteLevel.alphabet()), *(f"<{i}>" for i in range(256, size))][:size]


def _qwen_gguf(name: str, weights: ModelWeights) -> bytes:
    """Qwen2 and Qwen3 as llama.cpp's converter names and lays them out: rotary halves stay halves."""
    config = weights.checkpoint.config
    kind = config.model_type
    metadata = {
        "general.architecture": kind,
        "general.name": name,
        f"{kind}.context_length": config.max_position_embeddings,
        f"{kind}.embedding_length": config.hidden_size,
        f"{kind}.block_count": config.num_hidden_layers,
        f"{kind}.feed_forward_length": config.intermediate_size,
        f"{kind}.attention.head_count": config.num_attention_heads,
        f"{kind}.attention.head_count_kv": config.num_key_value_heads,
        f"{kind}.attention.key_length": config.head_dim,
        f"{kind}.attention.value_length": config.head_dim,
        f"{kind}.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        f"{kind}.rope.freq_base": float(config.rope_theta),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": _vocabulary(config.vocab_size),
        "tokenizer.ggml.token_type": [1] * config.vocab_size,
        "tokenizer.ggml.merges": [],
    }
    return write_gguf(metadata, {_gguf_name(key): weight for key, weight in weights.trunk.items()})


def _gguf_name(key: str) -> str:
    if key in NAMES:
        return NAMES[key]
    _, _, index, rest = key.split(".", 3)  # model.layers.3.self_attn.q_norm.weight
    part, _, leaf = rest.rpartition(".")
    return f"blk.{index}.{PARTS[part]}.{leaf}"
