"""Invented texts with something to learn in them, and a tiny language model that has learned it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from smallhold.compress.language import LanguageSummary, run_language
from smallhold.compress.language_recipe import LanguageRecipe
from smallhold.learn.checkpoint import save_trunk
from smallhold.learn.model import Trunk, TrunkConfig
from smallhold.teach.recipe_file import parse_toml
from smallhold.teach.vocabulary import save_tokenizer, train_tokenizer

_WORDS = ("nurse", "reads", "pulse", "calls", "ward", "noon", "slow", "quiet", "door", "chart", "light", "hand")
RECIPE = """
teacher = "{folder}/teacher"
name = "tiny"
calibration_windows = 16
[corpus]
files = ["{folder}/texts.jsonl"]
window = 32
[shape]
num_hidden_layers = 2
intermediate_size = 32
[healing]
targets = "cached"
million_tokens = 0.0128
batch_size = 8
learning_rate = 5e-3
"""


def silent(caption: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def texts(documents: int = 240) -> list[str]:
    """Every word has two words that may follow it, so that a model has to look back."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(documents):
        word = int(rng.integers(len(_WORDS)))
        words = []
        for _ in range(60):
            words.append(_WORDS[word])
            word = (5 * word + 1 + 4 * int(rng.random() < 0.3)) % len(_WORDS)
        found.append(" ".join(words))
    return found


def write_texts(path: Path, documents: int = 240) -> None:
    """As JSON Lines."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(documents)))


def write_model(folder: Path, **changes: object) -> None:
    """A random model of three layers whose vocabulary knows the texts."""
    shape = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    tokenizer = train_tokenizer(texts(), vocab_size=300)
    torch.manual_seed(0)
    save_trunk(Trunk(TrunkConfig(vocab_size=300, **{**shape, **changes})), folder)  # type: ignore[arg-type]
    save_tokenizer(tokenizer, folder, context_length=64)
    (folder / "LICENSE").write_text("Do as you like.\n")


def make_world(folder: Path) -> Path:
    """`texts.jsonl`, and `teacher/`: a model that the recipe itself trained, on texts alone."""
    write_texts(folder / "texts.jsonl")
    write_model(folder / "random")
    recipe = recipe_of(
        folder, {"/teacher": "/random", "num_hidden_layers = 2": "", "intermediate_size = 32": "", "cached": "text",
                 "0.0128": "0.0512"},
    )  # fmt: skip
    run_language(recipe, None, folder / "taught", progress=silent, threads=1)
    (folder / "taught" / "checkpoint").rename(folder / "teacher")
    return folder


def recipe_of(folder: Path, changes: dict[str, str] | None = None) -> LanguageRecipe:
    """The recipe with some of its words replaced."""
    return parse_toml(LanguageRecipe, recipe_text(folder, changes), where="test")


def recipe_text(folder: Path, changes: dict[str, str] | None = None) -> str:
    """As TOML."""
    text = RECIPE.replace("{folder}", str(folder))
    for old, new in (changes or {}).items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def compress(folder: Path, out: Path, changes: dict[str, str] | None = None) -> LanguageSummary:
    """Carry the recipe out."""
    return run_language(recipe_of(folder, changes), None, out, progress=silent, threads=1)
