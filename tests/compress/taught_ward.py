"""A ward's model, taught in seconds, and the recipe that makes it smaller."""

from __future__ import annotations

from pathlib import Path

from smallhold.compress.shrink_recipe import ShrinkRecipe
from smallhold.teach.recipe_file import parse_toml

TAUGHT = """
sector = "hospital"
base = "BASE"
[[signal]]
task = "icu-risk"
word_epochs = 0.5
word_batch_size = 16
[signal.teacher]
hours = [6, 12, 24, 48]
iterations = 8
leaves = 6
folds = 2
[signal.training]
epochs = 1.0
batch_size = 16
swap = [0.3]
[optimizer]
learning_rate = 5e-3
warmup_steps = 5
[bundle]
name = "ward"
"""
SMALLER = """
teacher = "TEACHER"
name = "small-ward"
calibration_windows = 16
[shape]
num_hidden_layers = 1
hidden_size = 32
intermediate_size = 64
num_attention_heads = 2
num_key_value_heads = 1
vocab_size = 980
"""


def silent(caption: str, done: int, total: int) -> None:
    pass


def recipe_of(teacher: Path, more: str = "") -> ShrinkRecipe:
    return parse_toml(ShrinkRecipe, SMALLER.replace("TEACHER", str(teacher)) + more, where="test")
