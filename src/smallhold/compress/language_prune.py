"""Cut a language model down to a shape: vocabulary, depth, width, each measured on calibration windows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from smallhold.compress.calibration import CalibrationSet
from smallhold.compress.language_corpus import Corpus, token_windows
from smallhold.compress.language_recipe import LanguageRecipe
from smallhold.compress.language_source import LanguageSource, plain
from smallhold.compress.prune_shape import prune_shape
from smallhold.compress.trim_vocabulary import count_tokens, trim_model, trim_tokenizer
from smallhold.device.durable_file import write_durably
from smallhold.errors import DataError
from smallhold.evaluate.language import bits_per_byte
from smallhold.learn.checkpoint import save_trunk
from smallhold.learn.model import Trunk

KEPT_FILE = "kept.json"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Pruned:
    """What pruning kept; the contents of `pruned/kept.json`.

    Attributes:
        layers: The teacher's.
        hidden: Units of its residual stream; None = all.
        vocabulary: Its ids of the new ids; None = all.
        bits_per_byte: Of the held-out documents: `teacher` and `pruned`.
    """

    layers: list[int]
    hidden: list[int] | None
    vocabulary: list[int] | None
    bits_per_byte: dict[str, float]

    @classmethod
    def read(cls, folder: Path) -> Pruned:
        """Of a folder `pruned/` that is finished.

        Raises:
            DataError: malformed.
        """
        try:
            return cls(**json.loads((folder / KEPT_FILE).read_text()))
        except (ValueError, TypeError) as error:
            raise DataError(f"{folder / KEPT_FILE}: malformed: {error}", hint=f"delete {folder}") from error


def prune_language(
    recipe: LanguageRecipe, source: LanguageSource, corpus: Corpus, folder: Path, progress: Progress
) -> Pruned:
    """Write `pruned/`: vocabulary first, then depth, then width, each measured on what the step before left.

    Args:
        recipe: What stays.
        source: The teacher.
        corpus: Training texts count tokens and calibrate; held-out ones measure.
        folder: To write; a finished one is read.
        progress: Called with a caption, steps done and steps in all.

    Raises:
        RecipeError: the shape is impossible, or the vocabulary cannot be trimmed.
        DataError: the texts do not fill one window.
    """
    path = folder / KEPT_FILE
    if path.exists():
        return Pruned.read(folder)
    shape, tokenizer, trunk = recipe.shape, source.tokenizer, source.load()
    bits = {"teacher": measure_held_out(recipe, trunk, tokenizer, corpus, "teacher", progress)}
    vocabulary = None
    if shape.vocab_size:
        progress("pruning, vocabulary", 0, 3)
        trimmed = trim_tokenizer(tokenizer, count_tokens(tokenizer, corpus.training), vocab_size=shape.vocab_size)
        tokenizer, vocabulary = plain(trimmed.tokenizer), list(trimmed.kept)
        trunk = trim_model(trunk, trimmed)
    ids = token_windows(
        tokenizer,
        corpus.training,
        window=recipe.corpus.window,
        most=recipe.calibration_windows,
        seed=recipe.seed,
        progress=progress,
    )
    calibration = calibration_of(recipe, ids)
    trunk, layers, selection = prune_shape(trunk, calibration, shape, progress=progress)
    bits["pruned"] = measure_held_out(recipe, trunk, tokenizer, corpus, "pruned", progress)
    save_trunk(trunk, folder)
    write_durably(folder / "tokenizer.json", [tokenizer.to_str().encode()], mode=0o644)
    kept = Pruned(layers, None if selection.hidden is None else selection.hidden.tolist(), vocabulary, bits)
    write_durably(path, [json.dumps(asdict(kept)).encode()], mode=0o644)
    return kept


def calibration_of(recipe: LanguageRecipe, windows: NDArray[np.int32]) -> CalibrationSet:
    """The first windows: their documents are in an order drawn by the seed."""
    chosen = windows[: recipe.calibration_windows, :-1]
    return CalibrationSet(tokens=torch.from_numpy(chosen.astype(np.int64)))


def measure_held_out(
    recipe: LanguageRecipe, trunk: Trunk, tokenizer: Tokenizer, corpus: Corpus, who: str, progress: Progress
) -> float:
    """Bits per byte of the held-out documents."""
    score = bits_per_byte(
        trunk,
        tokenizer,
        corpus.held_out,
        context=recipe.corpus.window,
        progress=lambda done, total: progress(f"held-out texts {who}", done, total),
    )
    return score.bits_per_byte
