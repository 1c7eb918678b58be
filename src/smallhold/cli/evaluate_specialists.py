"""`smallhold evaluate BUNDLE --specialists`: every specialist beside trees, NEWS2 and the general task."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

from smallhold.cli.options import home_of
from smallhold.cli.output import ProgressBar, next_commands, note, print_json
from smallhold.errors import InputError


def evaluate_specialists(args: Namespace) -> int:
    """Measure, print, and write `specialists.json`."""
    from smallhold.assist.ward import Specialists
    from smallhold.decide.local import open_bundle
    from smallhold.device.durable_file import write_durably
    from smallhold.device.install import active_bundle
    from smallhold.evaluate.onset_tables import first_line, format_specialists
    from smallhold.evaluate.onsets import OnsetRequest, evaluate_specialist
    from smallhold.sectors.hospital import icu_risk
    from smallhold.sectors.splits import Split

    if args.beside or args.ablation is not None or args.run_folder is not None:
        raise InputError("--specialists: --run, --beside and --ablation are for one task")
    if args.simulated or args.split == "all":
        raise InputError("--specialists: expected real patients of one part: the thresholds come from another")
    home = home_of(args)
    bundle = open_bundle(
        args.bundle or active_bundle(home), backend=args.backend, trusted_keys=args.trusted_keys or home.trust
    )
    general = bundle.signal_task(args.task)
    found = Specialists.of(general)
    if not found.tasks:
        raise InputError(
            f"bundle {bundle.manifest.name}: has no specialist, only {', '.join(bundle.manifest.tasks)}",
            hint="smallhold teach train specialists --trunk BUNDLE, then smallhold bundle build",
        )
    if unknown := sorted(set(args.specialists) - set(found.tasks)):
        raise InputError(f"--specialists: no such specialist: {', '.join(unknown)}, only {', '.join(found.tasks)}")
    chosen = [local for name, local in found.tasks.items() if not args.specialists or name in args.specialists]
    stays = icu_risk.load_stays(args.data)
    request = OnsetRequest(
        stays=icu_risk.split(stays, Split(args.split)),
        calibration=icu_risk.split(stays, Split.CALIBRATION),
        split=args.split,
        num_resamples=args.resamples,
        seed=args.seed,
    )
    progress = ProgressBar()
    try:
        measured = [evaluate_specialist(local, general, request, progress=progress) for local in chosen]
    finally:
        progress.close()
    result: dict[str, Any] = {"first_line": first_line(measured), "specialists": measured}
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        path = args.out / "specialists.json"
        write_durably(path, [json.dumps(result, indent=1, sort_keys=True).encode() + b"\n"], mode=0o644)
        note(f"report: {path}")
    if args.json:
        print_json(result)
    else:
        print(format_specialists(measured))
        next_commands(f"smallhold bedside {args.bundle} --mqtt URL --roster FILE")
    return 0
