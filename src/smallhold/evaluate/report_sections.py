"""Sections of the report beyond the main table: burden, calibration, subgroups, other bundles, labels.

Each takes a result and gives HTML, or nothing when the result has no such part.
"""

from __future__ import annotations

from collections.abc import Sequence

from smallhold.evaluate.report_parts import (
    after,
    cell,
    fold,
    grouped,
    head,
    line,
    members_by,
    table,
    titled,
    words,
)
from smallhold.evaluate.report_promise import promise_section
from smallhold.evaluate.result import Burden, Result, Row, SubgroupRow, horizon_name, model_name, population
from smallhold.evaluate.tables import ABSENT, format_bytes, format_count, format_share
from smallhold.evaluate.verdict import SHIPPED, Outcome, judge

_ORIGINS = {
    "calibration": "found on the calibration split",
    "these patients": "found on these very patients: optimistic",
}
_SHOWN_DIFFERENCES = ("auroc", "accuracy", "auprc", "event1", "macro_f1")
_COLUMNS = {"auroc": "AUROC", "accuracy": "accuracy", "auprc": "AUPRC", "event1": "event 1", "macro_f1": "macro-F1"}


def burden_section(result: Result) -> str:
    """What the alerts would cost a ward, at equal burden."""
    rows = result.get("burden", [])
    if not rows:
        return ""
    columns = ("model", "threshold", "alerts a patient-day", "false ones", "PPV", "sensitivity", "lead time")
    bodies = [
        grouped(point + _threshold_note(members), [_burden_line(row) for row in members], len(columns))
        for point, members in members_by(rows, lambda row: row["operating_point"])
    ]
    days = format_count(rows[0]["patient_days"])
    text = (
        f"Every model is asked every hour, over {days} patient-days. An alert is a rise: an hour at or above the "
        "threshold after an hour below it. PPV and sensitivity count patients with at least one alert. Lead time is "
        "counted from a patient's first alert to hour 48, the end of the record, over those who died: the data say "
        "that they died in hospital, not when."
    )
    caption = titled("Alerts at equal burden; below each figure its interval, below lead times their quartiles", result)
    return f"<p>{text}</p>" + table(caption, head(columns) + "".join(bodies), kind="sticky")


def _threshold_note(rows: Sequence[Burden]) -> str:
    origin = _ORIGINS.get(rows[0]["threshold_from"])
    return f", threshold {origin}" if origin else ""


def _burden_line(row: Burden) -> str:
    threshold, lead = row["threshold"], row["lead_time_h"]
    shown = ABSENT if threshold is None else f"{threshold:g}" if threshold >= 1 else format_share(threshold)
    hours = {"value": lead["median"], "low": lead["low"], "high": lead["high"]} if lead else None
    time = (
        f'<td><span class="value">{hours["value"]:.3g}&nbsp;h</span> '
        f'<span class="range">{hours["low"]:.3g}–{hours["high"]:.3g}</span></td>'
        if hours
        else f"<td>{ABSENT}</td>"
    )
    figures = [row["alerts_per_patient_day"], row["false_alerts_per_patient_day"], row["ppv"], row["sensitivity"]]
    kind = SHIPPED if row["model"] == SHIPPED else ""
    return line(model_name(row["model"]), [words(shown), *map(cell, figures), time], kind)


def calibration_section(result: Result) -> str:
    """Is the error of the probabilities more than chance, and was the promise kept?"""
    rows = [row for row in result["rows"] if row.get("ece") is not None]
    if not rows:
        return ""
    has_skill = any(row.get("brier_skill") is not None for row in rows)
    columns = ["model", "ECE", "by chance", "95 of 100 below", "reading", *(["Brier skill"] if has_skill else [])]
    bodies = [
        grouped(after(hour), [_noise_line(row, has_skill=has_skill) for row in members], len(columns))
        for hour, members in members_by(rows, lambda row: row.get("horizon_h"))
    ]
    noun = population(result)[1]
    text = (
        f"On so few {noun} a perfectly calibrated model, too, shows an error. “By chance” is its mean when outcomes "
        "are drawn from the model's own probabilities; an error within what 95 of 100 such draws reach is no sign of "
        "miscalibration."
        + (" Brier skill is the share of the best constant guess's error that the model saves." if has_skill else "")
    )
    caption = titled("Expected calibration error against chance", result)
    content = f"<p>{text}</p>" + table(caption, head(columns) + "".join(bodies), kind="sticky")
    return content + promise_section(result)


def _noise_line(row: Row, *, has_skill: bool) -> str:
    noise, ece = row.get("ece_noise"), row.get("ece")
    value = ece["value"] if ece else None
    cells = [cell(ece)]
    if noise is None or value is None:
        cells += [words(ABSENT)] * 3
    else:
        is_within = value <= noise["q95"]
        cells += [words(format_share(noise["mean"])), words(format_share(noise["q95"]))]
        cells.append(words("within chance" if is_within else "beyond chance", "" if is_within else "worse"))
    if has_skill:
        cells.append(cell(row.get("brier_skill"), is_difference=True))
    return line(model_name(row["model"]), cells, SHIPPED if row["model"] == SHIPPED else "")


def subgroup_section(result: Result) -> str:
    """The shipped model by sex, age and unit, or by language."""
    rows = result.get("subgroups", [])
    parts = []
    for attribute, members in members_by(rows, lambda row: row.get("attribute", "")):
        has_clock = any(row.get("horizon_h") is not None for row in members)
        last = max((row.get("horizon_h") or 0 for row in members), default=0)
        shown = [row for row in members if (row.get("horizon_h") or 0) == last]
        name = f"By {attribute}" if attribute else "Groups"
        when = f", after {horizon_name(last)}" if has_clock else ""
        parts.append(_subgroup_table(shown, titled(f"{name}{when}", result)))
        if has_clock and len(shown) < len(members):
            others = [row for row in members if (row.get("horizon_h") or 0) != last]
            tables = "".join(
                _subgroup_table(part, titled(f"{name}, after {hour}", result))
                for hour, part in members_by(others, lambda row: horizon_name(row.get("horizon_h")))
            )
            parts.append(fold(f"{name}, at the other hours", tables))
    if not parts:
        return ""
    text = (
        "The shipped model alone. A group with fewer than ten of either outcome, or fewer than ten texts, is shown as "
        "“too few” and never as a number. Intervals of small groups are wide: a difference between two groups whose "
        "intervals overlap is no finding."
    )
    return f"<p>{text}</p>" + "".join(parts)


_SUBGROUP_FIGURES = {
    "auroc": "AUROC",
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "ece": "ECE",
    "brier": "Brier",
    "brier_skill": "Brier skill",
    "alert_rate": "alert rate",
}


def _subgroup_table(rows: Sequence[SubgroupRow], caption: str) -> str:
    names = [name for name in _SUBGROUP_FIGURES if any(row.get(name) is not None for row in rows)]
    has_events = any("num_events" in row for row in rows)
    columns = ["group", "n", *(["died"] if has_events else []), *(_SUBGROUP_FIGURES[name] for name in names)]
    if "ece" in names:
        columns.insert(columns.index("ECE") + 1, "by chance")
    lines = []
    for row in rows:
        cells = [words(format_count(row["n"]))]
        if has_events:
            cells.append(words(format_count(row.get("num_events", 0))))
        if row.get("is_too_small"):
            num_left = len(columns) - 1 - len(cells)
            cells.append(f'<td class="too-few" colspan="{max(1, num_left)}">too few</td>')
        else:
            for name in names:
                cells.append(cell(row.get(name), is_difference=name == "brier_skill"))  # type: ignore[arg-type]
                if name == "ece":
                    noise = row.get("ece_noise")
                    cells.append(words(f"up to {format_share(noise['q95'])}" if noise else ABSENT))
        lines.append(line(row.get("subgroup", ""), cells))
    return table(caption, head(columns) + grouped("", lines, len(columns)), kind="sticky")


def besides_section(result: Result) -> str:
    """Other bundles on the same rows: 4 bits, or the model with one thing left out."""
    besides = result.get("besides", [])
    if not besides:
        return ""
    rows, differences = result["rows"], result.get("differences", [])
    name = "accuracy" if any(row.get("accuracy") for row in rows) else "auroc"
    columns = ("bundle", "size", _COLUMNS[name], "shipped minus this", "reading")
    keys = sorted({row.get("horizon_h") or 0.0 for row in rows})
    bodies = []
    for key in keys:
        at = [row for row in rows if (row.get("horizon_h") or 0.0) == key]
        found = {row["model"]: row.get(name) for row in at}
        lines = [
            line(
                "shipped",
                [
                    words(format_bytes(result.get("bundle", {}).get("total_bytes", 0))),
                    cell(found.get(SHIPPED)),  # type: ignore[arg-type]
                    words(ABSENT),
                    words(ABSENT),
                ],
                SHIPPED,
            )
        ]
        for other in besides:
            difference = next(
                (
                    item.get(name)
                    for item in differences
                    if item["models"] == [SHIPPED, other["name"]] and (item.get("horizon_h") or 0.0) == key
                ),
                None,
            )
            outcome = judge(difference)  # type: ignore[arg-type]
            kind = {Outcome.BEATS: "better", Outcome.WORSE: "worse"}.get(outcome, "")
            lines.append(
                line(
                    other["name"],
                    [
                        words(format_bytes(other["total_bytes"])),
                        cell(found.get(other["name"])),  # type: ignore[arg-type]
                        cell(difference, is_difference=True),  # type: ignore[arg-type]
                        words(outcome, kind),
                    ],
                )
            )
        bodies.append(grouped(after(key or None), lines, len(columns)))
    caption = titled(f"Other bundles on the same {population(result)[1]}, by {_COLUMNS[name]}", result)
    listed = table(
        titled("Which bundles these are", result),
        head(("name", "bundle", "SHA-256 of its manifest"))
        + grouped("", [line(b["name"], [words(b["bundle"]), words(b["digest"][:16] + "…")]) for b in besides], 3),
        kind="words",
    )
    return table(caption, head(columns) + "".join(bodies), kind="sticky") + fold("Which bundles these are", listed)


def classes_section(result: Result) -> str:
    """Every label of a text task, and which are taken for which."""
    classes = result.get("classes", [])
    if not classes:
        return ""
    columns = ("label", "texts", "precision", "recall", "F1")
    lines = []
    for row in classes:
        shares = [row["precision"], row["recall"], row["f1"]]
        cells = [words(format_share(share)) for share in shares]
        if row["recall"] is None:
            cells = ['<td class="too-few" colspan="3">too few</td>']
        lines.append(line(row["label"], [words(format_count(row["n"])), *cells]))
    content = table(
        titled("The shipped model by label, commonest first; fewer than ten texts are too few", result),
        head(columns) + grouped("", lines, len(columns)),
        kind="sticky",
    )
    confusions = result.get("confusions", [])
    if confusions:
        lines = [line(item["truth"], [words(item["answer"]), words(str(item["n"]))]) for item in confusions]
        content += table(
            titled("Commonest confusions", result),
            head(("truth", "answered", "texts")) + grouped("", lines, 3),
            kind="words",
        )
    return content


def all_differences(result: Result) -> str:
    """Every paired difference in every metric, as a table."""
    differences = result.get("differences", [])
    names = [name for name in _SHOWN_DIFFERENCES if any(item.get(name) for item in differences)]
    columns = ("after", *(_COLUMNS[name] for name in names))
    bodies = [
        grouped(
            f"{model_name(pair[0])} minus {model_name(pair[1])}",
            [
                line(
                    horizon_name(item.get("horizon_h")) or "all",
                    [cell(item.get(name), is_difference=True) for name in names],  # type: ignore[arg-type]
                )
                for item in members
            ],
            len(columns),
        )
        for pair, members in members_by(differences, lambda item: item["models"])
    ]
    caption = titled("Paired differences in every metric; below each its interval", result)
    return table(caption, head(columns) + "".join(bodies), kind="sticky")
