"""The tokenizer in a GGUF file as `tokenizer.json`: byte-level BPE, which llama.cpp calls `gpt2`.

A file names how text is cut before merging (`tokenizer.ggml.pre`); the patterns of those names are llama.cpp's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from smallhold.errors import DataError

_CONTROL, _USER_DEFINED = 3, 4  # llama.cpp's types of token
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def tokenizer_of_gguf(path: Path, meta: dict[str, Any]) -> Tokenizer:
    """The tokenizer that a file's metadata describe.

    Raises:
        DataError: another kind of tokenizer, another pre-tokenizer, or metadata that do not fit together.
    """
    kind = meta.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise DataError(
            f"{path}: tokenizer.ggml.model: expected 'gpt2' (byte-level BPE), got {kind!r}",
            hint="bring the Hugging Face checkpoint with its tokenizer.json",
        )
    pre = meta.get("tokenizer.ggml.pre", "gpt-2")
    known = _pre_tokenizers()
    if pre not in known:
        raise DataError(f"{path}: tokenizer.ggml.pre: expected one of {', '.join(known)}, got {pre!r}")
    tokens, types = meta.get("tokenizer.ggml.tokens", []), meta.get("tokenizer.ggml.token_type", [])
    merges = [tuple(merge.split(" ")) for merge in meta.get("tokenizer.ggml.merges", [])]
    if not tokens or (types and len(types) != len(tokens)) or any(len(merge) != 2 for merge in merges):
        raise DataError(f"{path}: tokenizer.ggml: tokens, token_type and merges do not fit together")
    try:
        vocabulary = {token: number for number, token in enumerate(tokens)}
        tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges, ignore_merges=pre == "llama-bpe"))
    except Exception as error:  # the library raises its own untyped exceptions
        raise DataError(f"{path}: tokenizer.ggml: makes no tokenizer: {error}") from error
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = known[pre]
    tokenizer.decoder = decoders.ByteLevel()
    marks = [
        AddedToken(token, special=types[number] == _CONTROL, normalized=False)
        for number, token in enumerate(tokens)
        if types and types[number] in (_CONTROL, _USER_DEFINED)
    ]
    tokenizer.add_tokens(marks)
    first = meta.get("tokenizer.ggml.bos_token_id")
    if meta.get("tokenizer.ggml.add_bos_token") and isinstance(first, int) and first < len(tokens):
        mark = tokens[first]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[mark, "$A"], pair=[mark, "$A", mark, "$B:1"], special_tokens=[(mark, first)]
        )
    return tokenizer


def _pre_tokenizers() -> dict[str, pre_tokenizers.PreTokenizer]:
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return {
        "gpt-2": plain,
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), plain]),
        "llama-bpe": _cut(_WORDS % r"\p{N}{1,3}", spelled),
        "qwen2": _cut(_WORDS % r"\p{N}", spelled),
    }


def _cut(pattern: str, then: pre_tokenizers.PreTokenizer) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), then])
