"""`smallhold replay`: recorded patients through gate, floor, model, policy, alarms and journal."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallhold.cli.options import add_bundle_options, add_patient_options, choose_stays, home_of, open_task
from smallhold.cli.output import ProgressBar, next_commands, note, paint, print_json
from smallhold.errors import InputError, SmallholdError, UnknownTaskError

if TYPE_CHECKING:
    from smallhold.records import Alert

EXAMPLE = "smallhold replay --patients 30 --profile eu"

_ABSTAINED = 3
_LONGEST_DEADLINE_MS = 60_000
_COLOURS = {"high": "red", "medium": "yellow", "low": "cyan"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare arguments."""
    add_bundle_options(parser)
    add_patient_options(parser, split="test")
    parser.add_argument("--patients", type=int, default=30, metavar="N", help="how many patients; default 30")
    parser.add_argument(
        "--profile", default="base-clinical", metavar="NAME", help="policy: base-clinical, eu, us or a file"
    )
    parser.add_argument("--journal", type=Path, metavar="FILE", help="journal to write; default: the home's")
    parser.add_argument(
        "--deadline-ms", type=float, default=250.0, metavar="MS", help="a later decision is passed over"
    )
    parser.add_argument("--quiet", action="store_true", help="do not print alerts as they happen")


def run(args: argparse.Namespace) -> int:
    """Replay; exit code 3 when the floor had to go alone."""
    from smallhold.assist.policy import load_profile
    from smallhold.assist.replay import ReplayPlan, replay
    from smallhold.assist.ward import recorded_ward
    from smallhold.device.journal import Journal
    from smallhold.records import Provenance
    from smallhold.sectors.hospital import icu_risk
    from smallhold.sectors.hospital.stays import observations

    if args.patients < 1 or not 0 < args.deadline_ms <= _LONGEST_DEADLINE_MS:
        raise InputError(
            f"--patients must be positive and --deadline-ms in (0, {_LONGEST_DEADLINE_MS}], got {args.patients} and "
            f"{args.deadline_ms:g}"
        )
    profile = load_profile(args.profile)
    home = home_of(args)
    key = home.device_key()  # before the patients: without a key there is no journal, and without a journal no replay
    local, bundle_error = None, None
    try:
        local = open_task(args)
    except (SmallholdError, OSError) as error:
        if isinstance(error, UnknownTaskError):
            raise
        bundle_error = str(error)
        note(paint(f"error: the bundle is refused: {error}", "red"))
        if isinstance(error, SmallholdError) and error.hint:
            note(f"hint: {error.hint}")
        note("the deterministic scores go on alone; every alert is marked degraded")
    stays = choose_stays(args)[: args.patients]
    kind = "simulated" if stays[0].is_simulated else "recorded"
    note(f"{len(stays)} {kind} patients of {stays[0].data_set}, profile {profile.name}")
    by_id = {stay.record_id: stay for stay in stays}
    provenance = Provenance(trace_id="0" * 32, clock="stay", simulated=stays[0].is_simulated)
    plan = ReplayPlan(
        bundle=None if local is None else local.bundle.manifest.digest,
        profile=profile.digest,
        data_set=stays[0].data_set,
        streams={name: observations(stay, provenance) for name, stay in by_id.items()},
        num_bins=icu_risk.NUM_BINS,
    )
    journal_path = args.journal or home.journal
    journal_path.parent.mkdir(parents=True, exist_ok=True)
    progress = ProgressBar()
    total = sum(len(stay.minute) + len(stay.refused) for stay in stays) + len(stays) * icu_risk.NUM_BINS
    done = 0

    def count(_: Any) -> None:
        nonlocal done
        done += 1
        if done % 200 == 0:
            progress("replay", min(done, total - 1), total)

    shown: set[tuple[str, str]] = set()

    def show(alert: Alert) -> None:
        # Announced again when nobody acknowledges it, which in a replay nobody does: the table counts those.
        is_new = (alert.id, alert.priority.value) not in shown
        shown.add((alert.id, alert.priority.value))
        if is_new and not args.quiet:
            progress.close()
            note(_line(alert))

    with Journal.open(journal_path, key=key) as journal:
        make_bed = recorded_ward(by_id, local, profile, deadline_seconds=args.deadline_ms / 1e3)
        try:
            summary = replay(plan, make_bed, journal, on_alert=show, on_step=count)
        finally:
            progress.close()
    result = {
        **summary.to_json(),
        "data_set": stays[0].data_set,
        "is_simulated": stays[0].is_simulated,
        "is_model_simulated": local is not None and local.bundle.manifest.is_simulated,
        "profile": profile.name,
        "bundle": plan.bundle,
        "bundle_error": bundle_error,
        "is_degraded": local is None or summary.model_failures > 0,
        "journal": str(journal_path),
    }
    if args.json:
        print_json(result)
    else:
        _print_table(result)
    if summary.journal_error is not None:
        note(f"error: the journal could not be written, and what came after is not on record: {summary.journal_error}")
        return 1
    where = f" --home {shlex.quote(str(home.path))}" if args.home is not None else ""
    which = f" --journal {shlex.quote(str(journal_path))}" if args.journal is not None else ""
    next_commands(f"smallhold journal{where} verify{which}", f"smallhold journal{where} show --last 5{which}")
    return _ABSTAINED if summary.decisions == 0 else 0


def _line(alert: Alert) -> str:
    hour, minute = divmod(alert.t_ms // 60_000, 60)
    mark = " DEGRADED" if alert.is_degraded else ""
    label = " simulated" if alert.provenance.simulated else ""
    head = paint(f"{alert.priority.value.upper():6}", _COLOURS.get(alert.priority.value, "bold"))
    return f"{hour:3d} h {minute:02d}{label} patient {alert.patient}  {head}{mark} {alert.source}: {alert.message}"


def _print_table(result: dict[str, Any]) -> None:
    label = " (simulated)" if result["is_simulated"] else ""
    if result["is_model_simulated"] and not result["is_simulated"]:
        label = "; THE MODEL WAS TRAINED ON SIMULATED PATIENTS"
    alerts = [
        f"{priority} {count} ({source})"
        for priority, sources in result["alerts"].items()
        for source, count in sources.items()
    ]
    refused = ", ".join(f"{reason} {count}" for reason, count in result["rejected"].items())
    rows = [
        ("patients", f"{result['patients']} of {result['data_set']}{label}"),
        (
            "readings",
            f"{result['observations']:,}, {result['accepted']:,} accepted" + (f"; {refused}" if refused else ""),
        ),
        (
            "decisions",
            f"{result['decisions']:,}, {result['abstained']:,} abstained, {result['model_failures']:,} failed",
        ),
        ("degraded", f"{result['degraded_steps']:,} of {result['steps']:,} steps: the floor spoke alone"),
        ("alerts", "; ".join(alerts) or "none"),
        ("decision", "p50 {p50_ms:.2f} ms, p99 {p99_ms:.2f} ms, max {max_ms:.2f} ms".format(**result["decision"])),
        ("explanation", "p50 {p50_ms:.2f} ms, p99 {p99_ms:.2f} ms, n {n}".format(**result["explain"])),
        ("throughput", f"{result['events_per_second']:,.0f} events/s, gate to journal"),
        ("journal", f"{result['journal']}, {result['steps']:,} steps, {result['resumed_steps']:,} of them resumed"),
    ]
    for name, text in rows:
        print(f"{name:12} {text}")
