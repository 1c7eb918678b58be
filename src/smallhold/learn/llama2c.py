"""Read the models of llama2.c: a checkpoint of version 0 and its vocabulary become a checkpoint folder of ours.

Source of both formats: github.com/karpathy/llama2.c, `export.py` (`legacy_export`), `tokenizer.py` and `run.c`.

The checkpoint is a header of seven int32 and float32 tensors, every kind of tensor for all layers in a row. A
negative vocabulary size says that the output head is not the embedding. llama2.c rotates neighbouring pairs of a
query or key where Hugging Face rotates halves, so the rows of those two matrices change places.

The vocabulary is the longest piece's length as int32, then for each token a float32 score, an int32 length and the
piece. A piece is made of the two tokens that were merged into it, best score first, as SentencePiece does.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE

from smallhold.device.durable_file import write_durably
from smallhold.device.gguf import unpermute_rope
from smallhold.errors import DataError, RecipeError
from smallhold.learn.checkpoint import save_trunk
from smallhold.learn.model import Trunk, TrunkConfig

UNKNOWN, BEGIN, END = 0, 1, 2
#: Tokens 3 to 258 are the single bytes, in order.
FIRST_BYTE = 3
_HEADER = struct.Struct("<7i")
_SPACE = "\u2581"  # SentencePiece's mark for a space


def convert_llama2c(model: Path, tokenizer: Path, folder: Path) -> TrunkConfig:
    """Write `config.json`, `model.safetensors` and `tokenizer.json` of a llama2.c model.

    Args:
        model: Checkpoint of version 0, float32.
        tokenizer: Its vocabulary.
        folder: Where the checkpoint goes.

    Returns:
        Shape of the trunk.

    Raises:
        DataError: a file is missing, truncated or not in the format, or the two do not belong together; nothing is
            written then.
    """
    trunk = read_llama2c(_read(model))
    vocabulary = read_llama2c_tokenizer(_read(tokenizer))
    if vocabulary.get_vocab_size() != trunk.config.vocab_size:
        raise DataError(
            f"{tokenizer}: expected the {trunk.config.vocab_size} tokens of {model.name}, "
            f"got {vocabulary.get_vocab_size()}"
        )
    save_trunk(trunk, folder)
    write_durably(folder / "tokenizer.json", [vocabulary.to_str().encode()], mode=0o644)
    return trunk.config


def read_llama2c(data: bytes) -> Trunk:
    """The trunk of a llama2.c checkpoint of version 0.

    Raises:
        DataError: truncated, longer than its header says, or no such checkpoint.
    """
    if len(data) < _HEADER.size:
        raise DataError(f"llama2.c checkpoint: expected a header of {_HEADER.size} bytes, got {len(data)} bytes")
    width, hidden, layers, heads, kv_heads, vocab, context = _HEADER.unpack_from(data)
    if min(width, hidden, layers, heads, kv_heads, context, abs(vocab)) < 1:
        raise DataError(f"llama2.c checkpoint: the header holds no shape of a model: {_HEADER.unpack_from(data)}")
    try:
        config = TrunkConfig(
            vocab_size=abs(vocab),
            hidden_size=width,
            intermediate_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            max_position_embeddings=context,
            tie_word_embeddings=vocab > 0,
        )
    except RecipeError as error:
        raise DataError(f"llama2.c checkpoint: the header holds no shape of a model: {error}") from error
    shapes = _shapes(config)
    expected = _HEADER.size + 4 * sum(int(np.prod(shape, dtype=object)) for _, shape in shapes)
    if len(data) != expected:
        raise DataError(f"llama2.c checkpoint: expected {expected} bytes for {config}, got {len(data)}")
    arrays: dict[str, NDArray[np.float32]] = {}
    at = _HEADER.size
    for name, shape in shapes:
        size = int(np.prod(shape))
        arrays[name] = np.frombuffer(data, "<f4", size, at).reshape(shape)
        at += 4 * size
    return _trunk(config, arrays)


def read_llama2c_tokenizer(data: bytes) -> Tokenizer:
    """The vocabulary of a llama2.c model as a tokenizer that spells and decodes as llama2.c does.

    Raises:
        DataError: truncated, two pieces are equal, or the first 259 tokens are not the three marks and the bytes.
    """
    pieces = _pieces(data)
    names = [name for name, _ in pieces]
    wanted = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    if names[: len(wanted)] != wanted or len(set(names)) != len(names):
        raise DataError("llama2.c vocabulary: expected <unk>, <s>, </s>, the 256 bytes, then pieces that all differ")
    known = dict(pieces[len(wanted) :])
    # Ties are impossible in SentencePiece's own files; the order of the tokens would break them.
    merges = [
        (piece[:cut], piece[cut:])
        for piece in sorted(known, key=known.__getitem__, reverse=True)
        for cut in range(1, len(piece))
        if piece[:cut] in known and piece[cut:] in known
    ]
    tokenizer = Tokenizer(
        BPE(
            vocab={name: i for i, name in enumerate(names)},
            merges=merges,
            unk_token="<unk>",  # noqa: S106 - a token of a vocabulary
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in wanted[:FIRST_BYTE]])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def _shapes(config: TrunkConfig) -> list[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor, in the order of the file."""
    layers, width, hidden = config.num_hidden_layers, config.hidden_size, config.intermediate_size
    kv_width = config.num_key_value_heads * config.head_dim
    rotary = (config.max_position_embeddings, config.head_dim // 2)
    return [
        ("embed_tokens", (config.vocab_size, width)),
        ("input_layernorm", (layers, width)),
        ("self_attn.q_proj", (layers, width, width)),
        ("self_attn.k_proj", (layers, kv_width, width)),
        ("self_attn.v_proj", (layers, kv_width, width)),
        ("self_attn.o_proj", (layers, width, width)),
        ("post_attention_layernorm", (layers, width)),
        ("mlp.gate_proj", (layers, hidden, width)),
        ("mlp.down_proj", (layers, width, hidden)),
        ("mlp.up_proj", (layers, hidden, width)),
        ("norm", (width,)),
        ("cos", rotary),  # the tables of angles follow from the shape, and are left out
        ("sin", rotary),
        *(() if config.tie_word_embeddings else (("lm_head", (config.vocab_size, width)),)),
    ]


def _trunk(config: TrunkConfig, arrays: dict[str, NDArray[np.float32]]) -> Trunk:
    state = {
        "model.embed_tokens.weight": arrays["embed_tokens"],
        "model.norm.weight": arrays["norm"],
        "lm_head.weight": arrays.get("lm_head", arrays["embed_tokens"]),
    }
    heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
    for name, array in arrays.items():
        if array.ndim == 1 or name in ("embed_tokens", "cos", "sin", "lm_head"):
            continue
        for i, weight in enumerate(array):
            state[f"model.layers.{i}.{name}.weight"] = unpermute_rope(weight, heads[name]) if name in heads else weight
    if not all(np.isfinite(array).all() for array in state.values()):
        raise DataError("llama2.c checkpoint: a weight is NaN or infinite")
    trunk = Trunk(config)
    trunk.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in state.items()})
    return trunk.eval()


def _pieces(data: bytes) -> list[tuple[str, float]]:
    """(piece, score) of every token, spaces as SentencePiece marks them."""
    at = 4
    pieces: list[tuple[str, float]] = []
    try:
        (longest,) = struct.unpack_from("<i", data)
        while at < len(data):
            score, length = struct.unpack_from("<fi", data, at)
            raw = data[at + 8 : at + 8 + length]
            if not 0 < length <= longest or len(raw) != length:
                raise DataError(f"llama2.c vocabulary: token {len(pieces)} is truncated or longer than {longest} bytes")
            # The marks are stored with line ends around them, so that nobody types them by accident.
            name = raw.decode().strip("\n") if len(pieces) < FIRST_BYTE else raw.decode().replace(" ", _SPACE)
            pieces.append((name, score))
            at += 8 + length
    except (struct.error, UnicodeDecodeError) as error:
        raise DataError(f"llama2.c vocabulary: truncated or malformed at token {len(pieces)}: {error}") from error
    return pieces


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
