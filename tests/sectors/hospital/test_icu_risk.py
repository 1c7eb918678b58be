import json

import numpy as np
import pytest

from smallhold.errors import DataError
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.simulator import SimulatedWard, simulate_ward, write_ward
from smallhold.sectors.splits import Split, split_of

REAL_ROW = {
    "record_id": "r1",
    "age": 60,
    "sex": "M",
    "height_cm": 180,
    "icu_type": "medical",
    "died_in_hospital": 0,
    "events": [[1, "HR", 80]],
}


@pytest.fixture(autouse=True)
def nothing_is_found(tmp_path, monkeypatch):
    monkeypatch.delenv("SMALLHOLD_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def write_real(folder):
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text(json.dumps(REAL_ROW) + "\n")


def test_question_and_choices():
    (field,) = icu_risk.SCHEMA
    assert (field.name, field.choices, field.positive) == ("in_hospital_death", ("no", "yes"), "yes")
    assert icu_risk.HORIZONS_H == (6, 12, 24, 48)
    assert max(icu_risk.HORIZONS_H) == icu_risk.NUM_BINS


def test_static_features_by_hand():
    features = icu_risk.static_features_from(82, "M", 180, "surgical")
    assert features.tolist() == [1, 1, 0, 1, 1, 0, 1, 0, 0]
    assert features.dtype == np.float32
    assert len(icu_risk.STATIC_FEATURES) == features.size == 9


@pytest.mark.parametrize(
    ("age", "sex", "height_cm", "icu_type", "expected"),
    [
        (None, None, None, "unknown", [0, 0, 1, 0, 0, 0, 0, 0, 0]),
        (65, "F", 170, "medical", [0, 0, 0, 0, 1, 1, 0, 0, 0]),
        (48, "M", 150, "cardiac surgery recovery", [-1, 1, 0, -2, 1, 0, 0, 1, 0]),
        (65, "F", 1.8, "coronary care", [0, 0, 0, 0, 0, 0, 0, 0, 1]),
    ],
)
def test_unknown_counts_as_zero_and_is_marked(age, sex, height_cm, icu_type, expected):
    assert icu_risk.static_features_from(age, sex, height_cm, icu_type).tolist() == expected


def test_static_features_of_a_stay_use_nothing_but_what_is_known_on_admission():
    (stay,) = simulate_ward(1, seed=0)
    expected = icu_risk.static_features_from(stay.age, stay.sex, stay.height_cm, stay.icu_type)
    assert np.array_equal(icu_risk.static_features(stay), expected)


def test_real_stays_come_before_simulated_ones(tmp_path):
    write_ward(simulate_ward(2, seed=0), tmp_path / "d" / "simulated_ward")
    assert [stay.is_simulated for stay in icu_risk.load_stays(tmp_path / "d")] == [True, True]
    write_real(tmp_path / "d" / "physionet2012_icu")
    (stay,) = icu_risk.load_stays(tmp_path / "d", simulated=SimulatedWard(num_stays=3))
    assert (stay.record_id, stay.is_simulated) == ("r1", False)


def test_without_any_data_the_allowed_ward_is_simulated():
    stays = icu_risk.load_stays(simulated=SimulatedWard(num_stays=2, seed=5, hours=12))
    assert [stay.record_id for stay in stays] == ["sim-5-00000", "sim-5-00001"]


def test_without_data_and_without_leave_to_simulate_it_says_where_it_looked():
    with pytest.raises(DataError, match="'physionet2012_icu' not found") as caught:
        icu_risk.load_stays()
    assert "smallhold data get physionet2012_icu" in caught.value.hint


def test_a_named_directory_is_never_replaced_by_a_simulation(tmp_path):
    with pytest.raises(DataError, match="'physionet2012_icu' not found"):
        icu_risk.load_stays(tmp_path, simulated=SimulatedWard(num_stays=1))


def test_parts_are_disjoint_complete_and_those_of_the_split():
    stays = simulate_ward(60, seed=1, hours=2)
    parts = {part: icu_risk.split(stays, part) for part in Split}
    assert sum(len(part) for part in parts.values()) == 60
    assert [stay.record_id for stay in icu_risk.split(stays, "all")] == [stay.record_id for stay in stays]
    for part, members in parts.items():
        assert all(split_of("simulated_ward", stay.record_id) is part for stay in members)


def test_alert_wording_states_risk_hour_and_threshold():
    text = icu_risk.ALERT_WORDING.format(risk=0.413, hour=24, threshold=0.3)
    assert "41% after 24 h" in text and "threshold of 30%" in text
