"""Our quantizers beside the best peers, on one trained checkpoint: quality on the test split, bytes, and time.

    make bench-compress          # sets up the peers' environments, then: python -m bench.compress

Nothing is chosen by these figures. A method that was measured is not measured again unless `--again` names it; a peer
that is missing or fails gets a row that says so.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench.compress.cases import Cases, hospital_cases
from bench.compress.methods import METHODS, ROOT, Artefact, Method, Source, machine_versions, make_once
from bench.compress.quality import ask, questions, resampled
from bench.compress.readers import Reader, open_reader
from bench.compress.speed import DECODE_AT, PREFILL, time_readers
from bench.compress.table import markdown, picture, with_quality
from numpy.typing import NDArray

from smallhold.cli.output import ProgressBar
from smallhold.device.durable_file import write_durably
from smallhold.evaluate.bootstrap import Resampled
from smallhold.evaluate.device_cost import machine
from smallhold.teach.signal_task import load_part, save_part

Row = dict[str, Any]


def main() -> int:
    """Measure what is missing, then write table and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [method.name for method in METHODS]
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "hospital", metavar="DIR", help="a finished run")
    parser.add_argument("--data", default=os.environ.get("SMALLHOLD_DATA"), help="default $SMALLHOLD_DATA")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench-compress", metavar="DIR")
    parser.add_argument("--again", nargs="+", default=[], choices=names, metavar="METHOD", help="measure these again")
    parser.add_argument("--rounds", type=int, default=30, metavar="N", help="rounds of timing; default 30")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "images" / "bench-compress.png", metavar="FILE")
    args = parser.parse_args()
    if not args.data:
        parser.error("real data are needed: set SMALLHOLD_DATA or give --data")
    torch.set_num_threads(1)
    for name in args.again:
        shutil.rmtree(folder_of(args.out, name), ignore_errors=True)
    cases = hospital_cases(args.run, Path(args.data))
    told = {
        "machine": machine(),
        "versions": machine_versions(),
        "command": shlex.join(["python", "-m", "bench.compress", *sys.argv[1:]]),
        "speed": f"ms of processor time, one thread; prefill of {PREFILL} tokens, one token behind {DECODE_AT}",
        "counts": {name: len(closed.truth) for name, closed in cases.closed.items()} | {"windows": len(cases.windows)},
    }

    def keep(rows: list[Row]) -> None:
        result = {"rows": rows, "load_average": os.getloadavg()[0], **told}
        write_durably(args.out / "result.json", [json.dumps(result, indent=1).encode()], mode=0o644)

    source = Source(args.run / "checkpoint", cases.calibration)
    rows = measure(METHODS, source, cases, args.out, rounds=args.rounds, keep=keep)
    picture(rows, args.picture)
    print(markdown(rows))
    return 0


def measure(
    methods: Sequence[Method],
    source: Source,
    cases: Cases,
    out: Path,
    *,
    rounds: int,
    keep: Callable[[list[Row]], None] = lambda _rows: None,
) -> list[Row]:
    """A row for each method; what an earlier call measured is read from `out`.

    One question is asked of all methods before the next, so that what is there can be compared at any time.

    Args:
        methods: In the order of the table.
        source: The checkpoint that all start from.
        cases: What is asked.
        out: Folder of artefacts and answers.
        rounds: Rounds of timing.
        keep: Called with the rows whenever a question has been asked of all, and at the end.
    """
    rows: dict[str, Row] = {}
    readers: dict[str, Reader] = {}
    for method in methods:
        rows[method.name] = {"method": method.name, "is_ours": method.is_ours, "bits": method.bits}
        try:
            artefact = make_once(method, source, folder_of(out, method.name))
            readers[method.name] = open_reader(artefact.kind, folder_of(out, method.name) / artefact.path)
            rows[method.name] |= _of_artefact(artefact)
        except Exception as error:
            _fail(rows[method.name], error)
    found: dict[str, dict[str, Resampled]] = {name: {} for name in readers}
    for question in questions(cases):
        for name, reader in list(readers.items()):
            try:
                said = _answers(folder_of(out, name), name, reader, question, cases)
            except Exception as error:
                _fail(rows[name], error)
                del readers[name], found[name]
                continue
            if said is not None:
                found[name] |= resampled({question: said}, cases)
        with_quality(list(rows.values()), found)
        keep(list(rows.values()))
    timings = _timed(readers, cases, out, rounds)
    for name, row in rows.items():
        row["speed"] = timings.get(name)
    keep(list(rows.values()))
    return list(rows.values())


def _fail(row: Row, error: Exception) -> None:
    """Peers raise what they like, and a failure is a result."""
    row["error"] = f"{type(error).__name__}: {error}"[:200]
    row.pop("quality", None)
    print(f"{row['method']}: {row['error']}", file=sys.stderr)


def _answers(folder: Path, name: str, reader: Reader, question: str, cases: Cases) -> NDArray[np.float32] | None:
    """What a method says to one question, asked once; None where it cannot be asked."""
    path = folder / "answers" / f"{slug(question)}.npz"
    if not path.exists():
        bar = ProgressBar()
        said = ask(reader, question, cases, progress=lambda done, total: bar(f"{name}: {slug(question)}", done, total))
        bar.close()
        if said is None:
            return None
        path.parent.mkdir(exist_ok=True)
        save_part(path, said=said)
    kept: NDArray[np.float32] = load_part(path)["said"]
    return kept


def _of_artefact(artefact: Artefact) -> dict[str, Any]:
    return {
        "size_bytes": artefact.size_bytes,
        "about": artefact.about,
        "versions": artefact.versions,
        "why_no_speed": artefact.why_no_speed,
    }


def _timed(readers: dict[str, Reader], cases: Cases, out: Path, rounds: int) -> dict[str, Any]:
    """Timings of this set of methods: measured together, so a new method means that all are timed again."""
    path = out / "speed.json"
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text())
        if kept["methods"] == sorted(readers) and kept["rounds"] == rounds:
            timings: dict[str, Any] = kept["timings"]
            return timings
    tokens = np.concatenate(cases.windows[: -(-PREFILL // cases.windows.shape[1])])[:PREFILL]
    timings = dict(time_readers(readers, tokens, rounds=rounds))
    told = {"methods": sorted(readers), "rounds": rounds, "timings": timings}
    write_durably(path, [json.dumps(told, indent=1).encode()], mode=0o644)
    return timings


def folder_of(out: Path, name: str) -> Path:
    """Where a method's artefact and answers lie."""
    return out / slug(name)


def slug(name: str) -> str:
    """A name as part of a path."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


if __name__ == "__main__":
    sys.exit(main())
