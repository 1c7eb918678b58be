"""An evaluation as one page: `report.html`, self-contained, for the engineer who made it and the physician who asks.

The first line is the verdict. The page loads nothing, runs nothing, and says so in its content security policy: the
only style allowed is the one whose digest stands there. Every text from the result is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from smallhold.device.durable_file import write_durably
from smallhold.evaluate import figures
from smallhold.evaluate.report_parts import (
    cell,
    class_of,
    fact_list,
    figure,
    fold,
    grouped,
    head,
    table,
    titled,
    unbroken,
    words,
)
from smallhold.evaluate.report_promise import shift_section
from smallhold.evaluate.report_sections import (
    all_differences,
    besides_section,
    burden_section,
    calibration_section,
    classes_section,
    subgroup_section,
)
from smallhold.evaluate.result import (
    METRICS,
    MODELS,
    Curves,
    Difference,
    MetricName,
    Patient,
    Result,
    Row,
    horizon_name,
    model_name,
    population,
    reported_metrics,
    require_result,
)
from smallhold.evaluate.sheets import intended_use, sheet_html
from smallhold.evaluate.svg import Picture
from smallhold.evaluate.tables import (
    ABSENT,
    NOT_A_DEVICE,
    format_bytes,
    format_count,
    format_milliseconds,
    simulated_note,
)
from smallhold.evaluate.timeline import evidence_at, timeline_picture
from smallhold.evaluate.verdict import SHIPPED, Outcome, compared_metric, difference_interval, judge, verdict

_MEANING = {
    "AUROC": "Chance that a patient who had the outcome was ranked above one who had not; 0.5 is a coin.",
    "AUPRC": "Precision averaged over recall. A blind guess reaches the share of patients who had the outcome.",
    "Event 1": "The smaller of sensitivity and positive predictive value. Its threshold was fixed on other patients; "
    "“best” chose it on these very patients, which is optimistic.",
    "ECE": "Expected calibration error: mean gap between predicted and observed share, in 15 bins. Lower is better.",
    "Brier": "Mean squared difference between probability and outcome. Lower is better.",
    "Brier skill": "Share of the Brier score of the best constant guess that the model saves; 0 is no better than it.",
    "Coverage": "Share of patients for whom the model answered. All other figures are over all patients.",
}
_MEANING_OF_TEXTS = {
    "Accuracy": "Share of texts whose most probable label is the true one.",
    "Macro-F1": "Mean over labels of the harmonic mean of precision and recall: a rare label counts as much as a "
    "common one.",
    "NLL": "Mean surprise at the truth in nats. Lower is better.",
    "ECE": "Expected calibration error of the most probable label: mean gap between confidence and share of right "
    "answers, in 15 bins. Lower is better.",
    "Coverage": "Share of texts for which the model answered. All other figures are over all texts.",
}
#: Whom the picture shows the shipped model against; all others stand in the folded table below it.
_DRAWN_RIVALS = ("trees", "news2", "saps1", "tfidf", "majority")


def write_report(result: dict[str, Any] | Result, path: Path) -> Path:
    """Write the page for one evaluation.

    Args:
        result: As `smallhold.evaluate.result.Result` describes; absent parts leave their section out.
        path: The file to write, for example `runs/demo/report.html`; replaced as a whole or not at all.

    Returns:
        `path`. The same result gives the same bytes with the same version of matplotlib.

    Raises:
        InputError: a required member is absent.
        MissingExtraError: matplotlib is not installed.
    """
    page = render_report(require_result(result)).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, [page], mode=0o644)
    return path


def render_report(result: Result) -> str:
    """The page as text; see `write_report`."""
    style = files("smallhold.evaluate").joinpath("report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    sections = [
        ("results", "Results", _results(result)),
        ("besides", "Beside other bundles", besides_section(result)),
        ("burden", "Alert burden", burden_section(result)),
        ("calibration", "Calibration and abstention", calibration_section(result)),
        ("shift", "Patients that calibration never saw", shift_section(result)),
        ("subgroups", "Subgroups", subgroup_section(result)),
        ("labels", "Labels", classes_section(result)),
        ("curves", "Curves", _curves(result)),
        ("patient", "One patient, hour by hour", _patient(result)),
        ("footprint", "Size and speed", _footprint(result)),
        ("intended-use", "Intended use and limits", sheet_html(intended_use(result))),
        ("reproduce", "How to reproduce", _reproduce(result)),
    ]
    sections = [section for section in sections if section[2]]
    links = "".join(f'<li><a href="#{key}">{title}</a></li>' for key, title, _ in sections)
    body = "\n".join(
        f'<section id="{key}" aria-labelledby="{key}-title">\n<h2 id="{key}-title">{title}</h2>\n{content}\n</section>'
        for key, title, content in sections
    )
    title = titled(f"{result['task']} on {result['data_set']}", result)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{escape(title)}: Smallhold evaluation</title>
<style>{style}</style>
</head>
<body>
<header>
{_header(result)}
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main>
{body}
</main>
<footer><p>{NOT_A_DEVICE}. Smallhold is a research and engineering tool; no figure on this page is evidence of safety
or benefit in care.{f" {simulated_note(result)}." if result["is_simulated"] else ""}</p></footer>
</body>
</html>
"""


def _header(result: Result) -> str:
    judged = verdict(result)
    level, (count, noun) = result.get("interval_level", 0.95), population(result)
    facts = [
        ("Task", result["task"]),
        ("Data", result["data_set"] + (" (simulated)" if result["is_simulated"] else "")),
        ("Split", result["split"]),
        (noun.capitalize(), format_count(count)),
    ]
    bundle = result.get("bundle", {})
    if "name" in bundle:
        facts.append(("Bundle", f"{bundle['name']} {bundle.get('version', '')}".strip()))
    differences = result.get("differences", [])
    judged_by = METRICS[compared_metric(differences[0]) or "auroc"] if differences else METRICS["auroc"]
    banner = f'<p class="simulated" role="note">{simulated_note(result)}</p>' if result["is_simulated"] else ""
    return f"""<h1 class="{judged.tone}">{unbroken(escape(judged.sentence))}</h1>
<p class="basis">Judged by the {level * 100:g}&nbsp;% bootstrap interval of the paired difference in {judged_by} on the
same {noun}: an interval that contains 0 is a match within noise, not a win.</p>
<p class="not-a-device">{NOT_A_DEVICE}</p>
{banner}
{fact_list(facts)}"""


def _results(result: Result) -> str:
    rows, noun = sorted(result["rows"], key=_horizon), population(result)[1]
    caption = titled(f"Every model{_clock(rows)}, over all {noun}; below each figure its interval", result)
    parts = [_metric_table(rows, reported_metrics(rows), caption, noun)]
    meanings = _MEANING_OF_TEXTS if noun == "texts" else _MEANING
    listed = "".join(f"<div><dt>{escape(word)}</dt><dd>{escape(text)}</dd></div>" for word, text in meanings.items())
    parts.append(f'<details class="glossary"><summary>What the columns mean</summary><dl>{listed}</dl></details>')
    parts += [f'<p class="remark">{escape(remark)}</p>' for remark in result.get("remarks", [])]
    differences = sorted(result.get("differences", []), key=_difference_order)
    if differences:
        parts.append(f"<h3>Differences on the same {noun}</h3>")
        metric = METRICS[compared_metric(differences[0]) or "auroc"]
        beside = [item["name"] for item in result.get("besides", [])]
        rivals = [[SHIPPED, other] for other in (*_DRAWN_RIVALS, *beside)]
        drawn = [item for item in differences if item["models"] in rivals] or differences
        picture = figures.difference_picture("differences", drawn, metric, is_simulated=result["is_simulated"])
        shown = _difference_table(drawn, metric, result)
        parts.append(f'<div class="beside">{figure(picture)}{shown}</div>')
        parts.append(fold("All differences, in every metric", all_differences(result)))
    return "\n".join(parts)


def _clock(rows: Sequence[Row]) -> str:
    return " at every horizon" if any(row.get("horizon_h") is not None for row in rows) else ""


def _metric_table(rows: Sequence[Row], names: Sequence[MetricName], caption: str, noun: str) -> str:
    groups: dict[float | None, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.get("horizon_h"), []).append(row)
    bodies = []
    for horizon_h, members in groups.items():
        counts = {row["n"] for row in members}
        common = f"{format_count(counts.pop())} {noun}" if len(counts) == 1 else ""
        title = [f"After {horizon_name(horizon_h)}" if horizon_h is not None else "", common]
        lines = [_metric_row(row, names, "" if common else noun) for row in members]
        bodies.append(grouped(", ".join(word for word in title if word), lines, len(names) + 1))
    return table(caption, head(("model", *(METRICS[name] for name in names))) + "".join(bodies), kind="sticky")


def _metric_row(row: Row, names: Sequence[MetricName], noun: str) -> str:
    cells = "".join(cell(row.get(name), is_difference=name == "brier_skill") for name in names)
    kind = class_of(SHIPPED if row["model"] == SHIPPED else "")
    count = f' <span class="range">{format_count(row["n"])} {noun}</span>' if noun else ""
    return f'<tr{kind}><th scope="row">{escape(model_name(row["model"]))}{count}</th>{cells}</tr>'


def _difference_table(differences: Sequence[Difference], metric: str, result: Result) -> str:
    lines = []
    for item in differences:
        interval = difference_interval(item)
        outcome = judge(interval)
        kind = {Outcome.BEATS: "better", Outcome.WORSE: "worse"}.get(outcome, "")
        lines.append(
            f'<tr><th scope="row">{unbroken(escape(figures.difference_label(item)))}</th>'
            f"{cell(interval, is_difference=True)}<td{class_of(kind)}>{outcome}</td></tr>"
        )
    caption = titled(f"Difference in {metric} on the same {population(result)[1]}, below it its interval", result)
    return table(caption, head(("compared", "difference", "reading")) + grouped("", lines, 3), kind="sticky")


def _curves(result: Result) -> str:
    curves = result.get("curves", {})
    horizons = sorted((key for key, models in curves.items() if models), key=lambda key: float(key or 0))
    parts = []
    for position, key in enumerate(horizons):
        horizon_h = float(key) if key else None
        ordered = dict(sorted(curves[key].items(), key=lambda item: _model_order(item[0])))
        rows = {row["model"]: row for row in result["rows"] if row.get("horizon_h") == horizon_h}
        content = "".join(figure(picture) for picture in _curve_pictures(position, ordered, rows, result))
        is_last = position == len(horizons) - 1
        summary = f"After {horizon_name(horizon_h)}" if horizon_h is not None else f"All {population(result)[1]}"
        parts.append(
            f'<details class="horizon"{" open" if is_last else ""}><summary>{summary}</summary>'
            f'<div class="pictures pairs">{content}</div></details>'
        )
    return "\n".join(parts)


def _curve_pictures(position: int, curves: dict[str, Curves], rows: dict[str, Row], result: Result) -> list[Picture]:
    is_simulated = result["is_simulated"]
    pictures = []
    if any(item.get("roc") for item in curves.values()):
        areas = {model: _value(rows.get(model, {}).get("auroc")) for model in curves}
        pictures.append(figures.roc_picture(f"roc{position}", curves, areas, is_simulated=is_simulated))
    precisions = [item["pr"] for item in curves.values() if item.get("pr")]
    if precisions:
        areas = {model: _value(rows.get(model, {}).get("auprc")) for model in curves}
        # The loosest threshold calls everybody positive: its precision is the prevalence.
        drawn = figures.precision_recall_picture(
            f"pr{position}", curves, areas, prevalence=precisions[0][-1][1], is_simulated=is_simulated
        )
        pictures.append(drawn)
    if any(item.get("reliability") for item in curves.values()):
        noun = population(result)[1]
        drawn = figures.reliability_picture(f"reliability{position}", curves, noun=noun, is_simulated=is_simulated)
        pictures.append(drawn)
    if any(item.get("risk_coverage") for item in curves.values()):
        pictures.append(figures.risk_coverage_picture(f"risk{position}", curves, is_simulated=is_simulated))
    return pictures


def _patient(result: Result) -> str:
    patient = result.get("patient")
    if not patient:
        return ""
    picture = timeline_picture("timeline", patient, is_simulated=result["is_simulated"])
    key = "Dots are observed readings. Alerts: ▲ high, ◆ medium, ● low priority; hollow when the floor spoke alone."
    outcome = f"<p>Outcome: {escape(patient['outcome'])}.</p>" if patient.get("outcome") else ""
    return outcome + figure(picture, kind="broad", more=key) + _alert_table(patient, result)


def _alert_table(patient: Patient, result: Result) -> str:
    lines = []
    for alert in patient.get("alerts", []):
        cited = "; ".join(citation["text"] for citation in evidence_at(patient.get("risk", []), alert["hour"]))
        priority = alert["priority"] if alert["priority"] in ("high", "medium", "low") else "info"
        source = alert["source"] + (", degraded" if alert.get("is_degraded") else "")
        cells = "".join(map(words, (source, alert["message"], cited or ABSENT)))
        lines.append(
            f'<tr><th scope="row">{alert["hour"]:.3g} h</th>'
            f'<td class="priority-{priority}">{escape(alert["priority"])}</td>{cells}</tr>'
        )
    if not lines:
        return "<p>No alert was raised.</p>"
    columns = ("Hour", "Priority", "Source", "Message", "What the model cited then")
    return table(titled("Alerts of this patient", result), head(columns) + grouped("", lines, 5), kind="words")


def _footprint(result: Result) -> str:
    numbers: list[tuple[str, str, str]] = []
    bundle, latency, training = result.get("bundle", {}), result.get("latency", {}), result.get("training", {})
    summary = latency.get("append_decide_ms")
    if "total_bytes" in bundle:
        numbers.append(("Bundle", format_bytes(bundle["total_bytes"]), f"{len(bundle.get('files', []))} files"))
    if "parameters" in training:
        numbers.append(("Parameters", format_count(training["parameters"]), ""))
    if summary:
        numbers.append(("Median decision", format_milliseconds(summary["p50"]), f"of {format_count(summary['n'])}"))
        slowest = f"slowest {format_milliseconds(summary['max'])}"
        numbers.append(("99 % decided within", format_milliseconds(summary["p99"]), slowest))
    if "events_per_second_per_core" in result:
        numbers.append(("Events per second", format_count(result["events_per_second_per_core"]), "per core"))
    if "cold_start_s" in result:
        numbers.append(("Cold start", f"{result['cold_start_s']:.2f} s", "to the first decision"))
    if "resident_bytes" in result:
        more = f"{format_bytes(result['patient_bytes'])} each further patient" if "patient_bytes" in result else ""
        numbers.append(("Memory", format_bytes(result["resident_bytes"]), more or "resident"))
    if "seconds" in training:
        numbers.append(("Training", _duration(training["seconds"]), ""))
    is_simulated = result["is_simulated"]
    pictures = []
    if summary and "histogram" in latency:
        pictures.append(figures.latency_picture("latency", latency["histogram"], summary, is_simulated=is_simulated))
    if bundle.get("files"):
        pictures.append(figures.sizes_picture("sizes", bundle["files"], is_simulated=is_simulated))
    if training.get("loss"):
        pictures.append(figures.loss_picture("loss", training["loss"], is_simulated=is_simulated))
    cards = "".join(
        f"<div><dt>{label}</dt><dd>{value}{f'<small>{note}</small>' if note else ''}</dd></div>"
        for label, value, note in numbers
    )
    return (f'<dl class="numbers">{cards}</dl>' if cards else "") + (
        f'<div class="pictures">{"".join(map(figure, pictures))}</div>' if pictures else ""
    )


def _reproduce(result: Result) -> str:
    facts = [("Data", result["data_set"]), ("Split", result["split"])]
    if "seed" in result:
        facts.append(("Seed", str(result["seed"])))
    facts.append(("Machine", result.get("machine", "")))
    facts.append(("Bundle digest (SHA-256 of its manifest)", result.get("bundle", {}).get("digest", "")))
    command = f"<pre><code>{escape(result['command'])}</code></pre>" if result.get("command") else ""
    return command + fact_list([(label, value) for label, value in facts if value])


def _value(interval: Any) -> float | None:
    return interval["value"] if interval else None


def _horizon(row: Row) -> float:
    return row.get("horizon_h") or 0.0


def _difference_order(item: Difference) -> tuple[list[tuple[int, str]], float]:
    return [_model_order(model) for model in item["models"]], item.get("horizon_h") or 0.0


def _model_order(model: str) -> tuple[int, str]:
    known = list(MODELS)
    return (known.index(model) if model in known else len(known), model)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
