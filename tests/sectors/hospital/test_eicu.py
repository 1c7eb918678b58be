import json
from pathlib import Path
from typing import Any

import pytest

from smallhold.errors import DataError
from smallhold.sectors.hospital.conditions import condition_groups
from smallhold.sectors.hospital.eicu import NAME, load_recorded_stays


def row(**members: Any) -> dict[str, Any]:
    """An invented stay in the layout of the data set."""
    return {
        "stay_id": 1, "patient": "002-1", "age": "> 89", "sex": "Male", "unit": "CSICU", "height": 180.0,
        "admit_dx": "CABG alone", "los_minutes": 900, "hospital_status": "Alive",
        "vitals": [[30, "NISBP", 120], [30, "NIMAP", 80], [40, "CO", 4.2], [-5, "NIMAP", 70], [50, "NIMAP", 5]],
        "diagnoses": [[10, "cardiovascular|cardiac surgery|CABG"]],
        "treatments": [[20, "cardiovascular|shock|vasopressors|norepinephrine"]],
        "infusions": [[15, "Norepinephrine (ml/hr)"], [5, "Propofol (ml/hr)"]],
    } | members  # fmt: skip


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    (folder / NAME).mkdir()
    text = "".join(json.dumps(item) + "\n" for item in rows)
    (folder / NAME / "stays.jsonl").write_text(text)
    return folder


def test_a_stay_comes_with_cuff_pressures_its_record_and_the_first_vasopressor(tmp_path: Path) -> None:
    (found,) = load_recorded_stays(write(tmp_path, row()))
    assert found.stay.minute.tolist() == [30, 30] and found.stay.value.tolist() == [120.0, 80.0]
    assert [item.value for item in found.stay.refused] == [5.0]  # nobody's pressure
    assert (found.stay.age, found.stay.sex, found.stay.died) == (90.0, "M", False)
    assert found.vasopressor_minute == 15 and found.minutes == 900
    assert [g.name for g in condition_groups() if g.reasons(found.record)] == ["cardiovascular"]


def test_what_is_not_on_record_is_unknown(tmp_path: Path) -> None:
    (found,) = load_recorded_stays(
        write(tmp_path, row(age="", sex=None, unit="Attic", admit_dx=None, hospital_status=None, treatments=[],
                            infusions=[], vitals=[], los_minutes=None))
    )  # fmt: skip
    assert (found.stay.age, found.stay.sex, found.stay.died, found.vasopressor_minute) == (None, None, None, None)
    assert found.stay.icu_type == "unknown" and found.record.admission == "" and len(found.stay.minute) == 0


def test_a_row_of_another_shape_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"stays.jsonl, line 2: not a row of eicu_demo_multihospital"):
        load_recorded_stays(write(tmp_path, row(), row(vitals=[[1, "NIMAP"]])))
