"""Sections of the report about prediction sets: what was promised, how it was kept, and for whom it was not made."""

from __future__ import annotations

from html import escape

from smallhold.evaluate.report_parts import (
    after,
    cell,
    grouped,
    head,
    line,
    members_by,
    table,
    titled,
    unbroken,
    words,
)
from smallhold.evaluate.result import Promise, PromiseRow, Reading, Result, Shift, ShiftGroup, ShiftRow, population
from smallhold.evaluate.tables import ABSENT, format_count, format_share, shift_summary


def promise_section(result: Result) -> str:
    """How the promises of the bundle were kept, for each true answer by itself."""
    parts = []
    if "promise" in result:
        parts.append(_promise(result["promise"], result, "The promise"))
    if "word_promise" in result:
        parts.append(_promise(result["word_promise"], result, "The promise in observation words"))
    return "".join(parts)


def _promise(promise: Promise, result: Result, title: str) -> str:
    columns = ("truth", "n", "truth in the set", "reading", "abstained", "answered wrongly", "choices in the set")
    bodies = [
        grouped(after(hour), [_promise_line(row) for row in members], len(columns))
        for hour, members in members_by(promise["rows"], lambda row: row["horizon_h"])
    ]
    each = "for each true answer by itself" if promise["is_by_choice"] else "over all answers together"
    bound = (
        ""
        if promise["is_feasible"]
        else " A group of the calibration split was too small for this: it can promise "
        f"{1 - promise['smallest_alpha']:.1%} at most, and abstains instead."
    )
    level = f"{1 - promise['alpha']:.0%}"
    text = (
        f"The bundle promises that its prediction set holds the truth with probability {level}, {each}, for "
        f"{population(result)[1]} like those of the calibration split. Here is how often it did, with the exact 95 % "
        f"interval: “within” where that holds {level}, “below” or “above” where all of it lies there. Abstained and "
        f"answered wrongly are shares of the same row.{bound}"
    )
    caption = titled(f"{title}: prediction sets, promised and kept", result)
    return f"<h3>{title}</h3><p>{text}</p>" + table(caption, head(columns) + "".join(bodies), kind="sticky")


def _promise_line(row: PromiseRow) -> str:
    cells = [
        words(format_count(row["n"])),
        cell(row["coverage"]),
        _reading(row.get("reading")),
        *(words(format_share(share)) for share in (1 - row["answered"], row["wrong"])),
        words(f"{row['set_size']:.2f}"),
    ]
    return line(row["choice"] or "any", cells)


def shift_section(result: Result) -> str:
    """Prediction sets of patients of a kind that calibration never saw, and the rule that follows what happens."""
    shift = result.get("shift")
    if shift is None:
        return ""
    text = (
        "One kind of unit at a time is left out: probabilities, sets and alert threshold are fitted again on the "
        f"calibration patients of all other kinds, for the same {1 - shift['alpha']:.0%}, and counted on the patients "
        "of that kind. Such patients are not exchangeable with those, so nothing is promised here; the table says what "
        "is left of it. Only the calibration is held out: the trunk is the shipped one, and where it was trained on "
        "this data set it has seen patients of every kind. “As shipped” is the bundle's own calibration, which was "
        "fitted for all kinds together, on the same patients. The intervals allow for the chance among these patients, "
        "not for that among those of the calibration split; by chance alone at most one count in 40 is below."
    )
    rule = (
        "“Adaptive” starts from the same thresholds and moves them after every patient, one after the other in a "
        f"seeded order, each outcome known before the next (Gibbs and Candès 2021, step {shift['step']:g}): one level "
        "for each outcome at each hour. Whatever comes, its coverage of these n is at least the “guaranteed” one. In a "
        "ward stays overlap, and outcomes come later than here."
    )
    return f"<p><strong>{unbroken(escape(shift_summary(shift)))}</strong> {text}</p><p>{rule}</p>" + "".join(
        _shift_table(group, shift, result) for group in shift["groups"]
    )


def _shift_table(group: ShiftGroup, shift: Shift, result: Result) -> str:
    columns = (
        *("truth", "n", "truth in the set", "reading", "abstained", "choices in the set", "as shipped"),
        *("adaptive", "its choices in the set", "guaranteed"),
    )
    about = (
        f"Held out of calibration: {group['held_out']}, {format_count(group['n'])} patients, {group['num_events']} of "
        f"them died; calibrated on {format_count(group['num_calibration'])} others, {group['num_calibration_events']} "
        "of them died"
    )
    if group["is_too_small"]:
        bodies = [grouped("Too few of either outcome are left to calibrate on", [], len(columns))]
    else:
        bodies = [
            grouped(after(hour), [_shift_line(row, shift["alpha"], len(columns)) for row in members], len(columns))
            for hour, members in members_by(group["rows"], lambda row: row.get("horizon_h"))
        ]
    return table(titled(about, result), head(columns) + "".join(bodies), kind="sticky")


def _shift_line(row: ShiftRow, alpha: float, num_columns: int) -> str:
    name, count = row["choice"] or "any", words(format_count(row["n"]))
    if row["is_too_small"]:
        return line(name, [count, f'<td class="too-few" colspan="{num_columns - 2}">too few</td>'])
    least = 1 - alpha - row["adaptive_bound"]
    figures = [
        cell(row["coverage"]),
        _reading(row["reading"]),
        words(format_share(1 - row["answered"])),
        words(f"{row['set_size']:.2f}"),
        words(format_share(row["shipped_coverage"])),
        words(format_share(row["adaptive_coverage"])),
        words(f"{row['adaptive_set_size']:.2f}"),
        words(format_share(least) if least > 0 else ABSENT),
    ]
    return line(name, [count, *figures])


def _reading(reading: Reading | None) -> str:
    return words(ABSENT) if reading is None else words(reading, "worse" if reading == "below" else "")
