"""`smallhold compress`: quantize the checkpoint of a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from smallhold.cli.output import next_commands, print_json

EXAMPLE = "smallhold compress runs/icu-risk"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare arguments."""
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="folder of a training run")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the quantized twin goes; default RUN/quantized")


def run(args: argparse.Namespace) -> int:
    """Quantize and report the error."""
    from smallhold.compress.quantize import quantize_checkpoint
    from smallhold.evaluate.run_folder import CHECKPOINT_FOLDER

    out = args.out or args.run_folder / "quantized"
    errors = quantize_checkpoint(args.run_folder / CHECKPOINT_FOLDER, out)
    worst = max(errors, key=errors.__getitem__)
    if args.json:
        print_json({"checkpoint": str(out), "encoding": "q8_0", "relative_error": errors})
    else:
        print(f"{len(errors)} matrices to 8 bits in groups of 32; largest relative error {errors[worst]:.4f} ({worst})")
    next_commands(f"smallhold bundle build {args.run_folder} --out {args.run_folder}/bundle")
    return 0
