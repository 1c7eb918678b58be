"""Recipes: TOML files that say what to train, checked before the first second of work.

A recipe's tables mirror the configuration classes; a key that no class knows is refused with the nearest one.
"""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from smallhold.device.manifest import is_bundle_name, parse_version
from smallhold.errors import IntegrityError, RecipeError, SmallholdError
from smallhold.records import canonical_json, sha256_hex
from smallhold.teach.signal_training import SignalTrainingConfig
from smallhold.teach.trees import TreeConfig

_SHIPPED = files("smallhold.teach") / "recipes"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskChoice:
    """Which task of which sector is taught."""

    sector: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WardChoice:
    """The simulated ward that stands in where no real data are found.

    Attributes:
        simulated_stays: Patients to simulate.
        simulated_seed: Seed of the ward.
    """

    simulated_stays: int = 2500
    simulated_seed: int = 0

    def __post_init__(self) -> None:
        """Refuse an empty ward."""
        if self.simulated_stays < 1:
            raise RecipeError(f"data.simulated_stays: expected at least 1, got {self.simulated_stays}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """Shape of the trunk, in Hugging Face's words."""

    hidden_size: int = 128
    intermediate_size: int = 352
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 4

    def __post_init__(self) -> None:
        """Refuse a shape that cannot be built."""
        for item in fields(self):
            if getattr(self, item.name) < 1:
                raise RecipeError(f"model.{item.name}: expected at least 1, got {getattr(self, item.name)}")
        if max(self.hidden_size, self.intermediate_size) > 16_384 or self.num_hidden_layers > 256:
            raise RecipeError(f"model: larger than anything that could be trained here: {self}")
        if self.hidden_size % (2 * self.num_attention_heads):  # rotary embeddings turn pairs
            raise RecipeError(
                f"model: hidden_size {self.hidden_size} must be a multiple of twice num_attention_heads "
                f"{self.num_attention_heads}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise RecipeError(
                f"model: num_attention_heads {self.num_attention_heads} must be a multiple of num_key_value_heads "
                f"{self.num_key_value_heads}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerChoice:
    """See `learn.loop.LoopConfig`; the number of steps follows from the student's epochs."""

    learning_rate: float = 2e-3
    warmup_steps: int = 100
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    ema_decay: float = 0.998

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        for name in ("learning_rate", "clip_norm"):
            if not 0 < getattr(self, name) < float("inf"):
                raise RecipeError(f"optimizer.{name}: expected a positive number, got {getattr(self, name)}")
        for name in ("weight_decay", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise RecipeError(f"optimizer.{name}: expected a value in [0, 1), got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleChoice:
    """What the bundle is called and when its model abstains.

    Attributes:
        name: Name of the bundle.
        version: `1.2.3`.
        max_error: Largest share of wrong answers on the calibration split before the model abstains.
        expires_days: Days until devices refuse it; 0 for never.
    """

    name: str
    version: str = "1.0.0"
    max_error: float = 0.1
    expires_days: int = 365

    def __post_init__(self) -> None:
        """Refuse what would only fail after the training."""
        if not is_bundle_name(self.name):
            raise RecipeError(f"bundle.name: expected letters, digits, '.', '_' and '-', got {self.name!r}")
        try:
            parse_version(self.version)
        except IntegrityError as error:
            raise RecipeError(f"bundle.version: expected a version such as 1.2.3, got {self.version!r}") from error
        if self.expires_days > 36_500:
            raise RecipeError(f"bundle.expires_days: expected at most 36500 (0 for never), got {self.expires_days}")
        if not 0 < self.max_error < 1:
            raise RecipeError(f"bundle.max_error: expected a share in (0, 1), got {self.max_error}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that determines a run, apart from the data."""

    task: TaskChoice
    bundle: BundleChoice
    data: WardChoice = field(default_factory=WardChoice)
    teacher: TreeConfig = field(default_factory=TreeConfig)
    student: SignalTrainingConfig = field(default_factory=SignalTrainingConfig)
    model: ModelChoice = field(default_factory=ModelChoice)
    optimizer: OptimizerChoice = field(default_factory=OptimizerChoice)
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a seed that not every library takes."""
        if self.seed >= 2**32:
            raise RecipeError(f"seed: expected a number below 2^32, got {self.seed}")

    @property
    def digest(self) -> str:
        """SHA-256 of the whole recipe."""
        return sha256_hex(canonical_json(asdict(self)))


def read_recipe(name_or_path: str | Path) -> Recipe:
    """Read a recipe file, or one that is shipped, by name.

    Raises:
        RecipeError: not found, not TOML, an unknown or missing key, or an impossible value; the message names the
            file, the key and what was expected.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml":
        if not path.is_file():
            raise RecipeError(f"recipe {path}: no such file", hint="smallhold teach list")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise RecipeError(f"recipe {path}: not valid TOML: {error}") from error
    else:
        shipped = _SHIPPED / f"{name_or_path}.toml"
        if not shipped.is_file():
            raise RecipeError(
                f"recipe {str(name_or_path)!r}: expected a .toml file or one of {', '.join(shipped_recipes())}"
            )
        text = shipped.read_text()
    return parse_recipe(text, where=str(name_or_path))


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(item.name.removesuffix(".toml") for item in _SHIPPED.iterdir() if item.name.endswith(".toml"))


def parse_recipe(text: str, *, where: str) -> Recipe:
    """Parse and check a recipe; see `read_recipe`."""
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"recipe {where}: not valid TOML: {error}") from error
    built = _build(Recipe, value, f"recipe {where}")
    assert isinstance(built, Recipe)  # noqa: S101 - for the type checker
    return built


def _build(cls: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise RecipeError(f"{where}: expected a table, got {value!r}")
    hints = get_type_hints(cls)
    for key in value:
        if key not in hints:
            near = get_close_matches(key, hints, n=1)
            expected = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(hints)}"
            raise RecipeError(f"{where}: unknown key {key!r}; {expected}")
    for item in fields(cls):
        if item.name not in value and item.default is MISSING and item.default_factory is MISSING:
            raise RecipeError(f"{where}: key {item.name!r} is missing")
    members = {key: _typed(hints[key], item, f"{where}, {key}") for key, item in value.items()}
    try:
        return cls(**members)
    except SmallholdError as error:
        raise RecipeError(f"{where}: {error}", hint=error.hint) from error


def _typed(hint: Any, value: Any, where: str) -> Any:
    if is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, where)
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise RecipeError(f"{where}: expected a list, got {value!r}")
        return tuple(_typed(get_args(hint)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if hint is float and type(value) in (int, float):
        return float(value)
    if type(value) is not hint:
        raise RecipeError(f"{where}: expected {hint.__name__}, got {value!r}")
    if hint is int and value < 0:
        raise RecipeError(f"{where}: expected a number of 0 or more, got {value}")
    return value


def recipe_of_run(value: dict[str, Any]) -> Recipe:
    """The recipe that `run.json` holds.

    Raises:
        RecipeError: it was written by another version and no longer fits.
    """
    built = _build(Recipe, value, "run.json, recipe")
    assert isinstance(built, Recipe)  # noqa: S101 - for the type checker
    return built
