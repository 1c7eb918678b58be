"""The report of specialists in Markdown: what may be relied on in the first line, then one table each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from smallhold.sectors.hospital.conditions import condition_groups

_NAMES = {"specialist": "specialist, alone", "trees": "boosted trees", "news2": "NEWS2", "icu-risk": "`icu-risk`"}


def first_line(measured: Sequence[Mapping[str, Any]]) -> str:
    """Who speaks on this split, and for which groups nobody does."""
    speaks = [item["task"] for item in measured if item["speaks"]]
    silent = [item["task"] for item in measured if not item["speaks"]]
    watched = {name for item in measured if item["speaks"] for name in item["group"]}
    without = [group.title for group in condition_groups() if group.name not in watched]
    parts = [f"No specialist speaks for {_listed(without)}: there NEWS2 and the general model watch alone."]
    parts.append(f"On {measured[0]['split']}, {_listed(speaks) or 'none'} passed the gate.")
    if silent:
        parts.append(f"{_listed(silent)} did not.")
    return " ".join(parts if without else parts[1:])


def format_specialists(measured: Sequence[Mapping[str, Any]]) -> str:
    """Markdown."""
    lines = [first_line(measured), ""]
    for item in measured:
        lines += _section(item)
    return "\n".join(lines).rstrip() + "\n"


def _section(item: Mapping[str, Any]) -> list[str]:
    lines = [
        f"### {item['task']} ({', '.join(item['group'])})",
        "",
        f"{item['verdict']} {item['question']} {item['data_set']}, {item['split']}: {item['patients']:,} patients, "
        f"{item['patients_with_onset']:,} with onset, {item['asked_hours']:,} asked hours.",
        "",
        "| Patients | Hour | Model | Asked | Onsets | AUROC | AUPRC | Brier | ECE |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['whom']} | {row['hour'] or 'all'} | {_NAMES[row['model']]} | {row['asked']:,} | {row['onsets']} | "
        f"{_interval(row['auroc'])} | {_interval(row['auprc'])} | {_number(row.get('brier'))} | "
        f"{_number(row.get('ece'))} |"
        for row in item["rows"]
    ]
    lines += [
        "",
        "| Operating point | Model | Alerts | PPV of alerts | Patients caught | Alerts a patient-day | Lead, hours |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in item["burden"]:
        lead = row["lead_time_h"]
        told = "-" if lead is None else f"{lead['median']:.1f} ({lead['low']:.1f} to {lead['high']:.1f})"
        lines.append(
            f"| {row['operating_point']} | {_NAMES[row['model']]} | {row['alerts']:,} | {_interval(row['ppv'])} | "
            f"{_interval(row['sensitivity'])} | {_interval(row['alerts_per_patient_day'])} | {told} |"
        )
    always = item["always"]
    lines += [
        f"| every asked hour | always | {item['asked_hours']:,} | {_interval(always['ppv'])} | 1 | 24 | |",
        "| never | never | 0 | - | 0 | 0 | |",
        "",
        "Difference in AUROC over all asked hours: "
        + "; ".join(f"{name} {_interval(value, signed=True)}" for name, value in item["differences_auroc"].items())
        + ".",
        f"Limits: {item['known_limits']}",
        "",
    ]
    return lines


def _interval(value: Mapping[str, float | None], *, signed: bool = False) -> str:
    middle, low, high = value["value"], value["low"], value["high"]
    if middle is None:
        return "-"
    form = "+.3f" if signed else ".3f"
    if low is None or high is None:
        return format(middle, form)
    return f"{middle:{form}} [{low:{form}}, {high:{form}}]"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""
