import json
import shutil
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch, the extra 'train'")

import torch
from tests.teach.corpus import BASE_RECIPE, WARD_RECIPE, silent, write_corpus
from tokenizers import Tokenizer

from smallhold.bundle.assemble import build_bundle
from smallhold.compress.quantize import quantize_checkpoint
from smallhold.decide.local import open_bundle
from smallhold.decide.ngrams import NGramClassifier
from smallhold.decide.plan import answer_field
from smallhold.decide.task import Task, choice_token, marker_of
from smallhold.decide.words import WordSpec, words_of_record
from smallhold.errors import DataError, DecisionError, RecipeError
from smallhold.learn.checkpoint import load_signal_model, read_checkpoint
from smallhold.records import sha256_hex
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.scaffold import write_simulated_sector
from smallhold.sectors.splits import Split
from smallhold.sectors.tasks import read_sector
from smallhold.sectors.text_task import load_examples, split
from smallhold.teach.bundle_request import BundleSource, request_of_run
from smallhold.teach.joint import run_joint, word_table
from smallhold.teach.joint_card import write_joint_card
from smallhold.teach.joint_recipe import JointRecipe, read_joint_recipe
from smallhold.teach.lessons import Timetable, batch_of, pad
from smallhold.teach.model_teacher import ModelTeacher
from smallhold.teach.pretrain import run_pretraining
from smallhold.teach.pretrain_recipe import PretrainRecipe
from smallhold.teach.recipe_file import parse_toml


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def base(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "base"
    recipe = parse_toml(PretrainRecipe, BASE_RECIPE, where="test")
    run_pretraining(recipe, data, run, progress=silent, threads=1)
    return run / "checkpoint"


@pytest.fixture(scope="module")
def ward(data, base, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "ward"
    recipe = parse_toml(JointRecipe, WARD_RECIPE.replace("BASE", str(base)), where="test")
    return run, run_joint(recipe, data, run, progress=silent, threads=1)


def test_one_trunk_learns_a_signal_task_by_both_doors(ward, base, data):
    run, summary = ward
    assert set(summary.steps) == {"icu-risk", "icu-risk in words"} and summary.is_simulated
    assert summary.loss[-1][1] < summary.loss[0][1]
    task = Task.from_bytes((run / "tasks" / "icu-risk.json").read_bytes())
    assert task.signal.to_json() == read_checkpoint(base).about["signal"]
    model, tokenizer = (
        load_signal_model(run / "checkpoint"),
        Tokenizer.from_file(str(run / "checkpoint/tokenizer.json")),
    )
    rows = torch.tensor([tokenizer.token_to_id(choice_token("icu-risk", c)) for c in ("no", "yes")])
    assert rows.min() == 1024  # behind the base's vocabulary
    # What the two doors say of the same patients goes together after two passes over them.
    stays = icu_risk.load_stays(data)[:60]
    words = WordSpec.from_json(read_checkpoint(base).about["words"])
    table = word_table(stays, task.signal, words, tokenizer)
    spelled = [table.spell(i, table.bins[i]) for i in range(len(stays))]
    with torch.no_grad():
        hidden = model.trunk.hidden(model.trunk.embed(torch.from_numpy(pad([ids for ids, _ in spelled], 0))))
        at = torch.from_numpy(np.stack([places for _, places in spelled]))
        read = hidden[torch.arange(len(stays))[:, None], at] @ model.trunk.lm_head.weight[rows].T
        from smallhold.decide.signal import encode_stays

        channels = torch.from_numpy(encode_stays(task.signal, [(s.minute, s.code, s.value) for s in stays], 48))
        static = torch.from_numpy(np.stack([icu_risk.static_features(stay) for stay in stays]))
        signal = model.choice_logits(channels, static, rows)
    by_words, by_signal = (read[:, -1, 1] - read[:, -1, 0]), (signal[:, -1, 1] - signal[:, -1, 0])
    assert np.corrcoef(by_words.numpy(), by_signal.numpy())[0, 1] > 0.2


def test_a_stay_as_a_table_of_words_is_the_stay_in_words(base, data):
    about = read_checkpoint(base).about
    words, tokenizer = WordSpec.from_json(about["words"]), Tokenizer.from_file(str(base / "tokenizer.json"))
    from smallhold.decide.signal import SignalSpec

    signal = SignalSpec.from_json(about["signal"])
    stays = icu_risk.load_stays(data)[:5]
    table = word_table(stays, signal, words, tokenizer)
    for i, stay in enumerate(stays):
        cards = words_of_record(words, signal, stay.minute, stay.code, stay.value)
        ids, places = table.spell(i, table.bins[i])
        expected = [tokenizer.token_to_id(word) for card in cards for word in card]
        assert ids[len(table.prefix[i]) :] == expected
        assert [tokenizer.id_to_token(ids[p]) for p in places] == [card[-1] for card in cards]
        assert len(ids) == table.lengths()[i]


def test_text_tasks_learn_from_any_sector_folder(base, tmp_path):
    write_simulated_sector("shop", tmp_path / "shop", seed=0)
    recipe = read_joint_recipe(tmp_path / "shop" / "recipe.toml")
    (choice,) = recipe.text
    recipe = replace(
        recipe,
        sector=str(tmp_path / "shop"),
        base=str(base),
        text=(replace(choice, epochs=6.0, batch_size=16, max_tokens=48),),
        optimizer=replace(recipe.optimizer, learning_rate=5e-3, warmup_steps=5),
    )
    summary = run_joint(recipe, tmp_path / "shop" / "data", tmp_path / "run", progress=silent, threads=1)
    (task,) = read_sector(tmp_path / "shop").text_tasks
    assert summary.tasks == [task.name] and summary.is_simulated
    tokenizer = Tokenizer.from_file(str(tmp_path / "run/checkpoint/tokenizer.json"))
    assert tokenizer.token_to_id(marker_of(task.name)) == 1024
    classifier = NGramClassifier.from_bytes((tmp_path / "run" / "ngrams" / f"{task.name}.npz").read_bytes())
    assert len(classifier.bias) == len(task.choices)
    assert summary.loss[-1][1] < 0.7 * summary.loss[0][1]
    again = run_joint(recipe, tmp_path / "shop" / "data", tmp_path / "run", progress=silent, threads=1)
    assert json.dumps(again.loss) == json.dumps(summary.loss)


def test_labels_of_an_endpoint_outweigh_those_of_the_data(base, tmp_path):
    """An endpoint that calls every text by the next choice's name: that is what the trunk then says."""
    write_simulated_sector("shop", tmp_path / "shop", seed=0)
    (task,) = read_sector(tmp_path / "shop").text_tasks
    data, choices = tmp_path / "shop" / "data", list(task.choices)
    examples = split(load_examples(task, data), Split.TRAIN)
    following = {choice: choices[(i + 1) % len(choices)] for i, choice in enumerate(choices)}
    lines = "".join(json.dumps({"text": e.text, "label": following[e.label]}) + "\n" for e in examples)
    folder = tmp_path / "labels"
    folder.mkdir()
    (folder / "labels.jsonl").write_text(lines)
    files = {"labels.jsonl": {"sha256": sha256_hex(lines.encode())}}
    (folder / "manifest.json").write_text(json.dumps({"choices": choices, "files": files}))
    recipe = read_joint_recipe(tmp_path / "shop" / "recipe.toml")
    (lesson,) = recipe.text
    recipe = replace(
        recipe,
        sector=str(tmp_path / "shop"),
        base=str(base),
        text=(replace(lesson, epochs=6.0, batch_size=16, max_tokens=48, teacher=str(folder)),),
        optimizer=replace(recipe.optimizer, learning_rate=5e-3, warmup_steps=5),
    )
    run_joint(recipe, data, tmp_path / "run", progress=silent, threads=1)
    said = ModelTeacher(tmp_path / "run").texts(task.name, [e.text for e in examples], choices).argmax(axis=1)
    taught = np.mean([choices[i] == following[e.label] for i, e in zip(said, examples, strict=True)])
    assert taught > 0.5 > np.mean([choices[i] == e.label for i, e in zip(said, examples, strict=True)])
    (folder / "labels.jsonl").write_text(lines[:-40])
    with pytest.raises(DataError, match="another recipe"):  # other labels are another run
        run_joint(recipe, data, tmp_path / "run", progress=silent, threads=1)
    with pytest.raises(DataError, match="changed after their manifest"):
        run_joint(recipe, data, tmp_path / "other", progress=silent, threads=1)
    shutil.rmtree(folder)
    with pytest.raises(DataError, match="no labels"):
        run_joint(recipe, data, tmp_path / "third", progress=silent, threads=1)


def test_a_timetable_holds_every_lesson_and_keeps_late_ones_late():
    class Counted:
        def __init__(self, name, steps, not_before):
            self.name, self.steps, self.not_before = name, steps, not_before

        def __call__(self, model, number, rng):
            return self.name, number

    timetable = Timetable([Counted("a", 60, 0.0), Counted("b", 40, 0.5)], seed=0)
    from smallhold.learn.model import SignalModel, TrunkConfig

    model = SignalModel(TrunkConfig(vocab_size=8, hidden_size=8, num_attention_heads=2, num_key_value_heads=2), 11, 1)
    held = [timetable(model, step, np.random.default_rng(0)) for step in range(timetable.steps)]
    assert sorted(held) == sorted([("a", i) for i in range(60)] + [("b", i) for i in range(40)])
    assert all([n for k, n in held if k == kind] == list(range(count)) for kind, count in (("a", 60), ("b", 40)))
    assert all(kind == "a" for kind, _ in held[:20])


def test_batches_of_a_pass_read_every_row_once():
    lengths = np.random.default_rng(0).integers(1, 90, 101)
    for turn in range(3):
        rows = np.concatenate([batch_of(lengths, 8, turn * 13 + i, seed=4) for i in range(13)])
        assert Counter(rows.tolist()) == Counter(range(101))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (('task = "icu-risk"', 'task = "sepsis"'), RecipeError, "sepsis"),
        (("[bundle]", 'splits = ["test"]\n[bundle]'), RecipeError, "unknown key"),
        (('sector = "hospital"', 'sector = "hospital"\nsplits = ["test"]'), RecipeError, "splits"),
        (('base = "BASE"', 'base = "nowhere"'), DataError, "nowhere"),
        (('base = "BASE"', 'base = ""'), DataError, "patients"),
    ],
)
def test_impossible_recipes_are_refused(change, error, message, base, data, tmp_path):
    with pytest.raises(error, match=message):
        recipe = parse_toml(JointRecipe, WARD_RECIPE.replace(*change).replace("BASE", str(base)), where="test")
        run_joint(recipe, data, tmp_path / "run", progress=silent, threads=1)


def test_the_card_names_tasks_data_and_limits(ward):
    card = write_joint_card(ward[1], sector="hospital", encoding="q8_0")
    for expected in ("icu-risk", "Not a medical device", "simulated", "q8_0", ward[1].recipe_digest):
        assert expected in card


@pytest.fixture(scope="module")
def ward_bundle(ward, data):
    run, created = ward[0], datetime(2026, 1, 1, tzinfo=UTC)
    quantize_checkpoint(run / "checkpoint", run / "quantized")
    source = BundleSource(
        run=run,
        checkpoint=run / "quantized",
        encoding="q8_0",
        data_dir=data,
        version=None,
        is_without_expiry=True,
        created=created,
    )
    request, is_simulated = request_of_run(source)
    build_bundle(request, run / "bundle", is_simulated=is_simulated, created=created, key=None, progress=silent)
    return run / "bundle"


def test_the_bundle_answers_by_both_doors_and_words_are_the_same_card_by_card(ward_bundle, data):
    bundle = open_bundle(ward_bundle, unsafe_skip_verification=True)
    assert bundle.manifest.is_simulated and "public_domain_books" in bundle.manifest.training_data
    local = bundle.signal_task("icu-risk")
    stay = icu_risk.load_stays(data)[3]
    static = icu_risk.static_features(stay)
    door = local.word_door()
    whole = door.logits(bundle.backend.session(), stay.minute, stay.code, stay.value, static, (6, 12, 48))
    session, at, field = local.word_session(static), 0, local.task.word_fields[0]
    assert field.conformal is not None and field != local.task.fields[0]
    for hour in range(1, 49):
        while at < len(stay.minute) and stay.minute[at] <= 60 * hour:
            session.observe(local.task.signal.parameters[stay.code[at]], float(stay.value[at]))
            at += 1
        has_closed = session.close_bin()
        assert has_closed == (hour in door.words.card_ends)
        if hour in (6, 12, 48):
            row = whole[field.name][(6, 12, 48).index(hour)]
            expected = answer_field(field, row, field.conformal.group_at(hour))
            answer = session.decide()[field.name]
            assert answer.probabilities == pytest.approx(expected.probabilities, abs=0.02)
    with pytest.raises(DecisionError, match="closes at"):
        door.logits(bundle.backend.session(), stay.minute, stay.code, stay.value, static, (7,))
    with pytest.raises(DecisionError, match="close a card"):
        local.word_session(static).decide()


def test_the_weights_of_a_bundle_stand_in_for_the_training(ward, ward_bundle, base, data, tmp_path):
    run, trained = ward
    recipe = parse_toml(JointRecipe, WARD_RECIPE.replace("BASE", str(base)), where="test")
    bundle = open_bundle(ward_bundle, unsafe_skip_verification=True)
    summary = run_joint(recipe, data, tmp_path / "run", progress=silent, threads=1, shipped=bundle)
    assert summary.steps == trained.steps and summary.loss == []
    taken, twin = load_signal_model(tmp_path / "run/checkpoint"), load_signal_model(run / "quantized")
    assert all(torch.equal(a, b) for a, b in zip(taken.parameters(), twin.parameters(), strict=True))
    assert (tmp_path / "run/tasks/icu-risk.json").read_bytes() == (run / "tasks/icu-risk.json").read_bytes()
    with pytest.raises(DataError, match="another recipe"):  # not trained on as if it were the recipe's own run
        run_joint(recipe, data, tmp_path / "run", progress=silent, threads=1)
    write_simulated_sector("shop", tmp_path / "shop", seed=0)
    other = replace(read_joint_recipe(tmp_path / "shop" / "recipe.toml"), sector=str(tmp_path / "shop"), base=str(base))
    with pytest.raises(DataError, match="another vocabulary than the recipe"):
        run_joint(other, tmp_path / "shop" / "data", tmp_path / "other", progress=silent, threads=1, shipped=bundle)
