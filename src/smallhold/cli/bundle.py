"""`smallhold bundle`: build, sign, verify, inspect."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallhold.cli.options import home_of
from smallhold.cli.output import ProgressBar, next_commands, note, print_json
from smallhold.device.home import Home
from smallhold.errors import DataError, InputError

if TYPE_CHECKING:
    from smallhold.device.manifest import Manifest

EXAMPLE = "smallhold bundle build runs/icu-risk --out icu-risk.bundle"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = actions.add_parser("build", help="export, calibrate, list and sign")
    build.add_argument("run_folder", type=Path, nargs="?", metavar="RUN", help="folder of a training run")
    build.add_argument(
        "--from",
        dest="source",
        metavar="SOURCE",
        help="instead of a run: an existing model, packed without training: a directory with config.json, safetensors "
        "and tokenizer.json, a .gguf file, a directory with model.onnx, or hf:ORG/NAME[@REVISION]",
    )
    build.add_argument("--name", metavar="NAME", help="with --from: what the bundle calls itself")
    build.add_argument(
        "--context", type=int, metavar="N", help="with --from: positions; default the model's own, at most 8192"
    )
    build.add_argument("--offline", action="store_true", help="with --from hf: only what was downloaded before")
    build.add_argument(
        "--out",
        type=Path,
        metavar="BUNDLE",
        help="a directory, or a file ending in .zip; default with --from: NAME.bundle",
    )
    build.add_argument("--data", type=Path, metavar="DIR", help="the data set of the run; default $SMALLHOLD_DATA")
    form = build.add_mutually_exclusive_group()
    form.add_argument(
        "--bits",
        type=int,
        choices=(4, 8, 16, 32),
        help="of a run: which quantized twin to ship, 8 or 4; default 8 where it is there. With --from: 4, 8, 16 or "
        "32; default 8",
    )
    form.add_argument("--fp32", action="store_true", help="ship float32 although the run was quantized")
    build.add_argument("--version", metavar="X.Y.Z", help="instead of the recipe's version")
    build.add_argument("--no-expiry", action="store_true", help="a bundle that no device refuses for its age")
    build.add_argument("--unsigned", action="store_true", help="leave the signature to `bundle sign`")
    sign = actions.add_parser("sign", help="sign a bundle directory with this home's publisher key")
    verify = actions.add_parser("verify", help="check signature, expiry and every file")
    inspect = actions.add_parser("inspect", help="show what a bundle says of itself, without believing it")
    app = actions.add_parser("app", help="one executable file of the engine and a bundle, which needs no Python")
    app.add_argument("--out", type=Path, required=True, metavar="FILE", help="the app")
    app.add_argument(
        "--wasm", action="store_true", help="a WebAssembly module for WASI instead, which `smallhold wasi` runs too"
    )
    page = actions.add_parser("page", help="a folder of static files that decides in the browser")
    page.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    page.add_argument(
        "--webgpu", action="store_true", help="texts on a graphics processor too (make webgpu); 33 MB more"
    )
    build.add_argument(
        "--trunk", type=Path, metavar="BUNDLE", help="of a run of specialists: the bundle to add them to"
    )
    for action, what in ((app, "program"), (page, "WebAssembly module")):
        action.add_argument(
            "--engine", type=Path, metavar="FILE", help=f"the engine's {what}; default: where it is built"
        )
    for action in (sign, verify, inspect, app, page):
        action.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle: directory or single file")
    for action in (build, sign, verify, inspect, app, page):
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="data as JSON on stdout")
        action.add_argument("--home", type=Path, default=argparse.SUPPRESS, metavar="DIR", help="the device's home")
    for action in (build, verify, app, page):
        action.add_argument(
            "--trusted-keys", type=Path, metavar="DIR", help="public keys; default: the home's trust folder"
        )


def run(args: argparse.Namespace) -> int:
    """Carry out one action."""
    home = home_of(args)
    match args.action:
        case "build":
            return _build(args, home) if args.source is None else _bring(args, home)
        case "sign":
            from smallhold.bundle.assemble import sign_bundle

            sign_bundle(args.bundle, home.publisher_key())
            if args.json:
                print_json({"bundle": str(args.bundle), "is_signed": True})
            next_commands(f"smallhold bundle verify {args.bundle}")
            return 0
        case "verify":
            return _verify(args, home)
        case "app":
            return _app(args, home)
        case "page":
            return _page(args, home)
        case _:
            return _inspect(args)


def _app(args: argparse.Namespace, home: Home) -> int:
    """A bundle and the engine as one executable file."""
    from smallhold.bundle.app import write_app
    from smallhold.bundle.wasm_app import write_wasm_app

    keys = args.trusted_keys or home.trust
    write = write_wasm_app if args.wasm else write_app
    size = write(args.bundle, args.out, trusted_keys=keys, now=datetime.now(UTC), program=args.engine)
    if args.json:
        print_json({"app": str(args.out), **asdict(size)})
    else:
        print(f"{args.out}: {size.bytes:,} bytes, {size.program_bytes:,} of them the engine")
        if size.left_out:
            print(f"left out, for other runtimes: {', '.join(size.left_out)}")
    if args.wasm:
        next_commands(f"smallhold wasi {args.out} -- --help")
        return 0
    next_commands(f"./{args.out} --help" if not args.out.is_absolute() else f"{args.out} --help")
    return 0


def _page(args: argparse.Namespace, home: Home) -> int:
    """A bundle as a folder for browsers."""
    from smallhold.bundle.web_page import write_page

    keys = args.trusted_keys or home.trust
    now = datetime.now(UTC)
    size = write_page(args.bundle, args.out, trusted_keys=keys, now=now, wasm=args.engine, with_webgpu=args.webgpu)
    if args.json:
        print_json({"page": str(args.out), **asdict(size)})
    else:
        parts = f"engine {size.engine_bytes:,}, bundle {size.bundle_bytes:,}"
        parts += f", WebGPU {size.webgpu_bytes:,}" if size.webgpu_bytes else ""
        print(f"{args.out}: {size.bytes:,} bytes, of them {parts}")
    next_commands(f"python3 -m http.server --bind 127.0.0.1 --directory {args.out} 8000")
    return 0


def _bring(args: argparse.Namespace, home: Home) -> int:
    """An existing model as a bundle."""
    from smallhold.bundle.bring import bundle_from_checkpoint
    from smallhold.device.bundle_files import open_bundle_files
    from smallhold.device.trust import unsafe_read_manifest
    from smallhold.teach.hub import PREFIX, fetch_snapshot

    if args.run_folder is not None:
        raise InputError(f"expected a run or --from, got both: {args.run_folder} and {args.source}")
    if unused := [option for option in ("data", "fp32") if getattr(args, option)]:
        raise InputError(f"--{unused[0]} is for a run; with --from say --bits and --context")
    if args.name is None:
        raise InputError("--from needs --name NAME, what the bundle calls itself")
    out = args.out or Path(f"{args.name}.bundle")
    progress = ProgressBar()
    try:
        source, origin = Path(args.source), None
        if args.source.startswith(PREFIX):
            progress("fetching the model", 0, 1)
            snapshot = fetch_snapshot(args.source, offline=args.offline)
            progress("fetching the model", 1, 1)
            source, origin = snapshot.folder, snapshot.origin
        bundle_from_checkpoint(
            source,
            out,
            home=None if args.unsigned else home,
            name=args.name,
            version=args.version or "1.0.0",
            bits=args.bits or 8,
            progress=progress,
            context=args.context,
            origin=origin,
        )
    finally:
        progress.close()
    manifest = unsafe_read_manifest(open_bundle_files(out))  # written by this very program
    size = sum(entry.bytes for entry in manifest.files.values())
    if args.json:
        print_json(
            {
                "bundle": str(out),
                "name": manifest.name,
                "version": manifest.version,
                "digest": manifest.digest,
                "bytes": size,
                "is_signed": not args.unsigned,
                "base_digest": manifest.base_digest,
                "context_length": manifest.context_length,
                "tasks": {},
            }
        )
    else:
        print(f"{manifest.name} {manifest.version}, {size:,} bytes, context {manifest.context_length:,}, no task")
    next_commands(f"smallhold bundle verify {out}", f"smallhold serve {out}")
    return 0


def _build(args: argparse.Namespace, home: Home) -> int:
    from smallhold.bundle.assemble import build_bundle
    from smallhold.teach.bundle_request import BundleSource, request_of_run

    if args.run_folder is None or args.out is None:
        raise InputError("expected RUN and --out BUNDLE, or --from SOURCE and --name NAME", hint=EXAMPLE)
    if unused := [option for option in ("name", "context", "offline") if getattr(args, option)]:
        raise InputError(f"--{unused[0]} goes with --from; a run has it in its recipe")
    if args.bits == 16:
        raise InputError("--bits 16: a run ships in 8, 4 or 32 bits")
    folder: Path = args.run_folder
    from smallhold.teach.specialist_bundle import is_specialist_run

    if is_specialist_run(folder):
        return _build_specialists(args, home)
    checkpoint, encoding = _checkpoint(folder, bits=args.bits, is_fp32=args.fp32 or args.bits == 32)
    created = datetime.now(UTC).replace(microsecond=0)
    progress = ProgressBar()
    try:
        request, is_simulated = request_of_run(
            BundleSource(
                run=folder,
                checkpoint=checkpoint,
                encoding=encoding,
                data_dir=args.data,
                version=args.version,
                is_without_expiry=args.no_expiry,
                created=created,
            )
        )
        manifest, fitted = build_bundle(
            request,
            args.out,
            is_simulated=is_simulated,
            created=created,
            key=None if args.unsigned else home.publisher_key(),
            progress=progress,
        )
    finally:
        progress.close()
    report = {
        **_built(args, manifest),
        "tasks": {
            name: {
                "temperature": item.task.fields[0].temperature,
                "alert_threshold": item.task.fields[0].alert_threshold,
                "max_error": request.max_error,
                "coverage": item.coverage,
                "error": item.error,
                "is_feasible": item.is_feasible,
            }
            for name, item in fitted.items()
        },
    }
    if args.json:
        print_json(report)
    else:
        print(f"{manifest.name} {manifest.version}, {report['bytes']:,} bytes")
        for name, item in fitted.items():
            print(f"{name}: answers {item.coverage:.1%} of the calibration questions with {item.error:.1%} wrong")
            for line in item.summary.lines():
                print(f"  {line}")
    next_commands(f"smallhold device install {args.out}", f"smallhold evaluate {args.out} --task {manifest.tasks[0]}")
    return 0


def _build_specialists(args: argparse.Namespace, home: Home) -> int:
    """A bundle with specialists added to it."""
    from smallhold.bundle.add_specialists import add_specialists
    from smallhold.decide.local import open_bundle
    from smallhold.teach.specialist_bundle import request_of_specialists, trunk_of_run

    if args.bits is not None or args.fp32:
        raise InputError("--bits, --fp32: specialists are added to a bundle whose trunk stays as it is")
    base = open_bundle(args.trunk or trunk_of_run(args.run_folder), trusted_keys=args.trusted_keys or home.trust)
    progress = ProgressBar()
    try:
        request = request_of_specialists(
            args.run_folder,
            base,
            args.data,
            created=datetime.now(UTC).replace(microsecond=0),
            version=args.version,
            is_without_expiry=args.no_expiry,
        )
        key = None if args.unsigned else home.publisher_key()
        manifest, fitted, gates = add_specialists(request, args.out, key=key, progress=progress)
    finally:
        progress.close()
    report = {
        **_built(args, manifest),
        "tasks": {name: {"coverage": item.coverage, "error": item.error} for name, item in fitted.items()},
        "gates": {name: {"speaks": gate.speaks, "verdict": gate.sentence} for name, gate in gates.items()},
    }
    if args.json:
        print_json(report)
    else:
        print(f"{manifest.name} {manifest.version}, {report['bytes']:,} bytes")
        for name, gate in gates.items():
            print(gate.sentence if gate.speaks else f"{gate.sentence} It is not in the bundle.")
            for line in fitted[name].summary.lines() if name in fitted else ():
                print(f"  {line}")
    next_commands(f"smallhold evaluate {args.out} --specialists")
    return 0


def _built(args: argparse.Namespace, manifest: Manifest) -> dict[str, Any]:
    """What is told of every bundle that was built."""
    return {
        "bundle": str(args.out),
        "name": manifest.name,
        "version": manifest.version,
        "digest": manifest.digest,
        "bytes": sum(entry.bytes for entry in manifest.files.values()),
        "is_signed": not args.unsigned,
    }


def _checkpoint(folder: Path, *, bits: int | None, is_fp32: bool) -> tuple[Path, str]:
    """The checkpoint of a run that ships, and its encoding."""
    from smallhold.compress.quantize import twin_folder
    from smallhold.evaluate.run_folder import CHECKPOINT_FOLDER

    twin = twin_folder(folder, bits or 8)
    if is_fp32 or (bits is None and not twin.exists()):
        return folder / CHECKPOINT_FOLDER, "float32"
    if not twin.exists():
        raise DataError(f"{folder}: has no twin in {bits} bits", hint=f"smallhold compress {folder} --bits {bits}")
    return twin, f"q{bits or 8}_0"


def _verify(args: argparse.Namespace, home: Home) -> int:
    from smallhold.device.bundle_files import open_bundle_files
    from smallhold.device.trust import load_trusted_keys, verify_bundle

    keys = load_trusted_keys(args.trusted_keys or home.trust)
    manifest = verify_bundle(open_bundle_files(args.bundle), keys, now=datetime.now(UTC))
    if args.json:
        print_json({"name": manifest.name, "version": manifest.version, "digest": manifest.digest, "is_genuine": True})
    else:
        print(f"{manifest.name} {manifest.version}: genuine, {len(manifest.files)} files match")
    next_commands(f"smallhold device install {args.bundle}")
    return 0


def _inspect(args: argparse.Namespace) -> int:
    import json

    from smallhold.device.bundle_files import open_bundle_files
    from smallhold.device.trust import unsafe_read_manifest

    manifest = unsafe_read_manifest(open_bundle_files(args.bundle))
    if args.json:
        print_json(json.loads(manifest.to_bytes()))
        return 0
    label = " (simulated)" if manifest.is_simulated else ""
    print(f"{manifest.name} {manifest.version}, created {manifest.created}, expires {manifest.expires or 'never'}")
    trained_on = ", ".join(manifest.training_data) or "data that it does not name"
    print(f"tasks: {', '.join(manifest.tasks) or 'none'}; trained on {trained_on}{label}")
    for path, entry in sorted(manifest.files.items()):
        print(f"{entry.bytes:>12,}  {path}  ({entry.role}{', ' + entry.runtime if entry.runtime else ''})")
    note("remark: nothing was verified")
    next_commands(f"smallhold bundle verify {args.bundle}")
    return 0
