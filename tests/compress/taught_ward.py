"""The recipe that makes a ward's model smaller."""

from __future__ import annotations

from pathlib import Path

from smallhold.compress.shrink_recipe import ShrinkRecipe
from smallhold.teach.recipe_file import parse_toml

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


def recipe_of(teacher: Path, more: str = "") -> ShrinkRecipe:
    return parse_toml(ShrinkRecipe, SMALLER.replace("TEACHER", str(teacher)) + more, where="test")
