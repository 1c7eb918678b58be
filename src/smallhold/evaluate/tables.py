"""Figures as text: sensible digits, and one table for the terminal."""

from __future__ import annotations

import math

from smallhold.evaluate.result import (
    METRICS,
    IntervalJson,
    Result,
    Shift,
    horizon_name,
    population,
    reported_metrics,
)
from smallhold.evaluate.verdict import verdict

SIMULATED_NOTE = "Simulated patients: shows that the machinery works, says nothing about clinical value"
NOT_A_DEVICE = "Not a medical device"
ABSENT = "–"  # an en dash reads better in a column than an empty cell
_WIDTH = 100
_WITH_INTERVAL = 3  # the first so many metrics show their interval in the terminal
_SHORT = {"event1": "event1", "event1_best": "best", "macro_f1": "macro-F1", "coverage": "cover"}
_LEFT_TO_THE_REPORT = ("brier_skill",)  # for width: it says again what Brier and the prevalence say


def simulated_note(result: Result) -> str:
    """What must stand beside figures that nobody real stands behind."""
    return SIMULATED_NOTE.replace("patients", population(result)[1])


def format_share(value: float | None) -> str:
    """Three decimals: beyond that is noise on the thousands of patients that anybody has.

    >>> format_share(0.8284), format_share(None)
    ('0.828', '–')
    """
    return ABSENT if value is None or math.isnan(value) else f"{value:.3f}"


def format_difference(value: float | None) -> str:
    """Three decimals with a sign; a true minus, so that columns align."""
    return ABSENT if value is None or math.isnan(value) else f"{value:+.3f}".replace("-", "−")


def format_bytes(size_bytes: float) -> str:
    """Bytes with a decimal prefix and three digits.

    >>> format_bytes(1_234_567), format_bytes(999)
    ('1.23 MB', '999 B')
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= scale:
            return f"{_three_digits(size_bytes / scale)} {unit}"
    return f"{size_bytes:.0f} B"


def format_milliseconds(latency_ms: float) -> str:
    """Milliseconds with three significant digits."""
    return f"{_three_digits(latency_ms)} ms"


def format_count(number: float) -> str:
    """Whole number with thin grouping: `9,564`."""
    return f"{number:,.0f}"


def format_table(result: Result) -> str:
    """The main table for a terminal: at most 100 columns, no colour needed.

    Returns:
        The verdict, wrapped, then one line per model and horizon. The word *simulated* stands in the heading when it
        applies. The first three metrics carry their interval as low-high. Below it what is left of the promise for
        patients that calibration never saw.
    """
    rows = sorted(result["rows"], key=lambda row: row.get("horizon_h") or 0)
    names = [name for name in reported_metrics(rows) if name not in _LEFT_TO_THE_REPORT]
    header = ["at", "model", "n", *(_SHORT.get(name, METRICS[name]) for name in names)]
    lines = [header]
    previous = None
    for row in rows:
        at = horizon_name(row.get("horizon_h"))
        cells = [_compact(row.get(name), has_interval=i < _WITH_INTERVAL) for i, name in enumerate(names)]
        lines.append([at if at != previous else "", row["model"], str(row["n"]), *cells])
        previous = at
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    # The model's name is the only cell of open length.
    spare = _WIDTH - sum(widths) - 2 * (len(widths) - 1)
    widths[1] = max(6, min(widths[1], widths[1] + spare))
    body = "\n".join(_line(line, widths) for line in lines)
    count, noun = population(result)
    kind = f"simulated {noun}" if result["is_simulated"] else noun
    title = f"{result['task']}: {format_count(count)} {kind}, {result['data_set']}, split {result['split']}"
    notes = [NOT_A_DEVICE] if not result["is_simulated"] else [simulated_note(result), NOT_A_DEVICE]
    shift = _wrap(shift_summary(result["shift"])) if "shift" in result else []
    return "\n".join(
        [*_wrap(verdict(result).sentence), "", *_wrap(title), body, *shift, *(f"{note}." for note in notes)]
    )


def shift_summary(shift: Shift) -> str:
    """For whom the promise was missed when calibration had not seen their kind of unit, in a sentence."""
    rows = [(group["held_out"], row) for group in shift["groups"] for row in group["rows"] if not row["is_too_small"]]
    about = "Prediction sets for a kind of unit that calibration never saw"
    if not rows:
        return f"{about}: too few patients to say."
    whose: dict[str, list[str]] = {}
    for unit, row in rows:
        if row["reading"] == "below":
            whose.setdefault(f'{unit}, "{row["choice"]}"', []).append(f"{row['horizon_h']:g}")
    found = "; ".join(f"{name} at {', '.join(hours)} h" for name, hours in whose.items()) or "none"
    num_missed = sum(map(len, whose.values()))
    return (
        f"{about}: promised {format_share(1 - shift['alpha'])}, missed in {num_missed} of {len(rows)} counts: {found}."
    )


def _compact(interval: IntervalJson | None, *, has_interval: bool) -> str:
    if interval is None or interval["value"] is None:
        return ABSENT
    value = _without_zero(interval["value"])
    if not has_interval:
        return value
    low, high = interval["low"], interval["high"]
    return f"{value} {ABSENT}" if low is None or high is None else f"{value} {_without_zero(low)}-{_without_zero(high)}"


def _without_zero(share: float) -> str:
    text = f"{share:.3f}"
    return text[1:] if text.startswith("0.") else text[:4]


def _line(cells: list[str], widths: list[int]) -> str:
    shown = []
    for column, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        text = cell if len(cell) <= width else cell[: width - 1] + "…"
        # Intervals start with their value, so these columns read best from the left.
        is_left = column == 1 or 3 <= column < 3 + _WITH_INTERVAL
        shown.append(text.ljust(width) if is_left else text.rjust(width))
    return "  ".join(shown).rstrip()


def _wrap(text: str) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > _WIDTH:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _three_digits(value: float) -> str:
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
