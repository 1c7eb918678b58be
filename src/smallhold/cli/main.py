"""`smallhold`: one verb a file; this module parses, calls, and turns errors into messages and exit codes.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 the model abstained, 130 interrupted (run again to resume).
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from pathlib import Path
from typing import Protocol

from smallhold.cli.output import note
from smallhold.errors import MissingExtraError, SmallholdError
from smallhold.version import __version__

#: Verb to module and one line of help. A module is imported only when its verb is called.
VERBS: dict[str, str] = {
    "demo": "Run everything once, from raw readings to a signed, explained, journalled decision",
    "data": "List the data sets that are known, and say where to get one",
    "teach": "Train a small model from a recipe",
    "compress": "Make a model smaller: by a recipe, to a budget, or by rounding",
    "bundle": "Build, sign, verify or inspect a bundle",
    "device": "Make a device's home, install a signed bundle, roll it back, show what runs",
    "decide": "Ask a bundle for one decision",
    "replay": "Play recorded patients through a bundle, as if they lay on a ward",
    "bedside": "Watch a ward of live patients: readings in, floor and model beside each bed, alarms out",
    "console": "Run a ward with a page for staff in the browser, and manage its accounts",
    "feed": "Send recorded or simulated patients out as if their monitors were sending now",
    "wasi": "Run a guest in WebAssembly that asks a bundle's model through WASI-NN",
    "serve": "Answer OpenAI-compatible requests on this machine from a bundle",
    "evaluate": "Measure a bundle on patients with a known outcome, beside the simple things",
    "federate": "Let sites that share no row train one model together, and verify what happened",
    "knowledge": "Look up in a signed pack what several sites have counted together, and cite it",
    "privacy": "Show what has been spent of which privacy, and measure what a finished job gave away",
    "policy": "Show what a policy profile allows, and check that it is safe to load",
    "order": "Sign, check and revoke standing orders; stop and resume every release; see a closed loop",
    "feedback": "Write down what people made of alerts and what became of patients; export rows on site",
    "journal": "Show, verify and export the journal of a device",
    "interop": "Let other systems read a ward: CDS Hooks, HL7 v2 alarms, IEEE 11073 SDC",
    "new": "Start a sector of your own, or check its rows",
    "doctor": "Show what this machine has and what is missing",
}

#: Packages that an extra brings, for the advice when one is absent.
_EXTRAS = {
    "torch": "train",
    "safetensors": "train",
    "sklearn": "train",
    "scipy": "train",
    "onnx": "train",
    "threadpoolctl": "train",
    "matplotlib": "report",
    "zstandard": "data",
    "fastapi": "console",
    "starlette": "serve",
    "uvicorn": "serve",
    "llguidance": "serve",
    "jinja2": "serve",
    "httpx": "endpoint",
    "wasmtime": "wasm",
    "paho": "mqtt",
    "sdc11073": "sdc",
}


class Verb(Protocol):
    """What a module of this folder offers."""

    EXAMPLE: str

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Declare arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it; returns the exit code."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    # Read by OpenMP when a library loads it. The default is to wait by spinning, and beside other busy processes a
    # training step then takes up to ten times as long; asleep, threads cost nothing measurable on a quiet machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that knows no ² shows \xb2 instead of a traceback
            stream.reconfigure(errors="backslashreplace")
    words = sys.argv[1:] if argv is None else argv
    verb = next((word for word in words if not word.startswith("-")), None)
    try:
        args = build_parser(only=verb).parse_args(words)
        if args.verb is None:
            build_parser().print_help()
            return 2
        code = int(args.run(args))
        sys.stdout.flush()  # here, where a reader that went away can still be answered for
        return code
    except SmallholdError as error:
        return _explain(error, error.exit_code)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in _EXTRAS:
            raise
        return _explain(MissingExtraError(package, _EXTRAS[package], f"smallhold {verb}"), 1)
    except KeyboardInterrupt:
        note("interrupted")
        return 130
    except BrokenPipeError:
        # The reader of our output went away; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _explain(SmallholdError(f"{where}{error.strerror or error}"), 1)


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The whole command line, or, for speed, the arguments of one verb alone."""
    parser = argparse.ArgumentParser(
        prog="smallhold",
        description="Small language models, held locally: train, compress, sign, ship and decide on the device. "
        "Research and engineering software; not a medical device.",
        epilog="start here: smallhold demo",
    )
    parser.add_argument("--version", action="version", version=f"smallhold {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    for name, summary in VERBS.items():
        verb = verbs.add_parser(name, help=summary)
        if only is None or only == name:
            configure_verb(verb, name)
    return parser


def configure_verb(parser: argparse.ArgumentParser, name: str) -> None:
    """Give a verb its arguments, its worked example and the options that every verb has."""
    module: Verb = importlib.import_module(f"smallhold.cli.{name}")
    parser.description = f"{VERBS[name]}."
    parser.epilog = f"example: {module.EXAMPLE}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--json", action="store_true", help="data as JSON on stdout")
    parser.add_argument("--home", type=Path, metavar="DIR", help="the device's home; default $SMALLHOLD_HOME")
    module.configure(parser)
    parser.set_defaults(run=module.run)


def _explain(error: SmallholdError, code: int) -> int:
    note(f"error: {error}")
    if error.hint:
        note(f"hint: {error.hint}")
    return code


if __name__ == "__main__":
    sys.exit(main())
