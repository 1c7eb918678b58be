"""The older scores at a horizon, against a bed that is read anew at each hour."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from smallhold.evaluate.bedside_scores import OLDER, scores_at
from smallhold.sectors.hospital.early_warning import mews, qsofa, sirs
from smallhold.sectors.hospital.parameters import INDEX
from smallhold.sectors.hospital.simulator import simulate_ward


def slowly(stay: Any, hour: int) -> dict[str, int]:
    def newest(*names: str) -> float | None:
        mine = np.isin(stay.code, [INDEX[name] for name in names])
        seen = mine & (stay.minute <= 60 * hour) & (stay.minute >= 60 * (hour - 24))
        return float(stay.value[np.flatnonzero(seen)[-1]]) if seen.any() else None

    breaths, gcs, heart, warmth = (newest(name) for name in ("RespRate", "GCS", "HR", "Temp"))
    systolic = newest("SysABP", "NISysABP")
    avpu = None if gcs is None else "A" if gcs == 15 else "V" if gcs > 8 else "P" if gcs > 3 else "U"
    found = (
        mews(systolic=systolic, pulse=heart, resp_rate=breaths, temperature=warmth, avpu=avpu),
        qsofa(resp_rate=breaths, systolic=systolic, gcs=gcs),
        sirs(temperature=warmth, heart_rate=heart, resp_rate=breaths, paco2=newest("PaCO2"), wbc=newest("WBC")),
    )
    return {score.name: score.total for score in found}


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_the_newest_readings(seed: int) -> None:
    for stay in simulate_ward(4, seed, 48):
        # One way of measuring pressure, so that the twin need not choose between the line and the cuff.
        kept = stay.code != INDEX["NISysABP"]
        stay = replace(stay, minute=stay.minute[kept], code=stay.code[kept], value=stay.value[kept])
        found = scores_at(stay, range(1, 49), older_at=(1, 6, 30, 48))
        assert len(found["news2"]) == 48
        for i, hour in enumerate((1, 6, 30, 48)):
            assert {name: found[name][i] for name in OLDER} == slowly(stay, hour), hour


def test_they_are_not_all_the_same() -> None:
    totals = [scores_at(stay, (48,), older_at=(48,)) for stay in simulate_ward(30, 0, 48)]
    for name in OLDER:
        assert len({total[name][0] for total in totals}) > 1, name
