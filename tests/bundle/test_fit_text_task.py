from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("scipy", reason="the weights are fitted with scipy, the extra 'train'")

from smallhold.bundle.calibrate import calibrate_field
from smallhold.bundle.fit_text_task import fit_path_weights, fit_text_task
from smallhold.decide import open_bundle
from smallhold.decide.plan import Field, calibrate_logits
from smallhold.errors import DataError, ShapeError


def loss(a: float, b: float, trunk: np.ndarray, ngrams: np.ndarray, labels: np.ndarray) -> float:
    """Cross-entropy, the truth counting as (n + 1) / (n + 2)."""
    logits = a * trunk + b * ngrams
    surprise = np.logaddexp.reduce(logits, axis=1)[:, None] - logits
    n, num_choices = logits.shape
    share = np.full(num_choices, 1 / ((n + 2) * (num_choices - 1)))
    total = 0.0
    for row, label in zip(surprise, labels, strict=True):
        share_of_row = share.copy()
        share_of_row[label] = 1 - 1 / (n + 2)
        total += float(row @ share_of_row)
    return total / n


def rows(
    seed: int, trunk_says: float, ngrams_say: float, count: int = 120
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    truth = np.eye(4)[labels]
    return (
        rng.normal(size=(count, 4)) + trunk_says * truth,
        rng.normal(size=(count, 4)) + ngrams_say * truth,
        labels,
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.floats(-1, 2), st.floats(-1, 2))
def test_no_other_weights_of_a_grid_are_more_likely(seed: int, trunk_says: float, ngrams_say: float) -> None:
    data = rows(seed, trunk_says, ngrams_say)
    a, b = fit_path_weights(*data)
    assert min(a, b) >= 0
    assert max(a, b) > 0
    best = min(loss(x, y, *data) for x in np.linspace(0, 4, 21) for y in np.linspace(0, 4, 21) if x or y)
    assert loss(a, b, *data) <= best + 1e-3


def test_a_path_that_says_nothing_gets_nothing() -> None:
    trunk, ngrams, labels = rows(0, 0.0, 2.0, count=4000)
    a, b = fit_path_weights(trunk, ngrams, labels)
    assert a < 0.05
    assert 1 < b < 3
    assert fit_path_weights(-trunk - 3 * np.eye(4)[labels], ngrams, labels)[0] == 0
    a, b = fit_path_weights(-np.eye(4)[labels], -np.eye(4)[labels], labels)  # both are wrong on purpose
    assert (a, b) == (0.0, 1e-3)


def test_paths_that_are_always_right_are_as_sure_as_their_number_allows() -> None:
    labels = np.arange(12) % 3
    a, b = fit_path_weights(np.eye(3)[labels], np.eye(3)[labels], labels)
    sure = np.exp(a + b) / (np.exp(a + b) + 2)
    assert sure == pytest.approx(13 / 14, abs=1e-4)  # twelve right of twelve: one more may be wrong


def test_rows_that_do_not_belong_together_are_refused() -> None:
    trunk, ngrams, labels = rows(0, 1, 1)
    with pytest.raises(ShapeError, match="path weights: expected"):
        fit_path_weights(trunk, ngrams[:-1], labels)
    with pytest.raises(DataError, match="the calibration split is empty"):
        fit_path_weights(trunk[:0], ngrams[:0], labels[:0])


def test_a_promise_is_judged_by_rows_that_were_not_fitted() -> None:
    rng = np.random.default_rng(5)
    labels, fresh = rng.integers(0, 4, 400), rng.integers(0, 4, 2000)

    def remembering(rows: np.ndarray) -> np.ndarray:  # right about what it was fitted on, and blind elsewhere
        blind = np.random.default_rng(6).normal(size=(400, 4))
        return np.where(rows[:, None], 4.0 * np.eye(4)[labels], blind)

    field = Field(name="f", choices=("a", "b", "c", "d"), positive="a")
    kept = []
    for refit in (None, remembering):
        fitted = calibrate_field(field, remembering(np.ones(400, bool)), labels, alpha=0.1, refit=refit)
        p = calibrate_logits(fitted, rng.normal(size=(2000, 4)))
        kept.append(fitted.conformal.sets(p)[np.arange(2000), fresh].mean())
    assert kept[0] < 0.6
    assert kept[1] > 0.88


def test_the_weights_have_no_part_in_the_rows_that_judge_them(text_bundle: Any) -> None:
    local = open_bundle(text_bundle.path, trusted_keys=text_bundle.trusted_keys).text_task("triage")
    local.door = replace(local.door, trunk_weight=1.0)
    texts = [example.text for example in text_bundle.examples]
    labels = np.array([local.field.choices.index(example.label) for example in text_bundle.examples])
    trunk, ngrams = local.logits(texts, "trunk"), local.logits(texts, "ngrams")
    asked: list[np.ndarray] = []

    def refit(rows: np.ndarray) -> np.ndarray:
        asked.append(rows)
        a, b = fit_path_weights(trunk[rows], ngrams[rows], labels[rows])
        return a * trunk + b * ngrams

    fitted = fit_text_task(local, text_bundle.examples, alpha=0.2, progress=lambda *what: None).task
    logits = fitted.text.trunk_weight * trunk + fitted.text.ngram_weight * ngrams
    units = [example.group for example in text_bundle.examples]
    calibrate = partial(calibrate_field, local.field, logits, labels, alpha=0.2, units=units, fits_alert=False)
    assert fitted.fields[0] == calibrate(refit=refit) != calibrate()
    assert np.sum(~np.array(asked), axis=0).tolist() == [1] * 60  # every row is left out once


def test_a_text_task_is_fitted_as_it_ships(text_bundle: Any) -> None:
    pytest.importorskip("torch", reason="the bundle is built with the extra 'train'")
    local = open_bundle(text_bundle.path, trusted_keys=text_bundle.trusted_keys).text_task("triage")
    # As it was before it was fitted: 0 would say that the trunk never learnt the task.
    local.door = replace(local.door, trunk_weight=1.0)
    said: list[tuple[str, int, int]] = []
    fitted = fit_text_task(local, text_bundle.examples, alpha=0.2, progress=lambda *what: said.append(what))
    assert fitted.task == local.task  # which was fitted by `build_bundle` on the same examples
    assert said == [("texts of triage", 60, 60)]
    assert fitted.task.fields[0].conformal is not None
    assert 0 < fitted.coverage <= 1
    stranger = replace(text_bundle.examples[0], label="gout")
    with pytest.raises(DataError, match=r"task triage: calibration labels \['gout'\] are not among its choices"):
        fit_text_task(local, [*text_bundle.examples, stranger], alpha=0.2, progress=lambda *what: None)
    with pytest.raises(DataError, match="the calibration split is empty"):
        fit_text_task(local, [], alpha=0.2, progress=lambda *what: None)
