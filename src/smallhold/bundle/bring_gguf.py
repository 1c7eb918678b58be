"""A GGUF file of the architecture `llama` as the source of a bundle: weights, shape and tokenizer are all in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smallhold.bundle.gguf import BLOCK_NAMES, NAMES
from smallhold.bundle.gguf_tokenizer import tokenizer_of_gguf
from smallhold.bundle.source import Source, chat_files, digest_files, read_licences
from smallhold.device.gguf import GgufFile, read_gguf, unpermute_rope
from smallhold.errors import BackendError, DataError, RecipeError
from smallhold.learn.hugging_face import parameter_shapes
from smallhold.learn.rope import RopeScaling
from smallhold.learn.trunk_config import TrunkConfig

#: Divisors of the rotary frequencies, which llama.cpp's converter stores for the models of Llama 3.1 and later.
_ROPE_DIVISORS = "rope_freqs.weight"


def read_gguf_source(path: Path) -> Source:
    """Read a file whose tensors are F32, F16, Q8_0 or Q4_0.

    Raises:
        DataError: no such file, another architecture, or a tensor or tokenizer of a kind that is not read.
        RecipeError: a shape that no runtime could run.
    """
    try:
        gguf = read_gguf(path.read_bytes())
    except BackendError as error:
        raise DataError(f"{path}: {error}", hint=error.hint) from error
    meta = gguf.metadata
    if meta.get("general.architecture") != "llama":
        raise DataError(
            f"{path}: general.architecture: expected 'llama', got {meta.get('general.architecture')!r}",
            hint="bring the Hugging Face checkpoint that it was converted from",
        )
    config = _config(path, gguf)
    tokens = meta.get("tokenizer.ggml.tokens", [])
    marks = {f"{mark}_token": _token(tokens, meta.get(f"tokenizer.ggml.{mark}_token_id")) for mark in ("bos", "eos")}
    trunk = _trunk(path, gguf, config)
    return Source(
        name=path.name,
        kind="GGUF file",
        config=config,
        trunk=trunk,
        family=f"llama ({meta.get('general.name') or 'unnamed'})",
        context_length=config.max_position_embeddings,
        num_parameters=sum(array.size for array in trunk.values()),
        tokenizer=tokenizer_of_gguf(path, meta).to_str().encode(),
        digest=digest_files([path]),
        chat=chat_files(meta.get("tokenizer.chat_template"), marks),
        licences=read_licences(path.parent),
    )


def read_gguf_trunk(path: Path, data: bytes) -> tuple[TrunkConfig, dict[str, NDArray[np.float32]]]:
    """Shape and parameters of a file of ours, by our names; what is quantized is what runtimes compute with.

    Args:
        path: For messages.
        data: The file.

    Raises:
        DataError: see `read_gguf_source`.
    """
    try:
        gguf = read_gguf(data)
    except BackendError as error:
        raise DataError(f"{path}: {error}", hint=error.hint) from error
    config = _config(path, gguf)
    return config, _trunk(path, gguf, config)


def _config(path: Path, gguf: GgufFile) -> TrunkConfig:
    meta, tensors = gguf.metadata, gguf.tensors
    try:
        heads = int(meta["llama.attention.head_count"])
        width = int(meta["llama.embedding_length"])
        context = int(meta["llama.context_length"])
        head_dim = int(meta.get("llama.attention.key_length", width // heads))
        rotary = int(meta.get("llama.rope.dimension_count", head_dim))
        scaling = None
        if (kind := meta.get("llama.rope.scaling.type", "none")) not in ("none", "linear"):
            raise RecipeError(f"{path}: llama.rope.scaling.type: expected none or linear, got {kind!r}")
        if kind == "linear":
            scaling = RopeScaling(rope_type="linear", factor=float(meta["llama.rope.scaling.factor"]))
        if _ROPE_DIVISORS in tensors:
            divisors = tuple(map(float, tensors[_ROPE_DIVISORS]))
            scaling = RopeScaling(rope_type="longrope", short_factor=divisors, original_max_position_embeddings=context)
        if int(meta.get("llama.expert_count", 0)):
            raise RecipeError(f"{path}: a mixture of experts is not supported")
        return TrunkConfig(
            vocab_size=len(tensors["token_embd.weight"]),
            hidden_size=width,
            intermediate_size=int(meta["llama.feed_forward_length"]),
            num_hidden_layers=int(meta["llama.block_count"]),
            num_attention_heads=heads,
            num_key_value_heads=int(meta.get("llama.attention.head_count_kv", heads)),
            max_position_embeddings=context,
            rms_norm_eps=float(meta["llama.attention.layer_norm_rms_epsilon"]),
            rope_theta=float(meta.get("llama.rope.freq_base", 10000.0)),
            tie_word_embeddings="output.weight" not in tensors,
            head_dim=head_dim,
            partial_rotary_factor=rotary / head_dim,
            rope_scaling=scaling,
        )
    except KeyError as error:
        raise DataError(f"{path}: lacks {error.args[0]!r}") from error
    except (ValueError, TypeError, ArithmeticError) as error:
        raise DataError(f"{path}: describes no model: {error}") from error


def _trunk(path: Path, gguf: GgufFile, config: TrunkConfig) -> dict[str, NDArray[np.float32]]:
    """Parameters by our names; what is left over would be computed by llama.cpp and not by us, so it is refused."""
    left = dict(gguf.tensors)
    left.pop(_ROPE_DIVISORS, None)
    names = {theirs: ours for ours, theirs in NAMES.items()}
    for i in range(config.num_hidden_layers):
        for ours, theirs in BLOCK_NAMES.items():
            names[f"blk.{i}.{theirs}.weight"] = f"model.layers.{i}.{ours}.weight"
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    trunk = {}
    for theirs, ours in names.items():
        if theirs == "output.weight" and config.tie_word_embeddings:
            continue
        if theirs not in left:
            raise DataError(f"{path}: tensor {theirs} is missing")
        array = left.pop(theirs)
        part = ours.split(".")[-2]
        trunk[ours] = unpermute_rope(array, heads[part]) if part in heads else array
    if left:
        raise DataError(f"{path}: tensors that plain Llama does not have: {', '.join(sorted(left)[:3])}")
    _check_shapes(path, trunk, config)
    return trunk


def _check_shapes(path: Path, trunk: dict[str, NDArray[np.float32]], config: TrunkConfig) -> None:
    for name, shape in parameter_shapes(config).items():
        if trunk[name].shape != shape:
            raise DataError(f"{path}: {name}: expected {shape}, got {trunk[name].shape}")


def _token(tokens: list[str], number: Any) -> str | None:
    return tokens[number] if isinstance(number, int) and 0 <= number < len(tokens) else None
