"""Last measurements of 48 hours as a table, by type of unit: what a row holds, and what has no part in it."""

import os
from pathlib import Path

import numpy as np
import pytest

from smallhold.federate.icu_death import TABLE, load_rows
from smallhold.federate.job import read_job
from smallhold.federate.tasks import find_federated_task
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.parameters import INDEX, PARAMETERS
from smallhold.sectors.hospital.stays import PHYSIONET_2012, Stay
from smallhold.sectors.splits import Split, split_of

DATA = os.environ.get("SMALLHOLD_DATA")


def stay(number: int, readings: list[tuple[int, str, float]], *, died: bool | None = False) -> Stay:
    minute, names, values = zip(*readings, strict=True)
    return Stay(
        record_id=str(number),
        age=65,
        sex="M",
        height_cm=None,
        icu_type="coronary care" if number % 2 else "medical",
        saps1=None,
        died=died,
        minute=np.array(minute, np.int32),
        code=np.array([INDEX[name] for name in names], np.int16),
        value=np.array(values, np.float32),
        data_set=PHYSIONET_2012,
        is_simulated=False,
    )


def test_every_parameter_has_a_scale() -> None:
    assert set(TABLE.numbers) == {"age", *(parameter.name for parameter in PARAMETERS)}
    assert len(find_federated_task("icu-death").model(read_job("icu-death")).initial(0)) == len(TABLE.names) + 1


def test_a_row_holds_the_last_readings_within_48_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = [(0, "HR", 65.0), (60, "HR", 105.0), (2880, "GCS", 3.0), (2881, "GCS", 15.0)]
    ward = [stay(n, readings, died=None if n < 10 else n % 3 == 0) for n in range(60)]
    monkeypatch.setattr(icu_risk, "load_stays", lambda _: ward)
    parts = {part: load_rows(None, part) for part in Split}
    for part, sites in parts.items():
        assert set(sites) <= {"coronary-care", "medical"}
        for site, rows in sites.items():
            for group, label, features in zip(rows.group, rows.label, rows.inputs["features"], strict=True):
                assert (
                    split_of(PHYSIONET_2012, group) == part
                    and site == ("coronary-care", "medical")[int(group) % 2 == 0]
                )
                told = dict(zip(TABLE.names, features.tolist(), strict=True))
                assert label == (int(group) % 3 == 0) and told["sex = M"] == told["HR measured"] == 1
                assert (told["HR"], told["GCS"], told["GCS off centre"]) == (1.0, -3.0, 3.0)
                assert told["K"] == told["K measured"] == told["age"] == 0
    assert sum(len(rows) for sites in parts.values() for rows in sites.values()) == 50


@pytest.mark.data
@pytest.mark.skipif(not DATA, reason="needs physionet2012_icu: set SMALLHOLD_DATA")
def test_the_data_set_has_four_units_and_no_stay_in_two_parts() -> None:
    parts = [load_rows(Path(str(DATA)), part) for part in (Split.TRAIN, Split.TEST)]
    assert [sorted(sites) for sites in parts] == [sorted(read_job("icu-death").sites)] * 2
    groups = [{group for rows in sites.values() for group in rows.group} for sites in parts]
    assert len(groups[0]) == 6761 and not groups[0] & groups[1]
