"""The smallest change that would have made the difference: every one that is returned was decided again."""

import numpy as np
import pytest

from smallhold.decide.counterfactual import _other_values, find_counterfactual
from smallhold.decide.deletion import Explanation, Trial, explain
from smallhold.decide.local import open_bundle
from smallhold.decide.signal import RankGauss
from smallhold.records import Provenance
from smallhold.sectors.hospital.icu_risk import static_features

FIELD = "in_hospital_death"
PROVENANCE = Provenance(trace_id="0" * 32, clock="stay", simulated=True)
# Hour by hour; some newest readings are older than the newest bin.
RECORD = [
    [("HR", 90.0), ("GCS", 12.0), ("Temp", 37.4)],
    [("HR", 100.0), ("BUN", 40.0), ("HR", 120.0)],
    [("HR", 125.0), ("RespRate", 30.0)],
]


@pytest.fixture(scope="module")
def local(flow):
    return open_bundle(flow.bundle, trusted_keys=flow.home / "trust").task("icu-risk")


def play(local, stay, changes=None):
    """A session over RECORD whose newest readings of some parameters are others."""
    last = {code: (hour, number) for hour, part in enumerate(RECORD) for number, (code, _) in enumerate(part)}
    session = local.session(static_features(stay))
    for hour, part in enumerate(RECORD):
        for number, (code, value) in enumerate(part):
            is_newest = last[code] == (hour, number)
            session.observe(code, (changes or {}).get(code, value) if is_newest else value)
        session.close_bin()
    return session


def about(session, threshold, cited):
    """An explanation with a threshold of our own, so that the small model's alert is near it."""
    whole = session.trial(FIELD)
    return Explanation(
        cited=dict.fromkeys(cited, 0.1), whole=whole, without=whole, alone=whole, threshold=threshold, passes=0
    )


@pytest.mark.parametrize("cited", [("HR",), ("GCS",), ("BUN",), ("HR", "GCS", "BUN", "RespRate")])
def test_what_is_found_is_what_a_session_with_that_reading_would_have_said(flow, local, cited):
    stay = flow.stays[0]
    session = play(local, stay)
    before = session.trial(FIELD)
    reached = [
        play(local, stay, {code: value}).trial(FIELD).probability
        for code in cited
        for _, value in _other_values(grid_of(local, code), newest(code))
    ]
    threshold = (min(reached) + before.probability) / 2
    found = find_counterfactual(session, FIELD, about(session, threshold, cited))
    assert session.trial(FIELD) == before  # nothing was changed by asking
    if min(reached) >= before.probability:
        assert found.changes == () or found.probability < threshold
        return
    (change,) = found.changes
    again = play(local, stay, {change.code: change.value}).trial(FIELD)
    assert again.probability == pytest.approx(found.probability, abs=1e-4) and again.probability < threshold
    # The slow twin: no smaller change of these parameters would have done it.
    for code in cited:
        for distance, value in _other_values(grid_of(local, code), newest(code)):
            if distance < change.distance - 1e-9:
                assert play(local, stay, {code: value}).trial(FIELD).probability >= threshold - 1e-4


def grid_of(local, code):
    return local.task.signal.grids[local.task.signal.parameters.index(code)]


def newest(code):
    return next(value for part in reversed(RECORD) for name, value in reversed(part) if name == code)


def test_nothing_is_found_where_no_change_is_enough(flow, local):
    session = play(local, flow.stays[0])
    found = find_counterfactual(session, FIELD, about(session, 1e-9, ("HR", "GCS", "BUN")))
    assert found.changes == () and found.probability is None and found.decisions > 0


def test_nothing_is_asked_where_nothing_is_cited(flow, local):
    session = play(local, flow.stays[0])
    found = find_counterfactual(session, FIELD, about(session, 0.1, ()))
    assert (found.changes, found.decisions) == ((), 0)


def test_a_pair_is_found_where_no_single_change_is_enough(flow, local):
    session = play(local, flow.stays[0])
    codes = ("HR", "GCS", "BUN", "RespRate")
    stay = flow.stays[0]
    alone = {
        code: min(
            (play(local, stay, {code: value}).trial(FIELD).probability, value)
            for _, value in _other_values(grid_of(local, code), newest(code))
        )
        for code in codes
    }
    first, second = sorted(codes, key=lambda code: alone[code][0])[:2]
    both = play(local, stay, {code: alone[code][1] for code in (first, second)}).trial(FIELD).probability
    single = alone[first][0]
    if both >= single:
        pytest.skip("of this small model's parameters no two lower the risk further than one")
    found = find_counterfactual(session, FIELD, about(session, (single + both) / 2, codes))
    if found.changes:  # the two walk in step, and may pass by
        assert len(found.changes) == 2 and found.probability < (single + both) / 2
        changes = {change.code: change.value for change in found.changes}
        assert play(local, stay, changes).trial(FIELD).probability == pytest.approx(found.probability, abs=1e-4)


def test_readings_are_told_by_bin_and_in_order(flow, local):
    session = play(local, flow.stays[0])
    session.observe("HR", 60.0)  # its bin is still open
    assert session.readings("HR") == [(0, 90.0), (1, 100.0), (1, 120.0), (2, 125.0)]
    assert session.readings("Lactate") == []


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (30.0, [20.0, 10.0]),  # towards the median and beyond, nearest first
        (10.0, [20.0, 30.0]),
        (20.0, [10.0, 30.0]),  # at the median both
    ],
)
def test_other_values_by_hand(now, expected):
    grid = RankGauss((10.0, 20.0, 30.0), (-0.3, 0.0, 0.3))
    found = _other_values(grid, now)
    assert [value for _, value in found] == expected
    assert [distance for distance, _ in found] == pytest.approx([abs(value - now) / 10 * 0.3 for value in expected])


def test_whole_numbered_scales_stay_whole_and_one_point_grids_have_no_other_value():
    grid = RankGauss((3.0, 9.0, 15.0), (-2.0, 0.0, 2.0))
    values = [value for _, value in _other_values(grid, 4.0)]
    assert values and all(value == round(value) and 3 <= value <= 15 for value in values)
    assert _other_values(RankGauss((1.0,), (0.0,)), 1.0) == []


def test_an_alert_of_the_bundle_has_an_answer_that_says_what_it_is(flow, local):
    session = play(local, flow.stays[1])
    explanation = explain(session, FIELD)
    found = find_counterfactual(session, FIELD, explanation)
    assert all(change.code in explanation.cited for change in found.changes)
    assert isinstance(session.trial(FIELD), Trial) and np.isfinite(found.probability or 0.0)
