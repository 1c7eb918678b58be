"""`smallhold compress`: make a model smaller by a recipe, or quantize the checkpoint of a run."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path

from smallhold.cli.output import ProgressBar, next_commands, note, print_json
from smallhold.errors import InputError

EXAMPLE = "smallhold compress hospital-small --out runs/hospital-small"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare arguments."""
    parser.add_argument(
        "source", metavar="RECIPE|RUN", help="a .toml file, the name of a shipped recipe, or the folder of a run"
    )
    parser.add_argument(
        "--bits",
        type=int,
        choices=(8, 4),
        default=8,
        help="of a run: of the trunk's layers; embeddings, head and signal encoder take 8 in either case; default 8",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="recipe: folder of the run, default runs/RECIPE; run: where the quantized twin goes, default "
        "RUN/quantized, or RUN/quantized-4 for 4 bits",
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="recipe: where the data lie; default $SMALLHOLD_DATA")
    parser.add_argument(
        "--pictures", action="store_true", help="recipe: draw what each step cost, and the Pareto front of a search"
    )
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), metavar="N", help="torch's threads")
    budget = parser.add_argument_group("search by budget", "any of these looks for the best shape within the limits")
    budget.add_argument("--max-bytes", type=_bytes, default=0, metavar="N", help="of the bundle; 4MB is 4,000,000")
    budget.add_argument("--max-ms-p95", type=float, default=0.0, metavar="MS", help="processor time of one decision")
    budget.add_argument("--max-rss", type=_bytes, default=0, metavar="N", help="resident set of a process that decides")
    budget.add_argument("--max-joules", type=float, default=0.0, metavar="J", help="energy of one decision")
    budget.add_argument(
        "--min-quality", type=float, default=0.0, metavar="SHARE", help="of the teacher's gain over the simple thing"
    )
    budget.add_argument(
        "--device", type=Path, metavar="FILE", help="profile of the device: smallhold doctor --profile FILE"
    )
    budget.add_argument("--candidates", type=int, default=9, metavar="N", help="shapes that are trained; default 9")
    parser.add_argument("--dry-run", action="store_true", help="recipe: say what would be done, and do nothing")


def run(args: argparse.Namespace) -> int:
    """Do it, and say what came of it."""
    if args.threads < 1:
        raise InputError(f"--threads: expected at least 1, got {args.threads}")
    is_limited = any((args.max_bytes, args.max_ms_p95, args.max_rss, args.max_joules, args.min_quality))
    if Path(args.source).is_dir():
        if is_limited:
            raise InputError("limits are for recipes: a run that is there has its shape")
        return _quantize(args, Path(args.source))
    return _search(args) if is_limited else _shrink(args)


def _search(args: argparse.Namespace) -> int:
    from smallhold.compress.budget import Budget
    from smallhold.compress.device_profile import DeviceProfile
    from smallhold.compress.search import SearchSettings, run_search
    from smallhold.compress.shrink_recipe import read_shrink_recipe

    if args.device is None:
        raise InputError("--device: a search needs the device's profile", hint="smallhold doctor --profile device.json")
    if args.candidates < 1:
        raise InputError(f"--candidates: expected at least 1, got {args.candidates}")
    if args.dry_run:
        raise InputError("--dry-run: a search says what it does as it goes; it is for recipes without limits")
    limits = ("max_bytes", "max_ms_p95", "max_rss", "max_joules", "min_quality")
    budget = Budget(**{name: getattr(args, name) for name in limits})
    out = args.out or Path("runs") / f"{Path(args.source).stem}-search"
    progress = ProgressBar()
    try:
        result = run_search(
            read_shrink_recipe(args.source),
            budget,
            DeviceProfile.read(args.device),
            args.data,
            out,
            settings=SearchSettings(trained=args.candidates),
            progress=progress,
            threads=args.threads,
        )
    finally:
        progress.close()
    if args.pictures and result.trials:
        from smallhold.compress.pictures import draw_pareto

        draw_pareto(result.trials, out / "pareto.png", found=result.label)
        note(f"pictures: {out / 'pareto.png'}")
    if args.json:
        print_json({"search": str(out), **asdict(result)})
    else:
        print(result.line())
    if not result.is_feasible:
        return 1
    next_commands(f"smallhold bundle build {out / result.run} --bits {result.bits} --out {out}/bundle")
    return 0


def _bytes(text: str) -> int:
    """A number of bytes, with kB, MB or GB behind it or not."""
    for suffix, factor in (("kB", 1_000), ("MB", 1_000_000), ("GB", 1_000_000_000)):
        if text.endswith(suffix):
            return round(float(text.removesuffix(suffix)) * factor)
    return int(text)


def _shrink(args: argparse.Namespace) -> int:
    from smallhold.compress.shrink import plan_shrink, run_shrink
    from smallhold.compress.shrink_recipe import read_shrink_recipe

    recipe = read_shrink_recipe(args.source)
    plan = plan_shrink(recipe)
    if args.dry_run:
        if args.json:
            print_json(asdict(plan))
        else:
            print("\n".join(plan.lines()))
        return 0
    out = args.out or Path("runs") / Path(args.source).stem
    progress = ProgressBar()
    try:
        summary = run_shrink(recipe, args.data, out, progress=progress, threads=args.threads)
    finally:
        progress.close()
    if args.pictures:
        from smallhold.compress.pictures import draw_steps

        draw_steps(out, recipe, args.data)
        note(f"pictures: {out / 'waterfall.png'}")
    if args.json:
        print_json({"run": str(out), **asdict(summary)})
    else:
        print(
            f"{summary.teacher_parameters:,} parameters to {summary.parameters:,}, layers {summary.kept_layers} of the "
            f"teacher, vocabulary {summary.vocab_size:,}; healed in {summary.seconds:.0f} s"
        )
    which = "" if recipe.rounding.bits == 8 else f" --bits {recipe.rounding.bits}"
    next_commands(f"smallhold bundle build {out}{which} --out {out}/bundle")
    return 0


def _quantize(args: argparse.Namespace, folder: Path) -> int:
    from smallhold.compress.quantize import quantize_checkpoint, twin_folder
    from smallhold.evaluate.run_folder import CHECKPOINT_FOLDER

    if args.dry_run:
        raise InputError("--dry-run: quantizing takes seconds; it is for recipes")
    out = args.out or twin_folder(folder, args.bits)
    errors = quantize_checkpoint(folder / CHECKPOINT_FOLDER, out, bits=args.bits)
    worst = max(errors, key=errors.__getitem__)
    if args.json:
        print_json({"checkpoint": str(out), "encoding": f"q{args.bits}_0", "relative_error": errors})
    else:
        print(
            f"{len(errors)} matrices, layers to {args.bits} bits in groups of 32; "
            f"largest relative error {errors[worst]:.4f} ({worst})"
        )
    which, name = ("", "bundle") if args.bits == 8 else (f" --bits {args.bits}", f"bundle-{args.bits}")
    next_commands(f"smallhold bundle build {folder}{which} --out {folder}/{name}")
    return 0
