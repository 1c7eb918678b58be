"""Closed questions about a text: what is asked, which rows answer it, and how the rows are read.

A text task is declared in a `sector.toml` (see `sectors/tasks.py`), never programmed. Where it reads more than one
data set, one may be there for measuring only: another language, another hospital.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from smallhold.errors import DataError, RecipeError
from smallhold.sectors.data_sets import find_data_set, jsonl_files, read_jsonl
from smallhold.sectors.splits import Split, split_of

MAX_CHARS = 1_000_000
"""A longer text is a book, or a file without line ends: no closed question is asked about it."""

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_LINK = re.compile(r"https?://\S+")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextExample:
    """One text with its answer.

    Attributes:
        text: As in the data, the declared members joined by line feeds; never blank.
        label: One of the task's choices.
        group: What the split keeps together.
        data_set: Where it comes from, the first part of the split's key.
        language: ISO 639-1 code.
        is_simulated: True when the row says so: nobody wrote it.
    """

    text: str
    label: str
    group: str
    data_set: str
    language: str
    is_simulated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSource:
    """Where the examples of a task lie, and which members of a row say what.

    Attributes:
        data_set: Name of the data set and of its folder.
        text: Members that are read, in this order; each holds a text or a list of texts. What is not named here is
            never seen by a model.
        label: Member that holds the answer, a text or a whole number.
        language: ISO 639-1 code of the texts.
        group: Member that the split keeps together, or None: equal texts stay together (see `normalised_text`).
        labels: What a row's label means, for rows that do not use the words of the choices; empty to take it as it is.
        leaves_out_others: Rows whose label is not among `labels` are not asked about, instead of being an error.
        only_measures: Never trained or calibrated on.
    """

    data_set: str
    text: tuple[str, ...]
    label: str
    language: str
    group: str | None = None
    labels: dict[str, str] = field(default_factory=dict, hash=False)
    leaves_out_others: bool = False
    only_measures: bool = False

    def __post_init__(self) -> None:
        """Refuse a source that reads nothing, or its own answer."""
        if not self.text or len(set(self.text)) != len(self.text):
            raise RecipeError(f"source {self.data_set}: text: expected one or more different members, got {self.text}")
        if self.label in self.text:
            raise RecipeError(f"source {self.data_set}: member {self.label!r} is the answer: it cannot be read as text")
        if self.leaves_out_others and not self.labels:
            raise RecipeError(f"source {self.data_set}: leaves_out_others needs labels: else every row is left out")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTask:
    """One closed question about a text.

    Attributes:
        name: Lower case, words joined by hyphens; it is also the marker `<name>` in front of the text.
        sector: Name of its sector.
        question: The question in words.
        field_name: Name of the one field of the decision.
        choices: Every allowed answer, spelled as in the data; the order is the order of the logits.
        condition: What the task watches for, as an alert or a page names it.
        sources: Where its examples lie; the first one trains.
        intended_use: For the card.
        known_limits: For the card.
    """

    name: str
    sector: str
    question: str
    field_name: str
    choices: tuple[str, ...]
    condition: str
    sources: tuple[TextSource, ...]
    intended_use: str
    known_limits: str

    def __post_init__(self) -> None:
        """Refuse a task that could not be asked, or whose answers could not be spelled as `<name:choice>`."""
        if not _NAME.fullmatch(self.name):
            raise RecipeError(f"text task {self.name!r}: expected a name such as 'news-sentiment'")
        if len(self.choices) < 2 or len(set(self.choices)) != len(self.choices):
            raise RecipeError(
                f"text task {self.name}: expected at least two different choices, got {list(self.choices)}"
            )
        for choice in self.choices:
            if choice != choice.strip() or not choice or not choice.isprintable() or set(choice) & set("<>"):
                raise RecipeError(
                    f"text task {self.name}: choices: expected printable words without '<' and '>', got {choice!r}"
                )
        names = [source.data_set for source in self.sources]
        if not names or len(set(names)) != len(names) or self.sources[0].only_measures:
            raise RecipeError(
                f"text task {self.name}: expected sources with different data sets, the first to train on, got {names}"
            )
        for source in self.sources:
            if unknown := sorted(set(source.labels.values()) - set(self.choices)):
                raise RecipeError(
                    f"text task {self.name}, source {source.data_set}: labels: {unknown} are not among the choices"
                )

    @property
    def data_set(self) -> str:
        """The data set that it is named after on cards: the first one."""
        return self.sources[0].data_set

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages that it is trained on, in order."""
        return tuple(sorted({source.language for source in self.sources if not source.only_measures}))

    def source(self, data_set: str) -> TextSource:
        """The source of that name.

        Raises:
            DataError: the task reads no such data set.
        """
        for source in self.sources:
            if source.data_set == data_set:
                return source
        raise DataError(
            f"text task {self.name}: expected one of the data sets {', '.join(s.data_set for s in self.sources)}, "
            f"got {data_set!r}"
        )


def load_examples(task: TextTask, data_dir: Path | None = None, *, data_set: str | None = None) -> list[TextExample]:
    """Find and read the examples of a task, in the order of data sets, file names and lines.

    Args:
        task: The task.
        data_dir: What the user gave as `--data`: looked in alone, also when it is a folder that nobody has seen; None
            for the places of `find_data_set`.
        data_set: One data set of the task; None for all that it is trained on.

    Raises:
        DataError: a data set is absent or unknown to the task, or a row is not as declared; names file and line.
        MissingExtraError: a file is compressed and `zstandard` is not installed.
    """
    chosen = [source for source in task.sources if not source.only_measures]
    if data_set is not None:
        chosen = [task.source(data_set)]
    return [
        example
        for source in chosen
        for example in read_examples(task, source, find_data_set(source.data_set, data_dir))
    ]


def read_examples(task: TextTask, source: TextSource, folder: Path) -> list[TextExample]:
    """Read every row of a folder in the layout of one source.

    Raises:
        DataError: a row is not as declared, or no row of the folder is asked about.
    """
    examples = []
    for path in jsonl_files(folder):
        for line, row in enumerate(read_jsonl(path), start=1):
            example = example_of_row(task, source, row, where=f"{path}, line {line}")
            if example is not None:
                examples.append(example)
    if not examples:
        raise DataError(f"{folder}: expected rows labelled with one of {', '.join(source.labels)}, found none")
    return examples


def example_of_row(task: TextTask, source: TextSource, row: dict[str, Any], *, where: str) -> TextExample | None:
    """One row as an example, or None when the source leaves rows with its label out.

    Args:
        task: Gives the choices.
        source: Says which members to read.
        row: The parsed line.
        where: File and line, for messages; texts and labels of people never enter a message, unknown labels do.

    Raises:
        DataError: a member is missing or of the wrong type, the text is blank, longer than `MAX_CHARS` or not
            Unicode, or the label is not among the choices.
    """
    label = label_of_row(row, source.label, where=where)
    if source.labels:
        if label not in source.labels and source.leaves_out_others:
            return None
        label = source.labels.get(label, label)
    if label not in task.choices:
        raise DataError(
            f"{where}, member {source.label!r}: unknown label {label[:80]!r}: expected one of the "
            f"{len(task.choices)} choices of {task.name}, such as {task.choices[0]!r}",
            hint="list it among the choices of the task, or give it a meaning under labels, in sector.toml",
        )
    text = "\n".join(part for name in source.text for part in _texts(row, name, where))
    named = ", ".join(repr(name) for name in source.text)
    if not text.strip():
        raise DataError(f"{where}, member {named}: expected a text, got nothing but white space")
    if len(text) > MAX_CHARS:
        raise DataError(f"{where}, member {named}: expected at most {MAX_CHARS:,} characters, got {len(text):,}")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can spell half a character: "\ud800"
        raise DataError(f"{where}, member {named}: expected Unicode text, got a lone surrogate") from error
    is_simulated = row.get("simulated", False)
    if not isinstance(is_simulated, bool):
        raise DataError(f"{where}, member 'simulated': expected true or false, got {is_simulated!r}")
    return TextExample(
        text=text,
        label=label,
        group=normalised_text(text) if source.group is None else label_of_row(row, source.group, where=where),
        data_set=source.data_set,
        language=source.language,
        is_simulated=is_simulated,
    )


def label_of_row(row: dict[str, Any], name: str, *, where: str) -> str:
    """A member that names something: text, or a whole number as it is written.

    Raises:
        DataError: it is missing, of another type, blank, or could forge a line on a terminal.
    """
    value = _member(row, name, where)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"{where}, member {name!r}: expected text or a whole number, got {type(value).__name__}")
    word = str(value)
    if not word.strip() or not word.isprintable():  # a surrogate is not printable either
        raise DataError(f"{where}, member {name!r}: expected printable characters, got {word[:80]!r}")
    return word


def split(examples: Sequence[TextExample], which: Split | Literal["all"]) -> list[TextExample]:
    """The examples of one part, in their order; `all` gives every example."""
    if which == "all":
        return list(examples)
    return [example for example in examples if split_of(example.data_set, example.group) == which]


def normalised_text(text: str) -> str:
    """What is left of a text when it is asked whether two are the same: the group of rows that have no other.

    Links go, because the same headline is posted again under another short link; then case and white space. A text
    that is nothing but a link stays.

    >>> normalised_text(" Shares  FALL https://t.co/x1 ")
    'shares fall'
    """
    return " ".join(_LINK.sub(" ", text).lower().split()) or text.strip()


def _member(row: dict[str, Any], name: str, where: str) -> Any:
    if name not in row:
        raise DataError(f"{where}, member {name!r}: missing")
    return row[name]


def _texts(row: dict[str, Any], name: str, where: str) -> list[str]:
    value = _member(row, name, where)
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, str) for part in parts):
        raise DataError(f"{where}, member {name!r}: expected a text or a list of texts, got {type(value).__name__}")
    return parts
