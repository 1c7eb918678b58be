"""A tokenizer that went through GGUF metadata cuts and spells as before."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE

from smallhold.bundle.gguf_tokenizer import tokenizer_of_gguf

TEXT = [
    "Temperature 39.5, pulse 118; don't wait!\n\nSee the 2024 guideline, page 1234567.",
    "  Two  spaces, naïve Ωmega, 12 34, x=1\r\n\ttab  ",
    "<bos> is a mark here",
]
PATH = Path("model.gguf")


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken("<bos>", special=True, normalized=False)],
    )  # fmt: skip
    tokenizer.train_from_iterator(TEXT * 5, trainer)
    return tokenizer


def metadata(tokenizer: Tokenizer, **changes: object) -> dict:
    import json

    tokens = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token == "<bos>" else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in merges],
        "tokenizer.ggml.bos_token_id": 0,
        **{f"tokenizer.ggml.{name}": value for name, value in changes.items()},
    }


def test_it_spells_what_the_first_one_spelled(trained: Tokenizer) -> None:
    again = tokenizer_of_gguf(PATH, metadata(trained))
    for text in TEXT:
        assert again.encode(text).ids == trained.encode(text).ids
        assert again.decode(again.encode(text).ids, skip_special_tokens=False) == text
    assert again.token_to_id("<bos>") == again.encode("<bos>").ids[0] == 0
    assert again.encode("pulse").ids == tokenizer_of_gguf(PATH, metadata(trained)).encode("pulse").ids


def pieces(pre: str, text: str, trained: Tokenizer) -> list[str]:
    cut = tokenizer_of_gguf(PATH, metadata(trained, pre=pre)).pre_tokenizer.pre_tokenize_str(text)
    return [piece.replace("Ġ", "_").replace("Ċ", "/") for piece, _ in cut]


def test_each_name_cuts_as_llama_cpp_does(trained: Tokenizer) -> None:
    text = "Don't give 1234 mg.\n\nNow"
    assert pieces("gpt-2", text, trained) == ["Don", "'t", "_give", "_1234", "_mg", ".", "/", "/", "Now"]
    assert pieces("smollm", text, trained) == [
        "Don",
        "'t",
        "_give",
        "_",
        "1",
        "2",
        "3",
        "4",
        "_mg",
        ".",
        "/",
        "/",
        "Now",
    ]
    assert pieces("llama-bpe", text, trained) == ["Don", "'t", "_give", "_", "123", "4", "_mg", ".//", "Now"]
    assert pieces("qwen2", text, trained) == ["Don", "'t", "_give", "_", "1", "2", "3", "4", "_mg", ".//", "Now"]


def test_a_mark_is_put_before_a_text_where_the_file_asks_for_it(trained: Tokenizer) -> None:
    assert tokenizer_of_gguf(PATH, metadata(trained, add_bos_token=True)).encode("x").ids[0] == 0
    assert tokenizer_of_gguf(PATH, metadata(trained)).encode("x").ids[0] != 0
