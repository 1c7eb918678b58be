"""qSOFA, SIRS and MEWS: older or narrower bedside scores, for comparison with NEWS2.

A missing reading (None) scores 0 and is named in `missing`: the total is then a lower bound.
"""

from __future__ import annotations

from bisect import bisect_left

from smallhold.errors import InputError
from smallhold.records import Score
from smallhold.sectors.hospital.news2 import round_half_up

# One row of the MEWS table: the highest value of each box but the last, and the points of every box.
_Row = tuple[tuple[int, ...], tuple[int, ...]]
_MEWS_SYSTOLIC: _Row = ((70, 80, 100, 199), (3, 2, 1, 0, 2))
_MEWS_PULSE: _Row = ((40, 50, 100, 110, 129), (2, 1, 0, 1, 2, 3))
_MEWS_RESP_RATE: _Row = ((8, 14, 20, 29), (2, 0, 1, 2, 3))
_MEWS_TEMPERATURE_TENTHS: _Row = ((349, 384), (2, 0, 2))
_MEWS_AVPU = {"A": 0, "V": 1, "P": 2, "U": 3}


def qsofa(*, resp_rate: float | None, systolic: float | None, gcs: float | None) -> Score:
    """Quick SOFA, 0-3; `positive` from 2.

    Source: Singer et al., The Third International Consensus Definitions for Sepsis (Sepsis-3), JAMA 2016.

    Args:
        resp_rate: Breaths /min; 1 point at 22 and more.
        systolic: mm[Hg]; 1 point at 100 and less.
        gcs: Glasgow Coma Scale; 1 point below 15 (altered mentation).
    """
    parts = {
        "resp_rate": int(resp_rate is not None and resp_rate >= 22),
        "systolic": int(systolic is not None and systolic <= 100),
        "gcs": int(gcs is not None and gcs < 15),
    }
    return _screen("qsofa", parts, {"resp_rate": resp_rate, "systolic": systolic, "gcs": gcs})


def sirs(
    *,
    temperature: float | None,
    heart_rate: float | None,
    resp_rate: float | None,
    paco2: float | None,
    wbc: float | None,
    bands_percent: float | None = None,
) -> Score:
    """Systemic inflammatory response syndrome, 0-4; `positive` from 2.

    Source: Bone et al., ACCP/SCCM Consensus Conference, Chest 1992.

    Args:
        temperature: Cel; 1 point above 38.0 or below 36.0.
        heart_rate: /min; 1 point above 90.
        resp_rate: Breaths /min; above 20, or
        paco2: mm[Hg] below 32: 1 point together.
        wbc: 10*3/uL; above 12 or below 4, or
        bands_percent: Immature forms, above 10 %: 1 point together. Seldom reported; not listed as missing.
    """
    parts = {
        "temperature": int(temperature is not None and (temperature > 38.0 or temperature < 36.0)),
        "heart_rate": int(heart_rate is not None and heart_rate > 90),
        "breathing": int((resp_rate is not None and resp_rate > 20) or (paco2 is not None and paco2 < 32)),
        "wbc": int((wbc is not None and (wbc > 12 or wbc < 4)) or (bands_percent is not None and bands_percent > 10)),
    }
    breathing = resp_rate if resp_rate is not None else paco2
    white = wbc if wbc is not None else bands_percent
    return _screen(
        "sirs", parts, {"temperature": temperature, "heart_rate": heart_rate, "breathing": breathing, "wbc": white}
    )


def mews(
    *,
    systolic: float | None,
    pulse: float | None,
    resp_rate: float | None,
    temperature: float | None,
    avpu: str | None,
) -> Score:
    """Modified Early Warning Score, 0-14; `critical` from 5.

    Source: Subbe et al., QJM 2001. Published copies differ at a pulse of 40 and 130; here 40 scores 2 and 130
    scores 3. Readings are rounded half up: temperature to 0.1 Cel, all else to whole numbers.

    Args:
        systolic: mm[Hg].
        pulse: Beats /min.
        resp_rate: Breaths /min.
        temperature: Cel.
        avpu: `A` alert, `V` responds to voice, `P` to pain, `U` unresponsive.

    Raises:
        InputError: another level of consciousness; the score of 2001 has no `C` (new confusion).
    """
    if avpu is not None and avpu not in _MEWS_AVPU:
        raise InputError(f"MEWS, consciousness: expected one of A, V, P, U, got {avpu!r}")
    parts = {
        "systolic": _points(_MEWS_SYSTOLIC, systolic),
        "pulse": _points(_MEWS_PULSE, pulse),
        "resp_rate": _points(_MEWS_RESP_RATE, resp_rate),
        "temperature": _points(_MEWS_TEMPERATURE_TENTHS, temperature, 10),
        "avpu": 0 if avpu is None else _MEWS_AVPU[avpu],
    }
    readings = {
        "systolic": systolic,
        "pulse": pulse,
        "resp_rate": resp_rate,
        "temperature": temperature,
        "avpu": avpu,
    }
    total = sum(parts.values())
    return Score(
        name="mews",
        total=total,
        parts=parts,
        band="critical" if total >= 5 else "below",
        missing=tuple(name for name, reading in readings.items() if reading is None),
    )


def _points(row: _Row, value: float | None, steps_per_unit: int = 1) -> int:
    if value is None:
        return 0
    upper, points = row
    return points[bisect_left(upper, round_half_up(value, steps_per_unit))]


def _screen(name: str, parts: dict[str, int], readings: dict[str, float | None]) -> Score:
    total = sum(parts.values())
    return Score(
        name=name,
        total=total,
        parts=parts,
        band="positive" if total >= 2 else "negative",
        missing=tuple(key for key, reading in readings.items() if reading is None),
    )
