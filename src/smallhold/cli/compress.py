"""`smallhold compress`: quantize the checkpoint of a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from smallhold.cli.output import next_commands, print_json

EXAMPLE = "smallhold compress runs/icu-risk"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare arguments."""
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="folder of a training run")
    parser.add_argument(
        "--bits",
        type=int,
        choices=(8, 4),
        default=8,
        help="of the trunk's layers; embeddings, output head and signal encoder take 8 in either case; default 8",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where the quantized twin goes; default RUN/quantized, or RUN/quantized-4 for 4 bits",
    )


def run(args: argparse.Namespace) -> int:
    """Quantize and report the error."""
    from smallhold.compress.quantize import quantize_checkpoint, twin_folder
    from smallhold.evaluate.run_folder import CHECKPOINT_FOLDER

    out = args.out or twin_folder(args.run_folder, args.bits)
    errors = quantize_checkpoint(args.run_folder / CHECKPOINT_FOLDER, out, bits=args.bits)
    worst = max(errors, key=errors.__getitem__)
    if args.json:
        print_json({"checkpoint": str(out), "encoding": f"q{args.bits}_0", "relative_error": errors})
    else:
        print(
            f"{len(errors)} matrices, layers to {args.bits} bits in groups of 32; "
            f"largest relative error {errors[worst]:.4f} ({worst})"
        )
    which, name = ("", "bundle") if args.bits == 8 else (f" --bits {args.bits}", f"bundle-{args.bits}")
    next_commands(f"smallhold bundle build {args.run_folder}{which} --out {args.run_folder}/{name}")
    return 0
