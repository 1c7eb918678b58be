"""The recipe of a sector's model: one base, and every task that it is to learn."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from smallhold.decide.ngrams import NGramSpec
from smallhold.errors import RecipeError
from smallhold.learn.loop import LoopConfig
from smallhold.records import canonical_json, sha256_hex
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.splits import Split
from smallhold.teach.ngrams import NGramConfig
from smallhold.teach.recipe import BundleChoice
from smallhold.teach.recipe_file import parse_tables, parse_toml, read_recipe_text
from smallhold.teach.signal_training import SignalTrainingConfig
from smallhold.teach.trees import TreeConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalLessonChoice:
    """A task that reads signals, its teacher and its schedule.

    Attributes:
        task: Name of the task.
        teacher: Trees.
        training: Schedule.
        word_epochs: Passes over the patients in observation words; 0 leaves that door out.
        word_batch_size: Patients a step of words.
        word_hidden: Weight of the distance to the signal door's states.
    """

    task: str
    teacher: TreeConfig = field(default_factory=TreeConfig)
    training: SignalTrainingConfig = field(default_factory=SignalTrainingConfig)
    word_epochs: float = 0.0
    word_batch_size: int = 32
    word_hidden: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what would only fail after the teacher."""
        if self.word_batch_size < 1 or self.word_epochs < 0 or self.word_hidden < 0:
            raise RecipeError(f"signal {self.task}: impossible settings of the words: {self}")
        hours = self.teacher.hours
        if max(hours) > icu_risk.NUM_BINS or not set(icu_risk.HORIZONS_H) <= set(hours):
            raise RecipeError(
                f"signal {self.task}: teacher.hours must hold {list(icu_risk.HORIZONS_H)} and none above "
                f"{icu_risk.NUM_BINS}, got {list(hours)}"
            )


#: Of a text, with `<bos>`, two markers and room for the answer, so that it fits the base's context.
MOST_TOKENS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class NGramChoice:
    """The n-gram path of a text task; see `teach.ngrams.NGramConfig` and `decide.ngrams.NGramSpec`."""

    strength: float = 30.0
    is_balanced: bool = False
    ratio_power: float = 0.0
    word_buckets: int = 1 << 14
    char_buckets: int = 1 << 14
    word_share: float = 0.5
    keeps_punctuation: bool = False

    def __post_init__(self) -> None:
        """Refuse what would only fail when it is fitted."""
        self.config()

    def config(self) -> NGramConfig:
        """As `teach.ngrams` takes it."""
        spec = NGramSpec(
            word_buckets=self.word_buckets,
            char_buckets=self.char_buckets,
            word_share=self.word_share,
            keeps_punctuation=self.keeps_punctuation,
        )
        return NGramConfig(
            spec=spec, strength=self.strength, is_balanced=self.is_balanced, ratio_power=self.ratio_power
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLessonChoice:
    """A task that reads text.

    Attributes:
        task: Name of the task.
        epochs: Passes over its training texts; 0 leaves the answer to the n-gram path.
        batch_size: Texts a step.
        max_tokens: Tokens of a text that the trunk reads.
        token_dropout: Share of tokens that a training text loses.
        ngrams: The n-gram path.
        teacher: Folder of `smallhold teach label`: texts that it labelled are taught its probabilities; empty for none.
    """

    task: str
    epochs: float = 8.0
    batch_size: int = 32
    max_tokens: int = 256
    token_dropout: float = 0.1
    ngrams: NGramChoice = field(default_factory=NGramChoice)
    teacher: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if (
            self.batch_size < 1
            or not 1 <= self.max_tokens <= MOST_TOKENS
            or not 0 <= self.token_dropout < 1
            or self.epochs < 0
        ):
            raise RecipeError(f"text {self.task}: impossible settings: {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class JointOptimizer:
    """See `learn.loop.LoopConfig`; the steps follow from the lessons."""

    optimizer: str = "muon"
    learning_rate: float = 1.5e-3
    warmup_steps: int = 100
    final_share: float = 0.02
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    ema_decay: float = 0.998


@dataclass(frozen=True, slots=True, kw_only=True)
class JointRecipe:
    """Everything that determines a sector's model, apart from base and data.

    Attributes:
        sector: Name of the sector, or the path of its folder.
        base: Folder of the base's checkpoint; relative to the working directory; empty for a small
            random trunk that reads bytes.
        bundle: Name, version and abstention.
        splits: Parts of the data that are trained on.
        signal: Signal tasks.
        text: Text tasks.
        dropout: Inside the trunk.
        optimizer: See `JointOptimizer`.
        from_scratch: Ignore the base's weights, keep its shape and vocabulary: what is pretraining worth?
        seed: Seed.
    """

    sector: str
    base: str
    bundle: BundleChoice
    splits: tuple[str, ...] = (Split.TRAIN.value,)
    signal: tuple[SignalLessonChoice, ...] = ()
    text: tuple[TextLessonChoice, ...] = ()
    dropout: float = 0.1
    optimizer: JointOptimizer = field(default_factory=JointOptimizer)
    from_scratch: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a model that learns nothing, one task twice, and training on test or calibration rows."""
        names = [item.task for item in self.signal] + [item.task for item in self.text]
        if not names or len(set(names)) != len(names):
            raise RecipeError(f"recipe: expected one or more different tasks, got {names}")
        allowed = (Split.TRAIN.value, Split.VALIDATION.value)
        if not self.splits or not set(self.splits) <= set(allowed) or len(set(self.splits)) != len(self.splits):
            raise RecipeError(f"recipe: splits: expected some of {allowed}, each once, got {list(self.splits)}")
        if not 0 <= self.dropout < 1:
            raise RecipeError(f"recipe: dropout: expected a share in [0, 1), got {self.dropout}")
        if not self.signal and not any(item.epochs for item in self.text):
            raise RecipeError("recipe: no task has epochs: there is nothing for the trunk to learn")
        self.loop(1, use_bf16=False)  # refuses an impossible optimizer

    @property
    def digest(self) -> str:
        """SHA-256 of the whole recipe."""
        return sha256_hex(canonical_json(asdict(self)))

    def loop(self, steps: int, *, use_bf16: bool) -> LoopConfig:
        """Settings of the loop."""
        return LoopConfig(steps=steps, seed=self.seed, use_bf16=use_bf16, **asdict(self.optimizer))


def read_joint_recipe(name_or_path: str | Path) -> JointRecipe:
    """Read a recipe file, or one that is shipped, by name.

    Raises:
        RecipeError: see `teach.recipe_file`.
    """
    return parse_toml(JointRecipe, read_recipe_text(name_or_path), where=str(name_or_path))


def is_joint(name_or_path: str | Path) -> bool:
    """Whether a recipe names a base, and so teaches a sector's tasks together.

    Raises:
        RecipeError: no such recipe, or not TOML.
    """
    return "base" in parse_tables(read_recipe_text(name_or_path), where=str(name_or_path))
