"""Vocabularies: the smallest that can spell anything, and a trained one for text and observation words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE

from smallhold.decide.task import BOS
from smallhold.device.durable_file import write_durably
from smallhold.errors import RecipeError

PAD, EOS = "<pad>", "<eos>"
MARKS = (PAD, BOS, EOS)


def byte_tokenizer() -> Tokenizer:
    """A byte-level tokenizer without merges: one token a byte; ids 0 to 2 are the marks.

    It serves trunks that read signals and answer closed questions.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*MARKS, *alphabet])}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens(list(MARKS))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train_tokenizer(texts: Iterable[str], *, vocab_size: int, words: Sequence[str] = ()) -> Tokenizer:
    """Train byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909; on bytes: Radford et al. 2019).

    Words are split as in GPT-2, so that llama.cpp's `gpt-2` pre-tokenizer reads the same; every text can be spelled,
    because all 256 bytes are in the vocabulary.

    Args:
        texts: Training texts; the result depends on their counts alone, not on their order.
        vocab_size: Size of the whole vocabulary: marks, bytes, merges and `words`.
        words: Words that text never spells (observation words); each is one token, at the end of the vocabulary.

    Raises:
        RecipeError: `vocab_size` has no room for the bytes and the words, or the texts are too few to fill it.
    """
    room = vocab_size - len(words)
    if room < len(MARKS) + 256:
        raise RecipeError(
            f"tokenizer: vocab_size {vocab_size} has no room for {len(MARKS)} marks, 256 bytes and {len(words)} words"
        )
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=room,
        special_tokens=list(MARKS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() < room:
        raise RecipeError(
            f"tokenizer: the texts fill {tokenizer.get_vocab_size()} of {room} entries; give more text or a smaller "
            "vocab_size"
        )
    extend_vocabulary(tokenizer, words)
    return tokenizer


def extend_vocabulary(tokenizer: Tokenizer, words: Sequence[str]) -> int:
    """Add words, each one token, in place; those that are there stay where they are. Returns how many are new."""
    return int(tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in words]))


def save_tokenizer(tokenizer: Tokenizer, folder: Path, *, context_length: int) -> None:
    """Write `tokenizer.json`, and `tokenizer_config.json` by which `transformers` finds the marks."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "bos_token": BOS,
        "eos_token": EOS,
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
    }
    write_durably(folder / "tokenizer.json", [tokenizer.to_str().encode()], mode=0o644)
    write_durably(folder / "tokenizer_config.json", [json.dumps(config, indent=1).encode()], mode=0o644)


def token_id(tokenizer: Tokenizer, word: str) -> int:
    """Id of a word that is one token.

    Raises:
        RecipeError: the vocabulary does not hold it.
    """
    found = tokenizer.token_to_id(word)
    if found is None:
        raise RecipeError(f"tokenizer: no token {word!r}", hint="the base was trained with another vocabulary")
    return int(found)
