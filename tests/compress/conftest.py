from __future__ import annotations

from pathlib import Path

import pytest
from tests.teach.corpus import BASE_RECIPE, WARD_RECIPE, silent, write_corpus

from smallhold.teach.joint import JointSummary, run_joint
from smallhold.teach.joint_recipe import JointRecipe
from smallhold.teach.pretrain import run_pretraining
from smallhold.teach.pretrain_recipe import PretrainRecipe
from smallhold.teach.recipe_file import parse_toml


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, JointSummary]:
    runs = tmp_path_factory.mktemp("runs")
    shape = BASE_RECIPE.replace("hidden_size = 32", "hidden_size = 64").replace("heads = 2", "heads = 4")
    run_pretraining(parse_toml(PretrainRecipe, shape, where="test"), data, runs / "base", progress=silent, threads=1)
    recipe = parse_toml(JointRecipe, WARD_RECIPE.replace("BASE", str(runs / "base" / "checkpoint")), where="test")
    return runs / "ward", run_joint(recipe, data, runs / "ward", progress=silent, threads=1)
