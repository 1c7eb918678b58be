"""A larger model as teacher: what it has answered is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch, the extra 'train'")

from tests.teach.corpus import silent

from smallhold.sectors.scaffold import write_simulated_sector
from smallhold.sectors.tasks import read_sector
from smallhold.teach.joint import run_joint
from smallhold.teach.joint_recipe import read_joint_recipe
from smallhold.teach.model_teacher import ModelTeacher


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop") / "shop"
    write_simulated_sector("shop", folder, seed=0)
    recipe = read_joint_recipe(folder / "recipe.toml")
    (lesson,) = recipe.text
    recipe = replace(recipe, sector=str(folder), base="", text=(replace(lesson, epochs=0.1, max_tokens=32),))
    run_joint(recipe, folder / "data", folder.parent / "run", progress=silent, threads=1)
    return folder


def test_it_is_asked_about_the_same_texts_once(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (task,) = read_sector(shop).text_tasks
    run, texts = shop.parent / "run", ["where is my parcel", "the till is closed", "where is my parcel"]
    asked = ModelTeacher(run).texts(task.name, texts, task.choices)
    kept = ModelTeacher(run, keep=tmp_path)
    assert np.array_equal(kept.texts(task.name, texts, task.choices), asked)
    assert np.allclose(asked.sum(axis=1), 1) and np.array_equal(asked[0], asked[2])

    def refuse(*_: object) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(ModelTeacher, "_choice_logits", refuse)
    assert np.array_equal(kept.texts(task.name, texts, task.choices), asked)
    surer = ModelTeacher(run, temperature=0.5, keep=tmp_path).texts(task.name, texts, task.choices)
    assert (surer.max(axis=1) > asked.max(axis=1)).all()  # logits are kept, whatever they are divided by
    for others in (texts[:2], [*texts[:2], "a refund"]):
        with pytest.raises(AssertionError, match="asked again"):
            kept.texts(task.name, others, task.choices)
    with pytest.raises(AssertionError, match="asked again"):
        kept.texts(task.name, texts, task.choices[::-1])
