"""The recipe of a language model, its texts, and the order in which they are read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="compression needs torch, the extra 'train'")

import torch
from torch.nn import functional as F

from smallhold.compress.healing import rows_of_step, text_loss
from smallhold.compress.language_corpus import read_corpus, token_windows
from smallhold.compress.language_recipe import CorpusChoice, LanguageHealing, is_language
from smallhold.errors import DataError, RecipeError
from smallhold.sectors.splits import Split, split_of
from smallhold.teach.vocabulary import byte_tokenizer

from .language_world import recipe_of, recipe_text, silent
from .small_models import logits_of, make_trunk, tokens


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({'"cached"': '"warm"'}, "healing.targets: expected one of cached, live, on_policy, text, got 'warm'"),
        ({"[healing]": "[healing]\nhidden_weight = 1.0"}, "hidden_weight: is for targets 'live', got 'cached'"),
        ({"cached": "text", "[healing]": "[healing]\ntemperature = 2.0"}, "temperature: is for .*, got 'text'"),
        ({"cached": "live", "[healing]": "[healing]\nbytes_per_token = 16"}, "bytes_per_token: is for .*'cached'"),
        ({"[healing]": "[healing]\ndivergence = 'kl'"}, "divergence: expected forward_kl"),
        (
            {"[healing]": "vocab_size = 280\n[healing]\ndivergence = 'jsd'"},
            "a smaller vocabulary is taught by forward_kl at temperature 1, got jsd at 1",
        ),
        (
            {"[healing]": "vocab_size = 280\n[healing]\ntemperature = 2.0"},
            "a smaller vocabulary is taught by forward_kl at temperature 1, got forward_kl at 2",
        ),
        ({"cached": "on_policy"}, "continuation: expected fewer tokens than the window's 32, got 32"),
        ({"0.0128": "0"}, "million_tokens: expected a positive number"),
        ({"5e-3": "0"}, "learning_rate"),
        ({"batch_size = 8": "batch_size = 0"}, "batch_size: expected at least 1"),
        ({"window = 32": "window = 4"}, "window: expected at least 8"),
        ({"window = 32": "held_out_share = 1.0"}, "held_out_share"),
        ({"window = 32": "data_sets = ['hearsay']"}, "data_sets: expected some of openstax_medical"),
        ({"texts.jsonl": "texts.csv"}, "files: expected .jsonl, .jsonl.zst, .txt, got '.*texts.csv'"),
        ({'"tiny"': '"a/b"'}, "name: expected letters"),
        ({"[healing]": "[healing]\noptimizer = 'sgd'"}, "optimizer: expected one of"),
        ({"[shape]": "[shape]\nlayers = 2"}, "unknown key 'layers'"),
    ],
)  # fmt: skip
def test_bad_recipes_are_refused(changes: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe_of(tmp_path, changes)


def test_a_recipe_is_told_apart_by_its_corpus(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(recipe_text(tmp_path))
    assert is_language(path)
    assert not is_language("hospital-small")


def test_settings_of_the_cache_follow_the_divergence() -> None:
    sampled, other = LanguageHealing().layout(8192), LanguageHealing(divergence="reverse_kl").layout(8192)
    assert sampled.tail > 0
    assert (other.tail, other.head) == (0, 11)  # 8 + 11 * (13 + 8) of 256 bits
    assert max(sampled.num_bytes, other.num_bytes) <= 32


def write_rows(path: Path, rows: list[dict]) -> CorpusChoice:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return CorpusChoice(files=(str(path),), held_out_share=0.2)


def test_a_copy_of_a_held_out_text_is_not_learned(tmp_path: Path) -> None:
    rows = [{"text": f"document {i}"} for i in range(20)]
    corpus = read_corpus(write_rows(tmp_path / "t.jsonl", rows + rows), None)
    assert len(corpus.held_out) == 4
    assert len(corpus.training) == 32
    assert not set(corpus.held_out) & set(corpus.training)
    assert corpus.documents == {str(tmp_path / "t.jsonl"): 32}


def test_files_of_text_are_documents(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text(f"Text {i}: e\u0301.")
    corpus = read_corpus(CorpusChoice(files=tuple(str(tmp_path / f"{i}.txt") for i in range(3))), None)
    assert len(corpus.training) == 2
    assert "é" in corpus.training[0]  # one character


def test_data_sets_keep_their_own_split(tmp_path: Path) -> None:
    name, rows = "public_domain_books", [{"id": f"book/{i}", "text": f"page  {i}"} for i in range(60)]
    (tmp_path / name).mkdir()
    write_rows(tmp_path / name / "rows.jsonl", rows)
    corpus = read_corpus(CorpusChoice(data_sets=(name,)), tmp_path)
    for part, which in ((corpus.training, Split.TRAIN), (corpus.held_out, Split.VALIDATION)):
        assert set(part) == {f"page {i}" for i in range(60) if split_of(name, f"book/{i}") == which}
    assert corpus.documents == {name: len(corpus.training)}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a"}, {"body": "b"}], "t.jsonl, line 2: expected a member 'text'"),
        ([{"text": "a"}, {"text": 3}], "line 2: expected a member 'text'"),
        ([{"text": "a"}, {"text": "\ud800"}], "line 2: text: half of a surrogate pair"),
        ([{"text": "a"}, {"text": "a"}], "two different documents or more, one of them to hold out, got 1"),
        ([{"text": "  "}], "got 0"),
    ],
)
def test_bad_texts_are_refused(rows: list[dict], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_corpus(write_rows(tmp_path / "t.jsonl", rows), None)


def test_windows_follow_each_other_and_every_document_has_its_mark() -> None:
    tokenizer = byte_tokenizer()
    texts = [chr(97 + i) * (5 + i) for i in range(9)]
    found = token_windows(tokenizer, texts, window=8, most=100, seed=0, progress=silent)
    assert found.shape[1] == 9
    np.testing.assert_array_equal(found[:-1, -1], found[1:, 0])
    stream = [*found[:, :-1].ravel().tolist(), int(found[-1, -1])]
    spelled = tokenizer.decode(stream, skip_special_tokens=False).split("<bos>")
    assert sorted(spelled[1:-1]) == sorted(set(spelled[1:-1]) & set(texts))  # the last one may be cut
    assert len(token_windows(tokenizer, texts, window=8, most=3, seed=0, progress=silent)) == 3
    with pytest.raises(DataError, match="have 6 tokens, fewer than one window of 9"):
        token_windows(tokenizer, ["aaaaa"], window=8, most=3, seed=0, progress=silent)


@pytest.mark.parametrize(("count", "batch"), [(12, 4), (10, 4), (3, 8)])
def test_a_pass_reads_every_window_once(count: int, batch: int) -> None:
    read = np.concatenate([rows_of_step(step, batch, count, seed=5) for step in range(3 * count)])
    passes = read[: len(read) // count * count].reshape(-1, count)
    assert (np.sort(passes, axis=1) == np.arange(count)).all()
    assert len({tuple(row) for row in passes.tolist()}) > 1


def test_the_loss_of_texts_equals_the_plain_one() -> None:
    trunk, ids = make_trunk(), tokens(3, 13)
    expected = F.cross_entropy(logits_of(trunk, ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(text_loss(trunk, ids, chunk=7).detach(), expected)
