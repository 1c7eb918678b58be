"""What making a language model smaller would take; refuses what cannot be done before anything slow."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from smallhold.bundle.weights import GROUP_SIZE
from smallhold.compress.language_corpus import check_corpus
from smallhold.compress.language_recipe import LanguageRecipe
from smallhold.compress.language_source import LanguageSource, open_source
from smallhold.compress.trim_vocabulary import trim_tokenizer
from smallhold.errors import RecipeError
from smallhold.evaluate.language import opening_token
from smallhold.learn.hugging_face import parameter_shapes
from smallhold.learn.trunk_config import TrunkConfig

#: Bytes of the step of a group in the ONNX graph.
_STEP_BYTES = 4
#: Positions of a bundle's rotary tables, at most, as `bundle.bring` builds it.
_MOST_CONTEXT = 8192


@dataclass(frozen=True, slots=True)
class LanguagePlan:
    """What a recipe would do.

    Attributes:
        teacher_parameters: Of the teacher.
        parameters: Of the smaller model; its vocabulary may come out smaller than asked for.
        weight_bytes: Of its weights as a bundle holds them.
        steps: Of the healing.
        tokens: Read in healing.
        cache_bytes: Of the teacher's answers on disk, at most; 0 without a cache.
        memory_bytes: Estimated for the weights of all models at once, gradients and optimizer, whichever stage has
            most.
    """

    teacher_parameters: int
    parameters: int
    weight_bytes: int
    steps: int
    tokens: int
    cache_bytes: int
    memory_bytes: int

    def lines(self) -> list[str]:
        """In words."""
        found = [
            f"{self.teacher_parameters:,} parameters to {self.parameters:,}",
            f"weights of about {self.weight_bytes / 1e6:,.2f} MB in a bundle",
            f"{self.steps:,} steps over {self.tokens:,} tokens",
            f"about {self.memory_bytes / 1e6:,.0f} MB for weights, gradients and optimizer, beside texts and logits",
        ]
        return found + ([f"at most {self.cache_bytes / 1e6:,.1f} MB of cache on disk"] if self.cache_bytes else [])


def plan_language(recipe: LanguageRecipe, data_dir: Path | None) -> LanguagePlan:
    """Refuse what cannot be done, and say what the rest would take; no weights and no texts are read.

    A model of the hub is looked for in the cache alone.

    Raises:
        InputError: the teacher or a text is missing, malformed or not supported, or the shape is impossible.
    """
    check_corpus(recipe.corpus, data_dir)
    return plan_of(recipe, open_source(recipe.teacher, offline=True))


def plan_of(recipe: LanguageRecipe, source: LanguageSource) -> LanguagePlan:
    """The plan for a teacher that is there; see `plan_language`."""
    config, window = source.config, recipe.corpus.window
    if window > config.max_position_embeddings:
        raise RecipeError(
            f"corpus.window: expected at most the teacher's {config.max_position_embeddings}, got {window}"
        )
    opening_token(source.tokenizer)
    if recipe.shape.vocab_size:
        trim_tokenizer(source.tokenizer, {}, vocab_size=recipe.shape.vocab_size)  # refuses what cannot be trimmed
    student = _shape(recipe, config)
    layout = recipe.healing.layout(student.vocab_size)
    before, after = count_weights(config), count_weights(student)
    asks = recipe.healing.targets in ("live", "on_policy")
    return LanguagePlan(
        teacher_parameters=before,
        parameters=after,
        weight_bytes=_weight_bytes(student, recipe.rounding.bits),
        steps=recipe.steps,
        tokens=recipe.most_windows * window,
        cache_bytes=recipe.most_windows * window * layout.num_bytes if recipe.healing.targets == "cached" else 0,
        memory_bytes=4 * max(3 * before, 4 * after + asks * before),
    )


def _shape(recipe: LanguageRecipe, config: TrunkConfig) -> TrunkConfig:
    """The student's sizes."""
    # Which layers stay is not known yet; which of them look how far back changes no number of parameters.
    return recipe.shape.of(replace(config, layer_types=(), unrotated_layers=()))


def count_weights(config: TrunkConfig) -> int:
    """Parameters of a trunk, a tied head once; nothing is built."""
    return sum(math.prod(shape) for shape in parameter_shapes(config).values())


def _weight_bytes(config: TrunkConfig, bits: int) -> int:
    total = 4 * min(config.max_position_embeddings, _MOST_CONTEXT) * config.rotary_dim  # cosines and sines
    for shape in parameter_shapes(config).values():
        count, is_rounded = math.prod(shape), len(shape) == 2 and shape[1] % GROUP_SIZE == 0
        total += count * bits // 8 + count * _STEP_BYTES // GROUP_SIZE if is_rounded else 4 * count
    return total
