"""The smallest vocabulary that can spell anything: the 256 bytes, and three marks.

It serves trunks that read signals and answer closed questions; a trained vocabulary takes its place where text
matters.
"""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

MARKS = ("<pad>", "<bos>", "<eos>")


def byte_tokenizer() -> Tokenizer:
    """A byte-level tokenizer without merges: one token a byte; ids 0 to 2 are the marks."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*MARKS, *alphabet])}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens(list(MARKS))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
