"""Vocabulary trimming: drop tokens that a corpus hardly uses, from the tokenizer and from the model.

In a small model the embedding is a large share of the weights. What can never go: marks and added words (observation
words, task words), and the bytes, so that every text can still be spelled and read back.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from tokenizers import Tokenizer, pre_tokenizers

from smallhold.compress.selection import Model, Selection, take
from smallhold.errors import RecipeError

Json = dict[str, Any]
_BATCH = 512


@dataclass(frozen=True, slots=True)
class TrimmedVocabulary:
    """A smaller tokenizer and where its rows come from.

    Attributes:
        tokenizer: Ids 0 to V' - 1 without a gap, in the old order.
        kept: The old id of each new one, ascending.
    """

    tokenizer: Tokenizer
    kept: tuple[int, ...]


def count_tokens(tokenizer: Tokenizer, texts: Iterable[str]) -> Counter[int]:
    """How often each id occurs."""
    counts: Counter[int] = Counter()
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == _BATCH:
            counts.update(_ids(tokenizer, batch))
            batch = []
    counts.update(_ids(tokenizer, batch))
    return counts


def _ids(tokenizer: Tokenizer, texts: list[str]) -> list[int]:
    return [i for encoding in tokenizer.encode_batch(texts, add_special_tokens=False) for i in encoding.ids]


def trim_tokenizer(
    tokenizer: Tokenizer, counts: Mapping[int, int], *, vocab_size: int | None = None, min_count: int = 1
) -> TrimmedVocabulary:
    """Choose tokens by count and write the tokenizer that holds these alone.

    A token stays together with all tokens that BPE passes through on its way to it. With `vocab_size=None` and
    `min_count=1`, therefore, every text that was counted gives the same tokens as before: each of its merges is still
    there, and merges that went were never the first that applied.

    Args:
        tokenizer: Byte-level BPE, or BPE with byte fallback.
        counts: Occurrences of each id in a corpus.
        vocab_size: At most so many entries, the most frequent ones; None = as many as `min_count` leaves.
        min_count: Rarer tokens go.

    Returns:
        The trimmed tokenizer. decode(encode(text)) is what it was before, for every text.

    Raises:
        RecipeError: not such a tokenizer, or `vocab_size` has no room for what must stay.
    """
    form: Json = json.loads(tokenizer.to_str())
    model = form["model"]
    _check(form)
    vocab: dict[str, int] = model["vocab"]
    merges = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    rank = {pair: i for i, pair in enumerate(merges)}
    token_of = {i: token for token, i in vocab.items()}
    added = {entry["id"] for entry in form["added_tokens"]}
    kept = added | {vocab[token] for token in _always(model, vocab)}
    if vocab_size is not None and len(kept) > vocab_size:
        raise RecipeError(
            f"vocabulary: vocab_size {vocab_size} has no room for {len(kept)} bytes, marks and added words",
            hint=f"vocab_size = {len(kept)} or more",
        )
    used_merges: set[tuple[str, ...]] = set()
    for token_id, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if count < min_count:
            break
        if token_id in added or token_id not in token_of:
            continue
        steps = _derivation(token_of[token_id], rank)
        needed = {vocab["".join(pair)] for pair in steps} | {token_id}
        needed |= {vocab[symbol] for symbol in token_of[token_id] if symbol in vocab}
        if vocab_size is not None and len(kept | needed) > vocab_size:
            continue  # a shorter one may still fit
        kept |= needed
        used_merges.update(steps)
    return _write(form, sorted(kept), [merge for merge in merges if merge in used_merges])


def trim_model(model: Model, trimmed: TrimmedVocabulary) -> Model:
    """The model with the rows of embedding and head that stay; every token that stays has the logit it had."""
    return take(model, Selection(vocabulary=torch.tensor(trimmed.kept, dtype=torch.int64)))


def is_byte_level(form: Json) -> bool:
    """Whether a `tokenizer.json` makes bytes to characters before it looks for tokens, as GPT-2 did."""
    return any(part.get("type") == "ByteLevel" for part in _parts(form.get("pre_tokenizer")))


def _check(form: Json) -> None:
    """Refuse what BPE surgery does not cover."""
    model = form["model"]
    if model.get("type") != "BPE" or not (is_byte_level(form) or model.get("byte_fallback")):
        raise RecipeError(
            f"tokenizer: expected BPE on bytes or with byte fallback, got {model.get('type')}; others cannot be trimmed"
        )
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise RecipeError("tokenizer: BPE with subword prefixes or word suffixes cannot be trimmed")


def _parts(step: Json | None) -> list[Json]:
    """A pipeline step, or the steps of a sequence."""
    if step is None:
        return []
    nested = step.get("pretokenizers") or step.get("processors") or step.get("normalizers")
    return [part for entry in nested for part in _parts(entry)] if nested else [step]


def _always(model: Json, vocab: Mapping[str, int]) -> list[str]:
    """Bytes, and the token for what cannot be spelled."""
    alphabet = pre_tokenizers.ByteLevel.alphabet() if not model.get("byte_fallback") else []
    fallback = [f"<0x{value:02X}>" for value in range(256)] if model.get("byte_fallback") else []
    unknown = [model["unk_token"]] if model.get("unk_token") else []
    return [token for token in [*alphabet, *fallback, *unknown] if token in vocab]


def _derivation(token: str, rank: Mapping[tuple[str, ...], int]) -> list[tuple[str, ...]]:
    """The merges by which BPE makes a token from its characters, in order.

    Inside a longer word the token, once made, is made by the same merges: which pairs of it can merge next does not
    depend on what stands around it.
    """
    symbols = list(token)
    steps: list[tuple[str, ...]] = []
    while len(symbols) > 1:
        pairs = [(rank[pair], i) for i, pair in enumerate(pairwise(symbols)) if pair in rank]
        if not pairs:
            break
        _, i = min(pairs)
        steps.append((symbols[i], symbols[i + 1]))
        symbols[i : i + 2] = ["".join(symbols[i : i + 2])]
    return steps


def _write(form: Json, kept: list[int], merges: list[tuple[str, ...]]) -> TrimmedVocabulary:
    new_id = {old: new for new, old in enumerate(kept)}
    model = form["model"]
    model["vocab"] = {token: new_id[i] for token, i in model["vocab"].items() if i in new_id}
    model["merges"] = [list(merge) for merge in merges]
    for entry in form["added_tokens"]:
        entry["id"] = new_id[entry["id"]]
    if form.get("padding"):
        form["padding"]["pad_id"] = new_id[form["padding"]["pad_id"]]
    for step in _parts(form.get("post_processor")):
        _renumber(step, new_id)
    return TrimmedVocabulary(Tokenizer.from_str(json.dumps(form)), tuple(kept))


def _renumber(step: Json, new_id: Mapping[int, int]) -> None:
    """Give a post-processor the new ids of the marks that it adds."""
    match step["type"]:
        case "TemplateProcessing":
            for mark in step["special_tokens"].values():
                mark["ids"] = [new_id[i] for i in mark["ids"]]
        case "RobertaProcessing" | "BertProcessing":
            for key in ("sep", "cls"):
                step[key][1] = new_id[step[key][1]]
        case "ByteLevel":
            pass
        case other:
            raise RecipeError(f"tokenizer: post-processor {other} cannot be trimmed")
