"""The page about the command line, made from the parsers themselves.

`python -m smallhold.cli.reference docs/reference/cli.md` writes it; with `--check` it only says whether it is current.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from smallhold.cli.main import VERBS, build_parser
from smallhold.device.durable_file import write_durably

_HEAD = """# The command line

Made from the parsers; do not edit. Data go to stdout, everything else to stderr; `--json` prints JSON alone.
`NO_COLOR` is respected.
Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 the model abstained or the floor went alone, 130 interrupted
(run it again to resume).
"""


def render_reference() -> str:
    """The whole page in Markdown; depends on the parsers alone, not on terminal or Python version."""
    parser = build_parser()
    lines = [_HEAD]
    for name, verb in _actions(parser):
        lines.append(
            f"## smallhold {name}\n\n{VERBS[name]}\n\n```\n{(verb.epilog or '').removeprefix('example: ')}\n```\n"
        )
        lines.append(_table(verb))
        for action, inner in _actions(verb):
            lines.append(f"### smallhold {name} {action}\n\n{_help_of(verb, action)}\n")
            lines.append(_table(inner))
    return "\n".join(line for line in lines if line).rstrip() + "\n"


def main(argv: list[str] | None = None) -> int:
    """Write or check the page; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, metavar="FILE", help="the page, docs/reference/cli.md")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when the page has drifted")
    args = parser.parse_args(argv)
    page = render_reference().encode()
    if not args.check:
        write_durably(args.page, [page], mode=0o644)
        return 0
    if args.page.is_file() and args.page.read_bytes() == page:
        return 0
    print(f"error: {args.page} does not describe the command line as it is", file=sys.stderr)
    print(f"hint: python -m smallhold.cli.reference {args.page}", file=sys.stderr)
    return 1


def _subparsers(parser: argparse.ArgumentParser) -> argparse._SubParsersAction[argparse.ArgumentParser] | None:
    # argparse offers no public way to its own declarations; these names have been the same since Python 2.7.
    return next((a for a in parser._actions if isinstance(a, argparse._SubParsersAction)), None)


def _actions(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    found = _subparsers(parser)
    yield from () if found is None else found.choices.items()


def _help_of(parser: argparse.ArgumentParser, name: str) -> str:
    found = _subparsers(parser)
    texts = {} if found is None else {item.dest: item.help or "" for item in found._choices_actions}
    text = texts[name]
    return text[:1].upper() + text[1:]


def _table(parser: argparse.ArgumentParser) -> str:
    rows = [
        f"| `{_spelled(action)}` | {_explained(action)} |"
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction)
    ]
    return "\n".join(["| Argument | Meaning |", "| --- | --- |", *rows, ""]) if rows else ""


def _spelled(action: argparse.Action) -> str:
    takes_value = action.nargs != 0
    choices = "{" + ",".join(map(str, action.choices)) + "}" if action.choices is not None else None
    value = str(action.metavar or choices or action.dest.upper())
    if not action.option_strings:
        return value
    return ", ".join(action.option_strings) + (f" {value}" if takes_value else "")


def _explained(action: argparse.Action) -> str:
    text = (action.help or "").replace("|", "\\|")
    return f"{text} (required)" if action.required and action.option_strings else text


if __name__ == "__main__":
    sys.exit(main())
