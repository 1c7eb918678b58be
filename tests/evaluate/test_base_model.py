from __future__ import annotations

import json
import lzma
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="a base model is measured with torch, the extra 'train'")

import torch
from tokenizers import Tokenizer
from torch.nn import functional as F

from smallhold.errors import DataError
from smallhold.evaluate.base_model import (
    compare_grounds,
    format_base_table,
    measure_base,
    xz_bits_per_byte,
    xz_bytes,
)
from smallhold.evaluate.language import LanguageModel, bits_per_byte, encode_exactly, load_language_model
from smallhold.learn.checkpoint import save_trunk
from smallhold.learn.model import Trunk, TrunkConfig
from smallhold.teach.vocabulary import train_tokenizer

NOUNS = {"en": ("heart", "lung", "liver", "brain"), "fr": ("cœur", "poumon", "foie", "cerveau")}
FORMS = {"en": "The {} is near the {} and the {}.", "fr": "Le {} est près du {} et du {}."}


def documents(language: str, count: int, seed: int) -> list[str]:
    """Sentences of a tiny grammar, so that there is something to learn and nothing to know by heart."""
    rng = np.random.default_rng(seed)
    form, nouns = FORMS[language], NOUNS[language]
    return [" ".join(form.format(*rng.choice(nouns, 3)) for _ in range(rng.integers(1, 6))) for _ in range(count)]


TRAINING = {language: documents(language, 80, 0) for language in NOUNS}
HELDOUT = {language: documents(language, 40, 1) for language in NOUNS}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([text for texts in TRAINING.values() for text in texts], vocab_size=310)


def trained(tokenizer: Tokenizer, steps: int) -> Trunk:
    torch.manual_seed(0)
    trunk = Trunk(TrunkConfig(vocab_size=310, hidden_size=32, intermediate_size=64, num_hidden_layers=1))
    stream = np.concatenate(
        [
            np.append([1], ids)
            for pair in zip(*TRAINING.values(), strict=True)
            for ids in encode_exactly(tokenizer, pair)
        ]
    )
    stream = torch.from_numpy(stream)
    optimizer = torch.optim.Adam(trunk.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        starts = torch.randint(len(stream) - 33, (8, 1), generator=generator)
        batch = stream[starts + torch.arange(33)]
        logits = trunk(trunk.model.embed_tokens(batch[:, :-1]))  # type: ignore[operator]
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return trunk.eval()


def write(folder: Path, trunk: Trunk, tokenizer: Tokenizer) -> Path:
    save_trunk(trunk, folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "smallhold.json").write_text(json.dumps({"tokens_trained": 12_345}))
    return folder


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    return write(tmp_path_factory.mktemp("learned"), trained(tokenizer, 120), tokenizer)


@pytest.fixture(scope="module")
def measured(learned: Path) -> dict[str, Any]:
    return measure_base(learned, HELDOUT, TRAINING, context=32)


# xz


def test_the_library_and_the_program_agree_on_the_size() -> None:
    if shutil.which("xz") is None:
        pytest.skip("the program xz is missing")
    text = "".join(HELDOUT["en"]).encode()
    program = subprocess.run(["xz", "-9e", "--stdout", "-T1"], input=text, capture_output=True, check=True).stdout
    # The program adds a stronger check sum (8 bytes instead of 4) and may round sizes up to 4.
    assert abs(len(program) - xz_bytes(text)) <= 8


def test_reading_the_same_text_first_makes_it_almost_free() -> None:
    rng = np.random.default_rng(0)
    noise = ["".join(map(chr, rng.integers(32, 127, 3000)))]
    assert xz_bits_per_byte(noise) > 6.5
    assert xz_bits_per_byte(noise, noise) < 0.2
    assert xz_bits_per_byte(noise, ["".join(map(chr, rng.integers(32, 127, 3000)))]) > 6.0
    with pytest.raises(DataError, match="expected held-out text"):
        xz_bits_per_byte([""])


def test_bits_are_counted_for_bytes_not_for_characters() -> None:
    text = ["ёжик " * 40]
    size = len(lzma.compress(text[0].encode(), preset=9 | lzma.PRESET_EXTREME))
    assert xz_bits_per_byte(text) == pytest.approx(8 * size / len(text[0].encode()), rel=0.2)


# The whole measurement


def test_every_row_is_on_the_same_bytes(measured: dict[str, Any], learned: Path) -> None:
    assert json.loads(json.dumps(measured)) == measured
    assert list(measured["languages"]) == ["en", "fr"]
    model = load_language_model(learned)
    for name, row in measured["languages"].items():
        texts = HELDOUT[name]
        assert row["documents"] == len(texts)
        assert row["bytes"] == row["available_bytes"] == sum(len(text.encode()) for text in texts)
        bits = row["bits_per_byte"]
        again = bits_per_byte(model.trunk, model.tokenizer, texts, context=32)
        assert bits["model"]["value"] == again.bits_per_byte
        assert row["tokens"] == again.num_tokens
        assert bits["model"]["low"] < bits["model"]["value"] < bits["model"]["high"]
        best = min(bits["ngram"]["value"], bits["ngram_same_language"]["value"])
        assert row["minus_best_ngram"]["value"] == pytest.approx(bits["model"]["value"] - best)
        assert bits["xz"] == xz_bits_per_byte(texts)
        assert bits["xz_primed"] == xz_bits_per_byte(texts, TRAINING[name]) < bits["xz"]
        # Three nouns out of four for each sentence of some 35 bytes cannot be known: that is the floor.
        sentence_bytes = len(FORMS[name].format("", "", "").encode()) + 3 * np.mean(
            [len(n.encode()) for n in NOUNS[name]]
        )
        assert bits["ngram"]["value"] > 6 / (sentence_bytes + 1)
    assert measured["tokens_trained"] == 12_345
    assert measured["context"] == 32


def test_documents_are_chosen_when_there_are_too_many_bytes(learned: Path) -> None:
    stages: list[str] = []
    result = measure_base(
        learned, {"en": HELDOUT["en"]}, {"fr": TRAINING["fr"]}, max_bytes=2000, progress=lambda *s: stages.append(s[0])
    )
    row = result["languages"]["en"]
    assert 1000 < row["bytes"] <= 2000 < row["available_bytes"]
    # Without training text in the language there is nothing to compare with.
    assert row["bits_per_byte"]["xz_primed"] is None
    assert "ngram_same_language" not in row["bits_per_byte"]
    table = format_base_table(result)
    assert "Documents at even distances stand for the whole in: en." in table
    assert "| – |" in table
    assert {"en: n-grams and xz", "en: model"} <= set(stages)


def test_a_model_that_learned_nothing_is_called_out_first(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = write(tmp_path, trained(tokenizer, 0), tokenizer)
    table = format_base_table(measure_base(folder, HELDOUT, TRAINING))
    assert table.startswith("The model does not beat the simple baselines in: en, fr.\n")


@pytest.mark.parametrize(
    ("low", "high", "xz", "verdict"),
    [
        (-0.2, -0.1, 2.0, "The model needs fewer bits than every n-gram and compressor in: en."),
        (-0.2, 0.1, 2.0, "The model cannot be told from the better n-gram model in: en."),
        (0.1, 0.2, 2.0, "The model does not beat the simple baselines in: en."),
        (-0.2, -0.1, 1.0, "The model does not beat the simple baselines in: en."),
        (None, None, 2.0, "The model cannot be told from the better n-gram model in: en."),
    ],
)
def test_the_verdict_follows_the_figures(
    measured: dict[str, Any], low: float | None, high: float | None, xz: float, verdict: str
) -> None:
    interval = {"value": 1.5, "low": 1.4, "high": 1.6}
    bits = {"model": interval, "ngram": interval, "xz": xz, "xz_primed": 1.9}
    row = {**measured["languages"]["en"], "bits_per_byte": bits, "minus_best_ngram": {"low": low, "high": high}}
    lines = format_base_table({**measured, "languages": {"en": row}}).splitlines()
    assert lines[0] == verdict
    assert "| 1.500 (1.400-1.600) |" in lines[4]


def test_the_table_is_markdown_with_as_many_cells_everywhere(measured: dict[str, Any]) -> None:
    lines = format_base_table(measured).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 4
    assert len({line.count("|") for line in rows}) == 1
    assert "12,345 tokens trained on" in lines[-1]


def test_each_model_is_better_on_its_own_ground(tokenizer: Tokenizer, learned: Path) -> None:
    ours = load_language_model(learned)
    torch.manual_seed(1)
    rival = LanguageModel(Trunk(ours.trunk.config).eval(), tokenizer, 1)  # knows nothing: draws noise
    grounds = compare_grounds(ours, rival, HELDOUT["en"], num_samples=8)
    assert grounds["heldout"]["model"] < grounds["heldout"]["rival"]
    assert grounds["rival_samples"]["rival"] < grounds["rival_samples"]["model"]
    assert grounds["rival_samples"]["documents"] == 8
    assert grounds["heldout"]["bytes"] == sum(len(text.encode()) for text in HELDOUT["en"])
