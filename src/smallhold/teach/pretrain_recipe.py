"""The recipe of a base model: vocabulary, shape, texts and schedule."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from smallhold.errors import RecipeError
from smallhold.learn.loop import LoopConfig
from smallhold.records import canonical_json, sha256_hex
from smallhold.teach.corpora import CORPORA
from smallhold.teach.recipe import ModelChoice
from smallhold.teach.recipe_file import parse_toml, read_recipe_text

#: Positions of the base: a stay in words and a note fit; those beyond the training length are never asked for.
CONTEXT_LENGTH = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerChoice:
    """The vocabulary.

    Attributes:
        vocab_size: Marks, bytes, merges and observation words together.
        sample_megabytes: Text of each language that the merges are learned from, at most.
    """

    vocab_size: int = 8192
    sample_megabytes: int = 12

    def __post_init__(self) -> None:
        """Refuse ids that 16 bits cannot hold."""
        if not 512 <= self.vocab_size <= 65_535:
            raise RecipeError(f"tokenizer.vocab_size: expected 512 to 65535, got {self.vocab_size}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguagePasses:
    """How often one pass over the corpora reads each document of a language: rare languages may be read more often."""

    en: int = 1
    ru: int = 1
    fr: int = 1

    def __post_init__(self) -> None:
        """Refuse a pass that reads nothing."""
        if not any((self.en, self.ru, self.fr)) or max(self.en, self.ru, self.fr) > 100:
            raise RecipeError(f"training.passes: expected numbers from 0 to 100, one of them above 0, got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainingChoice:
    """What is read, and how much.

    Attributes:
        million_tokens: Length of the run.
        passes: Times that a pass reads each document, by language.
        batch_size: Sequences a text step.
        sequence_length: Tokens a sequence.
        patients: Whether patient streams are read too.
        patient_passes: Times that a pass reads every patient in words.
        signal_every: Every n-th step is a batch through the signal door.
        signal_batch_size: Patients of such a step.
        data_sets: Text corpora.
    """

    million_tokens: float
    passes: LanguagePasses = field(default_factory=LanguagePasses)
    batch_size: int = 16
    sequence_length: int = 256
    patients: bool = True
    patient_passes: int = 2
    signal_every: int = 8
    signal_batch_size: int = 64
    data_sets: tuple[str, ...] = CORPORA

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        for name in ("batch_size", "sequence_length", "signal_batch_size"):
            if getattr(self, name) < 1:
                raise RecipeError(f"training.{name}: expected at least 1, got {getattr(self, name)}")
        if self.sequence_length > CONTEXT_LENGTH:
            raise RecipeError(
                f"training.sequence_length: expected at most {CONTEXT_LENGTH} tokens, got {self.sequence_length}"
            )
        if self.signal_every < 2:
            raise RecipeError(f"training.signal_every: expected at least 2, got {self.signal_every}")
        if not 0 < self.million_tokens < 1e6:
            raise RecipeError(f"training.million_tokens: expected a positive number, got {self.million_tokens}")

    @property
    def steps(self) -> int:
        """Optimizer steps: text steps that read the tokens, and the signal steps between them."""
        text = self.million_tokens * 1e6 / (self.batch_size * self.sequence_length)
        return max(1, round(text * self.signal_every / (self.signal_every - 1) if self.patients else text))


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainingOptimizer:
    """See `learn.loop.LoopConfig`."""

    optimizer: str = "muon"
    schedule: str = "wsd"
    learning_rate: float = 3e-3
    warmup_steps: int = 100
    decay_share: float = 0.25
    final_share: float = 0.02
    weight_decay: float = 0.1
    clip_norm: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainRecipe:
    """Everything that determines a base model, apart from the data."""

    training: PretrainingChoice
    model: ModelChoice = field(default_factory=ModelChoice)
    tokenizer: TokenizerChoice = field(default_factory=TokenizerChoice)
    optimizer: PretrainingOptimizer = field(default_factory=PretrainingOptimizer)
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse an impossible optimizer before any text is read."""
        self.loop(use_bf16=False)

    @property
    def digest(self) -> str:
        """SHA-256 of the whole recipe."""
        return sha256_hex(canonical_json(asdict(self)))

    @property
    def claim(self) -> str:
        """SHA-256 of what two slices of one run must share; the length may be changed while the rate is stable."""
        any_length = replace(self.training, million_tokens=1.0)
        return replace(self, training=any_length).digest

    def loop(self, *, use_bf16: bool) -> LoopConfig:
        """Settings of the loop."""
        return LoopConfig(
            steps=self.training.steps,
            seed=self.seed,
            ema_decay=0.0,  # a rate that falls to nothing averages by itself
            use_bf16=use_bf16,
            **asdict(self.optimizer),
        )


def read_pretrain_recipe(name_or_path: str | Path) -> PretrainRecipe:
    """Read a recipe file, or one that is shipped, by name.

    Raises:
        RecipeError: see `teach.recipe_file`.
    """
    return parse_toml(PretrainRecipe, read_recipe_text(name_or_path), where=str(name_or_path))
