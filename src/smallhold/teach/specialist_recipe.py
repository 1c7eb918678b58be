"""The recipe of specialists: tasks added to a bundle, each by a signal encoder of its own, the trunk as it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from smallhold.errors import RecipeError
from smallhold.learn.loop import LoopConfig
from smallhold.records import canonical_json, sha256_hex
from smallhold.sectors.hospital import onsets
from smallhold.teach.recipe import BundleChoice, OptimizerChoice
from smallhold.teach.recipe_file import parse_tables, parse_toml, read_recipe_text
from smallhold.teach.signal_training import SignalTrainingConfig
from smallhold.teach.trees import TreeConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialistChoice:
    """One task.

    Attributes:
        task: Name of the question (`sectors.hospital.onsets`).
        teacher: Trees; also the baseline.
        training: Schedule; `synthetic_share` must be 0, since nobody knows when a recombined patient is asked.
    """

    task: str
    teacher: TreeConfig = field(default_factory=TreeConfig)
    training: SignalTrainingConfig = field(default_factory=lambda: SignalTrainingConfig(synthetic_share=0.0))

    def __post_init__(self) -> None:
        """Refuse what would only fail after the teacher."""
        known = [item.name for item in onsets.QUESTIONS]
        if self.task not in known:
            raise RecipeError(f"specialist: no task {self.task!r}: expected one of {', '.join(known)}")
        asked = onsets.question(self.task)
        hours = self.teacher.hours
        if max(hours) > asked.num_bins or not set(asked.horizons) <= set(hours):
            raise RecipeError(
                f"specialist {self.task}: teacher.hours must hold {list(asked.horizons)} and none above "
                f"{asked.num_bins}, got {list(hours)}"
            )
        if self.training.synthetic_share:
            raise RecipeError(
                f"specialist {self.task}: training.synthetic_share: expected 0, got {self.training.synthetic_share}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialistRecipe:
    """Everything that determines the specialists, apart from the bundle and the data.

    Attributes:
        trunk: The bundle whose trunk they are added to; relative to the working directory.
        begin: Its task whose signal encoder every specialist begins with, and whose channels it reads.
        bundle: Name, version and abstention of the bundle that is built.
        specialist: The tasks.
        optimizer: Of the encoders.
        least_onsets: A task with fewer training patients to whom it happened is not trained.
        seed: Seed.
    """

    trunk: str
    begin: str
    bundle: BundleChoice
    specialist: tuple[SpecialistChoice, ...]
    optimizer: OptimizerChoice = field(default_factory=OptimizerChoice)
    least_onsets: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a recipe without tasks, or with one twice."""
        names = [item.task for item in self.specialist]
        if not names or len(set(names)) != len(names):
            raise RecipeError(f"recipe: expected one or more different specialists, got {names}")

    @property
    def digest(self) -> str:
        """SHA-256 of the whole recipe."""
        return sha256_hex(canonical_json(asdict(self)))

    def loop(self, steps: int, *, use_bf16: bool) -> LoopConfig:
        """Settings of the loop."""
        return LoopConfig(steps=steps, seed=self.seed, use_bf16=use_bf16, **asdict(self.optimizer))


def read_specialist_recipe(name_or_path: str | Path) -> SpecialistRecipe:
    """Read a recipe file, or one that is shipped, by name.

    Raises:
        RecipeError: see `teach.recipe_file`.
    """
    return parse_toml(SpecialistRecipe, read_recipe_text(name_or_path), where=str(name_or_path))


def is_specialists(name_or_path: str | Path) -> bool:
    """Whether a recipe names a trunk, and so adds tasks to a bundle.

    Raises:
        RecipeError: no such recipe, or not TOML.
    """
    return "trunk" in parse_tables(read_recipe_text(name_or_path), where=str(name_or_path))
