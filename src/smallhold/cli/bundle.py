"""`smallhold bundle`: build, sign, verify, inspect."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta
from pathlib import Path

from smallhold.cli.options import home_of
from smallhold.cli.output import ProgressBar, next_commands, note, print_json
from smallhold.device.home import Home
from smallhold.errors import DataError

EXAMPLE = "smallhold bundle build runs/icu-risk --out icu-risk.bundle"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = actions.add_parser("build", help="export, calibrate, list and sign")
    build.add_argument("run_folder", type=Path, metavar="RUN", help="folder of a training run")
    build.add_argument(
        "--out", type=Path, required=True, metavar="BUNDLE", help="a directory, or a file ending in .zip"
    )
    build.add_argument("--data", type=Path, metavar="DIR", help="the data set of the run; default $SMALLHOLD_DATA")
    build.add_argument("--fp32", action="store_true", help="ship float32 although the run was quantized")
    build.add_argument("--version", metavar="X.Y.Z", help="instead of the recipe's version")
    build.add_argument("--no-expiry", action="store_true", help="a bundle that no device refuses for its age")
    build.add_argument("--unsigned", action="store_true", help="leave the signature to `bundle sign`")
    sign = actions.add_parser("sign", help="sign a bundle directory with this home's publisher key")
    verify = actions.add_parser("verify", help="check signature, expiry and every file")
    inspect = actions.add_parser("inspect", help="show what a bundle says of itself, without believing it")
    for action in (sign, verify, inspect):
        action.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle: directory or single file")
    for action in (build, sign, verify, inspect):
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="data as JSON on stdout")
        action.add_argument("--home", type=Path, default=argparse.SUPPRESS, metavar="DIR", help="the device's home")
    verify.add_argument(
        "--trusted-keys", type=Path, metavar="DIR", help="public keys; default: the home's trust folder"
    )


def run(args: argparse.Namespace) -> int:
    """Carry out one action."""
    home = home_of(args)
    match args.action:
        case "build":
            return _build(args, home)
        case "sign":
            from smallhold.bundle.assemble import sign_bundle

            sign_bundle(args.bundle, home.publisher_key())
            if args.json:
                print_json({"bundle": str(args.bundle), "is_signed": True})
            next_commands(f"smallhold bundle verify {args.bundle}")
            return 0
        case "verify":
            return _verify(args, home)
        case _:
            return _inspect(args)


def _build(args: argparse.Namespace, home: Home) -> int:
    from smallhold.bundle.assemble import BundleRequest, build_bundle
    from smallhold.bundle.weights import QUANTIZED_FILE
    from smallhold.cli.teach import load_patients
    from smallhold.decide.task import Task
    from smallhold.evaluate.run_folder import CHECKPOINT_FOLDER, TEACHER_FILE
    from smallhold.sectors.hospital import icu_risk
    from smallhold.sectors.splits import Split
    from smallhold.teach.card import licence_texts, write_card
    from smallhold.teach.recipe import recipe_of_run
    from smallhold.teach.train import digest_stays, read_summary

    folder: Path = args.run_folder
    summary = read_summary(folder)
    recipe = recipe_of_run(summary.recipe)
    stays = load_patients(recipe, args.data, simulated=summary.is_simulated and args.data is None)
    known = [stay for stay in stays if stay.died is not None]
    if digest_stays(icu_risk.split(known, Split.TRAIN)) != summary.data_digest:
        raise DataError(
            f"calibration needs the very data of the run, {summary.data_set}; what was found of {stays[0].data_set} "
            "differs from it",
            hint="give its folder with --data DIR",
        )
    quantized = folder / "quantized"
    checkpoint = quantized if quantized.exists() and not args.fp32 else folder / CHECKPOINT_FOLDER
    created = datetime.now(UTC).replace(microsecond=0)
    days = 0 if args.no_expiry else recipe.bundle.expires_days
    request = BundleRequest(
        checkpoint=checkpoint,
        trees=folder / TEACHER_FILE,
        task=Task.from_bytes((folder / "task.json").read_bytes()),
        name=recipe.bundle.name,
        version=args.version or recipe.bundle.version,
        expires=created + timedelta(days=days) if days else None,
        training_data=(summary.data_set,),
        licences=licence_texts((summary.data_set,)),
        card=write_card(summary, encoding="q8_0" if (checkpoint / QUANTIZED_FILE).exists() else "float32"),
        max_error=recipe.bundle.max_error,
    )
    progress = ProgressBar()
    try:
        manifest, fitted = build_bundle(
            request,
            icu_risk.split(known, Split.CALIBRATION),
            args.out,
            is_simulated=summary.is_simulated,
            created=created,
            key=None if args.unsigned else home.publisher_key(),
            progress=progress,
        )
    finally:
        progress.close()
    field = fitted.task.fields[0]
    report = {
        "bundle": str(args.out),
        "name": manifest.name,
        "version": manifest.version,
        "digest": manifest.digest,
        "bytes": sum(entry.bytes for entry in manifest.files.values()),
        "is_signed": not args.unsigned,
        "temperature": field.temperature,
        "abstain_below": field.abstain_below,
        "alert_threshold": field.alert_threshold,
        "calibration_coverage": fitted.coverage,
        "calibration_error": fitted.error,
    }
    if not fitted.is_feasible:
        note(
            f"remark: no threshold brings the error down to {recipe.bundle.max_error:g} with half of the "
            f"answers given; it is {fitted.error:.3f}"
        )
    if args.json:
        print_json(report)
    else:
        print(
            f"{manifest.name} {manifest.version}, {report['bytes']:,} bytes, temperature {field.temperature:.3f}, "
            f"answers {fitted.coverage:.1%} of the calibration questions with {fitted.error:.1%} wrong"
        )
    next_commands(f"smallhold device install {args.out}", f"smallhold evaluate {args.out} --task {icu_risk.NAME}")
    return 0


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
    print(f"tasks: {', '.join(manifest.tasks)}; trained on {', '.join(manifest.training_data)}{label}")
    for path, entry in sorted(manifest.files.items()):
        print(f"{entry.bytes:>12,}  {path}  ({entry.role}{', ' + entry.runtime if entry.runtime else ''})")
    note("remark: nothing was verified")
    next_commands(f"smallhold bundle verify {args.bundle}")
    return 0
