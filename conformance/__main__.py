"""The same prompts and decisions on every runtime that is here: `make conformance`.

    python -m conformance                    all targets: some twenty minutes on two quiet cores
    python -m conformance --only wasm        these again, beside what the result says of the others
    python -m conformance --publish          take the result into conformance/result.json and README.md

Writes runs/conformance/result.json after every target and prints one table. Exit codes: 0 nothing failed, 1 a target
failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from conformance import decisions, table
from conformance.compare import FLOAT32, FloatArray, Tally
from conformance.families import SHAPES, random_family
from conformance.models import PIECES_POSITIONS, ROOT, Model, hospital, stories260k
from conformance.target import Absent, Failed, Target
from conformance.targets import TARGETS
from smallhold.device.durable_file import write_durably
from smallhold.evaluate.device_cost import machine

Row = dict[str, Any]
FULL = 10_000
FAMILY_POSITIONS = 500


def main(words: Sequence[str] | None = None) -> int:
    """Run the targets and say what came of it."""
    parser = argparse.ArgumentParser(
        prog="python -m conformance", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="TEXT", help="targets whose name holds one of these")
    parser.add_argument("--positions", type=int, default=FULL, metavar="N", help=f"at most; default {FULL}")
    parser.add_argument("--data", default=os.environ.get("SMALLHOLD_DATA"), help="default $SMALLHOLD_DATA")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "conformance", metavar="DIR")
    parser.add_argument("--publish", action="store_true", help="take a result without failures into the documentation")
    args = parser.parse_args(words)
    if args.publish:
        return table.publish(args.out / "result.json", TARGETS)
    if not 100 <= args.positions <= FULL:
        parser.error(f"--positions: expected 100 to {FULL}, got {args.positions}")
    chosen = {name: make for name, make in TARGETS.items() if is_chosen(name, args.only)}
    if not chosen:
        parser.error(f"--only: none of {', '.join(TARGETS)} holds {' or '.join(args.only)}")
    args.out.mkdir(parents=True, exist_ok=True)
    say("models, prompts and what the oracle says of them")
    models, left_out = prepare(args.data, args.out / "files", args.positions)
    rows = {} if len(chosen) == len(TARGETS) else earlier(args.out / "result.json")
    for name, make in chosen.items():
        rows[name] = []
        for row in rows_of(name, make, models, args.positions):
            say(f"{row['target']}: {row['status']}" + (f" ({row['reason']})" if row.get("reason") else ""))
            rows[name].append({**row, "entry": name, "made": datetime.now(UTC).isoformat(timespec="seconds")})
            in_order = [row for entry in TARGETS for row in rows.get(entry, [])]
            result = {"machine": machine(), "left_out": left_out, "rows": in_order}
            write_durably(args.out / "result.json", [json.dumps(result, indent=1).encode(), b"\n"], mode=0o644)
    print(table.markdown(result))
    return int(any(row["status"] == "fail" for row in in_order))


def earlier(path: Path) -> dict[str, list[Row]]:
    """Rows that an earlier run left, by the entry of `TARGETS` that made them."""
    rows: dict[str, list[Row]] = {}
    for row in json.loads(path.read_bytes())["rows"] if path.exists() else []:
        rows.setdefault(row["entry"], []).append(row)
    return rows


def is_chosen(name: str, only: Sequence[str]) -> bool:
    """Whether a target is asked for."""
    return not only or any(text in name for text in only)


def prepare(data: str | None, folder: Path, positions: int) -> tuple[list[Model], list[str]]:
    """Models that can be made here, and what is left out of them."""
    models, left_out = [], []
    if data is None:
        left_out.append("stories260K: set SMALLHOLD_DATA to a folder with weights/stories260K, or give --data")
    else:
        try:
            models.append(stories260k(Path(data), folder, positions))
        except OSError as error:
            left_out.append(f"stories260K: {error}")
    models += hospital(folder, positions)
    try:
        models += [random_family(name, folder, min(positions, FAMILY_POSITIONS)) for name in SHAPES]
    except ImportError as error:
        left_out.append(f"random families: {error}; pip install 'smallhold[test]'")
    return models, left_out


def rows_of(name: str, make: Callable[[], list[Target]], models: Sequence[Model], positions: int) -> Iterator[Row]:
    """The rows of one entry of `TARGETS`: one a target, or one that says why there is none."""
    try:
        targets = make()
    except Absent as absent:
        yield {"target": name, "status": "untested", "reason": str(absent)}
        return
    except Failed as failed:
        yield {"target": name, "status": "fail", "reason": str(failed), "checks": []}
        return
    for target in targets:
        yield row_of(target, models, positions)


def row_of(target: Target, models: Sequence[Model], positions: int) -> Row:
    """Everything that one target is asked, and the verdict."""
    begun = time.monotonic()
    asked = min(positions, target.positions)
    checks: list[Row] = []
    reason = ""
    try:
        computed = [model for model in models if target.families or model.name.partition(" ")[0] not in SHAPES]
        checks.extend(in_whole(target, model, asked) for model in computed)
        if target.is_exact_in_pieces:
            checks += [in_pieces(target, model, asked) for model in models if model.share == 1]
        if target.decide is not None:
            patients, texts = (8, 20) if asked >= FULL else (4, 9)
            for case in decisions.cases(target.tolerance, patients=patients, texts=texts):
                checks.append(decisions.judge(case, target.decide(case.bundle, case.keys, case.requests)))
    except (Failed, ValueError) as failed:
        reason = str(failed)
    is_good = not reason and all(check["status"] == "pass" for check in checks)
    row: Row = {"target": target.name, "status": "pass" if is_good else "fail", "positions": asked, "checks": checks}
    if asked < FULL:
        row["below_10000_positions"] = f"{asked} of each large model: the target is slow, or few were asked for"
    if not target.takes_embeddings:
        row["doors"] = "token ids alone"
    if reason:
        row["reason"] = reason
    return {**row, "seconds": round(time.monotonic() - begun, 1)}


def in_whole(target: Target, model: Model, positions: int) -> Row:
    """Logits of whole prompts beside the expected ones."""
    asked = list(model.asked(positions, embeddings=target.takes_embeddings))
    prompts = [prompt for prompt, *_ in asked]
    wanted: Iterable[tuple[FloatArray, FloatArray | None]] = ((logits, moves) for _, logits, moves in asked)
    if target.beside is not None:
        wanted = ((logits, None) for logits in target.beside(model, prompts))
    tally = Tally(model.tolerance if target.beside is None else FLOAT32)
    for found, (expected, moves) in zip(target.logits(model, prompts), wanted, strict=True):
        tally.add(found, expected, moves)
    return {"what": model.name, **tally.result()}


def in_pieces(target: Target, model: Model, positions: int) -> Row:
    """Whether prompts in pieces give the bits of the whole."""
    asked = model.asked(min(positions, PIECES_POSITIONS), embeddings=target.takes_embeddings)
    prompts = [prompt for prompt, *_ in asked]
    wholes = list(target.logits(model, prompts))
    pieces = list(target.logits(model, [prompt.in_pieces() for prompt in prompts]))
    differing = sum(int((a != b).any(axis=1).sum()) for a, b in zip(wholes, pieces, strict=True))
    return {
        "what": f"{model.name}, in pieces",
        "status": "fail" if differing else "pass",
        "positions": sum(map(len, prompts)),
        "differing": differing,
    }


def say(text: str) -> None:
    """Progress, for whoever waits."""
    print(f"conformance: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
