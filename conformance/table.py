"""One table of a result: for the terminal, and for the page that ships."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from smallhold.device.durable_file import write_durably

HERE = Path(__file__).parent
PAGE, RESULT = HERE / "README.md", HERE / "result.json"
BEGIN, END = "<!-- made by python -m conformance -->\n", "<!-- until here -->\n"
#: Column to how the names of its checks begin.
COLUMNS = {
    "stories260K, float32": ("stories260K, float32",),
    "hospital, float32": ("hospital, float32",),
    "hospital, 8 bits": ("hospital, 8 bits",),
    "4 bits": ("hospital, 4 bits",),
    "families": ("SmolLM2", "Qwen2.5", "Qwen3"),
}


def markdown(result: dict[str, Any]) -> str:
    """The table of all rows."""
    heads = ["Target", "Status", *COLUMNS, "worst, 8 bits", "in pieces", "decisions"]
    lines = [heads, ["---"] * len(heads), *(_cells(row) for row in result["rows"])]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def on_page(page: str, result: dict[str, Any]) -> str:
    """The page with the table of a result in its place.

    Raises:
        ValueError: the page has no such place.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page has no lines {BEGIN!r} and {END!r}")
    return before + begin + markdown(result) + end + after


def publish(path: Path, entries: Collection[str]) -> int:
    """Take a result into `result.json` and the page here.

    Args:
        path: The result.
        entries: What all has to have rows.

    Returns:
        0, or 1 where an entry has no row, a row failed, or a model was left out.
    """
    if not path.exists():
        print(f"error: {path}: there is no result; run make conformance", file=sys.stderr)
        return 1
    result = json.loads(path.read_bytes())
    failed = [f"{row['target']} failed" for row in result["rows"] if row["status"] == "fail"]
    absent = [f"{name} has no row" for name in entries if all(row["entry"] != name for row in result["rows"])]
    if why := [*failed, *absent, *result["left_out"]]:
        print(f"error: {path}: expected all targets on all models, none failed: {'; '.join(why)}", file=sys.stderr)
        return 1
    write_durably(RESULT, [json.dumps(result, indent=1).encode(), b"\n"], mode=0o644)
    write_durably(PAGE, [on_page(PAGE.read_text(), result).encode()], mode=0o644)
    return 0


def _cells(row: dict[str, Any]) -> list[str]:
    if row["status"] == "untested":
        return [row["target"], f"untested: {row['reason']}", *[""] * (len(COLUMNS) + 3)]
    checks = row["checks"]
    cells = [
        _top1([check for check in _logits(checks) if check["what"].startswith(beginnings)])
        for beginnings in COLUMNS.values()
    ]
    rounded = [check for check in _logits(checks) if check["what"] == "hospital, 8 bits"]
    cells.append("".join(f"{check['relative_worst']:.1%}, {check['distance']['worst']:.1f}" for check in rounded))
    pieces = [check for check in checks if "differing" in check]
    differing = sum(check["differing"] for check in pieces)
    cells.append(("same bits" if not differing else f"{differing} differ") if pieces else "")
    asked = [check for check in checks if "answers" in check]
    cells.append(f"{sum(c['equal'] for c in asked):,} of {sum(c['answers'] for c in asked):,}" if asked else "")
    status = row["status"] if not row.get("reason") else f"{row['status']}: {row['reason']}"
    return [row["target"], status, *cells]


def _logits(checks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return (check for check in checks if "top1_equal" in check)


def _top1(checks: list[dict[str, Any]]) -> str:
    """Positions at which the same token comes first, near ties beside them, of how many."""
    if not checks:
        return ""
    equal, ties, asked = (sum(check[key] for check in checks) for key in ("top1_equal", "top1_near_ties", "positions"))
    return f"{equal:,}{f' + {ties:,}' if ties else ''} of {asked:,}"
