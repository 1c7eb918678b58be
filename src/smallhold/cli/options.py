"""Options that several verbs share, and how they open a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from smallhold.device.home import Home
from smallhold.errors import InputError

if TYPE_CHECKING:
    from smallhold.decide.local import LocalTask
    from smallhold.sectors.hospital.stays import Stay


def home_of(args: argparse.Namespace) -> Home:
    """The home that `--home` names, or the default one."""
    return Home.default() if args.home is None else Home(args.home)


def add_bundle_options(parser: argparse.ArgumentParser, *, is_flag: bool = False) -> None:
    """Bundle (an argument, or `--bundle`), task, runtime and trust."""
    summary = "a bundle: directory or single file; default: the one installed on this device"
    if is_flag:
        parser.add_argument("--bundle", type=Path, metavar="BUNDLE", help=summary)
    else:
        parser.add_argument("bundle", type=Path, nargs="?", metavar="BUNDLE", help=summary)
    parser.add_argument("--task", default="icu-risk", metavar="NAME", help="task of the bundle; default icu-risk")
    parser.add_argument(
        "--backend",
        choices=("onnx_runtime", "engine", "reference"),
        default="onnx_runtime",
        help="runtime of the model",
    )
    parser.add_argument(
        "--trusted-keys", type=Path, metavar="DIR", help="public keys; default: the home's trust folder"
    )


def add_patient_options(parser: argparse.ArgumentParser, *, split: str) -> None:
    """Data folder and split."""
    parser.add_argument("--data", type=Path, metavar="DIR", help="where the data sets lie; default $SMALLHOLD_DATA")
    parser.add_argument(
        "--split",
        choices=("train", "calibration", "validation", "test", "all"),
        default=split,
        help=f"which patients; default {split}",
    )
    parser.add_argument("--simulated", action="store_true", help="the simulated ward although data are there")


def open_task(args: argparse.Namespace) -> LocalTask:
    """Verify and load the bundle and its task."""
    from smallhold.decide.local import open_bundle
    from smallhold.device.install import active_bundle

    home = home_of(args)
    bundle = args.bundle or active_bundle(home)
    opened = open_bundle(bundle, backend=args.backend, trusted_keys=args.trusted_keys or home.trust)
    return opened.signal_task(args.task)


def choose_stays(args: argparse.Namespace, most: int | None = None) -> list[Stay]:
    """The patients that the options name, `most` at most; the simulated ward where no data are found or named."""
    from smallhold.sectors.hospital import icu_risk
    from smallhold.sectors.hospital.simulator import SimulatedWard
    from smallhold.sectors.splits import Split

    part: Split | Literal["all"] = "all" if args.split == "all" else Split(args.split)
    ward = SimulatedWard(2500, 0, split=part, most=most)
    stays = ward.simulate() if args.simulated else icu_risk.load_stays(args.data, simulated=ward)
    if len({stay.data_set for stay in stays}) > 1:
        raise InputError("real and simulated patients are mixed in one folder: keep them apart")
    chosen = icu_risk.split(stays, part)
    if not chosen:
        raise InputError(f"no patients in the split {args.split!r} of {stays[0].data_set}", hint="try --split all")
    return sorted(chosen, key=lambda stay: stay.record_id)[:most]
