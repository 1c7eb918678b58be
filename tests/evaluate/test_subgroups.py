"""Groups hold whom they say, and a small one says nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from smallhold.evaluate.judged import Judged
from smallhold.evaluate.metrics import auroc, brier_skill
from smallhold.evaluate.subgroups import groups_of, subgroup_row
from smallhold.sectors.hospital.simulator import simulate_ward


def test_the_groups_of_an_attribute_hold_everybody_once() -> None:
    stays = simulate_ward(60, 0, 6)
    stays[0], stays[1] = replace(stays[0], age=None, sex=None), replace(stays[1], age=80.0, icu_type="unknown")
    found = list(groups_of(stays))
    for attribute in ("sex", "age", "unit"):
        masks = [mask for name, _, mask in found if name == attribute]
        np.testing.assert_array_equal(np.sum(masks, axis=0), np.ones(60))
    by_name = {(attribute, group): mask for attribute, group, mask in found}
    assert by_name["age", "age unknown"][0] and by_name["sex", "sex unknown"][0]
    assert by_name["age", "80 and over"][1] and by_name["unit", "unknown"][1]


@pytest.mark.parametrize(("num_died", "is_too_small"), [(9, True), (10, False)])
def test_nine_deaths_are_too_few_for_a_number(num_died: int, is_too_small: bool) -> None:
    generator = np.random.default_rng(0)
    died = np.arange(80) < num_died
    died[60:] = True  # not members: they must not count
    p = generator.random(80)
    member = np.arange(80) < 60
    judged = Judged(number=p, probability=p, is_called=p > 0.9, has_abstained=p < 0)
    row = subgroup_row(died, judged, member, horizon_h=6, num_resamples=20, seed=0)
    assert (row["n"], row["num_events"], row["is_too_small"]) == (60, num_died, is_too_small)
    figures = {"auroc", "ece", "ece_noise", "brier", "brier_skill", "alert_rate"}
    assert figures & row.keys() == (set() if is_too_small else figures)
    if not is_too_small:
        assert row["auroc"]["value"] == auroc(died[:60], p[:60])
        assert row["brier_skill"]["value"] == brier_skill(died[:60], p[:60])
        assert row["alert_rate"]["value"] == pytest.approx((p[:60] > 0.9).mean())
