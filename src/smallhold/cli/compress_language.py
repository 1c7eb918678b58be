"""`smallhold compress RECIPE` where the recipe names a corpus: any language model, made smaller."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from smallhold.cli.output import ProgressBar, next_commands, print_json


def shrink_language(args: argparse.Namespace) -> int:
    """Carry the recipe out, or say what it would take."""
    from smallhold.compress.language import run_language
    from smallhold.compress.language_plan import plan_language
    from smallhold.compress.language_recipe import read_language_recipe
    from smallhold.compress.quantize import twin_folder
    from smallhold.evaluate.run_folder import CHECKPOINT_FOLDER

    recipe = read_language_recipe(args.source)
    if args.dry_run:
        plan = plan_language(recipe, args.data)
        if args.json:
            print_json(asdict(plan))
        else:
            print("\n".join(plan.lines()))
        return 0
    out = args.out or Path("runs") / Path(args.source).stem
    progress = ProgressBar()
    try:
        summary = run_language(recipe, args.data, out, progress=progress, threads=args.threads)
    finally:
        progress.close()
    if args.json:
        print_json({"run": str(out), **asdict(summary)})
    else:
        print("\n".join(summary.lines()))
    # A bundle is rounded to nearest; what GPTQ chose survives that only where it starts from GPTQ's own weights.
    rounding = recipe.rounding
    packed = twin_folder(out, rounding.bits) if rounding.method == "gptq" else out / CHECKPOINT_FOLDER
    next_commands(f"smallhold bundle build --from {packed} --bits {rounding.bits} --name {recipe.name}")
    return 0
