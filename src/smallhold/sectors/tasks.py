"""Which sectors there are, and which tasks each of them asks.

A sector is a folder with a `sector.toml`: either one beside this file, or any folder that a user names. The file
declares the sector's text tasks in full and lists its signal tasks, whose reader, units and scores are Python modules
of the same folder (`hospital/icu_risk.py`).
"""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from smallhold.errors import RecipeError, UnknownTaskError
from smallhold.sectors.text_task import TextSource, TextTask

FILE = "sector.toml"
FORMAT = "smallhold.sector/1"

_SHIPPED = files("smallhold.sectors")
_Declared = TypeVar("_Declared", "Sector", TextTask, TextSource)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sector:
    """One field of use.

    Attributes:
        name: Name of its folder.
        about: One sentence.
        text_tasks: Closed questions about texts.
        signal_tasks: Names of the questions about streams of readings; each is a module of the sector's folder.
    """

    name: str
    about: str
    text_tasks: tuple[TextTask, ...] = ()
    signal_tasks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse two tasks of one name."""
        names = [*self.signal_tasks, *(task.name for task in self.text_tasks)]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise RecipeError(f"sector {self.name}: tasks declared twice: {', '.join(repeated)}")


def sector_names() -> list[str]:
    """Names of the sectors that come with the package, in order."""
    return sorted(item.name for item in _SHIPPED.iterdir() if (item / FILE).is_file())


def read_sector(name_or_folder: str | Path) -> Sector:
    """A sector that comes with the package, by name, or any folder that holds a `sector.toml`.

    A name of the package wins over a folder of that name here; `./name` means the folder.

    Raises:
        RecipeError: no such sector, or its file has an unknown, missing or impossible entry; names file and key.
    """
    name = str(name_or_folder)
    if isinstance(name_or_folder, str) and name in sector_names():
        return _shipped(name)
    path = Path(name_or_folder) / FILE
    if not path.is_file():
        raise RecipeError(
            f"sector {name!r}: expected one of {', '.join(sector_names())}, or a folder with a {FILE}",
            hint="smallhold new sector NAME",
        )
    try:
        return parse_sector(path.read_text(encoding="utf-8"), where=str(path))
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not valid TOML: {error}") from error


def text_tasks(sector: str | Path) -> tuple[TextTask, ...]:
    """The text tasks of a sector, in the order of its file; see `read_sector`."""
    return read_sector(sector).text_tasks


def find_task(name: str, sector: str | Path | None = None) -> TextTask:
    """The text task of that name.

    Args:
        name: For example `triage`.
        sector: Name or folder of its sector; None looks through the sectors of the package.

    Raises:
        UnknownTaskError: there is none; lists those that there are.
        RecipeError: no such sector, or its file is malformed.
    """
    sectors = [read_sector(each) for each in (sector_names() if sector is None else [sector])]
    for each in sectors:
        for task in each.text_tasks:
            if task.name == name:
                return task
        if name in each.signal_tasks:
            raise UnknownTaskError(f"task {name!r} of sector {each.name} reads a stream of readings, not a text")
    known = ", ".join(task.name for each in sectors for task in each.text_tasks)
    raise UnknownTaskError(f"no text task {name!r}: expected one of {known}")


@lru_cache
def _shipped(name: str) -> Sector:
    return parse_sector((_SHIPPED / name / FILE).read_text(encoding="utf-8"), where=f"sectors/{name}/{FILE}")


def parse_sector(text: str, *, where: str) -> Sector:
    """Parse and check a sector's file; see `read_sector`."""
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{where}: not valid TOML: {error}") from error
    if value.pop("format", None) != FORMAT:
        raise RecipeError(f'{where}: expected format = "{FORMAT}" in the first line')
    if not isinstance(value.get("name"), str):
        raise RecipeError(f"{where}: name: expected text, got {value.get('name')!r}")
    declared = []
    for number, table in enumerate(_tables(value.pop("text_task", []), "text_task", where), start=1):
        here = f"{where}, text_task {table.get('name', number)}"
        sources = tuple(
            _declared(TextSource, source, f"{here}, source {source.get('data_set', place)}")
            for place, source in enumerate(_tables(table.pop("source", []), "text_task.source", here), start=1)
        )
        declared.append(_declared(TextTask, table, here, sector=value["name"], sources=sources))
    return _declared(Sector, value, where, text_tasks=tuple(declared))


def _tables(value: Any, key: str, where: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
        raise RecipeError(f"{where}: {key}: write [[{key}]] with double brackets")
    return value


def _declared(cls: type[_Declared], table: dict[str, Any], where: str, **given: Any) -> _Declared:
    """Build `cls` from the keys of a table; what is `given` is not the table's to say."""
    hints = {name: hint for name, hint in get_type_hints(cls).items() if name not in given}
    for key in table:
        if key not in hints:
            near = get_close_matches(key, hints, n=1)
            expected = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(hints)}"
            raise RecipeError(f"{where}: unknown key {key!r}; {expected}")
    for item in fields(cls):
        is_required = item.default is MISSING and item.default_factory is MISSING
        if is_required and item.name in hints and item.name not in table:
            raise RecipeError(f"{where}: key {item.name!r} is missing")
    members = {key: _typed(hints[key], value, f"{where}: {key}") for key, value in table.items()}
    try:
        return cls(**members, **given)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}", hint=error.hint) from error


def _typed(hint: Any, value: Any, where: str) -> Any:
    if hint == tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise RecipeError(f"{where}: expected a list of texts, got {value!r}")
        return tuple(value)
    if hint == dict[str, str]:
        if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
            raise RecipeError(f"{where}: expected a table of texts, got {value!r}")
        return value
    if hint is bool:
        if not isinstance(value, bool):
            raise RecipeError(f"{where}: expected true or false, got {value!r}")
    elif not isinstance(value, str) or not value.strip():
        raise RecipeError(f"{where}: expected text, got {value!r}")
    return value
