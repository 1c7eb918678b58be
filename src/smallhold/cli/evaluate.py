"""`smallhold evaluate`: quality with intervals beside the simple baselines, burden, latency, footprint, report."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from smallhold.cli.evaluate_base import evaluate_base, is_checkpoint
from smallhold.cli.options import add_bundle_options, add_patient_options, choose_stays, home_of
from smallhold.cli.output import ProgressBar, next_commands, note, print_json
from smallhold.errors import DataError, InputError

if TYPE_CHECKING:
    from smallhold.decide.local import LocalTask
    from smallhold.decide.text_task import LocalTextTask
    from smallhold.evaluate.result import Result
    from smallhold.sectors.hospital.stays import Stay

EXAMPLE = "smallhold evaluate icu-risk.bundle --split test --out runs/icu-risk/report"
#: Parts that may be measured with thresholds found on the calibration part of the same data set.
_APART_FROM_CALIBRATION = ("validation", "test")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare arguments."""
    add_bundle_options(parser)
    add_patient_options(parser, split="test")
    parser.add_argument(
        "--run", type=Path, metavar="DIR", dest="run_folder", help="training run: adds teacher and fp32"
    )
    parser.add_argument(
        "--beside",
        action="append",
        default=[],
        metavar="[NAME=]BUNDLE",
        help="measure another bundle on the same rows, for example 4 bits; may be repeated",
    )
    parser.add_argument(
        "--ablation", type=Path, metavar="FILE", help='more bundles beside it, as JSON: {"no distillation": "BUNDLE"}'
    )
    parser.add_argument("--data-set", metavar="NAME", help="text tasks: another data set of the task")
    parser.add_argument(
        "--sector", metavar="NAME", help="text tasks: sector, or its folder; default that of the bundle"
    )
    parser.add_argument(
        "--train-data", type=Path, metavar="DIR", help="text tasks: where the training split of the baselines lies"
    )
    parser.add_argument(
        "--specialists",
        nargs="*",
        metavar="NAME",
        help="specialists of the bundle, without a name all of them, beside --task as the general model",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write report, result, data sheet and index there")
    parser.add_argument("--resamples", type=int, default=500, metavar="N", help="bootstrap resamples; default 500")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the bootstrap; default 0")
    parser.add_argument("--quality-only", action="store_true", help="leave out latency, memory and the patient's story")


def run(args: Namespace) -> int:
    """Measure, print, and write the report."""
    from smallhold.decide.local import LocalTask
    from smallhold.evaluate.tables import format_table

    if args.resamples < 1:
        raise InputError(f"--resamples: expected at least 1, got {args.resamples}")
    if args.seed < 0:
        raise InputError(f"--seed: expected 0 or more, got {args.seed}")
    if args.specialists is not None:
        from smallhold.cli.evaluate_specialists import evaluate_specialists

        return evaluate_specialists(args)
    if is_checkpoint(args.bundle):
        return evaluate_base(args)
    local = _open(args, None)
    besides = {name: _open(args, path) for name, path in _besides(args).items()}
    for name, other in besides.items():
        if type(other) is not type(local):
            raise InputError(f"--beside {name}: its task {args.task} reads through another door than the bundle's")
    result = _of_stays(args, local, besides) if isinstance(local, LocalTask) else _of_texts(args, local, besides)
    if args.out is not None:
        from smallhold.evaluate.report_folder import write_report_folder

        write_report_folder(result, args.out)
        note(f"report: {args.out / 'report.html'}")
    if args.json:
        print_json(result)
    else:
        print(format_table(result))
        if isinstance(local, LocalTask):
            next_commands(f"smallhold replay {args.bundle} --patients 30")
        else:
            next_commands(f"smallhold decide {args.bundle} --task {args.task} --text TEXT")
    return 0


def _open(args: Namespace, path: Path | None) -> LocalTask | LocalTextTask:
    """The task of a bundle: the one that is measured, or one beside it."""
    from smallhold.decide.local import open_bundle
    from smallhold.device.install import active_bundle

    home = home_of(args)
    bundle = path or args.bundle or active_bundle(home)
    return open_bundle(bundle, backend=args.backend, trusted_keys=args.trusted_keys or home.trust).task(args.task)


def _besides(args: Namespace) -> dict[str, Path]:
    """Name to bundle; a bundle without a name has that of its file or folder.

    Raises:
        DataError: the ablation file cannot be read, or is not an object of texts.
        InputError: two have one name.
    """
    pairs = []
    for given in args.beside:
        name, is_named, path = given.partition("=")
        pairs.append((name, Path(path)) if is_named else (Path(given).name, Path(given)))
    if args.ablation is not None:
        try:
            listed = json.loads(args.ablation.read_bytes())
        except (OSError, ValueError) as error:
            raise DataError(f"--ablation {args.ablation}: cannot be read: {error}") from error
        if not isinstance(listed, dict) or not all(isinstance(path, str) for path in listed.values()):
            raise DataError(f'--ablation {args.ablation}: expected {{"NAME": "BUNDLE", ...}}')
        pairs += [(name, args.ablation.parent / path) for name, path in listed.items()]
    repeated = sorted({name for name, _ in pairs if [other for other, _ in pairs].count(name) > 1})
    if repeated:
        raise InputError(f"--beside: names given twice: {', '.join(repeated)}", hint="--beside NAME=BUNDLE")
    return dict(pairs)


def _of_stays(args: Namespace, local: LocalTask, besides: dict[str, LocalTask | LocalTextTask]) -> Result:
    from smallhold.bundle.calibrate import calibrate_margins
    from smallhold.decide.local import LocalTask
    from smallhold.evaluate.run import EvaluationRequest, evaluate

    stays, calibration = _choose_stays(args)
    known = [stay for stay in stays if stay.died is not None]
    if len(known) < len(stays):
        note(f"remark: {len(stays) - len(known)} patients without an outcome are left out")
    _remark_on_training(args, local, stays[0].data_set, "patients")
    if local.bundle.manifest.is_simulated and not stays[0].is_simulated:
        note("remark: this model was trained on simulated patients; on real ones its figures mean nothing")
    request = EvaluationRequest(
        stays=known,
        split=args.split,
        run=args.run_folder,
        seed=args.seed,
        num_resamples=args.resamples,
        measure_device=not args.quality_only,
        command=shlex.join(["smallhold", *sys.argv[1:]]),
        calibration=calibration,
        besides={name: other for name, other in besides.items() if isinstance(other, LocalTask)},
        recalibrate=calibrate_margins,
    )
    progress = ProgressBar()
    try:
        return evaluate(local, request, progress=progress)
    finally:
        progress.close()


def _remark_on_training(args: Namespace, local: LocalTask | LocalTextTask, data_set: str, noun: str) -> None:
    if args.split in ("all", "train") and data_set in local.bundle.manifest.training_data:
        note(
            f"remark: --split {args.split} reads every row of its part; rows of the training split are fair only when "
            f"they are other {noun} than those the bundle was trained on"
        )


def _choose_stays(args: Namespace) -> tuple[list[Stay], list[Stay]]:
    """The patients to measure, and those that thresholds of equal burden are found on: read once."""
    from smallhold.sectors.hospital import icu_risk
    from smallhold.sectors.splits import Split

    if args.split not in _APART_FROM_CALIBRATION:
        return choose_stays(args), []
    everybody = choose_stays(Namespace(**{**vars(args), "split": "all"}))
    chosen = icu_risk.split(everybody, Split(args.split))
    if not chosen:
        raise InputError(f"no patients in the split {args.split!r} of {everybody[0].data_set}", hint="try --split all")
    return chosen, icu_risk.split(everybody, Split.CALIBRATION)


def _of_texts(args: Namespace, local: LocalTextTask, besides: dict[str, LocalTask | LocalTextTask]) -> Result:
    from smallhold.decide.text_task import LocalTextTask
    from smallhold.evaluate.text_run import TextRequest, evaluate_text
    from smallhold.sectors.splits import Split
    from smallhold.sectors.tasks import find_task
    from smallhold.sectors.text_task import load_examples, split

    if args.run_folder is not None:
        raise InputError("--run: a text task has no teacher", hint="measure another bundle with --beside NAME=BUNDLE")
    task = find_task(local.task.name, args.sector or local.task.sector)
    examples = split(
        load_examples(task, args.data, data_set=args.data_set), "all" if args.split == "all" else Split(args.split)
    )
    if not examples:
        raise InputError(f"no texts in the split {args.split!r} of {task.data_set}", hint="try --split all")
    _remark_on_training(args, local, examples[0].data_set, "texts")
    # A directory that is measured as a whole has no training split of its own.
    training = []
    if args.train_data is not None or args.split in _APART_FROM_CALIBRATION:
        training = split(load_examples(task, args.train_data or args.data), Split.TRAIN)
    request = TextRequest(
        examples=examples,
        training=training,
        split=args.split,
        seed=args.seed,
        num_resamples=args.resamples,
        measure_device=not args.quality_only,
        command=shlex.join(["smallhold", *sys.argv[1:]]),
        besides={name: other for name, other in besides.items() if isinstance(other, LocalTextTask)},
        intended_use=task.intended_use,
        known_limits=task.known_limits,
    )
    progress = ProgressBar()
    try:
        return evaluate_text(local, request, progress=progress)
    finally:
        progress.close()
