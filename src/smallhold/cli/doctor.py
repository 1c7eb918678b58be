"""`smallhold doctor`: what this machine has, what is missing, and what to do about it."""

from __future__ import annotations

import argparse
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from smallhold.cli.options import home_of
from smallhold.cli.output import ProgressBar, next_commands, print_json
from smallhold.errors import DataError, InputError, SmallholdError
from smallhold.version import __version__

EXAMPLE = "smallhold doctor"

_PACKAGES = {
    "device": ("numpy", "onnxruntime", "tokenizers", "cryptography"),
    "data": ("zstandard",),
    "report": ("matplotlib",),
    "train": ("torch", "safetensors", "scikit-learn", "onnx"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare arguments."""
    parser.add_argument("--data", type=Path, metavar="DIR", help="look for data sets here")
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="FILE",
        help="measure what decisions cost here, for a search by budget (a minute)",
    )


def run(args: argparse.Namespace) -> int:
    """Look; exit code 1 when the device side is incomplete."""
    if args.profile is not None:
        return _profile(args)
    from smallhold.device.install import status
    from smallhold.sectors.data_sets import KNOWN, find_data_set

    packages = {extra: {name: _version(name) for name in names} for extra, names in _PACKAGES.items()}
    found = []
    for known in KNOWN:
        try:
            find_data_set(known.name, args.data)
        except DataError:
            continue
        found.append(known.name)
    home = home_of(args)
    try:
        active: str | None = status(home).active if home.path.exists() else None
        problem = None
    except SmallholdError as error:
        active, problem = None, str(error)
    report: dict[str, Any] = {
        "smallhold": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "packages": packages,
        "data_sets": found,
        "home": {
            "path": str(home.path),
            "has_keys": home.device_key_path.exists(),
            "active_slot": active,
            "problem": problem,
        },
    }
    missing = [name for name, installed in packages["device"].items() if installed is None]
    if args.json:
        print_json(report)
        return 1 if missing else 0
    print(f"smallhold {report['smallhold']}, Python {report['python']}, {report['system']}")
    for extra, members in packages.items():
        absent = [name for name, installed in members.items() if installed is None]
        have = ", ".join(f"{name} {installed}" for name, installed in members.items() if installed)
        advice = f"   missing {', '.join(absent)}: pip install 'smallhold[{extra}]'" if absent else ""
        print(f"{extra:8} {have}{advice}")
    print(f"data     {', '.join(found) or 'none found; the simulated ward stands in'}")
    keys = "keys present" if report["home"]["has_keys"] else "no keys yet: smallhold device init"
    print(f"home     {home.path}: {keys}; active slot {active or 'none'}{'; ' + problem if problem else ''}")
    return 1 if missing else 0


def _profile(args: argparse.Namespace) -> int:
    """Measure graphs of many shapes and write what was learned."""
    from smallhold.compress.device_profile import measure_device, write_profile

    args.profile.parent.mkdir(parents=True, exist_ok=True)
    if args.profile.is_dir() or not os.access(args.profile.parent, os.W_OK):  # known now, not after the minute
        raise InputError(f"--profile {args.profile}: expected a file that can be written")
    progress = ProgressBar()
    try:
        profile = measure_device(progress=progress)
    finally:
        progress.close()
    write_profile(profile, args.profile)
    errors = {name: profile.model.error(name) for name in profile.model.errors}
    if args.json:
        print_json({"profile": str(args.profile), "machine": profile.machine, "graphs": len(profile.measured)})
        return 0
    print(
        f"{profile.machine}; {profile.runtime}; {len(profile.measured)} graphs, random weights: cost alone, no quality"
    )
    for name, error in errors.items():
        print(f"{name:15} nine graphs in ten were foretold within {error:.0%} by a model that had not seen them")
    if "joules" not in errors:
        print("joules          this machine does not count energy, or not for this user")
    next_commands(f"smallhold compress RECIPE --device {args.profile} --max-bytes 4MB")
    return 0


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
