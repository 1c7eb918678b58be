"""Invented texts in the layout of the corpora, and a simulated ward: what a tiny base is pretrained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from smallhold.sectors.hospital.simulator import simulate_ward, write_ward

_WORDS = {
    "en": ["the", "nurse", "reads", "a", "slow", "pulse", "and", "calls", "the", "ward", "before", "noon"],
    "ru": ["врач", "видит", "тихий", "пульс", "и", "зовёт", "сестру", "до", "полудня", "снова"],
    "fr": ["le", "médecin", "lit", "un", "pouls", "lent", "et", "appelle", "la", "salle", "avant", "midi"],
}


def write_corpus(folder: Path, *, documents: int = 60) -> Path:
    """Write `public_domain_books`, `russian_classics`, `french_classics` and `simulated_ward` below a folder."""
    rng = np.random.default_rng(0)
    for name, language in (("public_domain_books", "en"), ("russian_classics", "ru"), ("french_classics", "fr")):
        rows = []
        for i in range(documents):
            words = [_WORDS[language][j] for j in rng.integers(0, len(_WORDS[language]), 120)]
            rows.append({"id": f"{language}/{i}", "book": "b", "language": language, "text": " ".join(words)})
        (folder / name).mkdir(parents=True)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / name / "rows.jsonl").write_text(lines, encoding="utf-8")
    write_ward(simulate_ward(900, 0, 48), folder / "simulated_ward")
    return folder


BASE_RECIPE = """
seed = 3
[tokenizer]
vocab_size = 1024
[model]
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 1
[training]
million_tokens = 0.06
batch_size = 8
sequence_length = 64
signal_every = 4
signal_batch_size = 16
data_sets = ["public_domain_books", "russian_classics", "french_classics"]
[optimizer]
learning_rate = 1e-2
warmup_steps = 10
"""
#: A ward's model on a base of the recipe above, taught in seconds.
WARD_RECIPE = """
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


def silent(caption: str, done: int, total: int) -> None:
    """Progress that nobody watches."""
