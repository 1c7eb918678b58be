"""The recipe that makes any language model smaller: which model teaches, what texts, what stays, how it heals.

Told apart from a sector's recipe by its table `[corpus]`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from smallhold.compress.distill_losses import DistillConfig
from smallhold.compress.logit_packing import RecordLayout
from smallhold.compress.shrink_recipe import RoundingChoice, ShapeChoice
from smallhold.errors import RecipeError
from smallhold.learn.loop import LoopConfig
from smallhold.records import canonical_json, sha256_hex
from smallhold.teach.corpora import CORPORA
from smallhold.teach.recipe import BundleChoice
from smallhold.teach.recipe_file import parse_tables, parse_toml, read_recipe_text

TARGETS = ("cached", "live", "on_policy", "text")
FILE_KINDS = (".jsonl", ".jsonl.zst", ".txt")
#: Settings of the healing that only some targets read.
_READ_BY = {
    "divergence": ("cached", "live", "on_policy"),
    "temperature": ("cached", "live", "on_policy"),
    "beta": ("cached", "live", "on_policy"),
    "bytes_per_token": ("cached",),
    "hidden_weight": ("live",),
    "on_policy_share": ("on_policy",),
    "continuation": ("on_policy",),
}
_MOST_BYTES_PER_TOKEN = 1024
#: Logits that lie in memory at once, of the healing and of the cache's writing.
_LOGITS_AT_ONCE, _CACHED_AT_ONCE = 2**24, 2**26


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusChoice:
    """The texts that calibrate and heal.

    Attributes:
        files: JSON Lines with a member `text`, one document a line (also `.jsonl.zst`), or `.txt`, one document a file;
            relative to the working directory.
        data_sets: Names that `teach/corpora.py` knows: their training split heals, their validation split is held out.
        held_out_share: Share of the files' documents on which the models are compared, and which nothing learns from.
        window: Tokens that are read at once.
    """

    files: tuple[str, ...] = ()
    data_sets: tuple[str, ...] = ()
    held_out_share: float = 0.05
    window: int = 256

    def __post_init__(self) -> None:
        """Refuse an empty corpus, and files of another kind."""
        if not self.files and not self.data_sets:
            raise RecipeError("corpus: expected files or data_sets, got neither")
        for name, given in (("files", self.files), ("data_sets", self.data_sets)):
            if len(set(given)) != len(given):
                raise RecipeError(f"corpus.{name}: expected each once, got {list(given)}")
        for path in self.files:
            if not path.endswith(FILE_KINDS):
                raise RecipeError(f"corpus.files: expected {', '.join(FILE_KINDS)}, got {path!r}")
        for name in self.data_sets:
            if name not in CORPORA:
                raise RecipeError(f"corpus.data_sets: expected some of {', '.join(CORPORA)}, got {name!r}")
        if not 0 < self.held_out_share < 1:
            raise RecipeError(f"corpus.held_out_share: expected a share between 0 and 1, got {self.held_out_share}")
        if self.window < 8:
            raise RecipeError(f"corpus.window: expected at least 8 tokens, got {self.window}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageHealing:
    """How the smaller model learns again.

    Attributes:
        targets: `cached`: the teacher answers once, and its answers lie on disk; `live`: it answers at every step;
            `on_policy`: it also judges what the student writes; `text`: the texts alone, without a teacher.
        million_tokens: Tokens read; more than the corpus has are read in several passes.
        batch_size: Windows a step.
        learning_rate: Peak.
        optimizer: `adamw` or `muon`.
        divergence: See `DistillConfig`.
        temperature: See `DistillConfig`.
        beta: See `DistillConfig`.
        bytes_per_token: Of the cache; at most.
        hidden_weight: Weight of the distance between the layers' states, beside that of what is said.
        on_policy_share: Share of the steps at which the student writes; at the others it reads.
        continuation: Tokens at the end of a window that the student writes, and that the loss counts.
        from_scratch: Keep the shape, not the weights: what is pruning worth?
    """

    targets: str = "cached"
    million_tokens: float = 1.0
    batch_size: int = 16
    learning_rate: float = 1e-3
    optimizer: str = "adamw"
    divergence: str = "forward_kl"
    temperature: float = 1.0
    beta: float = 0.5
    bytes_per_token: int = 32
    hidden_weight: float = 0.0
    on_policy_share: float = 0.5
    continuation: int = 32
    from_scratch: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be learned, and settings that the targets would never read."""
        if self.targets not in TARGETS:
            raise RecipeError(f"healing.targets: expected one of {', '.join(TARGETS)}, got {self.targets!r}")
        for item in fields(self):
            readers = _READ_BY.get(item.name, TARGETS)
            if self.targets not in readers and getattr(self, item.name) != item.default:
                raise RecipeError(
                    f"healing.{item.name}: is for targets {' or '.join(map(repr, readers))}, got {self.targets!r}"
                )
        if not 0 < self.million_tokens < 1e6:
            raise RecipeError(f"healing.million_tokens: expected a positive number, got {self.million_tokens}")
        if self.batch_size < 1:
            raise RecipeError(f"healing.batch_size: expected at least 1, got {self.batch_size}")
        if not 0 < self.learning_rate < 1:
            raise RecipeError(f"healing.learning_rate: expected a number between 0 and 1, got {self.learning_rate}")
        if not 1 <= self.bytes_per_token <= _MOST_BYTES_PER_TOKEN:
            raise RecipeError(
                f"healing.bytes_per_token: expected 1 to {_MOST_BYTES_PER_TOKEN}, got {self.bytes_per_token}"
            )
        if self.hidden_weight < 0:
            raise RecipeError(f"healing.hidden_weight: expected 0 or more, got {self.hidden_weight}")
        if not 0 <= self.on_policy_share <= 1:
            raise RecipeError(f"healing.on_policy_share: expected 0 to 1, got {self.on_policy_share}")
        if self.continuation < 1:
            raise RecipeError(f"healing.continuation: expected at least 1 token, got {self.continuation}")
        self.distill(2)  # refuses an impossible divergence

    def distill(self, vocab_size: int) -> DistillConfig:
        """The divergence, with as many tokens at once as their logits have room for."""
        return DistillConfig(
            divergence=self.divergence,  # type: ignore[arg-type]
            beta=self.beta,
            temperature=self.temperature,
            chunk=min(2048, max(32, _LOGITS_AT_ONCE // vocab_size)),
        )

    def layout(self, vocab_size: int) -> RecordLayout:
        """What the cache keeps of a token.

        Draws from the tail are read by forward KL at temperature 1 alone; everything else takes as many exact
        probabilities as there is room for.

        Raises:
            RecipeError: too few bytes for one token.
        """
        sampled = RecordLayout.fitting(vocab_size, num_bytes=self.bytes_per_token)
        if self.divergence == "forward_kl" and self.temperature == 1:
            return sampled
        room = 8 * self.bytes_per_token - sampled.probability_bits
        head = min(room // (sampled.id_bits + sampled.probability_bits), vocab_size - 1)
        return RecordLayout(vocab_size=vocab_size, head=head, tail=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageRecipe:
    """Everything that determines the smaller model, apart from the teacher's weights and the texts.

    Attributes:
        teacher: A directory in Hugging Face's layout, relative to the working directory, or `hf:ORG/NAME[@REVISION]`.
        name: What the smaller model calls itself.
        corpus: Texts.
        shape: What stays.
        healing: How it learns again.
        rounding: How it ships.
        calibration_windows: Windows of training text that say what may go.
        seed: Seed.
    """

    teacher: str
    name: str
    corpus: CorpusChoice
    shape: ShapeChoice = field(default_factory=ShapeChoice)
    healing: LanguageHealing = field(default_factory=LanguageHealing)
    rounding: RoundingChoice = field(default_factory=RoundingChoice)
    calibration_windows: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what could not be trained or bundled in the end."""
        BundleChoice(name=self.name)
        if self.calibration_windows < 1:
            raise RecipeError(f"calibration_windows: expected at least 1, got {self.calibration_windows}")
        healing = self.healing
        if self.shape.vocab_size and (healing.divergence, healing.temperature) != ("forward_kl", 1.0):
            raise RecipeError(
                f"healing: a smaller vocabulary is taught by forward_kl at temperature 1, got {healing.divergence} at "
                f"{healing.temperature:g}",
                hint="see docs/concepts/compression.md, two vocabularies; or leave out shape.vocab_size",
            )
        if self.healing.targets == "on_policy" and self.healing.continuation >= self.corpus.window:
            raise RecipeError(
                f"healing.continuation: expected fewer tokens than the window's {self.corpus.window}, got "
                f"{self.healing.continuation}"
            )
        self.loop(use_bf16=False)  # refuses an impossible optimizer

    @property
    def digest(self) -> str:
        """SHA-256 of the recipe, but for where the teacher lies: what it is has a digest of its own."""
        return sha256_hex(canonical_json(asdict(replace(self, teacher=""))))

    @property
    def steps(self) -> int:
        """Optimizer steps of the healing."""
        return max(1, round(self.healing.million_tokens * 1e6 / (self.healing.batch_size * self.corpus.window)))

    @property
    def most_windows(self) -> int:
        """Windows that the healing reads when the corpus has as many."""
        return self.steps * self.healing.batch_size

    def loop(self, *, use_bf16: bool) -> LoopConfig:
        """Settings of the loop."""
        return LoopConfig(
            steps=self.steps,
            learning_rate=self.healing.learning_rate,
            warmup_steps=min(100, max(1, self.steps // 10)),
            optimizer=self.healing.optimizer,  # type: ignore[arg-type]
            ema_decay=0.0,  # a rate that falls to nothing averages by itself
            seed=self.seed,
            use_bf16=use_bf16,
        )

    def windows_per_shard(self, vocab_size: int) -> int:
        """Windows of a shard of the cache: as many as their logits have room for."""
        return min(256, max(1, _CACHED_AT_ONCE // (vocab_size * self.corpus.window)))


def read_language_recipe(name_or_path: str | Path) -> LanguageRecipe:
    """Read a recipe file, or one that is shipped, by name.

    Raises:
        RecipeError: see `teach.recipe_file`.
    """
    return parse_toml(LanguageRecipe, read_recipe_text(name_or_path), where=str(name_or_path))


def is_language(name_or_path: str | Path) -> bool:
    """Whether a recipe names a corpus, and so makes a plain language model smaller.

    Raises:
        RecipeError: no such recipe, or not TOML.
    """
    return "corpus" in parse_tables(read_recipe_text(name_or_path), where=str(name_or_path))
