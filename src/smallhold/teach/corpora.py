"""The texts that a base model may be pretrained on, as documents with a language and a split.

Only data sets whose licence lets weights be shipped are read. A document lies in one part of the split, by the same
hash as everything else (`sectors/splits.py`); where a task reads the same data set, the groups are the same, so that
no test note of a task was ever read in pretraining.

Texts are normalised once, here: Unicode NFC, runs of blanks become one blank, three or more line ends become two.
Bits per byte, of the model and of what it is compared with, are counted on the normalised text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from smallhold.errors import DataError
from smallhold.sectors.data_sets import find_data_set, jsonl_files, read_jsonl
from smallhold.sectors.splits import Split, split_of

Language = Literal["en", "ru", "fr"]
LANGUAGES: tuple[Language, ...] = ("en", "ru", "fr")

_BLANKS = re.compile(r"[^\S\n]+")
_EMPTY_LINES = re.compile(r"\n{3,}")


@dataclass(frozen=True, slots=True)
class Document:
    """One text.

    Attributes:
        text: Normalised.
        language: ISO 639-1 code.
        data_set: Where it comes from.
        group: What the split keeps together.
    """

    text: str
    language: Language
    data_set: str
    group: str


@dataclass(frozen=True, slots=True)
class _Source:
    language: Language
    group: Callable[[dict[str, Any]], str]
    text: Callable[[dict[str, Any]], str]


def _question_of_medmcqa(row: dict[str, Any]) -> str:
    return "\n".join([row["question"], *(f"{key}) {answer}" for key, answer in row["answers"].items())])


_BOOK = _Source("en", lambda row: row["id"], lambda row: row["text"])
_SOURCES: dict[str, _Source] = {
    "openstax_medical": _BOOK,
    "openstax_general": _BOOK,
    "medquad": _Source("en", lambda row: row["focus"], lambda row: f"{row['question']}\n{row['answer']}"),
    "mtsamples": _Source("en", lambda row: row["doc"], lambda row: row["transcription"]),
    "pubmedqa": _Source(
        "en", lambda row: row["pmid"], lambda row: "\n".join([*row["contexts"], row["question"], row["long_answer"]])
    ),
    "public_domain_books": _BOOK,
    "russian_classics": _Source("ru", lambda row: row["id"], lambda row: row["text"]),
    "french_classics": _Source("fr", lambda row: row["id"], lambda row: row["text"]),
    "french_medmcqa": _Source("fr", lambda row: row["id"], _question_of_medmcqa),
}
CORPORA = tuple(_SOURCES)


def normalise(text: str) -> str:
    r"""NFC, single blanks, no more than one empty line in a row.

    >>> normalise("a \t b \n\n\n\nc ")
    'a b\n\nc'
    """
    lines = (line.strip() for line in _BLANKS.sub(" ", unicodedata.normalize("NFC", text)).split("\n"))
    return _EMPTY_LINES.sub("\n\n", "\n".join(lines)).strip()


def load_corpus(data_dir: Path | None, which: Split, data_sets: tuple[str, ...] = CORPORA) -> list[Document]:
    """All documents of one part of the split, in the order of the files.

    Args:
        data_dir: What the user gave as `--data`, or None.
        which: The part.
        data_sets: Names out of `CORPORA`.

    Raises:
        DataError: an unknown or missing data set, or a row that is not as documented; names file and line.
    """
    return [document for name in data_sets for document in _read(name, data_dir, which)]


def _read(name: str, data_dir: Path | None, which: Split) -> Iterator[Document]:
    source = _SOURCES.get(name)
    if source is None:
        raise DataError(f"corpus: unknown data set {name!r}: expected one of {', '.join(CORPORA)}")
    for path in jsonl_files(find_data_set(name, data_dir)):
        for line, row in enumerate(read_jsonl(path), start=1):
            try:
                group, text = str(source.group(row)), source.text(row)
            except (KeyError, TypeError, AttributeError) as error:
                raise DataError(f"{path}, line {line}: not a row of {name}: {error!r}") from error
            if split_of(name, group) == which and (text := normalise(text)):
                yield Document(text, source.language, name, group)
