"""Recipe files: TOML whose tables mirror frozen dataclasses, checked before the first second of work.

A key that no class knows is refused with the nearest one.
"""

from __future__ import annotations

import sys
import tomllib
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from smallhold.errors import RecipeError, SmallholdError

_SHIPPED = files("smallhold.teach") / "recipes"
Config = TypeVar("Config")


def read_recipe_text(name_or_path: str | Path) -> str:
    """The text of a recipe file, or of one that is shipped, by name.

    Raises:
        RecipeError: not found, or not UTF-8.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml":
        if not path.is_file():
            raise RecipeError(f"recipe {path}: no such file", hint="smallhold teach list")
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise RecipeError(f"recipe {path}: not valid TOML: {error}") from error
    shipped = _SHIPPED / f"{name_or_path}.toml"
    if not shipped.is_file():
        raise RecipeError(
            f"recipe {str(name_or_path)!r}: expected a .toml file or one of {', '.join(shipped_recipes())}"
        )
    return shipped.read_text()


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(item.name.removesuffix(".toml") for item in _SHIPPED.iterdir() if item.name.endswith(".toml"))


def parse_toml(cls: type[Config], text: str, *, where: str) -> Config:
    """Build a dataclass from TOML.

    Raises:
        RecipeError: not TOML, an unknown or missing key, or an impossible value; names the key and what was expected.
    """
    return build_config(cls, parse_tables(text, where=where), f"recipe {where}")


def parse_tables(text: str, *, where: str) -> dict[str, Any]:
    """The tables of a recipe, unchecked.

    Raises:
        RecipeError: not TOML.
    """
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise RecipeError(f"recipe {where}: not valid TOML: {error}") from error


def build_config(cls: type[Config], value: Any, where: str) -> Config:
    """Build a dataclass from nested dictionaries; see `parse_toml`."""
    if not isinstance(value, dict):
        raise RecipeError(f"{where}: expected a table, got {value!r}")
    hints = get_type_hints(cls)
    for key in value:
        if key not in hints:
            near = get_close_matches(key, hints, n=1)
            expected = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(hints)}"
            raise RecipeError(f"{where}: unknown key {key!r}; {expected}")
    for item in fields(cls):  # type: ignore[arg-type]
        if item.name not in value and item.default is MISSING and item.default_factory is MISSING:
            raise RecipeError(f"{where}: key {item.name!r} is missing")
    members = {key: _typed(hints[key], item, f"{where}, {key}") for key, item in value.items()}
    try:
        return cls(**members)
    except SmallholdError as error:
        raise RecipeError(f"{where}: {error}", hint=error.hint) from error


def _typed(hint: Any, value: Any, where: str) -> Any:
    if is_dataclass(hint) and isinstance(hint, type):
        return build_config(hint, value, where)
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise RecipeError(f"{where}: expected a list, got {value!r}")
        return tuple(_typed(get_args(hint)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if hint is float and type(value) in (int, float):
        # TOML knows inf and nan; a limit that is not a number would hold nothing back.
        if not abs(value) <= sys.float_info.max:
            raise RecipeError(f"{where}: expected a finite number, got {value}")
        return float(value)
    if type(value) is not hint:
        raise RecipeError(f"{where}: expected {hint.__name__}, got {value!r}")
    if hint is int and not 0 <= value < 2**63:  # TOML promises 64 bits, and no seed has more
        raise RecipeError(f"{where}: expected a number of 0 or more{', below 2^63' if value > 0 else ''}, got {value}")
    return value
