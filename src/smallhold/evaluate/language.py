"""How well a language model predicts text: bits per byte.

Bits per byte compare models with different vocabularies, and models with compressors: both are what the text would
cost, in bits for each of its UTF-8 bytes, if it were coded with the model's probabilities. Loss per token can do
neither, because a larger vocabulary has fewer, harder tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch.nn import functional as F

from smallhold.errors import DataError, InputError
from smallhold.learn.checkpoint import read_checkpoint
from smallhold.learn.model import Trunk

#: (tokens scored, tokens in all), after each batch.
Progress = Callable[[int, int], None]

# The names of the mark that opens a document: ours, SentencePiece's, Llama 3's, and that of GPT-2, Qwen and SmolLM.
_OPENING_MARKS = ("<bos>", "<s>", "<|begin_of_text|>", "<|endoftext|>")
# Positions in a batch: its logits over 8,192 tokens take 64 MB.
_BATCH_POSITIONS = 2048
# An encoding in Rust takes some hundred times the memory of its ids.
_ENCODED_AT_ONCE = 256


@dataclass(frozen=True, slots=True, eq=False)
class LanguageModel:
    """A trunk, its vocabulary, and the token that opens every document."""

    trunk: Trunk
    tokenizer: Tokenizer
    bos: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ByteScore:
    """What texts cost under a model, document by document.

    Attributes:
        nats: (n,) minus the natural logarithm of each document's probability.
        num_bytes: (n,) UTF-8 bytes of each document.
        num_tokens: Tokens of all documents together.
    """

    nats: NDArray[np.float64]
    num_bytes: NDArray[np.int64]
    num_tokens: int

    @property
    def bits_per_byte(self) -> float:
        """Bits for each byte of all documents together."""
        return bits_per_byte_of(self.nats, self.num_bytes)


def load_language_model(folder: Path) -> LanguageModel:
    """A checkpoint in Hugging Face's layout, in evaluation mode.

    Raises:
        DataError: see `read_checkpoint`; or the tensors, the configuration and `tokenizer.json` do not fit together.
    """
    checkpoint = read_checkpoint(folder)
    trunk = Trunk(checkpoint.config)
    state = {name: torch.from_numpy(array) for name, array in checkpoint.trunk.items()}
    try:
        if checkpoint.config.tie_word_embeddings:
            state["lm_head.weight"] = state["model.embed_tokens.weight"]
        trunk.load_state_dict(state)
    except (RuntimeError, KeyError) as error:
        raise DataError(f"checkpoint {folder}: tensors do not fit config.json: {error}") from error
    tokenizer = _read_tokenizer(folder / "tokenizer.json")
    if tokenizer.get_vocab_size() > checkpoint.config.vocab_size:
        raise DataError(
            f"checkpoint {folder}: tokenizer.json: expected at most the {checkpoint.config.vocab_size} tokens of "
            f"config.json, got {tokenizer.get_vocab_size()}"
        )
    return LanguageModel(trunk.eval(), tokenizer, opening_token(tokenizer))


def opening_token(tokenizer: Tokenizer) -> int:
    """Id of the token that opens a document.

    Raises:
        DataError: the vocabulary has none of the known names.
    """
    for name in _OPENING_MARKS:
        if (token := tokenizer.token_to_id(name)) is not None:
            return int(token)
    raise DataError(f"tokenizer: expected one of the tokens {', '.join(_OPENING_MARKS)}, found none")


def encode_exactly(tokenizer: Tokenizer, texts: Sequence[str]) -> list[NDArray[np.int64]]:
    """Token ids of each text, without marks.

    Raises:
        DataError: a text does not come back when its tokens are decoded. Bits per byte would then be those of another,
            perhaps easier, text.
    """
    documents: list[NDArray[np.int64]] = []
    for start in range(0, len(texts), _ENCODED_AT_ONCE):
        some = list(texts[start : start + _ENCODED_AT_ONCE])
        ids = [one.ids for one in tokenizer.encode_batch_fast(some, add_special_tokens=False)]
        for again, text in zip(tokenizer.decode_batch(ids, skip_special_tokens=False), some, strict=True):
            if again != text:
                raise DataError(
                    f"tokenizer: text {len(documents)} of {len(texts)} is not the same after encoding and decoding"
                )
            documents.append(np.array(ids[len(documents) - start], dtype=np.int64))
    return documents


def bits_per_byte(
    model: Trunk,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    context: int | None = None,
    progress: Progress | None = None,
) -> ByteScore:
    """What texts cost under a model; every byte of every text counts exactly once.

    A document that is longer than the context is read through windows that overlap by half. Only what no earlier
    window has scored is scored, so that each token is predicted from at least context / 2 tokens before it, or from
    all there are since its document began. Windows side by side would predict every first token from nothing and make
    the model look worse than it is when used; a window for each token would cost context / 2 times as much for a
    little more.

    Each document opens with the model's opening mark, which is given, not predicted. The end of a document is not
    predicted either: it has no bytes. Each text is scored in the one spelling that its tokenizer gives; other
    spellings of the same bytes also have some probability, so that the figure is an upper bound.

    Source: the metric is that of Gao et al. 2020, arXiv:2101.00027, section 3.1.

    Args:
        model: Evaluated in float32.
        tokenizer: Its vocabulary, with an opening mark.
        texts: Documents. The order matters for nothing but the last digits of a sum.
        context: Longest window, in tokens; the model's own when None.
        progress: Called after each batch.

    Returns:
        Nats and bytes by document: the same again on the same machine with the same number of threads.

    Raises:
        DataError: there is no text, or the tokenizer loses something.
        InputError: context is less than 2 or more than the model's.
    """
    limit = model.config.max_position_embeddings
    context = limit if context is None else context
    if not 2 <= context <= limit:
        raise InputError(f"context must lie between 2 and {limit}, the model's own; got {context}")
    documents = encode_exactly(tokenizer, texts)
    num_tokens = sum(map(len, documents))
    if not num_tokens:
        raise DataError(f"bits per byte: expected at least one text with a letter in it, got {len(texts)} empty ones")
    nats = np.zeros(len(texts))
    bos, done = opening_token(tokenizer), 0
    inputs = [np.concatenate([[bos], ids[:-1]]) for ids in documents]
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for batch in _batches(_windows([len(ids) for ids in documents], context)):
            nats_of_batch = _score(model, inputs, documents, batch)
            for window, value in zip(batch, nats_of_batch, strict=True):
                nats[window.document] += value
                done += window.stop - window.first
            if progress:
                progress(done, num_tokens)
    model.train(was_training)
    return ByteScore(nats=nats, num_bytes=byte_lengths(texts), num_tokens=num_tokens)


def bits_per_byte_of(nats: NDArray[np.float64], num_bytes: NDArray[np.int64]) -> float:
    """Bits for each byte of all documents together, of what each costs and of its bytes."""
    return float(np.sum(nats) / np.sum(num_bytes) / math.log(2))


def byte_lengths(texts: Sequence[str]) -> NDArray[np.int64]:
    """(n,) UTF-8 bytes of each text."""
    return np.array([len(text.encode()) for text in texts], dtype=np.int64)


def evenly_spaced(texts: Sequence[str], max_bytes: int) -> list[str]:
    """As many texts as fit, at even distances in their order: large and small ones, and all sources, keep their share.

    Args:
        texts: In an order that keeps texts of one source together.
        max_bytes: Most UTF-8 bytes in all.

    Returns:
        All texts when they fit; otherwise the most evenly spaced ones that do. Nothing random.

    Raises:
        InputError: not even one fits.
    """
    sizes = byte_lengths(texts)
    if sizes.sum() <= max_bytes:
        return list(texts)
    for count in range(min(len(texts), int(len(texts) * max_bytes / sizes.sum()) + 1), 0, -1):
        # The middle of each of `count` equal stretches.
        chosen = (2 * np.arange(count) + 1) * len(texts) // (2 * count)
        if sizes[chosen].sum() <= max_bytes:
            return [texts[i] for i in chosen.tolist()]
    raise InputError(f"max_bytes is too small for any text: got {max_bytes}, the texts have {sizes.min()} or more")


def sample_texts(model: LanguageModel, *, num_texts: int, num_tokens: int, seed: int) -> list[str]:
    """Texts drawn from the model itself at temperature 1: the ground on which it is at its best.

    Args:
        model: What is drawn from.
        num_texts: How many.
        num_tokens: Longest text; a sampled mark (`<eos>`, `</s>`, ...) ends it earlier.
        seed: Of all draws.

    Raises:
        InputError: num_tokens is more than the context holds.
    """
    limit = model.trunk.config.max_position_embeddings
    if not 1 <= num_tokens <= limit:
        raise InputError(f"num_tokens must lie between 1 and {limit}, the model's context; got {num_tokens}")
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((num_texts, 1), model.bos)
    with torch.inference_mode():
        for _ in range(num_tokens):
            hidden = model.trunk.hidden(model.trunk.model.embed_tokens(ids))[:, -1]  # type: ignore[operator]
            probability = torch.softmax(model.trunk.lm_head(hidden), dim=-1)
            ids = torch.cat([ids, torch.multinomial(probability, 1, generator=generator)], dim=1)
    marks = {token for token, what in model.tokenizer.get_added_tokens_decoder().items() if what.special}
    texts = []
    for row in ids[:, 1:].tolist():
        end = next((i for i, token in enumerate(row) if token in marks), len(row))
        texts.append(model.tokenizer.decode(row[:end]))
    return [text for text in texts if text]


@dataclass(frozen=True, slots=True)
class _Window:
    """Positions [start, stop) of a document are read, [first, stop) are scored."""

    document: int
    start: int
    first: int
    stop: int


def _windows(lengths: Sequence[int], context: int) -> Iterator[_Window]:
    for document, length in enumerate(lengths):
        first = 0
        while first < length:
            stop = min(length, context if first == 0 else first + context // 2)
            # The last window reaches further back rather than being short: windows of one length make full batches.
            yield _Window(document, max(0, stop - context), first, stop)
            first = stop


def _batches(windows: Iterator[_Window]) -> Iterator[list[_Window]]:
    """Windows of nearly one length, the longest first: when memory does not suffice, it shows at once."""
    batch: list[_Window] = []
    for window in sorted(windows, key=lambda w: (w.start - w.stop, w.document, w.start)):
        if batch and (len(batch) + 1) * (batch[0].stop - batch[0].start) > _BATCH_POSITIONS:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _score(
    model: Trunk, inputs: list[NDArray[np.int64]], targets: list[NDArray[np.int64]], batch: list[_Window]
) -> list[float]:
    """Nats of the scored part of each window."""
    width = batch[0].stop - batch[0].start
    ids = torch.zeros((len(batch), width), dtype=torch.long)
    is_scored = torch.zeros((len(batch), width), dtype=torch.bool)
    wanted = []
    for row, window in enumerate(batch):
        # Filled up on the right, where a causal model does not look.
        ids[row, : window.stop - window.start] = torch.from_numpy(inputs[window.document][window.start : window.stop])
        is_scored[row, window.first - window.start : window.stop - window.start] = True
        wanted.append(torch.from_numpy(targets[window.document][window.first : window.stop]))
    hidden = model.hidden(model.model.embed_tokens(ids))[is_scored]  # type: ignore[operator]  # (M, D)
    nats = F.cross_entropy(model.lm_head(hidden).float(), torch.cat(wanted), reduction="none").double()
    return [float(part.sum()) for part in torch.split(nats, [len(part) for part in wanted])]


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_str(path.read_text())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # the Rust side raises nothing more specific
        raise DataError(f"{path}: truncated or malformed: {error}") from error
