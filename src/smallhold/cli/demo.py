"""`smallhold demo`: every verb in turn, from raw readings to a signed, explained, journalled decision."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
import time
from pathlib import Path

from smallhold.cli.options import home_of
from smallhold.cli.output import next_commands, note, paint, print_json
from smallhold.errors import DataError, SmallholdError

EXAMPLE = "smallhold demo"
_SHIPPED_MODEL = Path("models/hospital")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare arguments."""
    parser.add_argument("--data", type=Path, metavar="DIR", help="where the data sets lie; default $SMALLHOLD_DATA")
    parser.add_argument("--simulated", action="store_true", help="use the simulated ward although data are there")
    parser.add_argument("--recipe", default="icu-risk", metavar="RECIPE", help="recipe to carry out; default icu-risk")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the run; default runs/demo-real or -simulated"
    )
    parser.add_argument("--patients", type=int, default=30, metavar="N", help="patients to replay; default 30")


def run(args: argparse.Namespace) -> int:
    """Run the other verbs as a user would type them."""
    from smallhold.cli.main import main
    from smallhold.device.home import init
    from smallhold.device.install import status
    from smallhold.teach.recipe import read_recipe

    begun = time.monotonic()
    recipe = read_recipe(args.recipe)
    is_simulated = args.simulated or not _has_real_data(args.data)
    out = args.out or Path("runs") / ("demo-simulated" if is_simulated else "demo-real")
    bundle, report = out / "bundle", out / "report"
    home = home_of(args)
    note(paint("Smallhold demo. Research and engineering software; not a medical device.", "bold"))
    # A folder that the user named is used, also when its patients are simulated; the built-in ward is for the others.
    named = None if args.simulated else args.data or os.environ.get("SMALLHOLD_DATA") or None
    note(
        f"Patients: the SIMULATED ward in {named}"
        if is_simulated and named
        else "Patients: the built-in SIMULATED ward; set SMALLHOLD_DATA to train on real ones"
        if is_simulated
        else "Patients: REAL intensive-care stays of PhysioNet/CinC 2012 (physionet2012_icu)"
    )
    common = ["--home", str(home.path)]
    data = ["--data", str(Path(named).expanduser())] if named else []
    ward = ["--simulated"] if is_simulated and not named else []
    init(home)
    # A device never goes back to a lower version, and one version is one bundle: every demo makes the next one.
    version = _next_version(recipe.bundle.version, status(home).highest_version)
    steps = [
        *_with_shipped_model(args.patients, [*ward, *common, *data]),
        ("Teach a small model of your own", ["teach", "train", args.recipe, "--out", str(out), *ward, *data]),
        ("Compress it to 8 bits", ["compress", str(out)]),
        (
            "Bundle, calibrate, sign",
            ["bundle", "build", str(out), "--out", str(bundle), "--version", version, *common, *data],
        ),
        ("Install on this device", ["device", *common, "install", str(bundle)]),
        (
            "Replay patients through it",
            ["replay", "--patients", str(args.patients), "--profile", "eu", *ward, *common, *data],
        ),
        ("Check the journal", ["journal", *common, "verify"]),
        (
            f"Measure on {'simulated' if is_simulated else 'real'} patients that it has never seen",
            ["evaluate", str(bundle), "--run", str(out), "--out", str(report), *ward, *common, *data],
        ),
    ]
    for number, (title, words) in enumerate(steps, start=1):
        note(paint(f"\n[{number}/{len(steps)}] {title}: smallhold {' '.join(words)}", "bold"))
        with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):  # --json: one object, at the end
            code = main(words)
        if code:
            raise SmallholdError(
                f"demo: step {number} of {len(steps)} ended with exit code {code}", hint="run it again"
            )
    note(f"\ndone in {time.monotonic() - begun:.0f} s; open {report / 'report.html'}")
    if args.json:
        print_json({"run": str(out), "bundle": str(bundle), "report": str(report / "report.html"), "version": version})
    chosen = ["--home", str(home.path)] if args.home is not None else []
    next_commands(
        shlex.join(["smallhold", "journal", "show", "--last", "3", *chosen]),
        shlex.join(["smallhold", "replay", "--patients", "100", "--profile", "us", "--json", *ward, *data, *chosen]),
        shlex.join(["smallhold", "bundle", "inspect", str(bundle)]),
    )
    return 0


def _with_shipped_model(patients: int, options: list[str]) -> list[tuple[str, list[str]]]:
    """A replay with the model that comes with the repository, where that is where we are."""
    if not (_SHIPPED_MODEL / "manifest.json").exists():
        return []
    words = ["replay", str(_SHIPPED_MODEL), "--trusted-keys", str(_SHIPPED_MODEL.parent / "trusted_keys")]
    return [("Replay patients through the shipped model", [*words, "--patients", str(patients), *options])]


def _has_real_data(data: Path | None) -> bool:
    """Whether real patients are there; a folder that the user named and that holds no patients is refused."""
    from smallhold.sectors.data_sets import find_data_set
    from smallhold.sectors.hospital.stays import PHYSIONET_2012, SIMULATED_WARD

    try:
        find_data_set(PHYSIONET_2012, data)
    except DataError as absent:
        if data is not None or os.environ.get("SMALLHOLD_DATA"):
            try:
                find_data_set(SIMULATED_WARD, data)
            except DataError:
                raise DataError(str(absent), hint="--simulated uses the built-in ward") from None
        return False
    return True


def _next_version(wanted: str, highest: str | None) -> str:
    if highest is None:
        return wanted
    from smallhold.device.manifest import parse_version

    major, minor, patch = parse_version(highest)
    return wanted if parse_version(wanted) > (major, minor, patch) else f"{major}.{minor}.{patch + 1}"
