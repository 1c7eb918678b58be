"""Measure the specialists of a bundle and write the tables of their guide.

`python bench/specialists.py BUNDLE --trusted-keys DIR` evaluates on the test split, measures memory, and keeps both in
`docs/figures/specialists.json`; the tables in `docs/guides/specialists.md` are made of that file and of nothing else
(`--tables-only` writes them again).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from smallhold.evaluate.onset_tables import first_line, format_specialists

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "figures" / "specialists.json"
GUIDE = ROOT / "docs" / "guides" / "specialists.md"
_END = "<!-- until here -->"
_DEADLINE_SECONDS = 3600


def main() -> int:
    """Measure, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", nargs="?")
    parser.add_argument("--trusted-keys")
    parser.add_argument("--resamples", default="500")
    parser.add_argument("--only", nargs="*", default=[], help="measure these; what is on record of the others stays")
    parser.add_argument("--tables-only", action="store_true", help="measure nothing, write the tables again")
    args = parser.parse_args()
    if not args.tables_only:
        if not args.bundle or not args.trusted_keys:
            parser.error("expected BUNDLE and --trusted-keys, or --tables-only")
        common = [args.bundle, "--trusted-keys", args.trusted_keys]
        asked = ["--specialists", *args.only, "--split", "test", "--seed", "0", "--resamples", args.resamples, "--json"]
        quality = _run("-m", "smallhold.cli.main", "evaluate", *common, *asked)
        if args.only and FIGURES.exists():
            before = {item["task"]: item for item in json.loads(FIGURES.read_text())["specialists"]}
            before |= {item["task"]: item for item in quality["specialists"]}
            quality["specialists"] = [before[name] for name in sorted(before)]
            quality["first_line"] = first_line(quality["specialists"])
        memory = _run("bench/specialist_memory.py", *common)
        FIGURES.write_text(json.dumps(_short({**quality, "memory": memory}), indent=1, sort_keys=True) + "\n")
    GUIDE.write_text(page(GUIDE.read_text(), json.loads(FIGURES.read_text())))
    return 0


def page(text: str, figures: dict[str, Any]) -> str:
    """The guide with what the figures say in its three places."""
    _, _, tables = format_specialists(figures["specialists"]).partition("\n\n")
    for name, body in (
        ("first line", first_line(figures["specialists"])),
        ("tables", tables.rstrip()),
        ("memory", memory_table(figures["memory"])),
    ):
        begin = f"<!-- {name}: made by bench/specialists.py -->"
        before, found, rest = text.partition(begin)
        _, end, after = rest.partition(_END)
        if not (found and end):
            raise SystemExit(f"{GUIDE.name}: expected the lines {begin} and {_END}")
        text = f"{before}{begin}\n{body}\n{_END}{after}"
    return text


def memory_table(memory: dict[str, Any]) -> str:
    """Markdown of `bench/specialist_memory.py`."""
    lines = [
        f"{memory['patients']} patients of {memory['hours']} hours, one session a task and patient, ONNX Runtime on "
        f"one thread: {memory['python_mb']:.0f} MB before the bundle is opened, {memory['base_mb']:.1f} MB for the "
        f"base with its vocabulary, {memory['encoders_mb']:.1f} MB for all encoders of the specialists.",
        "",
        "| Sessions a patient | Sessions | Resident, MB | A session, kB | Decision p50, ms | p99, ms |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['sessions_a_patient']} | {row['sessions']} | {row['resident_mb']:.0f} | "
        f"{row['session_kb']} | {row['decision_ms_p50']:.1f} | {row['decision_ms_p99']:.1f} |"
        for row in memory["rows"]
    ]
    return "\n".join(lines)


def _run(*words: str) -> dict[str, Any]:
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=_DEADLINE_SECONDS, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: exit code {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _short(value: Any) -> Any:
    """Figures in six significant digits."""
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_short(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


if __name__ == "__main__":
    raise SystemExit(main())
