"""Measure the tables of the shipped models again, from a seed: `make figures`.

Each measurement is one `smallhold evaluate` as a user would type it. Its result lies in `docs/figures/NAME.json`
without what differs from run to run (latency, machine, dates), so that a changed figure shows up as a changed line. The
tables in `docs/figures/README.md` are made of these files and of those that `ablations.py`, `students.py`, `budgets.py`
and `federate_worth.py` leave beside them, and of nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from figure_tables import base_table, both, budget_table, short, student_table, task_table, worth_table

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "figures"
#: Name of the file to what is measured.
MEASUREMENTS: dict[str, tuple[str, ...]] = {
    "base": ("models/base",),
    "icu-risk": ("models/hospital", "--task", "icu-risk"),
    "triage": ("models/hospital", "--task", "triage"),
    "triage-rumedbench": ("models/hospital", "--task", "triage", "--data-set", "rumedbench"),
    "note-specialty": ("models/hospital", "--task", "note-specialty"),
    "evidence": ("models/hospital", "--task", "evidence"),
    "news-sentiment": ("models/finance", "--task", "news-sentiment"),
    "support-intent": ("models/finance", "--task", "support-intent"),
}
_TITLES = {"triage-rumedbench": "triage of Russian complaints, never trained on"}
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
        "Test split, seed 0 and 95 % bootstrap intervals unless a section says otherwise; made by scripts of "
        "[bench](../../bench/README.md), never by hand: the sections that begin with *models* by `make figures`, "
        "*Ablation* by `bench/ablations.py`, *Students* by `bench/students.py`, *Budgets* by `bench/budgets.py`, "
        "*Federation* by `make bench-federate-worth`. `specialists.json` is shown in [specialists]"
        "(../guides/specialists.md), `explanations.json` in [explanations](../concepts/explanations.md). "
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
        about = result["about"] + _earlier(result)
        parts.append(task_table(f"Ablation: {path.stem.removeprefix('ablation-')}", result, about))
    parts += [
        student_table(f"Students: {path.stem.removeprefix('students-')}", json.loads(path.read_text()))
        for path in sorted(FIGURES.glob("students-*.json"))
    ]
    if _is_there("budgets"):
        parts.append(budget_table(json.loads((FIGURES / "budgets.json").read_text())))
    if _is_there("federate-worth"):
        worth = json.loads((FIGURES / "federate-worth.json").read_text())
        parts += [worth_table(name, found) for name, found in worth.items()]
    return "\n".join(parts)


def _earlier(result: dict[str, Any]) -> str:
    """Says so where an ablation's control is trained like a shipped bundle of its task, but from an earlier base."""
    measured, shipped = result.get("bundle"), FIGURES / f"{result['task']}.json"
    if measured is None or measured["digest"] == json.loads(shipped.read_text())["bundle"]["digest"]:
        return ""
    return f" The bundle that it begins from is {measured['name']} {measured['digest'][:8]}, not the one that ships."


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
            "| Text task, test split: accuracy / macro-F1 | texts | shipped | n-grams alone | trunk alone | TF-IDF |",
            "| --- |" + " --- |" * 5,
        ]
        for name, result in texts.items():
            said = {row["model"]: row for row in result["rows"]}
            cells = " | ".join(both(said.get(model)) for model in ("shipped", "ngrams", "trunk", "tfidf"))
            lines.append(f"| {_TITLES.get(name, name)} | {result['num_texts']:,} | {cells} |")
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


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    from smallhold.device.durable_file import write_durably

    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, [text.encode()], mode=0o644)


if __name__ == "__main__":
    sys.exit(main())
