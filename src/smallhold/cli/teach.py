"""`smallhold teach`: train a model from a recipe, label texts by an endpoint, list recipes and models."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from smallhold.cli.output import ProgressBar, next_commands, note, print_json
from smallhold.cli.teach_endpoint import configure_label, configure_list, label, list_sources
from smallhold.errors import SmallholdError

if TYPE_CHECKING:
    from smallhold.decide.local import LocalBundle
    from smallhold.teach.joint import JointSummary
    from smallhold.teach.pretrain import PretrainSummary
    from smallhold.teach.specialists import SpecialistSummary
    from smallhold.teach.train import RunSummary

EXAMPLE = "smallhold teach train icu-risk --out runs/icu-risk"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add `train`, `pretrain`, `label` and `list`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    train = actions.add_parser("train", help="carry out a recipe; run it again to resume")
    train.add_argument("recipe", metavar="RECIPE", help="a .toml file, or the name of a shipped recipe")
    train.add_argument("--out", type=Path, metavar="DIR", help="folder of the run; default runs/RECIPE")
    train.add_argument("--data", type=Path, metavar="DIR", help="where the data sets lie; default $SMALLHOLD_DATA")
    train.add_argument("--simulated", action="store_true", help="train on the simulated ward although data are there")
    train.add_argument(
        "--splits",
        choices=("train", "train+validation"),
        help="of a sector's recipe: which rows are trained on; a teacher of smaller models must not see validation",
    )
    train.add_argument(
        "--weights",
        type=Path,
        metavar="BUNDLE",
        help="that a sector's recipe made: take its weights in place of the hours of training, to measure or compress",
    )
    train.add_argument(
        "--trunk", type=Path, metavar="BUNDLE", help="of specialists: another bundle than the recipe's to add them to"
    )
    train.add_argument(
        "--trusted-keys", type=Path, metavar="DIR", help="public keys that a bundle is verified by; default: the home's"
    )
    train.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), metavar="N", help="torch's threads")
    pretrain = actions.add_parser("pretrain", help="train a base model; run it again to resume")
    pretrain.add_argument("recipe", metavar="RECIPE", help="a .toml file, or the name of a shipped recipe")
    pretrain.add_argument("--out", type=Path, metavar="DIR", help="folder of the run; default runs/RECIPE")
    pretrain.add_argument("--data", type=Path, metavar="DIR", help="where the data sets lie; default $SMALLHOLD_DATA")
    pretrain.add_argument(
        "--threads", type=int, default=min(2, os.cpu_count() or 1), metavar="N", help="torch's threads"
    )
    pretrain.add_argument(
        "--from",
        dest="begin",
        type=Path,
        metavar="DIR",
        help="checkpoint of a base to go on from; default: from scratch",
    )
    labelling = actions.add_parser("label", help="label texts by an OpenAI-compatible endpoint; run again to resume")
    configure_label(labelling)
    listing = actions.add_parser("list", help="recipes that come with the package, or models to teach or to begin from")
    configure_list(listing)
    for action in (train, pretrain, labelling, listing):
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="data as JSON on stdout")


def run(args: argparse.Namespace) -> int:
    """Carry out one action."""
    if args.action == "list":
        return list_sources(args)
    if args.action == "label":
        return label(args)
    from smallhold.teach.joint_recipe import is_joint
    from smallhold.teach.specialist_recipe import is_specialists

    if args.threads < 1:
        raise SmallholdError(f"--threads: expected at least 1, got {args.threads}")
    out = args.out or Path("runs") / Path(args.recipe).stem
    progress = ProgressBar()
    summary: RunSummary | JointSummary | PretrainSummary | SpecialistSummary
    try:
        if args.action == "pretrain":
            summary, line = _pretrain(args, out, progress)
        elif is_specialists(args.recipe):
            summary, line = _train_specialists(args, out, progress)
        elif is_joint(args.recipe):
            summary, line = _train_sector(args, out, progress)
        else:
            summary, line = _train_task(args, out, progress)
    finally:
        progress.close()
    if args.json:
        print_json({"run": str(out), **asdict(summary)})
    else:
        print(line)
    if args.action == "pretrain":
        next_commands(f"smallhold evaluate {out}/checkpoint")
    elif is_specialists(args.recipe):
        next_commands(f"smallhold bundle build {out} --out {out}/bundle")
    else:
        next_commands(f"smallhold compress {out}", f"smallhold bundle build {out} --out {out}/bundle")
    return 0


def _train_task(args: argparse.Namespace, out: Path, progress: ProgressBar) -> tuple[RunSummary, str]:
    from smallhold.teach.recipe import read_recipe

    if args.splits is not None:
        raise SmallholdError("--splits: is for recipes of a sector; this one trains on the training split")
    if args.weights is not None:
        raise SmallholdError("--weights: is for recipes of a sector; this one trains a task alone")
    recipe = read_recipe(args.recipe)  # refused before anything slow is imported or read
    from smallhold.teach.train import run_training

    stays = load_patients(recipe, args.data, simulated=args.simulated)
    summary = run_training(recipe, stays, out, progress=progress, threads=args.threads)
    label = " (simulated)" if summary.is_simulated else ""
    return summary, (
        f"trained on {summary.num_stays} patients of {summary.data_set}{label}, {summary.parameters:,} parameters, "
        f"final loss {summary.loss[-1][1]:.4f}, {summary.training_seconds:.0f} s"
    )


def _train_sector(args: argparse.Namespace, out: Path, progress: ProgressBar) -> tuple[JointSummary, str]:
    from smallhold.teach.joint_recipe import read_joint_recipe

    recipe = read_joint_recipe(args.recipe)
    if args.splits is not None:
        recipe = replace(recipe, splits=tuple(args.splits.split("+")))
    shipped = None if args.weights is None else _open(args, args.weights)
    from smallhold.teach.joint import run_joint

    summary = run_joint(recipe, args.data, out, progress=progress, threads=args.threads, shipped=shipped)
    what = f"{', '.join(summary.tasks)} on one trunk, {summary.parameters:,} parameters"
    if shipped is not None:
        return summary, f"{what}: the weights of {shipped.manifest.name} {shipped.manifest.version}"
    return summary, f"trained {what}, {sum(summary.steps.values())} steps, {summary.training_seconds:.0f} s"


def _open(args: argparse.Namespace, bundle: str | Path) -> LocalBundle:
    """A bundle, verified by the keys that the user gave or by the home's."""
    from smallhold.cli.options import home_of
    from smallhold.decide.local import open_bundle

    return open_bundle(bundle, trusted_keys=args.trusted_keys or home_of(args).trust)


def _train_specialists(args: argparse.Namespace, out: Path, progress: ProgressBar) -> tuple[SpecialistSummary, str]:
    from smallhold.teach.specialist_recipe import read_specialist_recipe

    if args.splits is not None or args.simulated:
        raise SmallholdError("--splits, --simulated: specialists are trained on the training split of real patients")
    if args.weights is not None:
        raise SmallholdError("--weights: is for recipes of a sector; of specialists, --trunk names the bundle")
    recipe = read_specialist_recipe(args.recipe)
    if args.trunk is not None:
        recipe = replace(recipe, trunk=str(args.trunk))
    from smallhold.sectors.hospital import icu_risk
    from smallhold.teach.specialists import run_specialists

    bundle = _open(args, recipe.trunk)
    stays = icu_risk.load_stays(args.data)
    summary = run_specialists(recipe, bundle, stays, out, progress=progress, threads=args.threads)
    for name, why in summary.left_out.items():
        note(f"{name}: not trained: {why}")
    return summary, (
        f"trained {', '.join(summary.specialists)} over the trunk of {summary.bundle}, "
        f"{sum(item['training_seconds'] for item in summary.specialists.values()):.0f} s"
    )


def _pretrain(args: argparse.Namespace, out: Path, progress: ProgressBar) -> tuple[PretrainSummary, str]:
    from smallhold.teach.pretrain_recipe import read_pretrain_recipe

    recipe = read_pretrain_recipe(args.recipe)
    from smallhold.device.durable_file import write_durably
    from smallhold.teach.joint_card import write_base_card
    from smallhold.teach.pretrain import run_pretraining

    summary = run_pretraining(recipe, args.data, out, progress=progress, threads=args.threads, begin=args.begin)
    write_durably(out / "checkpoint" / "README.md", [write_base_card(summary).encode()], mode=0o644)
    return summary, (
        f"read {summary.tokens_read / 1e6:.1f} million tokens "
        f"({summary.tokens_read / summary.pass_tokens:.2f} passes), {summary.parameters:,} parameters, "
        f"validation {summary.validation[-1][1]:.3f} bits per byte, {summary.seconds:.0f} s"
    )


def load_patients(recipe, data: Path | None, *, simulated: bool):  # type: ignore[no-untyped-def]
    """The patients that a recipe is carried out on: real ones where they are found, else its simulated ward."""
    from smallhold.sectors.hospital import icu_risk
    from smallhold.sectors.hospital.simulator import SimulatedWard, simulate_ward

    ward = SimulatedWard(recipe.data.simulated_stays, recipe.data.simulated_seed)
    if simulated:
        note(f"simulating a ward of {ward.num_stays} patients (seed {ward.seed})")
        return simulate_ward(ward.num_stays, ward.seed, ward.hours)
    stays = icu_risk.load_stays(data, simulated=ward)
    kind = "simulated" if stays[0].is_simulated else "real"
    note(f"{len(stays)} {kind} patients of {stays[0].data_set}")
    return stays
