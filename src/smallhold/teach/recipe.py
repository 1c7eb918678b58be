"""The recipe of one signal task: what to train, from which teacher, on which model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from smallhold.device.manifest import is_bundle_name, parse_version
from smallhold.errors import IntegrityError, RecipeError
from smallhold.records import canonical_json, sha256_hex
from smallhold.teach.recipe_file import build_config, parse_toml, read_recipe_text
from smallhold.teach.signal_training import SignalTrainingConfig
from smallhold.teach.trees import TreeConfig


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
        max_error: Alpha of the promise: of each outcome (or of all texts), at most this share is told something else.
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
    return parse_recipe(read_recipe_text(name_or_path), where=str(name_or_path))


def parse_recipe(text: str, *, where: str) -> Recipe:
    """Parse and check a recipe; see `read_recipe`."""
    return parse_toml(Recipe, text, where=where)


def recipe_of_run(value: dict[str, Any]) -> Recipe:
    """The recipe that `run.json` holds.

    Raises:
        RecipeError: it was written by another version and no longer fits.
    """
    return build_config(Recipe, value, "run.json, recipe")
