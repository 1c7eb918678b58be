"""The first line claims no more than the intervals allow."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallhold.evaluate.verdict import Outcome, judge, verdict


def of(differences: dict[str, dict[int | None, tuple[float | None, float | None]]], **members: Any) -> str:
    items = [
        {"horizon_h": horizon_h, "models": ["shipped", rival], "auroc": {"value": low, "low": low, "high": high}}
        for rival, by_horizon in differences.items()
        for horizon_h, (low, high) in by_horizon.items()
    ]
    rows = members.pop("rows", [])
    return verdict({"is_simulated": False, "rows": rows, "differences": items, **members}).sentence  # type: ignore[typeddict-item]


BETTER, NOISE, WORSE = (0.01, 0.03), (-0.01, 0.02), (-0.03, -0.01)


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.001, 0.02, Outcome.BEATS),
        (0.0, 0.02, Outcome.MATCHES),
        (-0.02, 0.0, Outcome.MATCHES),
        (-0.02, -0.001, Outcome.WORSE),
        (None, None, Outcome.UNKNOWN),
    ],
)
def test_only_an_interval_beyond_zero_decides(low: float | None, high: float | None, outcome: Outcome) -> None:
    assert judge({"value": 0.5, "low": low, "high": high}) is outcome


def test_a_full_win() -> None:
    assert of({"trees": {6: BETTER, 48: BETTER}, "news2": {6: BETTER, 48: BETTER}}) == (
        "The shipped model beats the boosted trees at 6 and 48 h. It beats NEWS2 at 6 and 48 h."
    )


def test_a_match_is_called_not_beating() -> None:
    assert of({"trees": {6: NOISE, 12: NOISE, 48: NOISE}, "news2": {6: BETTER, 12: BETTER, 48: BETTER}}) == (
        "The shipped model does not beat the boosted trees: it matches them within noise at 6, 12 and 48 h. "
        "It beats NEWS2 at 6, 12 and 48 h."
    )


def test_every_horizon_is_named_where_it_belongs() -> None:
    assert of({"trees": {48: BETTER, 24: NOISE, 12: WORSE, 6: (None, None)}}) == (
        "The shipped model beats the boosted trees at 48 h, matches them within noise at 24 h, "
        "is worse than them at 12 h and could not be compared with them at 6 h."
    )


def test_a_loss_is_said_plainly() -> None:
    assert of({"news2": {6: WORSE}}) == "The shipped model does not beat NEWS2: it is worse than it at 6 h."


def test_a_comparison_not_made_is_said() -> None:
    assert of({"trees": {6: BETTER}}, rows=[{"model": "news2"}]).endswith("It was not compared with NEWS2.")


def test_nothing_compared_is_said() -> None:
    assert "not compared with anything simpler" in of({})


def test_its_own_kin_is_no_simple_thing() -> None:
    found = of({"trees": {6: BETTER}, "fp32": {6: WORSE}, "saps1": {24: BETTER}})
    assert found == "The shipped model beats the boosted trees at 6 h. It beats SAPS-I at 24 h."


def test_a_comparison_the_other_way_round_is_no_claim_about_the_shipped_model() -> None:
    item = {"horizon_h": 6, "models": ["trees+shipped", "trees"], "auroc": {"value": 1, "low": 1, "high": 1}}
    found = verdict({"is_simulated": False, "rows": [], "differences": [item]})  # type: ignore[typeddict-item, list-item]
    assert "not compared with anything simpler" in found.sentence


def test_a_task_without_a_clock_names_no_hours() -> None:
    assert of({"tfidf": {None: BETTER}}) == "The shipped model beats TF-IDF."


def test_simulated_patients_are_named_first() -> None:
    assert of({"trees": {6: BETTER}}, is_simulated=True).startswith("On simulated patients, the shipped model")


def test_an_older_score_is_named_only_where_it_is_not_beaten() -> None:
    found = of({"trees": {6: BETTER}, "mews": {6: BETTER, 48: BETTER}, "sirs": {6: BETTER, 48: NOISE}})
    assert found == (
        "The shipped model beats the boosted trees at 6 h. It beats SIRS at 6 h and matches it within noise at 48 h."
    )


def test_a_bundle_beside_is_no_rival() -> None:
    found = of({"trees": {6: BETTER}, "int4": {6: WORSE}}, besides=[{"name": "int4"}])
    assert found == "The shipped model beats the boosted trees at 6 h."


def test_a_text_task_without_a_baseline_says_so() -> None:
    found = of({"majority": {None: BETTER}}, num_texts=40)
    assert found == "The shipped model was not compared with TF-IDF."


@given(st.lists(st.sampled_from([BETTER, NOISE, WORSE]), min_size=1, max_size=6))
def test_tone_is_good_only_when_everything_is_won(intervals: list[tuple[float, float]]) -> None:
    items = [
        {"horizon_h": i, "models": ["shipped", "trees"], "auroc": {"value": low, "low": low, "high": high}}
        for i, (low, high) in enumerate(intervals)
    ]
    found = verdict({"is_simulated": False, "rows": [], "differences": items})  # type: ignore[typeddict-item]
    assert (found.tone == "good") == (set(intervals) == {BETTER})
    assert (found.tone == "bad") == (WORSE in intervals)
    assert ("does not beat" in found.sentence) == (BETTER not in intervals)
