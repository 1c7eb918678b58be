"""`smallhold journal replay`: past decisions again, compared bit for bit."""

from __future__ import annotations

import argparse
from typing import Any

from smallhold.cli.journal_options import add_action, journal_of
from smallhold.cli.options import add_bundle_options, home_of
from smallhold.cli.output import note, print_json
from smallhold.errors import InputError, JournalError

_DEADLINE_SECONDS = 60.0


def configure(actions: Any) -> None:
    """Declare the action."""
    parser = add_action(actions, "replay", "decide again what a run of the journal decided; exit 1 unless all is equal")
    parser.add_argument(
        "--last", type=int, default=1000, metavar="N", help="compare the last N steps of the run (default: 1000)"
    )
    parser.add_argument("--run", dest="run_id", metavar="ID", help="which run (default: the newest)")
    parser.add_argument(
        "--other-build",
        action="store_true",
        help="compare although another build or instruction set computed it; equal bits are then not claimed",
    )
    add_bundle_options(parser, is_flag=True)


def run(args: argparse.Namespace) -> int:
    """Replay; exit code 0 when every compared step is equal and the build is the recorded one."""
    from smallhold.assist.policy import load_profile
    from smallhold.assist.replay_again import decide_again, find_run
    from smallhold.assist.ward import Admitted, admitted_ward
    from smallhold.cli.options import open_task
    from smallhold.device.build_info import this_build
    from smallhold.device.journal import Journal

    if args.last < 1:
        raise InputError(f"--last: expected 1 or more steps, got {args.last}")
    path = journal_of(args)
    if not path.is_file():
        raise JournalError(f"no journal at {path}", hint="smallhold replay writes one")
    with Journal.open(path, key=home_of(args).device_key()) as journal:
        recorded = find_run(journal, args.run_id)
        bundle = recorded.start.get("bundle")
        local = None if bundle is None else open_task(args)
        if local is not None and local.bundle.manifest.digest != bundle:
            raise InputError(
                f"run {recorded.run_id} was computed by bundle {str(bundle)[:16]}, this is "
                f"{local.bundle.manifest.digest[:16]}",
                hint="give the bundle of that run with --bundle",
            )
        build = this_build("" if local is None else args.backend)
        difference = recorded.difference(build)
        if difference and not args.other_build:
            raise JournalError(
                f"equal bits cannot be claimed: {difference}",
                hint="replay on the recorded build, or add --other-build to compare without that claim",
            )
        roster = {patient: Admitted(static=_array(static)) for patient, static in recorded.static.items()}
        # The profile does not touch what is compared.
        make_bed = admitted_ward(
            _Roster(roster, is_needed=local is not None),
            local,
            load_profile("base-clinical"),
            deadline_seconds=_DEADLINE_SECONDS,
        )
        report = decide_again(journal, recorded, make_bed, last=args.last, build=build)
    if args.json:
        print_json({**report.to_json(), "builds": [dict(item) for item in recorded.builds], "build": build})
    else:
        print(f"run {report.run_id}: {report.compared} steps compared, {report.risks} of them with the model's answer")
        print(f"identical: {report.identical}; largest difference of a probability: {report.largest_difference:g}")
        for item in report.differences:
            print(f"  entry {item.seq}, step {item.number} of a patient: {item.what} differs")
        if report.is_bit_exact:
            print(f"bit for bit the same, on {build['instruction_set']}, smallhold {build['smallhold']}")
        elif not report.is_same_build:
            print(f"no claim of equal bits: {report.build_difference}")
    if not report.is_bit_exact:
        note("not shown to be bit-exact")
        return 1
    return 0


class _Roster(dict[str, Any]):
    """What the journal says of each patient on admission; a missing one is an error where a model needs it."""

    def __init__(self, known: dict[str, Any], *, is_needed: bool) -> None:
        super().__init__(known)
        self._is_needed = is_needed

    def __missing__(self, patient: str) -> Any:
        from smallhold.assist.ward import Admitted

        if self._is_needed:
            raise JournalError(
                "the journal does not say what the model knew of a patient on admission: the run was recorded before "
                "journals did, or that entry was erased"
            )
        return Admitted(static=None)


def _array(static: tuple[float, ...]) -> Any:
    import numpy as np

    return np.asarray(static, dtype=np.float32)
