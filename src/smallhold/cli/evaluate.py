"""`smallhold evaluate`: quality with intervals beside the simple baselines, latency, footprint, report."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

from smallhold.cli.options import add_bundle_options, add_patient_options, choose_stays, open_task
from smallhold.cli.output import ProgressBar, next_commands, note, print_json
from smallhold.errors import InputError

EXAMPLE = "smallhold evaluate icu-risk.bundle --split test --out runs/icu-risk/report"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare arguments."""
    add_bundle_options(parser)
    add_patient_options(parser, split="test")
    parser.add_argument(
        "--run", type=Path, metavar="DIR", dest="run_folder", help="training run: adds teacher and fp32"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write report.html and result.json there")
    parser.add_argument("--resamples", type=int, default=500, metavar="N", help="bootstrap resamples; default 500")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the bootstrap; default 0")
    parser.add_argument("--quality-only", action="store_true", help="leave out latency, memory and the patient's story")


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write the report."""
    from smallhold.evaluate.run import EvaluationRequest, evaluate
    from smallhold.evaluate.tables import format_table

    if args.resamples < 1:
        raise InputError(f"--resamples: expected at least 1, got {args.resamples}")
    if args.seed < 0:
        raise InputError(f"--seed: expected 0 or more, got {args.seed}")
    local = open_task(args)
    stays = choose_stays(args)
    known = [stay for stay in stays if stay.died is not None]
    if len(known) < len(stays):
        note(f"remark: {len(stays) - len(known)} patients without an outcome are left out")
    if args.split in ("all", "train") and stays[0].data_set in local.bundle.manifest.training_data:
        note(
            f"remark: --split {args.split} reads every row of its part; rows of the training split are fair only when "
            "they are other patients than those the bundle was trained on"
        )
    if local.bundle.manifest.is_simulated and not stays[0].is_simulated:
        note("remark: this model was trained on simulated patients; on real ones its figures mean nothing")
    progress = ProgressBar()
    try:
        result = evaluate(
            local,
            EvaluationRequest(
                stays=known,
                split=args.split,
                run=args.run_folder,
                seed=args.seed,
                num_resamples=args.resamples,
                measure_device=not args.quality_only,
                command=shlex.join(["smallhold", *sys.argv[1:]]),
            ),
            progress=progress,
        )
    finally:
        progress.close()
    if args.out is not None:
        from smallhold.device.durable_file import write_durably
        from smallhold.evaluate.report import write_report

        args.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(result, indent=1, allow_nan=False)
        write_durably(args.out / "result.json", [text.encode()], mode=0o644)
        report = write_report(result, args.out / "report.html")
        note(f"report: {report}")
    if args.json:
        print_json(result)
    else:
        print(format_table(result))
        next_commands(f"smallhold replay {args.bundle} --patients 30")
    return 0
