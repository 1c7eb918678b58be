"""The rows that are to be labelled, and whom they are about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from smallhold.errors import DataError
from smallhold.records import sha256_hex
from smallhold.sectors.data_sets import Privacy, privacy_of, read_jsonl
from smallhold.sectors.splits import Split
from smallhold.sectors.text_task import MAX_CHARS, TextTask, load_examples, split
from smallhold.teach.endpoint.recipe import RowChoice

_ORDER = list(Privacy)  # from the least to the most restricted


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One text.

    Attributes:
        id: What the file calls it, else a digest of data set and text.
        text: The text.
        privacy: Whom it is about.
        data_set: Where it comes from.
        language: ISO 639-1 code; empty when unknown.
        label: What its data set says; empty when it says nothing.
    """

    id: str
    text: str
    privacy: Privacy
    data_set: str
    language: str
    label: str


def read_rows(task: TextTask, choice: RowChoice, data_dir: Path | None) -> list[Row]:
    """Rows in the order of their data sets or of their file.

    Raises:
        DataError: a data set or the file is absent or not laid out as documented, or there is no row.
    """
    declared = Privacy(choice.privacy)
    rows = _of_file(Path(choice.file), declared) if choice.file else _of_task(task, choice, declared, data_dir)
    if not rows:
        raise DataError(f"task {task.name}: expected rows in {', '.join(choice.splits)}, found none")
    return rows


def most_restricted(*classes: Privacy) -> Privacy:
    """The class that all of these together have."""
    return max(classes, key=_ORDER.index)


def choose(rows: list[Row], most: int) -> list[Row]:
    """At most so many, always the same ones: those with the lowest digests; 0 keeps all."""
    if not most or len(rows) <= most:
        return rows
    by_digest = sorted(range(len(rows)), key=lambda i: (sha256_hex(rows[i].text.encode()), i))
    return [rows[i] for i in sorted(by_digest[:most])]


def _of_task(task: TextTask, choice: RowChoice, declared: Privacy, data_dir: Path | None) -> list[Row]:
    everything = load_examples(task, data_dir)
    return [
        Row(
            id=_digest(example.data_set, example.text),
            text=example.text,
            # What the catalogue knows cannot be declared away.
            privacy=privacy_of(example.data_set, otherwise=declared),
            data_set=example.data_set,
            language=example.language,
            label=example.label,
        )
        for part in choice.splits
        for example in split(everything, Split(part))
    ]


def _of_file(path: Path, declared: Privacy) -> list[Row]:
    rows = []
    for number, value in enumerate(read_jsonl(path), start=1):
        where = f"{path}, line {number}"
        text, own, name = value.get("text"), value.get("privacy", Privacy.PUBLIC.value), value.get("id", "")
        if not isinstance(text, str) or not text.strip() or len(text) > MAX_CHARS or not _is_unicode(text):
            raise DataError(f"{where}, member 'text': expected text of at most {MAX_CHARS:,} characters")
        if own not in list(Privacy):
            raise DataError(f"{where}, member 'privacy': expected one of {', '.join(Privacy)}")
        if not isinstance(name, str | int) or isinstance(name, bool) or not _is_unicode(str(name)):
            raise DataError(f"{where}, member 'id': expected text or a whole number")
        rows.append(
            Row(
                id=str(name) or _digest(path.name, text),
                text=text,
                privacy=most_restricted(declared, Privacy(own)),  # a row can only be more restricted than its file
                data_set=path.name,
                language="",
                label="",
            )
        )
    return rows


def _digest(data_set: str, text: str) -> str:
    return sha256_hex(f"{data_set}|{text}".encode())[:16]


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
