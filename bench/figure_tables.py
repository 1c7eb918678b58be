"""Markdown tables of measurements: one function a kind of result, text in and text out."""

from __future__ import annotations

from typing import Any

_METRICS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "event1": "event 1",
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "ece": "ECE",
    "brier_skill": "Brier skill",
    "coverage": "answered",
}


def short(figure: float | None) -> str:
    """Three decimals without the leading zero, as in the field."""
    return "" if figure is None else f"{figure:.3f}".removeprefix("0")


def both(row: dict[str, Any] | None) -> str:
    """Accuracy and macro-F1 of one model."""
    if row is None:
        return ""
    return f"{short(row['accuracy']['value'])} / {short(row['macro_f1']['value'])}"


def base_table(result: dict[str, Any]) -> str:
    """The base model beside what it has to beat."""
    from smallhold.evaluate.base_model import format_base_table

    return f"## models/base\n\n{format_base_table(result)}\n"


def task_table(title: str, result: dict[str, Any], about: str = "") -> str:
    """One task: every model at every horizon, and the paired differences."""
    present = [m for m in _METRICS if any(row.get(m) for row in result["rows"])]
    has_clock = any(row.get("horizon_h") for row in result["rows"])
    size = result.get("num_patients") or result.get("num_texts")
    head = ([" at "] if has_clock else []) + [" model ", *(f" {_METRICS[m]} " for m in present)]
    lines = [
        f"## {title}",
        "",
        *([about, ""] if about else []),
        f"{result['data_set']}, {size:,} {'patients' if result.get('num_patients') else 'texts'}.",
        "",
        f"|{'|'.join(head)}|",
        f"|{'|'.join([' --- '] * len(head))}|",
    ]
    for row in sorted(result["rows"], key=lambda row: row.get("horizon_h") or 0):
        at = [f" {row['horizon_h']:g} h "] if has_clock else []
        cells = [cell(row.get(m), is_wide=m in ("auroc", "accuracy", "macro_f1")) for m in present]
        lines.append(f"|{'|'.join([*at, ' ' + row['model'] + ' ', *cells])}|")
    lines += ["", "Paired differences (first minus second):", ""]
    for item in result.get("differences", []):
        at = f"{item['horizon_h']:g} h, " if item.get("horizon_h") else ""
        for metric in ("auroc", "accuracy", "macro_f1"):
            if item.get(metric):
                label = f"{_METRICS[metric]}"
                lines.append(f"- {at}{' minus '.join(item['models'])}, {label}: {signed(item[metric])}")
    return "\n".join(lines + shift_lines(result)) + "\n"


def student_table(title: str, result: dict[str, Any]) -> str:
    """What smaller models keep of their teacher's gain over the simple thing, task by task."""
    tasks = list(result["rows"][0]["gain"])
    lines = [f"## {title}", "", result["about"], ""]
    lines.append(f"| model | seed | parameters | share kept | {' | '.join(tasks)} |")
    lines.append("|" + " --- |" * (4 + len(tasks)))
    for row in result["rows"]:
        cells = " | ".join(signed(row["gain"][task]) for task in tasks)
        lines.append(f"| {row['variant']} | {row['seed']} | {row['parameters']:,} | {row['share']:.3f} | {cells} |")
    if speed := result.get("speed"):
        spread = f"{speed['low']:.2f} to {speed['high']:.2f}, 10th to 90th percentile"
        ratio = f"{speed['ratio']:.2f} times as long ({spread}; processor time, one thread, in turn)"
        lines += ["", f"A decision takes the teacher {ratio}."]
    return "\n".join(lines) + "\n"


def budget_table(result: dict[str, Any]) -> str:
    """Budgets, what was found for them, and how far off its costs were from those foretold."""
    met = sum(1 for row in result["rows"] if row["found"] and not row["broken"])
    lines = [
        "## Budgets",
        "",
        f"{len(result['rows'])} budgets drawn with seed {result['seed']}, {result['device']}; {met} found and met "
        "when the model was built, and measured again. Off: what the search said over that, less 1; foretold: what the "
        "cost model had said before anything was measured.",
        "",
        "| limits | found | bytes off | p95 off (foretold) | memory off | limits broken |",
        "|" + " --- |" * 6,
    ]
    for row in result["rows"]:
        limits = ", ".join(f"{name} {number:.4g}" for name, number in sorted(row["limits"].items()))
        off = ["", "", ""]
        if row["found"]:
            off = [f"{row['off'][name]:+.3f}" for name in ("bytes", "p95_ms", "resident_bytes")]
            off[1] += f" ({row['foretold_off']['p95_ms']:+.2f})"
        label = row["label"] if row["found"] else f"infeasible, closest {row['label']}"
        lines.append(f"| {limits} | {label} | {' | '.join(off)} | {'; '.join(row['broken'])} |")
    return "\n".join(lines) + "\n"


def worth_table(name: str, found: dict[str, Any]) -> str:
    """What a federation is worth: means over seeds, by site and over sites, and differences from each site alone."""
    mean = found["mean"]
    models = [key for key, value in mean.items() if isinstance(value, dict) and not key.endswith("minus_local")]
    order = ("local", "federated", "personalised", "pooled", "trees", "commonest")
    models.sort(key=lambda key: (order.index(key) if key in order else len(order), key))
    lines = [
        f"## Federation: {name}",
        "",
        f"{_METRICS[found['metric']]} on {found['data_set']}, {found['split']} rows, means over {len(found['seeds'])} "
        f"seeds; local is each site alone. DP of a record at delta {found['delta']:g}. Differences: 95 % bootstrap "
        "interval over rows, its ends' means over the seeds.",
        "",
        f"| site | rows | {' | '.join(models)} | federated less local | personalised less local |",
        "|" + " --- |" * (4 + len(models)),
    ]
    counted = [row for row in found["rows"] if row["site"] != "all"]
    for row in [*counted, {"site": f"mean over {len(mean['sites'])} sites", "n": "", **mean}]:
        cells = [short(row[key]["value"]) if key in row else "too few" for key in models]
        gains = [signed(row[key]) if key in row else "" for key in ("minus_local", "personalised_minus_local")]
        lines.append(f"| {row['site']} | {row['n']} | {' | '.join([*cells, *gains])} |")
    noise = ", ".join(f"{kind}: {size:g}" for kind, size in found["noise_multiplier"].items())
    return "\n".join([*lines, *(["", f"Noise multipliers: {noise}."] if noise else [])]) + "\n"


def shift_lines(result: dict[str, Any]) -> list[str]:
    """Prediction sets with nobody held out of calibration, then with one kind of unit after another; if measured."""
    shift = result.get("shift")
    if not shift:
        return []
    lines = [
        "",
        f"Prediction sets that promise {1 - shift['alpha']:.3f}, exact 95 % interval. With a kind of unit held out, "
        "calibration (not the trunk) has never seen its patients, and nothing is promised; 'as shipped' is the "
        "bundle's own calibration on the same patients, 'adaptive' moves after every outcome "
        f"(step {shift['step']:g}) and is guaranteed the coverage in brackets. A dash: too few to say.",
        "",
        "| held out | at | truth | n | covered | reading | answered | set size | as shipped | adaptive | set size |",
        "|" + " --- |" * 11,
    ]
    groups = [("nobody", result["promise"]["rows"]), *((group["held_out"], group["rows"]) for group in shift["groups"])]
    for held_out, rows in groups:
        for row in rows:
            named = f"| {held_out} | {row['horizon_h']:g} h | {row['choice']} | {row['n']} |"
            if row.get("is_too_small"):
                lines.append(named + " - |" * 7)
                continue
            figures = [cell(row["coverage"], is_wide=True).strip(), row["reading"]]
            figures += [f"{row['answered']:.3f}", f"{row['set_size']:.2f}"]
            if "shipped_coverage" in row:
                least = max(0.0, 1 - shift["alpha"] - row["adaptive_bound"])
                figures += [f"{row['shipped_coverage']:.3f}", f"{row['adaptive_coverage']:.3f} ({least:.3f})"]
                figures.append(f"{row['adaptive_set_size']:.2f}")
            else:
                figures += ["", "", ""]
            lines.append(f"{named} {' | '.join(figures)} |")
    return lines


def cell(figure: dict[str, float] | None, *, is_wide: bool) -> str:
    """A figure, with its interval where there is room."""
    if not figure or figure.get("value") is None:
        return "  "
    value = f" {figure['value']:.3f}"
    return (
        f"{value} ({figure['low']:.3f} to {figure['high']:.3f}) "
        if is_wide and figure.get("low") is not None
        else value + " "
    )


def signed(figure: dict[str, float]) -> str:
    """A difference with its interval."""
    if figure.get("value") is None or figure.get("low") is None:
        return "undefined"
    return f"{figure['value']:+.3f} ({figure['low']:+.3f} to {figure['high']:+.3f})"
