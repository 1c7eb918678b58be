"""A model from elsewhere, served without a bundle of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="a checkpoint becomes a bundle with the extra 'train'")

from smallhold.learn.llama2c import convert_llama2c
from smallhold.serve.vocabulary import Vocabulary

from .running import start


@pytest.fixture
def stories(tmp_path) -> Path:
    folder = Path(os.environ.get("SMALLHOLD_DATA", "data")) / "weights" / "stories260K"
    if not folder.exists():
        pytest.skip(f"{folder} is missing: set SMALLHOLD_DATA")
    target = tmp_path / "stories-0.26M"
    convert_llama2c(folder / "stories260K.bin", folder / "tok512.bin", target)
    return target


@pytest.mark.slow
@pytest.mark.data
def test_a_pretrained_checkpoint_is_served_as_it_is(stories, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    server = start(
        stories, tmp_path, "--bits", 32, environment={"TMPDIR": str(scratch), "SMALLHOLD_HOME": str(tmp_path / "home")}
    )
    try:
        assert list(scratch.glob("smallhold*")) == []  # the bundle of this run is gone before the first request
        client = server.client()
        asked = {"model": "stories-0.26M", "prompt": "Once upon a time", "max_tokens": 40, "temperature": 0}
        text = client.completions.create(**asked).choices[0].text
        assert text.startswith(", there was a little girl named Lily.")
        streamed = [chunk.choices[0].text for chunk in client.completions.create(**asked, stream=True)]
        assert "".join(streamed) == text
    finally:
        assert server.stop()[0] == 0


@pytest.mark.data
def test_a_sentencepiece_vocabulary_spells_every_character(stories):
    vocabulary = Vocabulary((stories / "tokenizer.json").read_text(), 512)
    text = "Once upon a time, été, Жук, 🐈 and\nnothing <s>."
    tokens = vocabulary.encode(text)
    assert tokens[0] == 1 and tokens.count(1) == 1
    assert vocabulary.text(tokens) == " " + text  # such vocabularies put a space before a text
    assert vocabulary.ends == {2}


@pytest.mark.slow
def test_a_checkpoint_of_random_weights_is_served_under_its_folders_name(make_checkpoint, tmp_path):
    source = make_checkpoint(max_position_embeddings=32)
    server = start(source, tmp_path, environment={"SMALLHOLD_HOME": str(tmp_path / "home")})
    try:
        (model,) = server.client().models.list().data
        assert model.id == source.name
        assert server.client().completions.create(model=source.name, prompt="ab", max_tokens=5).choices
    finally:
        assert server.stop()[0] == 0
