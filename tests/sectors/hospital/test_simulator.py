import json
from collections import Counter

import numpy as np
import pytest

from smallhold.errors import DataError, InputError
from smallhold.sectors.hospital.parameters import INDEX, PARAMETERS
from smallhold.sectors.hospital.physiology import (
    EPISODES,
    Episode,
    hidden_signals,
    intensities,
    ph_of,
    saturation_of,
)
from smallhold.sectors.hospital.simulator import simulate_ward, write_ward
from smallhold.sectors.hospital.stays import ICU_TYPES, Stay, read_physionet2012


@pytest.fixture(scope="module")
def ward():
    return simulate_ward(600, seed=3)


def values_of(stays, name):
    return np.concatenate([stay.value[stay.code == INDEX[name]] for stay in stays])


def is_same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in Stay.__dataclass_fields__)


def test_a_patient_does_not_depend_on_how_many_there_are():
    few, many = simulate_ward(3, seed=8), simulate_ward(6, seed=8)
    assert all(is_same(a, b) for a, b in zip(few, many[:3], strict=True))


def test_seeds_differ_and_are_repeatable():
    assert is_same(simulate_ward(1, seed=1)[0], simulate_ward(1, seed=1)[0])
    assert not is_same(simulate_ward(1, seed=1)[0], simulate_ward(1, seed=2)[0])


def test_every_stay_says_that_it_is_simulated(ward):
    assert {(stay.is_simulated, stay.data_set) for stay in ward} == {(True, "simulated_ward")}
    assert len({stay.record_id for stay in ward}) == len(ward)


def test_stays_are_sorted_plausible_and_within_their_hours(ward):
    for stay in ward:
        assert np.all(np.diff(stay.minute) >= 0)
        assert stay.minute[0] >= 0 and stay.minute[-1] <= 48 * 60
        for code, value in zip(stay.code, stay.value, strict=True):
            assert PARAMETERS[code].plausible_low <= value <= PARAMETERS[code].plausible_high
    assert set(np.concatenate([stay.code for stay in ward])) == set(range(37))


def test_artefacts_are_there_for_the_gate_and_rare(ward):
    refused = Counter(PARAMETERS[r.code].name for stay in ward for r in stay.refused)
    assert {"NISysABP", "SysABP", "Temp"} <= set(refused)
    assert 0.0003 < refused.total() / sum(len(stay.minute) for stay in ward) < 0.003


def test_about_one_in_seven_dies(ward):
    # 600 patients: the standard deviation of the share is 1.4 %.
    assert 0.09 < np.mean([stay.died for stay in ward]) < 0.19


def test_units_differ_and_age_sex_and_height_are_an_adults(ward):
    assert {stay.icu_type for stay in ward} == set(ICU_TYPES)
    assert all(18 <= stay.age <= 90 for stay in ward)
    assert 0.35 < np.mean([stay.height_cm is None for stay in ward]) < 0.6
    assert all(stay.height_cm is None or 120 <= stay.height_cm <= 230 for stay in ward)
    assert all(stay.saps1 is None for stay in ward)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("HR", 75, 100),
        ("NISysABP", 105, 130),
        ("Temp", 36.5, 37.4),
        ("Na", 136, 141),
        ("pH", 7.32, 7.43),
        ("K", 3.9, 4.5),
    ],
)
def test_medians_are_those_of_a_unit(ward, name, low, high):
    assert low < np.median(values_of(ward, name)) < high


@pytest.mark.parametrize(
    ("name", "sign"), [("Lactate", 1), ("Creatinine", 1), ("BUN", 1), ("Urine", -1), ("GCS", -1), ("SysABP", -1)]
)
def test_those_who_die_look_sicker(ward, name, sign):
    died = np.mean(values_of([stay for stay in ward if stay.died], name))
    lived = np.mean(values_of([stay for stay in ward if not stay.died], name))
    assert sign * (died - lived) > 0


# What textbooks say about each episode at its height: signals that rise and signals that fall.
@pytest.mark.parametrize(
    ("kind", "rising", "falling"),
    [
        (
            "sepsis",
            ["heart rate", "temperature", "Lactate", "WBC", "Creatinine"],
            ["systolic", "Platelets", "bicarbonate"],
        ),
        (
            "respiratory failure",
            ["respiratory rate", "carbon dioxide", "heart rate"],
            ["oxygen ratio", "consciousness"],
        ),
        ("haemorrhage", ["heart rate", "Lactate"], ["HCT", "systolic", "urine flow", "temperature"]),
        ("cardiac failure", ["TroponinT", "Lactate", "heart rate"], ["systolic", "oxygen ratio", "urine flow"]),
        ("renal failure", ["Creatinine", "BUN", "K"], ["urine flow", "bicarbonate"]),
    ],
)
def test_an_episode_moves_signals_in_the_right_directions(kind, rising, falling):
    episode = Episode(EPISODES.index(kind), onset_h=6, ramp_h=4, peak=1.0, treated_h=np.inf, recovery_h=10)
    well = hidden_signals(np.random.default_rng(1), intensities((), 48), np.zeros(4), 48)
    ill = hidden_signals(np.random.default_rng(1), intensities((episode,), 48), np.zeros(4), 48)
    for name in rising:
        assert ill[name][72:].mean() > well[name][72:].mean()  # after 12 h
    for name in falling:
        assert ill[name][72:].mean() < well[name][72:].mean()
    for name in well:
        assert np.allclose(ill[name][:36], well[name][:36])  # nothing moves before the onset


def test_treatment_that_works_ends_an_episode_and_otherwise_it_grows():
    treated = Episode(0, onset_h=0, ramp_h=3, peak=0.8, treated_h=5, recovery_h=8)
    failing = Episode(0, onset_h=0, ramp_h=3, peak=0.8, treated_h=np.inf, recovery_h=8)
    course, worse = intensities((treated,), 48)[:, 0], intensities((failing,), 48)[:, 0]
    assert course[0] == 0 and course.max() == pytest.approx(0.8, abs=0.01)
    assert course[-1] < 0.01 and worse[-1] > 1.0
    assert np.all(np.diff(worse) >= 0)


def test_blood_gas_relations_give_textbook_values():
    assert saturation_of(np.array([26.8, 40.0, 60.0, 100.0])) == pytest.approx([50, 75, 91, 97.7], abs=0.8)
    assert ph_of(np.array([24.0, 24.0, 12.0]), np.array([40.0, 80.0, 40.0])) == pytest.approx(
        [7.39, 7.09, 7.09], abs=0.01
    )


def test_mean_pressure_lies_between_the_lower_and_the_upper(ward):
    stay = max(ward, key=lambda stay: np.sum(stay.code == INDEX["SysABP"]))
    upper, lower, mean = (np.mean(values_of([stay], name)) for name in ("SysABP", "DiasABP", "MAP"))
    assert mean == pytest.approx(lower + (upper - lower) / 3, abs=3)


@pytest.mark.parametrize("hours", [1, 7, 96])
def test_stays_may_be_short_or_long(hours):
    for stay in simulate_ward(3, seed=0, hours=hours):
        assert stay.minute.max(initial=0) <= hours * 60


def test_written_ward_reads_back_equal(tmp_path, ward):
    path = write_ward(ward[:40], tmp_path / "simulated_ward")
    assert [json.loads(line)["simulated"] for line in path.read_text().splitlines()] == [True] * 40
    back = read_physionet2012(tmp_path / "simulated_ward")
    assert all(is_same(a, b) for a, b in zip(back, ward[:40], strict=True))
    assert [file.name for file in path.parent.iterdir()] == ["ward.jsonl"]


def test_rows_of_persons_are_never_written(tmp_path, ward):
    real = Stay(**{name: getattr(ward[0], name) for name in Stay.__dataclass_fields__} | {"is_simulated": False})
    with pytest.raises(InputError, match="is not simulated: expected simulated stays alone"):
        write_ward([real], tmp_path / "ward")
    assert not (tmp_path / "ward").exists()


@pytest.mark.parametrize(("num_stays", "seed", "hours"), [(0, 0, 48), (1, -1, 48), (1, 0, 0)])
def test_numbers_out_of_range_are_refused(num_stays, seed, hours):
    with pytest.raises(InputError, match=f"num_stays {num_stays}, hours {hours}, seed {seed}"):
        simulate_ward(num_stays, seed, hours)


def test_an_empty_folder_is_not_a_ward(tmp_path):
    with pytest.raises(DataError, match="expected at least one file"):
        read_physionet2012(tmp_path)
