"""NEWS2, the National Early Warning Score: seven vital signs to 0-20 points.

Source: Royal College of Physicians, National Early Warning Score (NEWS) 2, London 2017, chart 1. Reproduced with
acknowledgement, as its licence asks; the table is unmodified. For adults of 16 years and more, not in pregnancy.

Readings are rounded as a chart is filled in, half up, before they are scored: temperature to 0.1 Cel, all else to
whole numbers. A missing reading scores 0 and is named in `missing`: the total is then a lower bound.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass

from smallhold.records import Score

NAME = "news2"
MAXIMUM = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """What NEWS2 reads; None = missing, and so is what is not finite.

    Attributes:
        resp_rate: Breaths /min.
        spo2: Oxygen saturation, %.
        on_oxygen: Breathes more oxygen than air holds.
        systolic: Systolic arterial pressure, mm[Hg].
        pulse: Beats /min.
        is_alert: A of ACVPU; False for new confusion and for response to voice, to pain or to nothing.
        temperature: Cel.
    """

    resp_rate: float | None = None
    spo2: float | None = None
    on_oxygen: bool | None = None
    systolic: float | None = None
    pulse: float | None = None
    is_alert: bool | None = None
    temperature: float | None = None


# One row of the chart: the highest value of each box but the last, and the points of every box.
_Row = tuple[tuple[int, ...], tuple[int, ...]]
_RESP_RATE: _Row = ((8, 11, 20, 24), (3, 1, 0, 2, 3))
_SPO2_SCALE_1: _Row = ((91, 93, 95), (3, 2, 1, 0))
_SPO2_SCALE_2_ON_AIR: _Row = ((83, 85, 87), (3, 2, 1, 0))
_SPO2_SCALE_2_ON_OXYGEN: _Row = ((83, 85, 87, 92, 94, 96), (3, 2, 1, 0, 1, 2, 3))
_SYSTOLIC: _Row = ((90, 100, 110, 219), (3, 2, 1, 0, 3))
_PULSE: _Row = ((40, 50, 90, 110, 130), (3, 1, 0, 1, 2, 3))
_TEMPERATURE_TENTHS: _Row = ((350, 360, 380, 390), (3, 1, 0, 1, 2))
_ROWS = {"resp_rate": _RESP_RATE, "systolic": _SYSTOLIC, "pulse": _PULSE, "temperature": _TEMPERATURE_TENTHS}
_OXYGEN_POINTS = 2
_NOT_ALERT_POINTS = 3


def news2(values: Vitals, *, is_hypercapnic: bool = False) -> Score:
    """Score one set of vital signs.

    Args:
        values: The vital signs.
        is_hypercapnic: Score the saturation on scale 2 (target 88-92 %), which a clinician must have decided for
            this patient. Without knowledge about oxygen the patient counts as breathing air.

    Returns:
        Score `news2` with points for each of the seven parameters and the band `low`, `low-medium`, `medium` or `high`.

    >>> news2(Vitals(resp_rate=24, spo2=95, on_oxygen=False, systolic=110, pulse=91, is_alert=True)).total
    5
    """
    saturation = row_of("spo2", values, is_hypercapnic=is_hypercapnic)
    missing: list[str] = []
    parts = {
        "resp_rate": _points(_RESP_RATE, values.resp_rate, 1, "resp_rate", missing),
        "spo2": _points(saturation, values.spo2, 1, "spo2", missing),
        "on_oxygen": _OXYGEN_POINTS if values.on_oxygen else 0,
        "systolic": _points(_SYSTOLIC, values.systolic, 1, "systolic", missing),
        "pulse": _points(_PULSE, values.pulse, 1, "pulse", missing),
        "is_alert": _NOT_ALERT_POINTS if values.is_alert is False else 0,
        "temperature": _points(_TEMPERATURE_TENTHS, values.temperature, 10, "temperature", missing),
    }
    if values.on_oxygen is None:
        missing.append("on_oxygen")
    if values.is_alert is None:
        missing.append("is_alert")
    total = sum(parts.values())
    return Score(name=NAME, total=total, parts=parts, band=band(total, parts.values()), missing=tuple(missing))


def row_of(part: str, values: Vitals, *, is_hypercapnic: bool = False) -> _Row:
    """The chart's row of a part that is measured: highest value of each box but the last, in rounded steps; points.

    Args:
        part: `resp_rate`, `spo2`, `systolic`, `pulse` or `temperature` (in tenths).
        values: On scale 2 the row of the saturation depends on oxygen.
        is_hypercapnic: See `news2`.
    """
    if part != "spo2":
        return _ROWS[part]
    if not is_hypercapnic:
        return _SPO2_SCALE_1
    return _SPO2_SCALE_2_ON_OXYGEN if values.on_oxygen else _SPO2_SCALE_2_ON_AIR


def band(total: int, points: Collection[int]) -> str:
    """The chart's band: 7 and more `high`, 5-6 `medium`, a single parameter at 3 `low-medium`, otherwise `low`."""
    if total >= 7:
        return "high"
    if total >= 5:
        return "medium"
    return "low-medium" if 3 in points else "low"


def observation_interval_h(score: Score) -> float:
    """Hours until the next full set of vital signs at the latest; 0 = continuous monitoring.

    For a total of 1-4 the guideline allows 4-6 hours; this returns 4.
    """
    if score.band == "high":
        return 0.0
    if score.band in ("medium", "low-medium"):
        return 1.0
    return 4.0 if score.total else 12.0


def round_half_up(value: float, steps_per_unit: int = 1) -> int:
    """Whole steps nearest to `value`, halves up: 38.05 in tenths is 381.

    The small allowance lets a reading that went through single precision round like the decimal it was.
    """
    return math.floor(value * steps_per_unit + 0.5 + 1e-4)


def _points(row: _Row, value: float | None, steps_per_unit: int, name: str, missing: list[str]) -> int:
    if value is None or not math.isfinite(value):
        missing.append(name)
        return 0
    upper, points = row
    return points[bisect_left(upper, round_half_up(value, steps_per_unit))]
