"""`smallhold compress`: make a model smaller by a recipe, or quantize the checkpoint of a run."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from smallhold.cli.output import ProgressBar, next_commands, note, print_json
from smallhold.errors import InputError, MissingExtraError

EXAMPLE = "smallhold compress hospital-small --out runs/hospital-small"
_LIMITS = ("max_bytes", "max_ms_p95", "max_rss", "max_joules", "min_quality")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare arguments."""
    parser.add_argument(
        "source", metavar="RECIPE|RUN", help="a .toml file, the name of a shipped recipe, or the folder of a run"
    )
    parser.add_argument(
        "--bits",
        type=int,
        choices=(8, 4),
        help="of a run: of the trunk; the signal encoder takes 8 in either case; default 8",
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
    budget.add_argument("--max-bytes", type=_bytes, metavar="N", help="of the bundle; 4MB is 4,000,000")
    budget.add_argument("--max-ms-p95", type=float, metavar="MS", help="processor time of one decision")
    budget.add_argument("--max-rss", type=_bytes, metavar="N", help="resident set of a process that decides")
    budget.add_argument("--max-joules", type=float, metavar="J", help="energy of one decision")
    budget.add_argument(
        "--min-quality", type=float, metavar="SHARE", help="of the teacher's gain over the simple thing"
    )
    budget.add_argument(
        "--device", type=Path, metavar="FILE", help="profile of the device: smallhold doctor --profile FILE"
    )
    budget.add_argument("--candidates", type=int, default=9, metavar="N", help="shapes that are trained; default 9")
    parser.add_argument("--dry-run", action="store_true", help="recipe, with limits or not: say what would be done")


def run(args: argparse.Namespace) -> int:
    """Do it, and say what came of it."""
    if args.threads < 1:
        raise InputError(f"--threads: expected at least 1, got {args.threads}")
    limits = {name: getattr(args, name) for name in _LIMITS if getattr(args, name) is not None}
    for name, value in limits.items():
        if not value > 0:
            raise InputError(f"--{name.replace('_', '-')}: expected more than 0, got {value}")
    if args.device is not None and not limits:
        raise InputError("--device: a search needs a limit", hint="--max-bytes 4MB, for example")
    if Path(args.source).is_dir():
        if limits:
            raise InputError("limits are for recipes: a run that is there has its shape")
        for name in ("data", "pictures"):
            if getattr(args, name):
                raise InputError(f"--{name}: is for recipes; {args.source} is a run, which is only quantized")
        return _quantize(args, Path(args.source))
    if args.bits is not None:
        raise InputError("--bits: is for a run that is there; a recipe says it itself", hint="[rounding] bits = 4")
    if _is_language(args, limits):
        from smallhold.cli.compress_language import shrink_language

        return shrink_language(args)
    if args.pictures and find_spec("matplotlib") is None:  # known now, not after the training
        raise MissingExtraError("matplotlib", "report", "--pictures")
    return _search(args, limits) if limits else _shrink(args)


def _is_language(args: argparse.Namespace, limits: dict[str, Any]) -> bool:
    """Whether the recipe makes a plain language model smaller; refuses what is for sectors alone."""
    from smallhold.compress.language_recipe import is_language

    if not is_language(args.source):
        return False
    of_sectors = [*limits, *(["pictures"] if args.pictures else [])]
    if of_sectors:
        raise InputError(
            f"--{of_sectors[0].replace('_', '-')}: is for the recipe of a sector; {args.source} names a corpus",
            hint="its quality is bits per byte of held-out texts: choose [shape] yourself",
        )
    return True


def _search(args: argparse.Namespace, limits: dict[str, Any]) -> int:
    from smallhold.compress.budget import Budget
    from smallhold.compress.device_profile import DeviceProfile
    from smallhold.compress.search import SearchSettings, run_search
    from smallhold.compress.search_plan import plan_search
    from smallhold.compress.shrink_recipe import read_shrink_recipe

    if args.device is None:
        raise InputError("--device: a search needs the device's profile", hint="smallhold doctor --profile device.json")
    if args.candidates < 1:
        raise InputError(f"--candidates: expected at least 1, got {args.candidates}")
    recipe, budget = read_shrink_recipe(args.source), Budget(**limits)
    profile, settings = DeviceProfile.read(args.device), SearchSettings(trained=args.candidates)
    if args.dry_run:
        plan = plan_search(recipe, budget, profile, args.data, settings)
        print_json(asdict(plan)) if args.json else print("\n".join(plan.lines()))
        return 0 if plan.fitting else 1
    out = args.out or Path("runs") / f"{Path(args.source).stem}-search"
    progress = ProgressBar()
    try:
        result = run_search(
            recipe,
            budget,
            profile,
            args.data,
            out,
            settings=settings,
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
    try:
        for suffix, factor in (("kB", 1_000), ("MB", 1_000_000), ("GB", 1_000_000_000)):
            if text.endswith(suffix):
                return round(float(text.removesuffix(suffix)) * factor)
        return int(text)
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"expected bytes such as 4000000 or 4MB, got {text!r}") from error


def _shrink(args: argparse.Namespace) -> int:
    from smallhold.compress.shrink import plan_shrink, recipe_of_teacher, run_shrink
    from smallhold.compress.shrink_recipe import read_shrink_recipe
    from smallhold.compress.student_quality import UnseenRows

    recipe = read_shrink_recipe(args.source)
    plan = plan_shrink(recipe)
    if args.dry_run:
        if args.json:
            print_json(asdict(plan))
        else:
            print("\n".join(plan.lines()))
        return 0
    out = args.out or Path("runs") / Path(args.source).stem
    rows = UnseenRows.of(recipe_of_teacher(Path(recipe.teacher))[1], args.data) if args.pictures else None
    progress = ProgressBar()
    try:
        summary = run_shrink(recipe, args.data, out, progress=progress, threads=args.threads)
    finally:
        progress.close()
    if rows is not None:
        from smallhold.compress.pictures import draw_steps

        draw_steps(out, recipe, rows)
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
    from smallhold.evaluate.run_folder import CHECKPOINT_FOLDER, LANGUAGE_FILE

    if args.dry_run:
        raise InputError("--dry-run: quantizing takes seconds; it is for recipes")
    bits = args.bits or 8
    out = args.out or twin_folder(folder, bits)
    errors = quantize_checkpoint(folder / CHECKPOINT_FOLDER, out, bits=bits)
    worst = max(errors, key=errors.__getitem__)
    if args.json:
        print_json({"checkpoint": str(out), "encoding": f"q{bits}_0", "relative_error": errors})
    else:
        print(
            f"{len(errors)} matrices, the trunk's to {bits} bits in groups of 32; "
            f"largest relative error {errors[worst]:.4f} ({worst})"
        )
    if (folder / LANGUAGE_FILE).exists():
        next_commands(f"smallhold bundle build --from {folder / CHECKPOINT_FOLDER} --bits {bits} --name NAME")
        return 0
    which, name = ("", "bundle") if bits == 8 else (f" --bits {bits}", f"bundle-{bits}")
    next_commands(f"smallhold bundle build {folder}{which} --out {folder}/{name}")
    return 0
