import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="pretraining needs torch, the extra 'train'")

import torch
from safetensors.torch import load_file
from tests.teach.corpus import BASE_RECIPE, write_corpus
from tokenizers import Tokenizer
from torch.nn import functional as F

from smallhold.decide.signal import SignalSpec
from smallhold.decide.words import WordSpec
from smallhold.errors import DataError, InterruptedRun, RecipeError
from smallhold.learn.checkpoint import load_signal_model, read_checkpoint
from smallhold.sectors.splits import Split, split_of
from smallhold.teach.corpora import load_corpus
from smallhold.teach.joint_card import write_base_card
from smallhold.teach.pretrain import run_pretraining
from smallhold.teach.pretrain_recipe import LanguagePasses, PretrainRecipe, read_pretrain_recipe
from smallhold.teach.recipe_file import parse_toml
from smallhold.teach.streams import BaseModel, PackedStream, TokenStore


def silent(caption, done, total):
    pass


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def recipe():
    return parse_toml(PretrainRecipe, BASE_RECIPE, where="test")


@pytest.fixture(scope="module")
def base(data, recipe, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "base"
    return run, run_pretraining(recipe, data, run, progress=silent, threads=1)


def test_the_base_learns_both_doors_and_says_what_it_read(base):
    run, summary = base
    assert summary.loss[-1][1] < summary.loss[0][1] * 0.8
    assert summary.validation[-1][1] < 4  # bits a byte: half of what a byte has that nothing is known about
    assert set(summary.documents) == {"public_domain_books", "russian_classics", "french_classics", "simulated_ward"}
    assert json.loads((run / "run.json").read_text())["recipe_digest"] == summary.recipe_digest


def test_the_checkpoint_carries_vocabulary_words_and_the_signal_door(base):
    folder = base[0] / "checkpoint"
    about = read_checkpoint(folder).about
    words, signal = WordSpec.from_json(about["words"]), SignalSpec.from_json(about["signal"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 1024
    ids = [tokenizer.token_to_id(word) for word in words.vocabulary]
    assert sorted(ids) == list(range(1024 - len(words.vocabulary), 1024))
    assert load_signal_model(folder).encoder.basis.in_features == 4 * signal.num_channels
    for text in ("Le cœur bat.", "Пульс 88.", "a\n\tb"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_stopped_run_ends_like_one_that_was_not(base, data, recipe, tmp_path):
    calls = 0

    def stop(caption, done, total):
        nonlocal calls
        if caption.startswith("pretraining") and done == 30 and not calls:
            calls = 1
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(InterruptedRun):
        run_pretraining(recipe, data, tmp_path / "run", progress=stop, threads=1)
    summary = run_pretraining(recipe, data, tmp_path / "run", progress=silent, threads=1)
    assert summary.loss == base[1].loss and summary.validation == base[1].validation
    ours, whole = (load_file(run / "checkpoint" / "model.safetensors") for run in (tmp_path / "run", base[0]))
    assert all(torch.equal(ours[name], whole[name]) for name in whole)


def test_a_run_may_be_made_longer_while_its_rate_is_stable_and_not_later(base, data, recipe, tmp_path):
    longer = replace(recipe, training=replace(recipe.training, million_tokens=0.12))
    assert longer.claim == recipe.claim
    loop, other = recipe.loop(use_bf16=False), longer.loop(use_bf16=False)
    assert other.continues(int(0.7 * loop.steps), loop.steps)
    assert not other.continues(int(0.8 * loop.steps), loop.steps)
    with pytest.raises(DataError, match="another recipe"):  # the finished run has decayed
        run_pretraining(longer, data, base[0], progress=silent, threads=1)


def test_other_texts_are_another_run(base, recipe, tmp_path):
    other = write_corpus(tmp_path / "other", documents=40)
    with pytest.raises(DataError, match="holds a run"):
        run_pretraining(recipe, other, base[0], progress=silent, threads=1)


def test_a_base_goes_on_from_another_and_says_so(base, data, recipe, tmp_path):
    folder = base[0] / "checkpoint"
    more = replace(recipe, training=replace(recipe.training, passes=LanguagePasses(en=1, ru=3, fr=0)))
    summary = run_pretraining(more, data, tmp_path / "run", progress=silent, threads=1, begin=folder)
    assert summary.begun_from is not None and summary.begun_from["tokens_trained"] == base[1].tokens_read
    assert summary.loss[0][1] < 0.8 * base[1].loss[0][1]  # it did not begin from nothing
    assert (tmp_path / "run" / "checkpoint" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    about = read_checkpoint(tmp_path / "run" / "checkpoint").about
    assert about["tokens_trained"] == base[1].tokens_read + summary.tokens_read
    assert about["signal"] == read_checkpoint(folder).about["signal"]
    assert "after 0.1 million" in write_base_card(summary) and "each ru document 3 times" in write_base_card(summary)
    with pytest.raises(DataError, match="holds a run"):  # the same recipe from scratch is another run
        run_pretraining(more, data, tmp_path / "run", progress=silent, threads=1)


def test_a_base_of_another_shape_is_not_gone_on_from(base, data, recipe, tmp_path):
    other = replace(recipe, model=replace(recipe.model, num_hidden_layers=3))
    with pytest.raises(DataError, match="expected the recipe's shape"):
        run_pretraining(other, data, tmp_path / "run", progress=silent, threads=1, begin=base[0] / "checkpoint")
    assert not (tmp_path / "run").exists()


def test_documents_are_split_by_their_group(data):
    for part in Split:
        for document in load_corpus(data, part, ("russian_classics",)):
            assert split_of("russian_classics", document.group) == part and document.language == "ru"
    with pytest.raises(DataError, match="unknown data set"):
        load_corpus(data, Split.TRAIN, ("novels",))


def test_windows_of_the_stream_are_its_slices_and_a_pass_reads_everything():
    store = TokenStore.of([[10, 11, 12], [20], [30, 31]])
    stream = PackedStream(store, np.array([1, 2, 1]), bos=1, seed=0)
    whole = stream.window(0, 2 * stream.pass_length)
    assert stream.pass_length == 4 + 2 * 2 + 3
    for turn in (0, 1):
        one = whole[turn * stream.pass_length : (turn + 1) * stream.pass_length]
        assert sorted(one.tolist()) == sorted([1, 10, 11, 12, 1, 20, 1, 20, 1, 30, 31])
    assert np.array_equal(stream.window(5, 9), whole[5:14])
    assert not np.array_equal(whole[: stream.pass_length], whole[stream.pass_length :])


def test_the_loss_in_chunks_is_the_loss_with_its_gradients(base):
    config = load_signal_model(base[0] / "checkpoint").trunk.config
    torch.manual_seed(0)
    model = BaseModel(config, 11, 1)
    ids = torch.randint(0, config.vocab_size, (30, 50))  # more rows than a chunk holds
    loss = model.token_loss(ids)
    loss.backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    logits = model.trunk(model.trunk.embed(ids[:, :-1]))
    plain = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    plain.backward()
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(ours[name], p.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("[training]\nmillion_tokens = 0\n", "million_tokens"),
        ("[training]\nmillion_tokens = 1\nsignal_every = 1\n", "signal_every"),
        ("[training]\nmillion_tokens = 1\npasses = { en = 0, ru = 0, fr = 0 }\n", "passes"),
        ("[training]\nmillion_tokens = 1\npasses = { de = 1 }\n", "'de'"),
        ("[training]\nmillion_tokens = 1\n[optimizer]\noptimizer = 'sgd'\n", "optimizer"),
    ],
)
def test_impossible_recipes_are_refused_before_any_work(change, message, tmp_path):
    (tmp_path / "r.toml").write_text(change)
    with pytest.raises(RecipeError, match=message):
        read_pretrain_recipe(tmp_path / "r.toml").loop(use_bf16=False)
