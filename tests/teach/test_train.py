import json
from dataclasses import replace

import numpy as np
import pytest

from smallhold.errors import DataError, RecipeError
from smallhold.learn.checkpoint import load_signal_model
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.splits import Split
from smallhold.teach.recipe import read_recipe
from smallhold.teach.signal_task import fit_signal_spec, make_task
from smallhold.teach.train import digest_stays, read_summary, run_training


def silent(caption, done, total):
    pass


@pytest.fixture(scope="module")
def recipe(flow):
    return read_recipe(flow.recipe)


@pytest.fixture(scope="module")
def finished(flow, recipe, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "finished"
    return run, run_training(recipe, flow.stays, run, progress=silent, threads=1)


def test_the_same_seed_gives_the_same_bytes(flow, finished):
    for name in (
        "checkpoint/model.safetensors",
        "checkpoint/signal_encoder.safetensors",
        "teacher/trees.npz",
        "task.json",
    ):
        assert (finished[0] / name).read_bytes() == (flow.run / name).read_bytes(), name


def test_another_seed_gives_another_model(flow, recipe, finished, tmp_path):
    run_training(replace(recipe, seed=1), flow.stays, tmp_path / "run", progress=silent, threads=1)
    name = "checkpoint/model.safetensors"
    assert (tmp_path / "run" / name).read_bytes() != (finished[0] / name).read_bytes()


def test_only_the_training_split_is_read(flow, recipe, finished, tmp_path):
    # Everything about the other patients is changed; nothing about the run changes.
    others = [
        stay
        if stay in icu_risk.split([stay], Split.TRAIN)
        else replace(stay, died=not stay.died, value=stay.value * 0 + 50)
        for stay in flow.stays
    ]
    summary = run_training(recipe, others, tmp_path / "run", progress=silent, threads=1)
    assert summary.data_digest == finished[1].data_digest
    name = "checkpoint/model.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (finished[0] / name).read_bytes()


def test_a_finished_run_is_not_trained_again(flow, recipe, finished):
    run, before = finished
    steps = []
    again = run_training(recipe, flow.stays, run, progress=lambda *what: steps.append(what), threads=1)
    assert not [step for step in steps if step[0].startswith("student")]
    assert (again.loss, again.data_digest) == (before.loss, before.data_digest)


def test_the_summary_reads_back(finished):
    run, summary = finished
    assert read_summary(run).loss == summary.loss
    assert read_summary(run).parameters == sum(p.numel() for p in load_signal_model(run / "checkpoint").parameters())


def test_another_recipe_other_data_or_threads_in_the_same_folder_are_refused(flow, recipe, finished):
    run, _ = finished
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    message = "holds a run with another recipe, other data, another number of threads or other library versions"
    with pytest.raises(DataError, match=message) as raised:
        run_training(replace(recipe, seed=9), flow.stays, run, progress=silent, threads=1)
    assert raised.value.hint == f"choose another --out, or delete {run}"
    with pytest.raises(DataError, match=message):
        run_training(recipe, flow.stays[1:], run, progress=silent, threads=1)
    with pytest.raises(DataError, match=message):
        run_training(recipe, flow.stays, run, progress=silent, threads=2)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_wrong_task_hours_or_data_are_refused_before_the_folder_is_made(flow, recipe, tmp_path):
    run = tmp_path / "run"

    def attempt(recipe, stays):
        run_training(recipe, stays, run, progress=silent)

    with pytest.raises(RecipeError, match="no task 'sepsis' in sector 'hospital': expected 'icu-risk' in 'hospital'"):
        attempt(replace(recipe, task=replace(recipe.task, name="sepsis")), flow.stays)
    with pytest.raises(RecipeError, match=r"teacher\.hours must hold \[6, 12, 24, 48\] and none above 48"):
        attempt(replace(recipe, teacher=replace(recipe.teacher, hours=(6, 12))), flow.stays)
    with pytest.raises(RecipeError, match="none above 48"):
        attempt(replace(recipe, teacher=replace(recipe.teacher, hours=(6, 12, 24, 48, 72))), flow.stays)
    with pytest.raises(DataError, match="expected at least 100 patients of one data set, got 0 of"):
        attempt(recipe, icu_risk.split(flow.stays, Split.TEST))
    assert not run.exists()


def test_an_unfinished_or_damaged_run_is_said_to_be_so(tmp_path):
    with pytest.raises(DataError, match=r"no run\.json, so the training has not finished"):
        read_summary(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(DataError, match=r"run\.json is malformed"):
        read_summary(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"loss": []}))
    with pytest.raises(DataError, match=r"run\.json is malformed"):
        read_summary(tmp_path)


def test_the_digest_sees_every_part_of_a_stay(flow):
    stay = flow.stays[0]
    value = stay.value.copy()
    value[0] = np.nextafter(value[0], np.float32(1e9))
    changed = [replace(stay, died=not stay.died), replace(stay, record_id="x"), replace(stay, value=value)]
    digests = {digest_stays([item]) for item in [stay, *changed]}
    assert len(digests) == 4
    assert digest_stays(flow.stays[:2]) != digest_stays(flow.stays[1::-1])


def test_the_task_of_a_run_asks_the_sectors_question(flow):
    task = make_task(fit_signal_spec(flow.stays[:5]))
    assert (task.name, task.num_bins, task.horizons) == ("icu-risk", 48, (6, 12, 24, 48))
    assert task.signal.static == icu_risk.STATIC_FEATURES
    assert [field.choices for field in task.fields] == [("no", "yes")]
