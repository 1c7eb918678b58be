"""What the deterministic scores say of a recorded stay at given hours: the floors that a model must beat.

NEWS2 comes from the bed's own `FloorState`. The older scores read the same vital signs by the same rules, with two
additions: MEWS needs a level of consciousness, which is read from the Glasgow Coma Scale, and SIRS two laboratory
values. A missing reading scores nothing, as at the bed.
"""

from __future__ import annotations

from collections.abc import Sequence

from smallhold.records import Provenance
from smallhold.sectors.hospital.early_warning import mews, qsofa, sirs
from smallhold.sectors.hospital.floor import FloorState
from smallhold.sectors.hospital.parameters import PARAMETERS
from smallhold.sectors.hospital.stays import Stay

#: Scores of the bedside other than NEWS2, in the order of the tables.
OLDER = ("mews", "qsofa", "sirs")
_HOUR_MS = 3_600_000
_MAX_AGE_H = 24.0  # as the floor reads replayed stays
_BESIDE_THE_FLOOR = ("GCS", "PaCO2", "WBC")


def news2_at(stay: Stay, hours: Sequence[int]) -> list[int]:
    """NEWS2 of a stay at each hour (ascending), from the readings up to then."""
    return scores_at(stay, hours, older_at=())["news2"]


def scores_at(stay: Stay, hours: Sequence[int], *, older_at: Sequence[int]) -> dict[str, list[int]]:
    """The scores of a stay, from the readings up to each hour and none older than 24 h.

    Args:
        stay: The stay.
        hours: Ascending, for NEWS2.
        older_at: Those of `hours` at which MEWS, qSOFA and SIRS are wanted too.

    Returns:
        `news2` to one total for each of `hours`, and each name in `OLDER` to one for each of `older_at`.
    """
    floor, newest = FloorState(stay.record_id, max_age_h=_MAX_AGE_H), dict[str, tuple[int, float]]()
    provenance = Provenance(trace_id="0" * 32, clock="stay", simulated=stay.is_simulated)
    minute, code, value = stay.minute.tolist(), stay.code.tolist(), stay.value.tolist()
    totals: dict[str, list[int]] = {name: [] for name in ("news2", *OLDER)}
    at = 0
    for hour in hours:
        while at < len(minute) and minute[at] <= 60 * hour:
            name, t_ms = PARAMETERS[code[at]].name, minute[at] * 60_000
            floor.observe(name, value[at], t_ms)
            if name in _BESIDE_THE_FLOOR:
                newest[name] = (t_ms, value[at])
            at += 1
        now = hour * _HOUR_MS
        totals["news2"].append(floor.scores(now, provenance).scores[0].total)
        if hour in older_at:
            gcs, paco2, wbc = (_fresh(newest.get(name), now) for name in _BESIDE_THE_FLOOR)
            seen = floor.vitals(now)
            older = (
                mews(
                    systolic=seen.systolic,
                    pulse=seen.pulse,
                    resp_rate=seen.resp_rate,
                    temperature=seen.temperature,
                    avpu=_avpu(gcs),
                ),
                qsofa(resp_rate=seen.resp_rate, systolic=seen.systolic, gcs=gcs),
                sirs(
                    temperature=seen.temperature,
                    heart_rate=seen.pulse,
                    resp_rate=seen.resp_rate,
                    paco2=paco2,
                    wbc=wbc,
                ),
            )
            for score in older:
                totals[score.name].append(score.total)
    return totals


def _fresh(held: tuple[int, float] | None, now_ms: int) -> float | None:
    return held[1] if held is not None and held[0] >= now_ms - _MAX_AGE_H * _HOUR_MS else None


def _avpu(gcs: float | None) -> str | None:
    """Level of consciousness from the Glasgow Coma Scale: 15 A, 9-14 V, 4-8 P, 3 U; alert as the floor has it."""
    if gcs is None:
        return None
    return "A" if gcs >= 15 else "V" if gcs >= 9 else "P" if gcs >= 4 else "U"
