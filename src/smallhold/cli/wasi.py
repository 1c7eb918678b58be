"""`smallhold wasi`: run a guest in WebAssembly, which asks the models of a bundle through WASI-NN."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from smallhold.cli.options import home_of
from smallhold.cli.output import note, print_json
from smallhold.device.bounded_file import read_bounded
from smallhold.errors import InputError

if TYPE_CHECKING:
    from smallhold.device.wasi_nn import Grant, Limits, Model

EXAMPLE = """echo "Red, itchy patches on both elbows." |
        smallhold wasi --bundle hospital.bundle triage.wasm hospital triage Acne Psoriasis Migraine"""

_MOST_INPUT_BYTES = 64 * 2**20
#: What a guest gets beyond its time to come back from a read of a granted file, or from a pass of the model.
_GRACE_SECONDS = 10.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare arguments."""
    parser.add_argument("guest", type=Path, metavar="GUEST", help="a WASI program: .wasm, or .wat as text")
    parser.add_argument(
        "args", nargs="*", metavar="ARG", help="arguments of the guest; those that begin with - stand behind --"
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        action="append",
        default=[],
        metavar="BUNDLE",
        help="offer this bundle's model under the bundle's name; verified first; may be repeated",
    )
    parser.add_argument(
        "--backend", choices=("onnx_runtime", "engine", "reference"), default="engine", help="runtime of the models"
    )
    parser.add_argument(
        "--trusted-keys", type=Path, metavar="DIR", help="public keys; default: the home's trust folder"
    )
    grants = parser.add_argument_group("files, of which a guest sees none unless granted")
    for name, what in (("--grant", "read"), ("--grant-write", "read and change")):
        grants.add_argument(
            name, action="append", default=[], metavar="DIR[:NAME]", help=f"let the guest {what} files of a directory"
        )
    grants.add_argument("--no-input", action="store_true", help="give the guest no standard input")
    limits = parser.add_argument_group("limits")
    limits.add_argument("--seconds", type=float, default=10.0, metavar="S", help="wall time; default 10")
    limits.add_argument(
        "--fuel", type=int, default=10_000_000_000, metavar="N", help="instructions; 0 counts none; default 10000000000"
    )
    limits.add_argument("--memory", type=int, default=256, metavar="MIB", help="linear memory; default 256")
    limits.add_argument("--output", type=int, default=1, metavar="MIB", help="each output stream; default 1")
    limits.add_argument(
        "--load",
        type=int,
        default=0,
        metavar="MIB",
        help="let the guest load ONNX models of its own up to this size, which nobody has verified; default 0: none",
    )


def run(args: argparse.Namespace) -> int:
    """Run the guest; its exit code is ours."""
    from smallhold.device.wasi_nn import run_guest

    limits = _limits(args)
    wasm = read_bounded(args.guest, limits.module_bytes, what="guest")
    grants = [_grant(text, False) for text in args.grant] + [_grant(text, True) for text in args.grant_write]
    models = _models(args)
    stdin = b"" if args.no_input or sys.stdin.isatty() else sys.stdin.buffer.read(_MOST_INPUT_BYTES + 1)
    if len(stdin) > _MOST_INPUT_BYTES:
        raise InputError(f"standard input: expected at most {_MOST_INPUT_BYTES:,} bytes")
    watch = threading.Timer(limits.seconds + _GRACE_SECONDS, _give_up, [limits.seconds])
    watch.daemon = True
    watch.start()
    try:
        outcome = run_guest(
            wasm,
            models,
            args=[args.guest.name, *args.args],
            stdin=stdin,
            grants=grants,
            limits=limits,
            stdout=None if args.json else _through(sys.stdout.fileno()),
            stderr=None if args.json else _through(sys.stderr.fileno()),
        )
    finally:
        watch.cancel()
    if args.json:
        print_json(
            {
                "exit_code": outcome.exit_code,
                "stdout": outcome.stdout.decode(errors="replace"),
                "stderr": outcome.stderr.decode(errors="replace"),
                "refusals": list(outcome.refusals),
                "fuel": outcome.fuel,
            }
        )
    for refusal in outcome.refusals:
        note(f"remark: a call was refused: {refusal}")
    return outcome.exit_code


def _limits(args: argparse.Namespace) -> Limits:
    from smallhold.device.wasi_nn import Limits

    mebi = 2**20
    return Limits(
        seconds=args.seconds,
        fuel=args.fuel,
        memory_bytes=args.memory * mebi,
        output_bytes=args.output * mebi,
        model_bytes=args.load * mebi,
    )


def _models(args: argparse.Namespace) -> dict[str, Model]:
    from smallhold.decide.local import open_bundle
    from smallhold.device.wasi_nn import Model

    models: dict[str, Model] = {}
    for path in args.bundle:
        keys = args.trusted_keys or home_of(args).trust
        bundle = open_bundle(path, backend=args.backend, trusted_keys=keys)
        if bundle.manifest.name in models:
            raise InputError(f"--bundle {path}: another one has the name {bundle.manifest.name!r}")
        models[bundle.manifest.name] = Model(bundle.backend, bundle.tokenizer)
    return models


def _grant(text: str, is_writable: bool) -> Grant:
    from smallhold.device.wasi_nn import Grant

    folder, _, name = text.partition(":")
    return Grant(Path(folder), name or Path(folder).name or "/", is_writable)


def _through(descriptor: int) -> Callable[[bytes], None]:
    """Write all of it, at once: a guest's lines are wanted as they come."""

    def write(data: bytes) -> None:
        while data:
            data = data[os.write(descriptor, data) :]

    return write


def _give_up(seconds: float) -> NoReturn:
    note(f"error: the guest did not come back {_GRACE_SECONDS:g} s after its {seconds:g} s were over; given up")
    os._exit(1)
