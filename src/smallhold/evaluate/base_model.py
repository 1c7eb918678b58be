"""What a base model is worth: bits per byte on unseen text beside compressors and n-grams, as JSON and as a table.

Everything is measured on the same bytes. A base model that does not beat an n-gram model counted on the same training
text, or a compressor that has read it, is worth nothing as a language model; the first line of the table says so.
"""

from __future__ import annotations

import lzma
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smallhold.errors import DataError
from smallhold.evaluate.bootstrap import bootstrap_interval, paired_difference
from smallhold.evaluate.fertility import fertility
from smallhold.evaluate.kneser_ney import KneserNey, fit_kneser_ney
from smallhold.evaluate.language import (
    LanguageModel,
    bits_per_byte,
    bits_per_byte_of,
    byte_lengths,
    encode_exactly,
    evenly_spaced,
    load_language_model,
    sample_texts,
)
from smallhold.evaluate.tables import ABSENT, format_bytes, format_count, format_share
from smallhold.learn.checkpoint import read_checkpoint

#: (what is measured, done, in all).
Progress = Callable[[str, int, int], None]

# The least that xz takes.
_LEAST_DICTIONARY_BYTES = 4096
# Where the rival's samples end: half of stories260K's context, so that every sample has a beginning.
_SAMPLE_TOKENS = 256


def xz_bytes(text: bytes) -> int:
    """Size of the text under `xz -9e`.

    The dictionary holds all of the text: the 64 MiB of -9 would forget the begin of a longer one, and on a shorter
    one they only cost memory.
    """
    options = {
        "id": lzma.FILTER_LZMA2,
        "preset": 9 | lzma.PRESET_EXTREME,
        "dict_size": max(_LEAST_DICTIONARY_BYTES, len(text)),
    }
    return len(lzma.compress(text, format=lzma.FORMAT_XZ, filters=[options]))


def xz_bits_per_byte(heldout: Sequence[str], training: Sequence[str] = ()) -> float:
    """What `xz -9e` needs for the held-out text, in bits for each of its bytes, after it has read the training text.

    Args:
        heldout: Documents, put one behind the other.
        training: Documents of the same language that the compressor may refer to; none for xz on its own.

    Returns:
        8 * (size(training + heldout) - size(training)) / bytes of heldout.

    Raises:
        DataError: there is no held-out text.
    """
    text, primer = "".join(heldout).encode(), "".join(training).encode()
    if not text:
        raise DataError("xz: expected held-out text, got none")
    return 8 * (xz_bytes(primer + text) - (xz_bytes(primer) if primer else 0)) / len(text)


def fit_ngrams(tokenizer_of: LanguageModel, texts: Sequence[str], *, order: int = 5) -> KneserNey:
    """N-grams over the model's own tokens, so that both predict the same things.

    Raises:
        DataError: there is no text, or the tokenizer loses something.
    """
    ids = encode_exactly(tokenizer_of.tokenizer, texts)
    vocab_size = tokenizer_of.trunk.config.vocab_size
    return fit_kneser_ney(ids, order=order, vocab_size=vocab_size, bos=tokenizer_of.bos)


def measure_base(
    checkpoint: Path,
    heldout: Mapping[str, Sequence[str]],
    training: Mapping[str, Sequence[str]],
    *,
    context: int | None = None,
    max_bytes: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a base model and what it has to beat, language by language, on the same bytes.

    Args:
        checkpoint: Folder in Hugging Face's layout.
        heldout: Language (or any other name of a part) -> documents that nothing was trained or chosen on.
        training: The same names -> documents that the model was trained on. The n-grams count them, all languages
            together as the model read them and each alone, and xz reads those of the language first.
        context: Window of the model in tokens; the model's own when None.
        max_bytes: Most held-out bytes of each language; documents are then taken at even distances.
        seed: Of the bootstrap.
        progress: Called now and then.

    Returns:
        Ready for JSON. `languages` -> name -> `documents`, `bytes`, `available_bytes`, `tokens`, `bits_per_byte`
        (`model`, `ngram`, `ngram_same_language` with 95 % bootstrap intervals over documents; `xz`, `xz_primed`
        without, because a compressor gives one size), `minus_best_ngram` (paired difference) and `fertility`.

    Raises:
        DataError: the checkpoint cannot be read, a language has no text, or the tokenizer loses something.
    """
    model = load_language_model(checkpoint)
    say = progress or (lambda *_: None)
    order = 5
    shared = fit_ngrams(model, [text for texts in training.values() for text in texts], order=order)
    languages: dict[str, Any] = {}
    for name, available in heldout.items():
        say(f"{name}: n-grams and xz", len(languages), len(heldout))
        texts = evenly_spaced(available, max_bytes) if max_bytes else list(available)
        ids, sizes = encode_exactly(model.tokenizer, texts), byte_lengths(texts)
        ngrams = {"ngram": shared.nats(ids)}
        own_training = training.get(name, ())
        if own_training:
            ngrams["ngram_same_language"] = fit_ngrams(model, own_training, order=order).nats(ids)
        score = bits_per_byte(
            model.trunk,
            model.tokenizer,
            texts,
            context=context,
            progress=partial(say, f"{name}: model"),
        )
        best = min(ngrams.values(), key=np.sum)
        languages[name] = {
            "documents": len(texts),
            "bytes": int(sizes.sum()),
            "available_bytes": int(byte_lengths(available).sum()),
            "tokens": score.num_tokens,
            "bits_per_byte": {
                "model": _interval(score.nats, sizes, seed),
                **{rival: _interval(nats, sizes, seed) for rival, nats in ngrams.items()},
                "xz": xz_bits_per_byte(texts),
                "xz_primed": xz_bits_per_byte(texts, own_training) if own_training else None,
            },
            "minus_best_ngram": paired_difference(
                bits_per_byte_of, (score.nats, sizes), (best, sizes), seed=seed
            ).to_json(),
            "fertility": asdict(fertility(model.tokenizer, texts)),
        }
    return {
        "parameters": sum(p.numel() for p in model.trunk.parameters()),
        "vocab_size": model.trunk.config.vocab_size,
        "context": context or model.trunk.config.max_position_embeddings,
        "ngram_order": order,
        "tokens_trained": read_checkpoint(checkpoint).about.get("tokens_trained"),
        "training_bytes": {name: int(byte_lengths(texts).sum()) for name, texts in training.items()},
        "languages": languages,
    }


def compare_grounds(
    model: LanguageModel, rival: LanguageModel, heldout: Sequence[str], *, num_samples: int = 64, seed: int = 0
) -> dict[str, Any]:
    """Two models with different training text, on the ground of either.

    A model trained on other text loses on ours, which says nothing about its worth. Where the rival's own text is not
    at hand, text drawn from the rival itself is the ground that suits it best: there no model can have fewer bits
    than the rival, but for spelling and chance. Only both figures together say which model is a specialist of what.

    Args:
        model: Ours.
        rival: The other one.
        heldout: Documents of ours that nothing was trained on.
        num_samples: Texts drawn from the rival.
        seed: Of the draws.

    Returns:
        `heldout` and `rival_samples`, each with `documents`, `bytes`, `model` and `rival` in bits per byte.
    """
    samples = sample_texts(
        rival,
        num_texts=num_samples,
        num_tokens=min(_SAMPLE_TOKENS, rival.trunk.config.max_position_embeddings),
        seed=seed,
    )
    return {
        ground: {
            "documents": len(texts),
            "bytes": int(byte_lengths(texts).sum()),
            **{
                who: bits_per_byte(one.trunk, one.tokenizer, texts).bits_per_byte
                for who, one in (("model", model), ("rival", rival))
            },
        }
        for ground, texts in (("heldout", heldout), ("rival_samples", samples))
    }


def format_base_table(result: Mapping[str, Any]) -> str:
    """The result of `measure_base` as Markdown for a model card: the verdict, the table, how it was measured."""
    lines = [
        _verdict(result["languages"]),
        "",
        f"| Bits per byte | held-out text | model | {result['ngram_order']}-gram | {result['ngram_order']}-gram, "
        "same language | xz -9e | xz -9e after training text | tokens per word | words in one token "
        "| bytes per token |",
        "| --- " + "| ---: " * 9 + "|",
    ]
    for name, row in result["languages"].items():
        bits, cut = row["bits_per_byte"], row["fertility"]
        cells = [
            f"{format_count(row['documents'])} documents, {format_bytes(row['bytes'])}",
            _with_interval(bits["model"]),
            _with_interval(bits["ngram"]),
            _with_interval(bits.get("ngram_same_language")),
            format_share(bits["xz"]),
            format_share(bits["xz_primed"]),
            f"{cut['tokens_per_word']:.2f}",
            f"{cut['one_token_share']:.0%}",
            f"{cut['bytes_per_token']:.2f}",
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    trained = result["tokens_trained"]
    lines += [
        "",
        f"{format_count(result['parameters'])} parameters, vocabulary {format_count(result['vocab_size'])}, "
        f"{ABSENT if trained is None else format_count(trained)} tokens trained on, repetitions included, "
        f"from {format_bytes(sum(result['training_bytes'].values()))} of text. Fewer bits are better. In brackets: "
        f"95 % bootstrap intervals over documents. The model reads windows of {result['context']} tokens that overlap "
        "by half; every byte counts once. The n-grams (interpolated modified Kneser-Ney, nothing pruned) predict the "
        "same tokens and were counted once over the same training text, in all languages or in one.",
    ]
    partial = [name for name, row in result["languages"].items() if row["bytes"] < row["available_bytes"]]
    if partial:
        lines[-1] += f" Documents at even distances stand for the whole in: {', '.join(partial)}."
    return "\n".join(lines)


def _verdict(languages: Mapping[str, Any]) -> str:
    """One sentence for each outcome; the worst outcome comes first."""
    worse, level, better = [], [], []
    for name, row in languages.items():
        bits, difference = row["bits_per_byte"], row["minus_best_ngram"]
        model = bits["model"]["value"]
        compressors = [bits[key] for key in ("xz", "xz_primed") if bits[key] is not None]
        low, high = difference["low"], difference["high"]
        if min(compressors) <= model or (low is not None and low > 0):
            worse.append(name)
        elif high is not None and high < 0:
            better.append(name)
        else:
            level.append(name)
    sentences = [
        ("The model does not beat the simple baselines", worse),
        ("The model cannot be told from the better n-gram model", level),
        ("The model needs fewer bits than every n-gram and compressor", better),
    ]
    return " ".join(f"{words} in: {', '.join(names)}." for words, names in sentences if names)


def _interval(nats: NDArray[np.float64], sizes: NDArray[np.int64], seed: int) -> dict[str, float | None]:
    return bootstrap_interval(bits_per_byte_of, nats, sizes, seed=seed).to_json()


def _with_interval(interval: Mapping[str, float | None] | None) -> str:
    if interval is None:
        return ABSENT
    if interval["low"] is None:
        return format_share(interval["value"])
    return f"{format_share(interval['value'])} ({format_share(interval['low'])}-{format_share(interval['high'])})"
