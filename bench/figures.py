"""Measure every published figure again, from a seed: `make figures`.

Each measurement is one `smallhold evaluate` as a user would type it. Its result lies in `docs/figures/NAME.json`
without what differs from run to run (latency, machine, dates), so that a changed figure shows up as a changed line; the
tables in `docs/figures/README.md` are made of these files and of nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "figures"
#: Name of the file to what is measured.
MEASUREMENTS: dict[str, tuple[str, ...]] = {
    "base": ("models/base",),
    "icu-risk": ("models/hospital", "--task", "icu-risk"),
    "triage": ("models/hospital", "--task", "triage"),
    "note-specialty": ("models/hospital", "--task", "note-specialty"),
    "evidence": ("models/hospital", "--task", "evidence"),
    "news-sentiment": ("models/finance", "--task", "news-sentiment"),
    "support-intent": ("models/finance", "--task", "support-intent"),
}
#: Members that differ from run to run, or that only a report draws.
_LEFT_OUT = ("command", "machine", "curves", "training", "besides", "files", "seconds")
_DEADLINE_SECONDS = 3600
_BEGIN, _END = "<!-- made by bench/figures.py -->", "<!-- until here -->"
_SHOWN_MODELS = {
    "shipped": "shipped, int8, alone",
    "trees+shipped": "trees and shipped together",
    "words": "shipped, by observation words",
    "trees": "gradient-boosted trees",
    "news2": "NEWS2",
}
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


def main() -> int:
    """Measure what was asked for, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*MEASUREMENTS, []], help="default: all")
    parser.add_argument("--data", default=os.environ.get("SMALLHOLD_DATA"), help="default $SMALLHOLD_DATA")
    parser.add_argument("--tables-only", action="store_true", help="measure nothing, write the tables again")
    parser.add_argument(
        "--check", action="store_true", help="measure and write nothing: are the tables those figures'?"
    )
    args = parser.parse_args()
    if args.check:
        return check()
    if not args.tables_only:
        if not args.data:
            parser.error("real data are needed: set SMALLHOLD_DATA or give --data")
        FIGURES.mkdir(exist_ok=True)
        for name in args.names or MEASUREMENTS:
            print(f"measuring {name}", file=sys.stderr, flush=True)
            result = measure(name, args.data)
            write(FIGURES / f"{name}.json", json.dumps(without(result), indent=1, sort_keys=True) + "\n")
    for path, text in pages().items():
        write(path, text)
    draw_loss()
    return 0


def draw_loss() -> None:
    """The base's loss over tokens, from the record that lies beside its weights."""
    from smallhold.evaluate.loss_curve import loss_curve

    run = json.loads((ROOT / "models" / "base" / "run.json").read_text())
    per_step = 1e6 * run["recipe"]["training"]["million_tokens"] / run["loss"][-1][0]
    loss_curve(
        [(step * per_step, nats) for step, nats in run["loss"]],
        ROOT / "docs" / "images" / "base-loss.png",
        validation={"validation": [(step * per_step, bits) for step, bits in run["validation"]]},
        title="models/base: pretraining",
    )


def check() -> int:
    """Whether every page says what the figures say."""
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text() != text]
    for path in stale:
        print(f"{path.relative_to(ROOT)}: not what docs/figures/*.json say; run bench/figures.py --tables-only")
    return 1 if stale else 0


def pages() -> dict[Path, str]:
    """Every page that shows figures, as it should be."""
    readme = ROOT / "README.md"
    before, begin, rest = readme.read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise SystemExit(f"{readme.name}: expected the lines {_BEGIN} and {_END} around the figures")
    return {FIGURES / "README.md": tables(), readme: f"{before}{_BEGIN}\n{summary()}{_END}{after}"}


def measure(name: str, data: str) -> dict[str, Any]:
    """One of `MEASUREMENTS`."""
    more = [] if name == "base" else ["--trusted-keys", "models/trusted_keys", "--quality-only"]
    return evaluate([*MEASUREMENTS[name], *more], data)


def evaluate(arguments: list[str], data: str) -> dict[str, Any]:
    """What `smallhold evaluate` says on the test split."""
    words = [*arguments, "--split", "test", "--data", data, "--seed", "0", "--json"]
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "smallhold.cli.main", "evaluate", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_DEADLINE_SECONDS,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"smallhold evaluate {' '.join(words)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def without(value: Any) -> Any:
    """The result without what changes from run to run; figures in six significant digits."""
    if isinstance(value, dict):
        return {key: without(item) for key, item in value.items() if key not in _LEFT_OUT}
    if isinstance(value, list):
        return [without(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def tables() -> str:
    """Markdown of all measurements that are there."""
    parts = [
        "# Figures\n",
        "Test split, seed 0, 95 % bootstrap intervals; made by `make figures`, never by hand. "
        "What was tried on the way, and on which machine, is in [experiments](../experiments.md).\n",
    ]
    for name in MEASUREMENTS:
        path = FIGURES / f"{name}.json"
        if path.exists():
            result = json.loads(path.read_text())
            title = f"{MEASUREMENTS[name][0]}, {name}"
            parts.append(base_table(result) if name == "base" else task_table(title, result))
    for path in sorted(FIGURES.glob("ablation-*.json")):
        result = json.loads(path.read_text())
        parts.append(task_table(f"Ablation: {path.stem.removeprefix('ablation-')}", result, result["about"]))
    parts += [
        student_table(f"Students: {path.stem.removeprefix('students-')}", json.loads(path.read_text()))
        for path in sorted(FIGURES.glob("students-*.json"))
    ]
    if _is_there("budgets"):
        parts.append(budget_table(json.loads((FIGURES / "budgets.json").read_text())))
    return "\n".join(parts)


def summary() -> str:
    """The README's tables: the signal task by hour, the text tasks, the base by language."""
    results = {name: json.loads((FIGURES / f"{name}.json").read_text()) for name in MEASUREMENTS if _is_there(name)}
    parts = []
    if icu := results.get("icu-risk"):
        hours = sorted({row["horizon_h"] for row in icu["rows"]})
        lines = [f"| AUROC, {icu['num_patients']:,} test stays | {' | '.join(f'{hour:g} h' for hour in hours)} |"]
        lines.append(f"| --- |{' --- |' * len(hours)}")
        for model in _SHOWN_MODELS:
            found = {row["horizon_h"]: row["auroc"]["value"] for row in icu["rows"] if row["model"] == model}
            if found:
                cells = " | ".join(short(found.get(hour)) for hour in hours)
                lines.append(f"| {_SHOWN_MODELS[model]} | {cells} |")
        parts.append("\n".join(lines) + "\n")
    texts = {name: result for name, result in results.items() if "num_texts" in result}
    if texts:
        lines = [
            "| Text task, test split | texts | shipped | n-grams alone | trunk alone | TF-IDF |",
            "| --- |" + " --- |" * 5,
        ]
        for name, result in texts.items():
            said = {row["model"]: row for row in result["rows"]}
            cells = " | ".join(both(said.get(model)) for model in ("shipped", "ngrams", "trunk", "tfidf"))
            lines.append(f"| {name}: accuracy / macro-F1 | {result['num_texts']:,} | {cells} |")
        parts.append("\n".join(lines) + "\n")
    if base := results.get("base"):
        lines = ["| Base model, bits per byte | model | 5-gram | xz -9e |", "| --- | --- | --- | --- |"]
        for language, item in base["languages"].items():
            said = item["bits_per_byte"]
            grams = min(said[key]["value"] for key in ("ngram", "ngram_same_language"))
            xz = min(value(said["xz"]), value(said["xz_primed"]))
            lines.append(f"| {language} | {said['model']['value']:.3f} | {grams:.3f} | {xz:.3f} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _is_there(name: str) -> bool:
    return (FIGURES / f"{name}.json").exists()


def value(figure: Any) -> float:
    """A figure with or without an interval."""
    return float(figure["value"] if isinstance(figure, dict) else figure)


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
        lines += ["", f"A decision takes the teacher {speed['ratio']:.2f} times as long "]
        lines[-1] += f"({speed['lowest']:.2f} to {speed['highest']:.2f}; processor time, one thread, in turn)."
    return "\n".join(lines) + "\n"


def budget_table(result: dict[str, Any]) -> str:
    """Budgets, what was found for them, and how far off its costs were from those foretold."""
    met = sum(1 for row in result["rows"] if row["found"] and not row["broken"])
    lines = [
        "## Budgets",
        "",
        f"{len(result['rows'])} budgets drawn with seed {result['seed']}, {result['machine']}; {met} found and met when "
        "the model was built and measured again. Off: foretold over measured, less 1.",
        "",
        "| limits | found | bytes off | p95 off | memory off | limits broken |",
        "|" + " --- |" * 6,
    ]
    for row in result["rows"]:
        limits = ", ".join(f"{name} {number:.4g}" for name, number in sorted(row["limits"].items()))
        off = [f"{row['off'][name]:+.3f}" if "off" in row else "" for name in ("bytes", "p95_ms", "resident_bytes")]
        label = row["label"] if row["found"] else f"infeasible, closest {row['label']}"
        lines.append(f"| {limits} | {label} | {' | '.join(off)} | {'; '.join(row['broken'])} |")
    return "\n".join(lines) + "\n"


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


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    from smallhold.device.durable_file import write_durably

    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, [text.encode()], mode=0o644)


if __name__ == "__main__":
    sys.exit(main())
