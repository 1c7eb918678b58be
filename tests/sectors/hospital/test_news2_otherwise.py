"""What takes NEWS2 below a limit, against every set of vital signs on the chart's own grid."""

from hypothesis import given, settings
from hypothesis import strategies as st

from smallhold.records import Provenance
from smallhold.sectors.hospital.floor import FloorState
from smallhold.sectors.hospital.news2 import Vitals, news2
from smallhold.sectors.hospital.news2_otherwise import _changes, _with, news2_otherwise

P = Provenance(trace_id="0" * 32)
VITALS = st.builds(
    Vitals,
    resp_rate=st.none() | st.integers(4, 40).map(float),
    spo2=st.none() | st.integers(75, 100).map(float),
    on_oxygen=st.none() | st.booleans(),
    systolic=st.none() | st.integers(60, 250).map(float),
    pulse=st.none() | st.integers(30, 160).map(float),
    is_alert=st.none() | st.booleans(),
    temperature=st.none() | st.integers(330, 420).map(lambda tenths: tenths / 10),
)


def high(score):
    return score.total >= 7


def test_one_change_by_hand():
    vitals = Vitals(resp_rate=21, spo2=96, on_oxygen=False, systolic=95, pulse=112, is_alert=True, temperature=38.2)
    assert news2(vitals).total == 7  # 2 + 0 + 0 + 2 + 2 + 0 + 1
    found = news2_otherwise(vitals, high)
    # Temperature: 0.1 degrees of a row of 4; respiratory rate: 1 of 16; pulse: 2 of 90.
    assert (found.changes, found.score.total) == ({"pulse": 110.0}, 6)


def test_two_changes_where_one_is_not_enough_and_none_where_two_are_not():
    vitals = Vitals(resp_rate=30, spo2=90, on_oxygen=True, systolic=120, pulse=80, is_alert=True, temperature=37)
    assert news2(vitals).total == 8
    one = news2_otherwise(vitals, lambda score: score.total >= 5)
    assert len(one.changes) == 2 and one.score.total < 5
    worst = Vitals(resp_rate=30, spo2=80, on_oxygen=True, systolic=70, pulse=150, is_alert=False, temperature=34)
    assert news2_otherwise(worst, high) is None


@settings(max_examples=150, deadline=None)
@given(VITALS, st.integers(1, 9), st.booleans())
def test_it_really_holds_and_no_smaller_change_of_one_parameter_does(vitals, limit, is_hypercapnic):
    def holds(score):
        return score.total >= limit

    if not holds(news2(vitals, is_hypercapnic=is_hypercapnic)):
        return
    found = news2_otherwise(vitals, holds, is_hypercapnic=is_hypercapnic)
    if found is None:
        # The slow twin: no value on the chart's grid of any one parameter would do.
        for part, grid in GRID.items():
            if getattr(vitals, part) is not None:
                for value in grid:
                    other = _with(vitals, {part: value})
                    assert holds(news2(other, is_hypercapnic=is_hypercapnic))
        return
    changed = _with(vitals, found.changes)
    assert news2(changed, is_hypercapnic=is_hypercapnic) == found.score and not holds(found.score)
    assert all(getattr(vitals, part) is not None for part in found.changes)
    if len(found.changes) == 1:
        (part,) = found.changes
        if part in GRID:
            now, value = getattr(vitals, part), found.changes[part]
            nearer = [other for other in GRID[part] if abs(other - now) < abs(value - now) - 1e-9]
            for other in nearer:
                assert holds(news2(_with(vitals, {part: other}), is_hypercapnic=is_hypercapnic))
    else:
        for _, change in _changes(vitals, is_hypercapnic):
            assert holds(news2(_with(vitals, change), is_hypercapnic=is_hypercapnic))


GRID = {
    "resp_rate": range(1, 60),
    "spo2": range(60, 101),
    "systolic": range(40, 260),
    "pulse": range(20, 180),
    "temperature": [tenths / 10 for tenths in range(330, 420)],
}


def test_the_floor_says_it_in_the_codes_of_its_parts():
    floor = FloorState("p")
    for code, value in (("RespRate", 22), ("FiO2", 0.5), ("HR", 95), ("GCS", 15), ("Temp", 37)):
        floor.observe(code, value, 0)
    assert floor.scores(0, P).scores[0].total == 5
    found = floor.otherwise(0, lambda score: score.total >= 5)
    assert (found.codes, found.total) == (("pulse",), 4) and found.values == (90.0,)
    floor.observe("GCS", 9, 1)
    found = floor.otherwise(1, lambda score: score.total >= 7)
    assert (found.codes, found.values, found.total) == (("resp_rate",), (20.0,), 6)
