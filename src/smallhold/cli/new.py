"""`smallhold new`: start a sector, and check that its rows are read as declared."""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallhold.cli.output import next_commands, note, print_json
from smallhold.errors import InputError

if TYPE_CHECKING:
    from smallhold.sectors.text_task import TextSource, TextTask

EXAMPLE = "smallhold new sector city-desk && smallhold new check sectors/city-desk --data sectors/city-desk/data"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add `sector` and `check`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    sector = actions.add_parser("sector", help="write the folder of a new sector; without --from, with simulated rows")
    sector.add_argument("name", metavar="NAME", help="lower case, words joined by hyphens")
    sector.add_argument("--out", type=Path, metavar="DIR", help="folder of the sector; default sectors/NAME")
    sector.add_argument("--from", dest="rows", type=Path, metavar="DIR", help="a data set: a folder of *.jsonl")
    sector.add_argument(
        "--text", action="append", metavar="MEMBER", help="member of its rows to read; repeat for several"
    )
    sector.add_argument("--label", metavar="MEMBER", help="member that holds the answer")
    sector.add_argument("--group", metavar="MEMBER", help="member that the split keeps together; default: equal texts")
    sector.add_argument("--language", default="en", metavar="CODE", help="ISO 639-1 code of the texts; default en")
    check = actions.add_parser("check", help="read every row of a sector's text tasks as training would")
    check.add_argument("sector", metavar="SECTOR", help="name of a sector of the package, or a folder")
    check.add_argument("--data", type=Path, metavar="DIR", help="where the data sets lie; default $SMALLHOLD_DATA")
    for action in (sector, check):
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="data as JSON on stdout")


def run(args: argparse.Namespace) -> int:
    """Carry out one action."""
    return _sector(args) if args.action == "sector" else _check(args)


def _sector(args: argparse.Namespace) -> int:
    from smallhold.sectors.scaffold import write_sector_from, write_simulated_sector
    from smallhold.sectors.text_task import TextSource

    folder = args.out or Path("sectors") / args.name
    if args.rows is None:
        if args.text or args.label or args.group:
            raise InputError("--text, --label and --group say how rows are read: expected --from DIR beside them")
        data = folder / "data"
        sector = write_simulated_sector(args.name, folder)
    else:
        if not args.text or not args.label:
            raise InputError("--from: expected --text MEMBER and --label MEMBER beside it")
        data_set = args.rows.resolve()
        data = args.rows.parent if args.rows.name == data_set.name else data_set.parent
        source = TextSource(
            data_set=data_set.name, text=tuple(args.text), label=args.label, group=args.group, language=args.language
        )
        sector = write_sector_from(args.name, folder, data / data_set.name, source)
    if args.json:
        print_json({"sector": sector.name, "folder": str(folder), "data": str(data)})
    else:
        print(folder)
    words = [str(folder), "--data", str(data)]
    next_commands(shlex.join(["smallhold", "new", "check", *words]))
    return 0


def _check(args: argparse.Namespace) -> int:
    from smallhold.sectors.tasks import read_sector

    sector = read_sector(args.sector)
    if not sector.text_tasks:
        raise InputError(f"sector {sector.name}: it declares no text task: nothing to check")
    rows = [_counted(task, source, args.data) for task in sector.text_tasks for source in task.sources]
    if args.json:
        print_json(rows)
        return 0
    for row in rows:
        kind = "measures only" if row["only_measures"] else "trains"
        label = ", simulated" if row["is_simulated"] else ""
        print(f"{row['task']}: {row['data_set']} ({row['language']}, {kind}{label})")
        print("    " + ", ".join(f"{count} {part}" for part, count in row["parts"].items()))
        if row["untrained"]:
            print(f"    no training row for {len(row['untrained'])} of {row['choices']}: {', '.join(row['untrained'])}")
    note("every row was read as declared")
    return 0


def _counted(task: TextTask, source: TextSource, data: Path | None) -> dict[str, Any]:
    """What the rows of one source come to; test rows are counted, not looked at."""
    from smallhold.sectors.splits import Split
    from smallhold.sectors.text_task import load_examples, split

    examples = load_examples(task, data, data_set=source.data_set)
    trained = Counter(example.label for example in split(examples, Split.TRAIN))
    return {
        "task": task.name,
        "data_set": source.data_set,
        "language": source.language,
        "only_measures": source.only_measures,
        "is_simulated": any(example.is_simulated for example in examples),
        "choices": len(task.choices),
        "parts": {part.value: len(split(examples, part)) for part in Split},
        "untrained": [] if source.only_measures else [choice for choice in task.choices if not trained[choice]],
    }
