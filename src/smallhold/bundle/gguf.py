"""Write GGUF: the trunk in llama.cpp's names and layout, and the signal encoder as a file of its own.

Source: github.com/ggml-org/ggml, docs/gguf.md, version 3. The encoder is a second file, as llama.cpp keeps image
projectors, because llama.cpp refuses a model file that holds tensors it does not know.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smallhold.bundle.weights import GROUP_SIZE, ModelWeights, QuantizedWeight, Weight
from smallhold.decide.signal_encoder import ARCHITECTURE as SIGNAL_ARCHITECTURE
from smallhold.device.gguf import MAGIC, Q4_0_BLOCK, Q8_0_BLOCK, VERSION
from smallhold.errors import InputError

_ALIGNMENT = 32
_NORMAL, _CONTROL = 1, 3  # llama.cpp's types of token
#: Our names to llama.cpp's.
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
BLOCK_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def trunk_gguf(
    weights: ModelWeights, *, name: str, tokens: list[str], merges: Sequence[str] = (), special: Collection[str] = ()
) -> bytes:
    """The trunk as one GGUF file.

    Args:
        weights: Trunk weights; quantized matrices become Q8_0 or Q4_0, the rest F32.
        name: `general.name`.
        tokens: The vocabulary in order of id, in the byte-level alphabet of GPT-2.
        merges: Pairs of tokens in order of rank, joined by a space.
        special: Tokens that text never spells.

    Raises:
        InputError: a family that the architecture `llama` does not compute.
    """
    config = weights.checkpoint.config
    if not config.is_plain_llama:
        raise InputError(f"GGUF files are written of plain Llama alone, not of the family {config.model_type!r}")
    bits = {weight.bits for weight in weights.trunk.values() if isinstance(weight, QuantizedWeight)}
    metadata: dict[str, Any] = {
        "general.architecture": "llama",
        "general.name": name,
        "general.file_type": 2 if 4 in bits else 7 if bits else 0,  # MOSTLY_Q4_0, MOSTLY_Q8_0, ALL_F32
        **({"general.quantization_version": 2} if bits else {}),
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.block_count": config.num_hidden_layers,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        **(
            {"llama.attention.key_length": config.head_dim, "llama.attention.value_length": config.head_dim}
            if config.head_dim * config.num_attention_heads != config.hidden_size
            else {}
        ),
        "llama.rope.dimension_count": config.head_dim,
        "llama.rope.freq_base": float(config.rope_theta),
        "llama.vocab_size": config.vocab_size,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [_CONTROL if token in special else _NORMAL for token in tokens],
        "tokenizer.ggml.merges": list(merges),  # llama.cpp does not load a model without this key
        **{
            f"tokenizer.ggml.{mark}_token_id": tokens.index(f"<{mark}>")
            for mark in ("bos", "eos")
            if f"<{mark}>" in tokens
        },
    }
    tensors: dict[str, Weight] = {}
    for hf_name, weight in weights.trunk.items():
        if hf_name.endswith("q_proj.weight"):
            weight = _permute(weight, config.num_attention_heads)
        elif hf_name.endswith("k_proj.weight"):
            weight = _permute(weight, config.num_key_value_heads)
        tensors[_gguf_name(hf_name)] = weight
    return write_gguf(metadata, tensors)


def encoder_gguf(weights: ModelWeights, *, task: str) -> bytes:
    """The signal encoder of one task as a GGUF file that `decide.signal_encoder` reads."""
    num_channels = weights.checkpoint.encoder["basis.weight"].shape[1] // 4
    metadata = {
        "general.architecture": SIGNAL_ARCHITECTURE,
        "general.name": task,
        "smallhold.signal.channels": num_channels,
    }
    return write_gguf(metadata, weights.encoder)


def write_gguf(metadata: dict[str, Any], tensors: dict[str, Weight]) -> bytes:
    """Serialise metadata (str, int, float, list of str or of int) and tensors (float32 or quantized)."""
    head = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        head += [_string(key), _value(value)]
    bodies = []
    offset = 0
    for name, weight in tensors.items():
        shape = weight.values.shape if isinstance(weight, QuantizedWeight) else weight.shape
        kind = {8: 8, 4: 2}[weight.bits] if isinstance(weight, QuantizedWeight) else int(weight.dtype == np.float16)
        body = _tensor_bytes(weight)
        head += [_string(name), struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])]
        head.append(struct.pack("<IQ", kind, offset))
        body += bytes(-len(body) % _ALIGNMENT)
        bodies.append(body)
        offset += len(body)
    header = b"".join(head)
    return header + bytes(-len(header) % _ALIGNMENT) + b"".join(bodies)


def _gguf_name(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    _, _, index, rest = name.split(".", 3)  # model.layers.3.mlp.up_proj.weight
    return f"blk.{index}.{BLOCK_NAMES[rest.removesuffix('.weight')]}.weight"


def _permute(weight: Weight, num_heads: int) -> Weight:
    """Rows from halves (Hugging Face) to pairs (llama.cpp); whole rows move, so groups stay whole."""
    if isinstance(weight, QuantizedWeight):
        return replace(
            weight, values=_permute_rows(weight.values, num_heads), scale=_permute_rows(weight.scale, num_heads)
        )
    return _permute_rows(weight, num_heads)


def _permute_rows(rows: NDArray[Any], num_heads: int) -> NDArray[Any]:
    count, columns = rows.shape
    return rows.reshape(num_heads, 2, count // num_heads // 2, columns).swapaxes(1, 2).reshape(count, columns)


def _tensor_bytes(weight: Weight) -> bytes:
    if not isinstance(weight, QuantizedWeight):
        return weight.astype("<f2" if weight.dtype == np.float16 else "<f4").tobytes()
    blocks = np.empty(weight.scale.size, dtype=Q8_0_BLOCK if weight.bits == 8 else Q4_0_BLOCK)
    blocks["scale"] = weight.scale.reshape(-1)
    groups = weight.values.reshape(-1, GROUP_SIZE)
    if weight.bits == 4:
        steps = (groups + 8).astype(np.uint8)
        blocks["values"] = np.bitwise_or(steps[:, :16], np.left_shift(steps[:, 16:], np.uint8(4)))
    else:
        blocks["values"] = groups
    return blocks.tobytes()


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    match value:
        case str():
            return struct.pack("<I", 8) + _string(value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case [int(), *_]:
            return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
        case list():
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(_string(item) for item in value)
    raise TypeError(f"GGUF metadata cannot hold {type(value).__name__}")
