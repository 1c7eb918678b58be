"""The recipe that makes a sector's model smaller: which run teaches, what shape stays, how it is healed and rounded."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from smallhold.bundle.weights import GROUP_SIZE
from smallhold.errors import RecipeError
from smallhold.learn.trunk_config import TrunkConfig
from smallhold.records import canonical_json, sha256_hex
from smallhold.teach.joint_recipe import JointRecipe
from smallhold.teach.recipe import BundleChoice
from smallhold.teach.recipe_file import parse_toml, read_recipe_text
from smallhold.teach.signal_training import SignalTrainingConfig

METHODS = ("round", "gptq", "qat")
#: Sizes along which weights are rounded in groups.
_ROWS = ("hidden_size", "intermediate_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeChoice:
    """What stays; 0 leaves a size as the teacher's.

    Attributes:
        num_hidden_layers: Layers, the least influential go first.
        hidden_size: Width of the stream.
        intermediate_size: Channels of the gated MLP.
        num_attention_heads: Query heads.
        num_key_value_heads: Key-value heads.
        vocab_size: Entries of the vocabulary, the most frequent of the training texts; what decisions need stays.
    """

    num_hidden_layers: int = 0
    hidden_size: int = 0
    intermediate_size: int = 0
    num_attention_heads: int = 0
    num_key_value_heads: int = 0
    vocab_size: int = 0

    def of(self, config: TrunkConfig) -> TrunkConfig:
        """The smaller shape.

        Raises:
            RecipeError: a size is above the teacher's, its rows would not fill groups of quantization, its heads no
                equal groups, or no runtime could run the shape.
        """
        chosen = {name: size for name, size in asdict(self).items() if size}
        for name, size in chosen.items():
            most = getattr(config, name)
            if size > most:
                raise RecipeError(f"shape.{name}: expected at most the teacher's {most}, got {size}")
            if name in _ROWS and size % GROUP_SIZE and size != most:
                raise RecipeError(f"shape.{name}: expected a multiple of {GROUP_SIZE}, a group of weights, got {size}")
        group = config.num_attention_heads // config.num_key_value_heads
        pairs = self.num_key_value_heads or config.num_key_value_heads
        heads = self.num_attention_heads or group * pairs
        if heads % pairs or heads // pairs > group:
            raise RecipeError(
                f"shape.num_attention_heads: {heads} heads cannot form {pairs} equal groups of at most {group}",
                hint=f"num_attention_heads = {pairs} times 1 to {group}",
            )
        chosen |= {"num_attention_heads": heads, "num_key_value_heads": pairs}
        # A head keeps its width: what is removed is whole heads.
        return replace(config, **chosen, head_dim=config.head_dim)


@dataclass(frozen=True, slots=True, kw_only=True)
class HealingChoice:
    """How the smaller model learns again.

    Attributes:
        epochs: Passes, as a multiple of those that the teacher's recipe made.
        text_passes: Passes over texts, as a multiple of `epochs`: a small trunk learns them more slowly than patients,
            of whom it reads more.
        learning_rate: Peak rate; 0 takes the teacher's.
        teacher_weight: Share of every target that is the teacher's answer; 0 learns from labels alone, without the
            trees and without recombined patients, which have no label.
        temperature: Of the teacher's answers to texts.
        from_scratch: Keep the shape, not the weights: what is pruning worth?
    """

    epochs: float = 1.0
    text_passes: float = 1.0
    learning_rate: float = 0.0
    teacher_weight: float = 0.7
    temperature: float = 2.0
    from_scratch: bool = False

    def __post_init__(self) -> None:
        """Refuse what teaches nothing."""
        if not self.epochs > 0 or self.learning_rate < 0 or not 0 <= self.teacher_weight <= 1:
            raise RecipeError(f"healing: impossible settings: {self}")
        if not self.text_passes > 0:
            raise RecipeError(f"healing.text_passes: expected more than 0, got {self.text_passes}")
        if not self.temperature > 0:
            raise RecipeError(f"healing.temperature: expected more than 0, got {self.temperature}")

    def of(self, taught: SignalTrainingConfig) -> SignalTrainingConfig:
        """How a signal task is learnt again."""
        longer = replace(taught, epochs=taught.epochs * self.epochs)
        return longer if self.teacher_weight else replace(longer, distill=0.0, synthetic_share=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundingChoice:
    """How the weights ship.

    Attributes:
        bits: 8 or 4, of the trunk's layers.
        method: `round` to the nearest step; `gptq`, which makes up for each rounding with the weights that are left;
            `qat`, healing with the rounded weights in every forward pass.
    """

    bits: int = 8
    method: str = "round"

    def __post_init__(self) -> None:
        """Refuse what no runtime reads."""
        if self.bits not in (8, 4):
            raise RecipeError(f"rounding.bits: expected 8 or 4, got {self.bits}")
        if self.method not in METHODS:
            raise RecipeError(f"rounding.method: expected one of {', '.join(METHODS)}, got {self.method!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShrinkRecipe:
    """Everything that determines the smaller model, apart from the teacher and the data.

    Attributes:
        teacher: Folder of a finished run of a sector; relative to the working directory.
        name: Of the bundle.
        version: Of the bundle.
        shape: What stays.
        healing: How it learns again.
        rounding: How it ships.
        calibration_windows: Training texts, and as many patients, that say what may go.
        seed: Seed.
    """

    teacher: str
    name: str
    version: str = "1.0.0"
    shape: ShapeChoice = field(default_factory=ShapeChoice)
    healing: HealingChoice = field(default_factory=HealingChoice)
    rounding: RoundingChoice = field(default_factory=RoundingChoice)
    calibration_windows: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a calibration that sees nothing, and what could not be bundled in the end."""
        BundleChoice(name=self.name, version=self.version)
        if self.calibration_windows < 8:
            raise RecipeError(f"calibration_windows: expected at least 8, got {self.calibration_windows}")

    @property
    def digest(self) -> str:
        """SHA-256 of the recipe, but for where the teacher lies: what it is has a digest of its own."""
        return sha256_hex(canonical_json(asdict(replace(self, teacher=""))))

    def healed(self, taught: JointRecipe, base: Path) -> JointRecipe:
        """The teacher's recipe, for the smaller model.

        Args:
            taught: How the teacher learned.
            base: Folder of the pruned checkpoint.
        """
        times = self.healing.epochs
        signal = tuple(
            replace(
                lesson,
                word_epochs=lesson.word_epochs * times,
                training=self.healing.of(lesson.training),
            )
            for lesson in taught.signal
        )
        return replace(
            taught,
            base=str(base),
            bundle=replace(taught.bundle, name=self.name, version=self.version),
            signal=signal,
            text=tuple(
                replace(lesson, epochs=lesson.epochs * times * self.healing.text_passes) for lesson in taught.text
            ),
            optimizer=replace(
                taught.optimizer, learning_rate=self.healing.learning_rate or taught.optimizer.learning_rate
            ),
            from_scratch=self.healing.from_scratch,
            seed=self.seed,
        )


def read_shrink_recipe(name_or_path: str | Path) -> ShrinkRecipe:
    """Read a recipe file, or one that is shipped, by name.

    Raises:
        RecipeError: see `teach.recipe_file`.
    """
    return parse_toml(ShrinkRecipe, read_recipe_text(name_or_path), where=str(name_or_path))
