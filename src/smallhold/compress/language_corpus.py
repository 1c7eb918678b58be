"""The texts that make a language model smaller: documents that heal, documents held out, windows of tokens."""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from smallhold.compress.language_recipe import CorpusChoice
from smallhold.errors import DataError
from smallhold.evaluate.language import evenly_spaced, opening_token
from smallhold.sectors.data_sets import find_data_set, read_jsonl
from smallhold.sectors.splits import Split
from smallhold.teach.corpora import load_corpus

Progress = Callable[[str, int, int], None]
#: Of held-out text, in all; and characters of one document for each token of a window, which a window about holds.
_HELD_OUT_BYTES, _CHARACTERS = 200_000, 4
_ENCODED_AT_ONCE = 256


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Documents.

    Attributes:
        training: What heals and calibrates.
        held_out: Beginnings of documents that nothing learns from, evenly spaced, of 200 kB in all at most.
        documents: Training documents of each file and data set.
        digest: SHA-256 of both parts.
    """

    training: list[str]
    held_out: list[str]
    documents: dict[str, int]
    digest: str


def check_corpus(choice: CorpusChoice, data_dir: Path | None) -> None:
    """Refuse files and data sets that are not there; nothing is read.

    Raises:
        DataError: one is missing.
    """
    for name in choice.files:
        if not Path(name).is_file():
            raise DataError(f"corpus.files: {name}: no such file", hint="paths are relative to the working directory")
    for name in choice.data_sets:
        find_data_set(name, data_dir)


def read_corpus(choice: CorpusChoice, data_dir: Path | None) -> Corpus:
    """Read and divide the documents.

    Documents of files are divided by their text: those with the lowest SHA-256 are held out, so that no copy of a
    held-out text is learned. Texts are read as Unicode NFC, as several tokenizers would make them anyway.

    Raises:
        DataError: a file or data set is missing or malformed, or either part would be empty.
    """
    check_corpus(choice, data_dir)
    training, held_out = [], []
    documents = dict.fromkeys((*choice.data_sets, *choice.files), 0)
    for name in choice.data_sets:
        texts = [document.text for document in load_corpus(data_dir, Split.TRAIN, (name,))]
        training += texts
        documents[name] = len(texts)
        held_out += [document.text for document in load_corpus(data_dir, Split.VALIDATION, (name,))]
    of_file = [(name, text) for name in choice.files for text in _documents(Path(name)) if text.strip()]
    kept_back = _held_out({_digest(text) for _, text in of_file}, choice.held_out_share) if of_file else set()
    for name, text in of_file:
        if _digest(text) in kept_back:
            held_out.append(text)
        else:
            training.append(text)
            documents[name] += 1
    held_out = list(dict.fromkeys(held_out))
    if not training or not held_out:
        got = f"{len(training)} and {len(held_out)}"
        raise DataError(f"corpus: expected documents to learn from and to hold out, got {got}")
    held_out = evenly_spaced([text[: _CHARACTERS * choice.window] for text in held_out], _HELD_OUT_BYTES)
    state = hashlib.sha256()
    for part in (training, held_out):
        state.update(len(part).to_bytes(8, "big"))
        for text in part:
            state.update(_digest(text))
    return Corpus(training, held_out, documents, state.hexdigest())


def _documents(path: Path) -> Iterator[str]:
    if path.suffix == ".txt":
        try:
            yield unicodedata.normalize("NFC", path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: expected UTF-8 text: {error}") from error
        return
    for line, row in enumerate(read_jsonl(path), start=1):
        if not isinstance(text := row.get("text"), str):
            raise DataError(f"{path}, line {line}: expected a member 'text' with the document, found none")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{path}, line {line}: text: half of a surrogate pair, which is no character") from error
        yield unicodedata.normalize("NFC", text)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _held_out(digests: set[bytes], share: float) -> set[bytes]:
    if len(digests) < 2:
        raise DataError(
            f"corpus: expected two different documents or more, one of them to hold out, got {len(digests)}",
            hint='a .txt is one document; JSON Lines hold one a line: {"text": ...}',
        )
    return set(sorted(digests)[: min(len(digests) - 1, math.ceil(share * len(digests)))])


def token_windows(
    tokenizer: Tokenizer, texts: Sequence[str], *, window: int, most: int, seed: int, progress: Progress
) -> NDArray[np.int32]:
    """Windows cut from the documents, laid end to end in an order drawn by the seed, each behind its opening mark.

    Args:
        tokenizer: Of the student.
        texts: Documents; only as many are read as `most` windows need.
        window: T.
        most: Windows to cut, at most.
        seed: Of the order.
        progress: Called with a caption, windows cut and wanted.

    Returns:
        (W, T + 1) ids; a window begins with the last token of the one before it.

    Raises:
        DataError: the texts do not fill one window.
    """
    mark = np.array([opening_token(tokenizer)], np.int32)
    order = np.random.default_rng([seed, 11]).permutation(len(texts))
    parts: list[NDArray[np.int32]] = []
    length = 0
    for start in range(0, len(order), _ENCODED_AT_ONCE):
        some = [texts[i] for i in order[start : start + _ENCODED_AT_ONCE]]
        for encoding in tokenizer.encode_batch_fast(some, add_special_tokens=False):
            parts += [mark, np.array(encoding.ids, np.int32)]
            length += 1 + len(parts[-1])
        progress("texts to tokens", min(most, length // window), most)
        if length > most * window:
            break
    count = min(most, (length - 1) // window)
    if count < 1:
        raise DataError(f"corpus: the training documents have {length} tokens, fewer than one window of {window + 1}")
    progress("texts to tokens", most, most)
    stream = np.concatenate(parts)
    return np.lib.stride_tricks.sliding_window_view(stream, window + 1)[::window][:count].copy()
