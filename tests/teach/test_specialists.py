"""Specialists from a tiny trunk and a simulated ward: trained, added, asked, measured."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs the extra 'train'")

from datetime import UTC, datetime

from tests.conftest import SmallBundle

from smallhold.assist.ward import Specialists, question_of
from smallhold.bundle.add_specialists import AddRequest, add_specialists
from smallhold.decide.local import LocalBundle, open_bundle
from smallhold.errors import DataError, InputError, RecipeError
from smallhold.evaluate.onset_tables import format_specialists
from smallhold.evaluate.onsets import OnsetRequest, evaluate_specialist
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.conditions import AdmissionRecord
from smallhold.sectors.hospital.simulator import simulate_ward
from smallhold.sectors.hospital.stays import Stay
from smallhold.sectors.splits import Split
from smallhold.teach.recipe import BundleChoice, OptimizerChoice
from smallhold.teach.signal_training import SignalTrainingConfig
from smallhold.teach.specialist_bundle import _added, is_specialist_run, write_specialist_card
from smallhold.teach.specialist_recipe import SpecialistChoice, SpecialistRecipe, is_specialists, read_specialist_recipe
from smallhold.teach.specialists import SpecialistSummary, read_specialist_summary, run_specialists
from smallhold.teach.trees import TreeConfig

TASK = "kidney-injury"
RECIPE = SpecialistRecipe(
    trunk="unused",
    begin="icu-risk",
    bundle=BundleChoice(name="small-specialists"),
    specialist=(
        SpecialistChoice(
            task=TASK,
            teacher=TreeConfig(hours=(6, 12, 24), iterations=20, leaves=4, folds=2, learning_rate=0.2),
            training=SignalTrainingConfig(epochs=6, batch_size=32, distill=0.5, synthetic_share=0.0, dropout=0.0),
        ),
    ),
    optimizer=OptimizerChoice(learning_rate=1e-2, warmup_steps=5, weight_decay=0.0, ema_decay=0.9),
    least_onsets=20,
)


def quiet(caption: str, done: int, total: int) -> None:
    """Nothing is shown in tests."""


@dataclass(frozen=True)
class Trained:
    base: LocalBundle
    stays: list[Stay]
    run: Path
    summary: SpecialistSummary


@pytest.fixture(scope="module")
def trained(small_bundle: SmallBundle, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    base = open_bundle(small_bundle.path, trusted_keys=small_bundle.trusted_keys)
    stays = simulate_ward(400, 3, 48)
    run = tmp_path_factory.mktemp("specialists")
    summary = run_specialists(RECIPE, base, stays, run, progress=quiet)
    return Trained(base, stays, run, summary)


def request_of(trained: Trained, **changes: Any) -> AddRequest:
    members: dict[str, Any] = {
        "base": trained.base,
        "trunk_digest": trained.summary.trunk_digest,
        "added": [_added(trained.run, TASK)],
        "calibration": icu_risk.split(trained.stays, Split.TRAIN),
        "validation": icu_risk.split(trained.stays, Split.VALIDATION)
        + icu_risk.split(trained.stays, Split.CALIBRATION),
        "name": "small-specialists",
        "version": "1.0.0",
        "created": datetime(2025, 6, 1, tzinfo=UTC),
        "expires": None,
        "training_data": ("simulated_ward",),
        "licences": {},
        "card": write_specialist_card(trained.summary),
        "max_error": 0.2,
        "seed": 0,
    }
    return AddRequest(**(members | changes))


@pytest.fixture(scope="module")
def bundle(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> LocalBundle:
    path = tmp_path_factory.mktemp("added") / "bundle"
    manifest, fitted, gates = add_specialists(request_of(trained), path, key=None, progress=quiet)
    assert gates[TASK].speaks and list(fitted) == [TASK] and manifest.tasks == ("icu-risk", TASK)
    return open_bundle(path, unsafe_skip_verification=True)


def test_the_trunk_stays_what_it_was_and_the_encoder_has_learnt(trained: Trained, bundle: LocalBundle) -> None:
    for name in trained.base.manifest.files:
        if name != "card.md":
            assert bundle.read(name) == trained.base.read(name), name
    assert bundle.manifest.base_digest == trained.base.manifest.base_digest
    first, last = trained.summary.loss[0][1], trained.summary.loss[-1][1]
    assert last < first and trained.summary.specialists[TASK]["onsets"] >= RECIPE.least_onsets
    assert "kidney-injury speaks: it beats NEWS2" in bundle.read("card.md").decode()


def test_a_specialist_is_asked_like_any_task_and_routed_from_the_record(bundle: LocalBundle) -> None:
    specialists = Specialists.of(bundle.signal_task("icu-risk"))
    assert list(specialists.tasks) == [TASK]
    (local,) = specialists.beside(AdmissionRecord(icd9=("584.9",)))
    assert specialists.beside(AdmissionRecord(admission="CVA")) == ()
    asked = question_of(local)
    assert (asked.condition, asked.alarm_choice) == ("kidney injury", "yes")
    assert "kidney injury within 24 hours 30% after 5 h" in asked.wording.format(risk=0.3, threshold=0.2, hour=5)
    session = local.session([0.0] * len(local.task.signal.static))
    session.observe("Creatinine", 1.0)
    session.close_bin()
    answer = session.decide().answers["kidney_injury_24h"]
    assert 0 < answer.probabilities["yes"] < 1 and local.task.num_bins == 24
    bins = specialists.live_bins(24)[TASK]
    assert (bins.bin_ms, bins.session_bins, bins.keep_bins) == (3_600_000, 24, 12)


def test_the_engines_twin_answers_as_the_runtime_does(bundle: LocalBundle, trained: Trained) -> None:
    other = open_bundle(bundle.files.path, backend="reference", unsafe_skip_verification=True)
    channels = np.random.default_rng(0).normal(size=(6, bundle.signal_task(TASK).task.signal.num_channels))
    asked = [
        one.signal_task(TASK).logits(channels.astype(np.float32), np.zeros(9, np.float32), [1, 6])["kidney_injury_24h"]
        for one in (bundle, other)
    ]
    # Rounding of activations differs between the two, as in conformance; a wrong file would be wholly different.
    assert np.allclose(asked[0], asked[1], atol=0.1)


def test_a_report_says_first_who_speaks(bundle: LocalBundle, trained: Trained) -> None:
    test = icu_risk.split(trained.stays, Split.TEST) + icu_risk.split(trained.stays, Split.VALIDATION)
    request = OnsetRequest(
        stays=test, calibration=icu_risk.split(trained.stays, Split.TRAIN), split="test", num_resamples=20, seed=0
    )
    found = evaluate_specialist(bundle.signal_task(TASK), bundle.signal_task("icu-risk"), request, progress=quiet)
    json.dumps(found, allow_nan=False)
    models = {row["model"] for row in found["rows"]}
    assert models == {"specialist", "trees", "news2", "icu-risk"} and found["group"] == ["nephrology"]
    pooled = next(row for row in found["rows"] if row["model"] == "specialist" and row["hour"] is None)
    assert pooled["asked"] == found["asked_hours"] > 100 and 0.5 < pooled["auroc"]["value"] <= 1
    assert {row["model"] for row in found["burden"]} == {"specialist", "trees", "news2"}
    text = format_specialists([found])
    first = text.splitlines()[0]
    assert first.startswith("No specialist speaks for ") and "autoimmune diseases" in first
    assert "never | never | 0" in text


def test_a_run_that_is_done_is_not_done_again_and_another_recipe_is_refused(trained: Trained) -> None:
    again = run_specialists(RECIPE, trained.base, trained.stays, trained.run, progress=quiet)
    assert again.loss == trained.summary.loss == read_specialist_summary(trained.run).loss
    assert is_specialist_run(trained.run)
    with pytest.raises(DataError, match="holds a run with another recipe"):
        run_specialists(replace(RECIPE, seed=1), trained.base, trained.stays, trained.run, progress=quiet)


def test_too_few_onsets_leave_a_task_untrained(trained: Trained, tmp_path: Path) -> None:
    recipe = replace(RECIPE, least_onsets=10_000)
    with pytest.raises(RecipeError, match=r"no specialist can be trained: .*fewer than 10000"):
        run_specialists(recipe, trained.base, trained.stays, tmp_path, progress=quiet)


def test_another_trunk_and_a_task_twice_are_refused_and_leave_nothing(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="its trunk is not the one"):
        add_specialists(request_of(trained, trunk_digest="0" * 64), tmp_path / "b", key=None, progress=quiet)
    twice = replace(_added(trained.run, TASK), task=replace(_added(trained.run, TASK).task, name="icu-risk"))
    with pytest.raises(InputError, match="has a task of that name already: icu-risk"):
        add_specialists(request_of(trained, added=[twice]), tmp_path / "b", key=None, progress=quiet)
    assert list(tmp_path.iterdir()) == []


def test_a_specialist_that_fails_the_gate_is_not_in_the_bundle(trained: Trained, tmp_path: Path) -> None:
    good = _added(trained.run, TASK)
    deaf = replace(good, encoder={name: np.zeros_like(array) for name, array in good.encoder.items()})
    with pytest.raises(DataError, match=r"kidney-injury does not speak: it .* NEWS2"):
        add_specialists(request_of(trained, added=[deaf]), tmp_path / "b", key=None, progress=quiet)
    assert list(tmp_path.iterdir()) == []


def test_the_shipped_recipe_reads_and_impossible_ones_are_refused() -> None:
    recipe = read_specialist_recipe("specialists")
    assert is_specialists("specialists") and not is_specialists("hospital")
    assert [item.task for item in recipe.specialist] == ["kidney-injury", "consciousness-loss", "hypotension"]
    with pytest.raises(RecipeError, match="no task 'sepsis'"):
        SpecialistChoice(task="sepsis")
    with pytest.raises(RecipeError, match=r"must hold \[6, 12, 24\] and none above 24"):
        SpecialistChoice(task=TASK, teacher=TreeConfig(hours=(6, 12, 24, 36)))
    with pytest.raises(RecipeError, match="synthetic_share: expected 0"):
        SpecialistChoice(
            task=TASK, teacher=TreeConfig(hours=(6, 12, 24)), training=SignalTrainingConfig(synthetic_share=0.5)
        )
    with pytest.raises(RecipeError, match="one or more different specialists"):
        replace(recipe, specialist=())
