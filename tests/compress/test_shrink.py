"""A sector's run becomes a smaller one, with the large one as teacher, and bundles like any other."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch, the extra 'train'")

from tests.compress.taught_ward import SMALLER, recipe_of
from tests.teach.corpus import silent

from smallhold.bundle.assemble import build_bundle
from smallhold.cli.main import main
from smallhold.compress.quantize import twin_folder
from smallhold.compress.shrink import _take_over, plan_shrink, run_shrink
from smallhold.compress.shrink_recipe import ShrinkRecipe, read_shrink_recipe
from smallhold.decide.local import open_bundle
from smallhold.errors import DataError, RecipeError
from smallhold.evaluate.run_folder import open_student
from smallhold.learn.checkpoint import load_signal_model, read_checkpoint
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.simulator import simulate_ward, write_ward
from smallhold.teach.bundle_request import BundleSource, request_of_run
from smallhold.teach.joint import JointSummary
from smallhold.teach.joint_recipe import read_joint_recipe
from smallhold.teach.model_teacher import ModelTeacher, digest_of_run
from smallhold.teach.recipe_file import parse_toml
from smallhold.teach.signal_task import signal_inputs


@pytest.fixture(scope="module")
def small(teacher: tuple[Path, JointSummary], data: Path) -> Path:
    run = teacher[0].parent / "small"
    run_shrink(recipe_of(teacher[0]), data, run, progress=silent, threads=1)
    return run


def test_the_smaller_run_says_what_became_of_the_teacher(small: Path, teacher: tuple[Path, JointSummary]) -> None:
    said = json.loads((small / "shrink.json").read_text())
    assert said["parameters"] < said["teacher_parameters"] == teacher[1].parameters
    plan = plan_shrink(recipe_of(teacher[0]))
    missing = 980 - said["vocab_size"]  # there were not so many tokens to keep
    assert plan.parameters - 32 * missing == said["parameters"]
    assert plan.steps == sum(teacher[1].steps.values())
    config = read_checkpoint(small / "checkpoint").config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (1, 32, 2)
    assert config.vocab_size == said["vocab_size"] <= 980


def test_run_and_teacher_can_be_moved(
    small: Path, teacher: tuple[Path, JointSummary], data: Path, tmp_path: Path
) -> None:
    for run in (small, teacher[0]):
        shutil.copytree(run, tmp_path / run.name)
    moved = tmp_path / small.name
    (moved / "shrink.json").unlink()
    run_shrink(recipe_of(tmp_path / teacher[0].name), data, moved, progress=silent, threads=1)
    weights = Path("checkpoint", "model.safetensors")
    assert (moved / weights).read_bytes() == (small / weights).read_bytes()
    state = Path("training", "state.safetensors")  # nothing was learnt a second time
    assert (moved / state).stat().st_mtime_ns == (small / state).stat().st_mtime_ns


def test_it_bundles_and_decides_like_any_run(small: Path, data: Path) -> None:
    created = datetime(2026, 1, 1, tzinfo=UTC)
    request, is_simulated = request_of_run(
        BundleSource(
            run=small,
            checkpoint=twin_folder(small, 8),
            encoding="q8_0",
            data_dir=data,
            version=None,
            is_without_expiry=True,
            created=created,
        )
    )
    build_bundle(request, small / "bundle", is_simulated=is_simulated, created=created, key=None, progress=silent)
    opened = open_bundle(small / "bundle", unsafe_skip_verification=True)
    assert opened.manifest.name == "small-ward"
    there = sum(entry.bytes for entry in opened.manifest.files.values())
    foretold = plan_shrink(recipe_of(Path(json.loads((small / "shrink.json").read_text())["recipe"]["teacher"])))
    assert abs(foretold.bundle_bytes - there) < 100_000  # of a model this small the papers are the most
    task = opened.task("icu-risk")
    stay = next(stay for stay in icu_risk.load_stays(data) if stay.died is not None)
    channels, static = signal_inputs([stay], task.task.signal)
    shipped = task.logits(channels[0].astype(np.float32), static[0], task.task.horizons)[task.task.fields[0].name]
    plain = open_student(small, task)(channels.astype(np.float32), static)
    positive = task.task.fields[0].choices.index(task.task.fields[0].positive)
    assert np.allclose(shipped[:, positive] - shipped[:, 1 - positive], plain[0], atol=0.2)


def test_the_teacher_pulls_the_student_to_its_answers(
    teacher: tuple[Path, JointSummary], small: Path, data: Path
) -> None:
    """Distance to the teacher's answers on patients that neither has seen, beside a student taught by labels alone."""
    alone = small.parent / "alone"
    run_shrink(recipe_of(teacher[0], "[healing]\nteacher_weight = 0.0\n"), data, alone, progress=silent, threads=1)
    stays = [s for s in icu_risk.split(icu_risk.load_stays(data), "test") if s.died is not None]
    signal_spec = ModelTeacher(teacher[0]).task("icu-risk").signal
    inputs = signal_inputs(stays, signal_spec)
    says = {run: ModelTeacher(run).mortality(*inputs) for run in (teacher[0], small, alone)}
    assert np.abs(says[small] - says[teacher[0]]).mean() < np.abs(says[alone] - says[teacher[0]]).mean()


@pytest.mark.parametrize("rounding", ['bits = 4\nmethod = "gptq"', 'bits = 4\nmethod = "qat"'])
def test_every_way_to_round_ends_in_a_twin(
    rounding: str, teacher: tuple[Path, JointSummary], data: Path, tmp_path: Path
) -> None:
    short = "[healing]\nepochs = 0.2\n[rounding]\n" + rounding
    run_shrink(recipe_of(teacher[0], short), data, tmp_path / "run", progress=silent, threads=1)
    twin = load_signal_model(twin_folder(tmp_path / "run", 4))
    plain = load_signal_model(tmp_path / "run" / "checkpoint")
    assert all(t.isfinite().all() for t in twin.state_dict().values())
    weight = "trunk.model.layers.0.mlp.up_proj.weight"
    assert not np.array_equal(twin.state_dict()[weight], plain.state_dict()[weight])


def test_a_killed_run_goes_on_where_it_was(teacher: tuple[Path, JointSummary], small: Path, data: Path) -> None:
    """SIGTERM in the middle of healing, then the same command: the very weights of the run that was left alone."""
    run = small.parent / "killed"
    recipe = small.parent / "recipe.toml"
    recipe.write_text(SMALLER.replace("TEACHER", str(teacher[0])))
    words = [sys.executable, "-m", "smallhold.cli.main", "compress", str(recipe), "--out", str(run), "--threads", "1"]
    words += ["--data", str(data)]
    child = subprocess.Popen(words, env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (run / "identity.json").exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=120)
    assert main(words[3:]) == 0
    same = (run / "checkpoint" / "model.safetensors").read_bytes()
    assert same == (small / "checkpoint" / "model.safetensors").read_bytes()


def test_a_dry_run_writes_nothing(
    teacher: tuple[Path, JointSummary], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(SMALLER.replace("TEACHER", str(teacher[0])))
    assert main(["compress", str(recipe), "--out", str(tmp_path / "run"), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] > 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (("num_hidden_layers = 1", "num_hidden_layers = 9"), RecipeError, "at most the teacher's 2"),
        (("hidden_size = 32", "hidden_width = 32"), RecipeError, "hidden_size"),
        (("hidden_size = 32", "hidden_size = 40"), RecipeError, "multiple of 32"),
        (('teacher = "TEACHER"', 'teacher = "nowhere"'), DataError, "nowhere"),
        (("calibration_windows = 16", "calibration_windows = 1"), RecipeError, "calibration_windows"),
        (("vocab_size = 980", "vocab_size = 300"), RecipeError, "no room"),
        (("[shape]", "[rounding]\nbits = 3\n[shape]"), RecipeError, "bits"),
        (("[shape]", '[rounding]\nmethod = "magic"\n[shape]'), RecipeError, "method"),
        (("[shape]", "[healing]\nepochs = 0.0\n[shape]"), RecipeError, "healing"),
        (("[shape]", "[healing]\nepochs = inf\n[shape]"), RecipeError, "finite"),
        (("[shape]", "[healing]\ntext_passes = 0.0\n[shape]"), RecipeError, "text_passes: expected more than 0"),
        (('name = "small-ward"', 'name = "../ward"'), RecipeError, "name: expected letters"),
        (("calibration", 'version = "one"\ncalibration'), RecipeError, "version"),
    ],
)
def test_impossible_recipes_are_refused(
    change: tuple[str, str],
    error: type[Exception],
    says: str,
    teacher: tuple[Path, JointSummary],
    data: Path,
    tmp_path: Path,
) -> None:
    text = SMALLER.replace(*change).replace("TEACHER", str(teacher[0]))
    with pytest.raises(error, match=says):
        run_shrink(parse_toml(ShrinkRecipe, text, where="test"), data, tmp_path / "run", progress=silent, threads=1)
    assert not (tmp_path / "run" / "run.json").exists()


def test_another_run_s_folder_is_left_alone(teacher: tuple[Path, JointSummary], data: Path) -> None:
    before = sorted(teacher[0].rglob("*"))
    with pytest.raises(DataError, match="not made by"):
        run_shrink(recipe_of(teacher[0]), data, teacher[0], progress=silent, threads=1)
    assert sorted(teacher[0].rglob("*")) == before


def test_what_other_patients_said_to_keep_is_not_healed_on(
    small: Path, teacher: tuple[Path, JointSummary], tmp_path: Path
) -> None:
    shutil.copytree(small / "pruned", tmp_path / "run" / "pruned")
    write_ward(simulate_ward(300, 1, 48), tmp_path / "other" / "simulated_ward")
    with pytest.raises(DataError, match="other data"):
        run_shrink(recipe_of(teacher[0]), tmp_path / "other", tmp_path / "run", progress=silent, threads=1)


def test_a_teacher_is_known_by_all_that_it_answers_with(teacher: tuple[Path, JointSummary], tmp_path: Path) -> None:
    run = shutil.copytree(teacher[0], tmp_path / "run")
    seen = {digest_of_run(teacher[0])}
    assert seen == {digest_of_run(run)}
    for name in ("checkpoint/signal_encoder.safetensors", "checkpoint/tokenizer.json", "tasks/icu-risk.json"):
        (run / name).write_bytes((run / name).read_bytes() + b" ")
        seen.add(digest_of_run(run))
    assert len(seen) == 4


def test_a_teacher_without_its_vocabulary_is_refused(
    teacher: tuple[Path, JointSummary], data: Path, tmp_path: Path
) -> None:
    half = shutil.copytree(teacher[0], tmp_path / "half")
    (half / "checkpoint" / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        run_shrink(recipe_of(half), data, tmp_path / "run", progress=silent, threads=1)


def test_what_is_taken_over_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    source, target = tmp_path / "trees", tmp_path / "taken"
    _take_over(source, target)
    assert not target.exists()
    source.mkdir()
    (source / "a.npz").write_bytes(b"a")
    (source / "b.npz").symlink_to("nowhere")  # copying ends here
    with pytest.raises(OSError, match=r"b\.npz"):
        _take_over(source, target)
    assert [path.name for path in tmp_path.iterdir()] == ["trees"]
    (source / "b.npz").unlink()
    _take_over(source, target)
    assert (target / "a.npz").read_bytes() == b"a"


def test_passes_over_texts_multiply_those_of_the_healing() -> None:
    taught = read_joint_recipe("hospital")
    recipe = recipe_of(Path("nowhere"), "[healing]\nepochs = 0.5\ntext_passes = 3.0\n")
    healed = recipe.healed(taught, Path("pruned"))
    assert [lesson.epochs for lesson in healed.text] == [lesson.epochs * 1.5 for lesson in taught.text]
    assert healed.signal[0].training.epochs == taught.signal[0].training.epochs * 0.5


def test_the_shipped_recipe_is_an_eighth() -> None:
    recipe = read_shrink_recipe("hospital-small")
    assert recipe.teacher == "runs/hospital-train" and recipe.shape.num_hidden_layers == 4
