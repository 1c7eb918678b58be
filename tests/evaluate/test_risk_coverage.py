from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("scipy", reason="exact intervals need scipy, the extra 'train'")

from scipy.stats import binom

from smallhold.errors import InputError, ShapeError
from smallhold.evaluate.risk_coverage import (
    aurc,
    exact_interval,
    excess_aurc,
    risk_coverage_curve,
    selective_error,
    set_coverage,
)

ROWS = st.lists(st.tuples(st.booleans(), st.sampled_from([0.5, 0.6, 0.9])), min_size=1, max_size=6)


def test_the_curve_by_hand() -> None:
    wrong, confidence = [0, 1, 0, 1], [0.9, 0.8, 0.8, 0.6]
    assert risk_coverage_curve(wrong, confidence).tolist() == [[0.25, 0.0], [0.75, 1 / 3], [1.0, 0.5]]
    assert selective_error(wrong, confidence, 0.25) == 0.0
    assert selective_error(wrong, confidence, 0.3) == 1 / 3
    assert selective_error(wrong, confidence, 1.0) == 0.5
    assert aurc(wrong, confidence) == pytest.approx((0 + 0.5 / 2 + 1 / 3 + 0.5) / 4)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(ROWS)
def test_the_area_is_the_mean_over_every_order_of_tied_rows(rows: list[tuple[bool, float]]) -> None:
    wrong, confidence = np.array([w for w, _ in rows], float), np.array([c for _, c in rows])
    areas = [
        (np.cumsum(wrong[list(order)]) / np.arange(1, len(rows) + 1)).mean()
        for order in itertools.permutations(range(len(rows)))
        if all(confidence[a] >= confidence[b] for a, b in itertools.pairwise(order))
    ]
    assert aurc(wrong, confidence) == pytest.approx(np.mean(areas))


def test_a_perfect_order_has_no_excess_and_a_constant_one_has_the_error_rate() -> None:
    wrong = np.random.default_rng(0).random(200) < 0.3
    assert excess_aurc(wrong, -wrong.astype(float)) == pytest.approx(0)
    assert excess_aurc(wrong, wrong.astype(float)) > 0.3
    assert aurc(wrong, np.ones(200)) == pytest.approx(wrong.mean())


@pytest.mark.parametrize(("n", "share"), [(5, 0.5), (20, 0.9), (116, 0.95), (7, 0.01)])
def test_the_exact_interval_holds_the_truth_often_enough(n: int, share: float) -> None:
    holds = [low <= share <= high for low, high in (exact_interval(hits, n) for hits in range(n + 1))]
    assert binom.pmf(np.arange(n + 1), n, share)[holds].sum() >= 0.95


def test_the_ends_of_the_exact_interval_are_those_of_the_two_one_sided_tests() -> None:
    low, high = exact_interval(104, 116)
    assert binom.sf(103, 116, low) == pytest.approx(0.025)
    assert binom.cdf(104, 116, high) == pytest.approx(0.025)
    assert exact_interval(0, 0) == (0.0, 1.0)
    assert exact_interval(10, 10)[1] == 1.0


def test_coverage_is_counted_by_group_and_choice() -> None:
    sets = np.array([[1, 0], [1, 1], [0, 1], [1, 0], [0, 1]], bool)
    labels = np.array([0, 0, 0, 1, 1])
    chosen = np.array([0, -1, 1, 0, 1])
    first, second, third = set_coverage(sets, labels, chosen, groups=["a", "a", "b", "b", "b"])
    assert (first.group, first.choice, first.n, first.coverage, first.answered, first.wrong) == ("a", 0, 2, 1, 0.5, 0)
    assert first.set_size == 1.5
    assert (second.group, second.choice, second.n, second.coverage, second.wrong) == ("b", 0, 1, 0, 1)
    assert (third.group, third.choice, third.n, third.coverage, third.wrong) == ("b", 1, 2, 0.5, 0.5)
    assert (third.low, third.high) == exact_interval(1, 2)
    (together,) = set_coverage(sets, labels, chosen, is_by_choice=False)
    assert (together.choice, together.n, together.coverage, together.answered) == (None, 5, 0.6, 0.8)


def test_what_is_no_answer_is_refused() -> None:
    with pytest.raises(ShapeError, match="equal lengths"):
        aurc([0, 1], [0.5])
    with pytest.raises(InputError, match="0 or 1"):
        aurc([0, 2], [0.5, 0.6])
    with pytest.raises(InputError, match="without NaN"):
        aurc([0, 1], [0.5, float("nan")])
    with pytest.raises(InputError, match="coverage: expected a share"):
        selective_error([0, 1], [0.5, 0.6], 0.0)
    with pytest.raises(InputError, match="got 3, 2 and"):
        exact_interval(3, 2)
    with pytest.raises(ShapeError, match="1 labels"):
        set_coverage(np.ones((2, 2), bool), np.array([0]), np.array([0, 0]))
