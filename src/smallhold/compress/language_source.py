"""The model that is made smaller: a local directory in Hugging Face's layout, or one of the hub's cache."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from smallhold.bundle.source import digest_files, read_licences
from smallhold.errors import DataError
from smallhold.evaluate.language import load_language_model
from smallhold.learn.families import config_from_json
from smallhold.learn.hugging_face import weight_files
from smallhold.learn.model import Trunk
from smallhold.learn.trunk_config import TrunkConfig
from smallhold.teach.hub import PREFIX, fetch_snapshot


@dataclass(frozen=True, slots=True, eq=False)
class LanguageSource:
    """A model whose weights have not been read yet.

    Attributes:
        folder: With configuration, tokenizer and weights.
        origin: Where it came from, for the card.
        config: Shape and features.
        tokenizer: Its vocabulary; see `plain`.
        marks: Members of `tokenizer_config.json`.
        licences: File name to content.
    """

    folder: Path
    origin: str
    config: TrunkConfig
    tokenizer: Tokenizer
    marks: dict[str, Any]
    licences: dict[str, bytes]

    def digest(self) -> str:
        """SHA-256 of the weights' files; reads them whole."""
        return digest_files([*weight_files(self.folder), self.folder / "config.json", self.folder / "tokenizer.json"])

    def load(self) -> Trunk:
        """The weights, in evaluation mode.

        Raises:
            DataError: malformed, or the parts do not fit together.
        """
        return load_language_model(self.folder).trunk


def open_source(teacher: str, *, offline: bool = False) -> LanguageSource:
    """Find a model and read what is small of it.

    Args:
        teacher: A directory, or `hf:ORG/NAME[@REVISION]`.
        offline: Of the hub, use the cache alone.

    Raises:
        InputError: there is no such model on the hub, or it cannot be fetched.
        DataError: a file is missing or malformed.
        RecipeError: a family or a variant that is not supported.
    """
    folder = Path(teacher)
    origin = folder.resolve().name
    if teacher.startswith(PREFIX):
        snapshot = fetch_snapshot(teacher, offline=offline)
        folder, origin = snapshot.folder, snapshot.origin
    if not folder.is_dir():
        raise DataError(f"teacher {teacher}: there is no such directory", hint="a directory, or hf:ORG/NAME")
    if not (folder / "config.json").exists() and (folder / "checkpoint" / "config.json").exists():
        raise DataError(f"teacher {teacher}: is a run", hint=f'teacher = "{folder / "checkpoint"}"')
    if missing := [name for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]:
        raise DataError(f"teacher {teacher}: missing: {', '.join(missing)}")
    if absent := [path.name for path in weight_files(folder) if not path.is_file()]:
        raise DataError(f"teacher {teacher}: missing: {', '.join(absent)}")
    config = config_from_json(_read_object(folder / "config.json"))
    about = folder / "tokenizer_config.json"
    marks = _read_object(about) if about.exists() else {}
    template = folder / "chat_template.jinja"
    if template.exists():
        marks["chat_template"] = template.read_text(encoding="utf-8")
    return LanguageSource(folder, origin, config, read_tokenizer(folder), marks, read_licences(folder))


def read_tokenizer(folder: Path) -> Tokenizer:
    """`tokenizer.json` of a directory, made to read texts as they are: see `plain`.

    Raises:
        DataError: malformed.
    """
    path = folder / "tokenizer.json"
    try:
        return plain(Tokenizer.from_file(str(path)))
    except Exception as error:  # the library raises its own untyped exceptions
        raise DataError(f"{path}: malformed: {error}") from error


def plain(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer without padding or cutting, and deaf to marks that a text happens to spell."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    return tokenizer


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected an object, got {type(value).__name__}")
    return value
