"""The planner puts filters in order, and refuses nonsense by name."""

import itertools

import pytest

from smallhold.errors import RecipeError
from smallhold.privacy.plan import (
    CLIP,
    DISCRETE_NOISE,
    ENCRYPT,
    FIXED_POINT,
    MASK,
    NOISE,
    QUANTIZE,
    SHARED_SUPPORT,
    TOP_K,
    plan_filters,
)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([], ", then mean"),
        ([CLIP, NOISE], "clip > noise, then mean"),
        ([CLIP, NOISE, TOP_K, QUANTIZE], "clip > noise > sparsify > quantize, then mean"),
        ([CLIP, FIXED_POINT, DISCRETE_NOISE, MASK], "clip > fixed_point > discrete_noise > mask, then mean"),
        ([FIXED_POINT, ENCRYPT], "fixed_point > encrypt, then mean"),
        ([SHARED_SUPPORT, FIXED_POINT, MASK], "sparsify > fixed_point > mask, then mean"),
    ],
)
def test_any_order_is_put_right(filters, expected):
    for given in itertools.permutations(filters):
        assert str(plan_filters(given, aggregate="mean")) == expected


def test_a_plan_says_what_the_server_sees():
    hidden = plan_filters([CLIP, FIXED_POINT, DISCRETE_NOISE, MASK], aggregate="weighted_mean", claims_privacy=True)
    assert (hidden.hides_updates, hidden.has_site_noise) == (True, True)
    open_plan = plan_filters([CLIP], aggregate="mean", claims_privacy=True, has_server_noise=True)
    assert (open_plan.hides_updates, open_plan.has_site_noise) == (False, False)


@pytest.mark.parametrize("hide", [MASK, ENCRYPT])
@pytest.mark.parametrize("aggregate", ["median", "trimmed_mean", "krum"])
def test_what_compares_single_updates_needs_to_see_them(hide, aggregate):
    what = "masked sums" if hide is MASK else "ciphertexts"
    with pytest.raises(RecipeError, match=f"{aggregate} over {what}"):
        plan_filters([FIXED_POINT, hide], aggregate=aggregate)
    plan_filters([CLIP, QUANTIZE], aggregate=aggregate)


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ([TOP_K, FIXED_POINT, MASK], r"sparsify \(top-k\) under mask"),
        ([TOP_K, FIXED_POINT, ENCRYPT], r"sparsify \(top-k\) under encrypt"),
        ([CLIP, NOISE, FIXED_POINT, MASK], "noise on floats under mask"),
        ([QUANTIZE, MASK], "quantize by group under mask"),
        ([MASK], "fixed_point is missing: masked sums are of whole numbers"),
        ([FIXED_POINT, MASK, ENCRYPT], "mask and encrypt"),
        ([NOISE], "clip is missing"),
        ([FIXED_POINT, DISCRETE_NOISE, MASK], "clip is missing"),
        ([CLIP, DISCRETE_NOISE], "discrete_noise without fixed_point"),
        ([CLIP, NOISE, FIXED_POINT, DISCRETE_NOISE], "noise and discrete_noise"),
        ([QUANTIZE, FIXED_POINT], "quantize and fixed_point"),
        ([CLIP, CLIP], "clip is named twice"),
    ],
)
def test_nonsense_is_refused_by_name(filters, message):
    with pytest.raises(RecipeError, match=message):
        plan_filters(filters, aggregate="mean")


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (
            [CLIP, FIXED_POINT, ENCRYPT, DISCRETE_NOISE],
            "discrete_noise after encrypt: discrete_noise needs plain numbers",
        ),
        ([NOISE, CLIP], "clip after noise: clip must come before noise"),
        ([CLIP, MASK, FIXED_POINT], "fixed_point after mask: fixed_point needs plain numbers"),
    ],
)
def test_a_wrong_order_is_refused_where_the_order_is_the_jobs(filters, message):
    with pytest.raises(RecipeError, match=message):
        plan_filters(filters, aggregate="mean", keeps_order=True)


@pytest.mark.parametrize(
    ("filters", "options", "message"),
    [
        ([], {"claims_privacy": True}, "clip is missing"),
        ([CLIP], {"claims_privacy": True}, "noise is missing: clipping alone gives no epsilon"),
        ([], {"has_server_noise": True}, "clip is missing"),
        ([CLIP], {"has_server_noise": True, "aggregate": "median"}, "median with noise at the server"),
        ([], {"aggregate": "mode"}, "aggregate: expected one of"),
    ],
)
def test_a_claim_needs_what_it_rests_on(filters, options, message):
    with pytest.raises(RecipeError, match=message):
        plan_filters(filters, **{"aggregate": "mean", **options})
