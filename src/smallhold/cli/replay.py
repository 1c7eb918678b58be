"""`smallhold replay`: recorded patients through gate, floor, model, policy, alarms and journal; aloud or silently."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallhold.cli.options import add_bundle_options, add_patient_options, choose_stays, home_of, open_task
from smallhold.cli.output import ProgressBar, next_commands, note, paint, print_json
from smallhold.errors import DataError, InputError, InterruptedRun, SmallholdError, UnknownTaskError

if TYPE_CHECKING:
    from smallhold.assist.bedside import Bedside
    from smallhold.assist.drift import DriftMonitor
    from smallhold.assist.step import Step
    from smallhold.decide.local import LocalTask
    from smallhold.records import Alert
    from smallhold.sectors.hospital.stays import Stay

EXAMPLE = "smallhold replay --patients 30 --profile eu"

_ABSTAINED = 3
_LONGEST_DEADLINE_MS = 60_000
_COLOURS = {"high": "red", "medium": "yellow", "low": "cyan"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare arguments."""
    add_bundle_options(parser)
    add_patient_options(parser, split="test")
    parser.add_argument("--patients", type=int, metavar="N", help="how many patients; default 30")
    parser.add_argument(
        "--profile",
        default="base-clinical",
        metavar="NAME",
        help="policy: a shipped name or a file",
    )
    parser.add_argument("--language", default="en", metavar="LANG", help="of the alerts: en, fr or ru")
    parser.add_argument("--journal", type=Path, metavar="FILE", help="journal to write; default: the home's")
    parser.add_argument(
        "--deadline-ms", type=float, default=250.0, metavar="MS", help="a later decision is passed over"
    )
    parser.add_argument("--quiet", action="store_true", help="do not print alerts as they happen")
    parser.add_argument(
        "--drift", action="store_true", help="demote the model when the ward is not what it was fitted on"
    )
    silent = parser.add_argument_group("silent weeks")
    silent.add_argument(
        "--silent", action="store_true", help="the model calls nobody; report what it would have said, and drift"
    )
    silent.add_argument("--days", type=int, metavar="DAYS", help="fill the ward for so long instead of --patients")
    silent.add_argument(
        "--beds", type=int, metavar="N", help="patients on the ward at a time; default 100, 12 with --silent"
    )
    silent.add_argument("--out", type=Path, metavar="DIR", help="also write the report, DIR/silent.json")


def run(args: argparse.Namespace) -> int:
    """Replay; exit code 3 when the floor had to go alone, 130 with a partial report when silent weeks were stopped."""
    from smallhold.assist.policy import load_profile
    from smallhold.assist.replay import ReplayPlan, replay
    from smallhold.assist.silent import SilentTally
    from smallhold.assist.ward import recorded_ward
    from smallhold.assist.words import load_words
    from smallhold.device.build_info import this_build
    from smallhold.device.journal import Journal
    from smallhold.records import Provenance
    from smallhold.sectors.hospital import icu_risk
    from smallhold.sectors.hospital.stays import observations

    patients, beds = _ward_size(args)
    load_words(args.language)  # refuses an unknown language before anything is read
    # A model that follows a patient reads a course, however seldom a reading comes.
    profile = load_profile(args.profile, source="continuous")
    home = home_of(args)
    key = home.device_key()  # before the patients: without a key there is no journal, and without a journal no replay
    local, bundle_error = _open(args)
    chosen = choose_stays(args, None if args.days else patients)
    stays = _arrivals(chosen, patients) if args.days else chosen
    kind = "simulated" if stays[0].is_simulated else "recorded"
    note(f"{len(stays)} {kind} patients of {stays[0].data_set}, profile {profile.name}")
    monitor = _drift_monitor(args, local)
    by_id = {stay.record_id: stay for stay in stays}
    provenance = Provenance(trace_id="0" * 32, clock="stay", simulated=stays[0].is_simulated)
    plan = ReplayPlan(
        bundle=None if local is None else local.bundle.manifest.digest,
        profile=profile.digest,
        data_set=stays[0].data_set,
        streams={name: observations(stay, provenance) for name, stay in by_id.items()},
        num_bins=icu_risk.NUM_BINS,
        beds=beds,
        build=this_build("" if local is None else args.backend),
        static={} if local is None else {name: icu_risk.static_features(stay).tolist() for name, stay in by_id.items()},
        language=args.language,
        supervision=" ".join(["silent"] * args.silent + ([] if monitor is None else [monitor.reference.digest])),
    )
    journal_path = args.journal or home.journal
    journal_path.parent.mkdir(parents=True, exist_ok=True)
    progress = ProgressBar()
    total = sum(len(stay.minute) + len(stay.refused) for stay in stays) + len(stays) * icu_risk.NUM_BINS
    silent = SilentTally(
        outcomes={stay.record_id: stay.died for stay in stays},
        alarm_choice=icu_risk.SCHEMA[0].positive,
        last_ms=plan.num_bins * plan.bin_ms,
        drift=monitor,
    )
    done = 0

    def count(step: Step) -> None:
        nonlocal done
        done += 1
        if args.silent or monitor is not None:  # which learns here what became of the patients
            silent.add(step)
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

    make_bed = recorded_ward(by_id, local, profile, deadline_seconds=args.deadline_ms / 1e3, language=args.language)

    def make_supervised(run_id: str, patient: str) -> Bedside:
        bed = make_bed(run_id, patient)
        bed.supervise(monitor, is_silent=args.silent)
        return bed

    told = {
        "data_set": stays[0].data_set,
        "is_simulated": stays[0].is_simulated,
        "is_model_simulated": local is not None and local.bundle.manifest.is_simulated,
        "profile": profile.name,
        "bundle": plan.bundle,
    }

    def show_silent(*, is_complete: bool) -> None:
        distinct = min(len(chosen), len(silent.patients))
        report = {**told, "beds": beds, "distinct_patients": distinct, **silent.report(is_complete=is_complete)}
        _show_silent(report, args)

    with Journal.open(journal_path, key=key) as journal:
        try:
            summary = replay(plan, make_supervised, journal, on_alert=show, on_step=count)
        except InterruptedRun:
            progress.close()
            if args.silent:
                show_silent(is_complete=False)
            raise
        finally:
            progress.close()
    if args.silent:
        show_silent(is_complete=True)
    else:
        result = {
            **summary.to_json(),
            **told,
            "bundle_error": bundle_error,
            "is_degraded": local is None or summary.model_failures > 0,
            "journal": str(journal_path),
            **({} if monitor is None else {"drift": monitor.status()}),
        }
        print_json(result) if args.json else _print_table(result)
    if summary.journal_error is not None:
        note(f"error: the journal could not be written, and what came after is not on record: {summary.journal_error}")
        return 1
    where = f" --home {shlex.quote(str(home.path))}" if args.home is not None else ""
    which = f" --journal {shlex.quote(str(journal_path))}" if args.journal is not None else ""
    next_commands(f"smallhold journal{where} verify{which}", f"smallhold journal{where} show --last 5{which}")
    return _ABSTAINED if summary.decisions == 0 else 0


def _ward_size(args: argparse.Namespace) -> tuple[int, int]:
    """(patients, beds) that the options ask for."""
    from smallhold.sectors.hospital.icu_risk import NUM_BINS

    patients = 30 if args.patients is None else args.patients
    if patients < 1 or not 0 < args.deadline_ms <= _LONGEST_DEADLINE_MS:
        raise InputError(
            f"--patients must be positive and --deadline-ms in (0, {_LONGEST_DEADLINE_MS}], got {patients} and "
            f"{args.deadline_ms:g}"
        )
    if args.out is not None and not args.silent:
        raise InputError("--out is for the report of --silent")
    beds = args.beds if args.beds is not None else (12 if args.silent else 100)
    if beds < 1 or (args.days is not None and args.days < 1):
        raise InputError(f"--beds and --days must be positive, got {beds} and {args.days}")
    if args.days is None:
        return patients, beds
    if args.patients is not None:
        raise InputError("--patients and --days both say how long the ward runs: give one of them")
    return -(-args.days * 24 // NUM_BINS) * beds, beds


def _open(args: argparse.Namespace) -> tuple[LocalTask | None, str | None]:
    """The task, or why the bundle is refused; on trial a model that cannot be opened is an error."""
    try:
        return open_task(args), None
    except (SmallholdError, OSError) as error:
        if isinstance(error, UnknownTaskError) or args.silent:
            raise
        note(paint(f"error: the bundle is refused: {error}", "red"))
        if isinstance(error, SmallholdError) and error.hint:
            note(f"hint: {error.hint}")
        note("the deterministic scores go on alone; every alert is marked degraded")
        return None, str(error)


def _arrivals(stays: list[Stay], count: int) -> list[Stay]:
    """`count` patients one after another; when all have been there they come again, under other names."""
    from dataclasses import replace

    num = len(stays)
    return [
        stays[at] if at < num else replace(stays[at % num], record_id=f"{stays[at % num].record_id}~{at // num + 1}")
        for at in range(count)
    ]


def _drift_monitor(args: argparse.Namespace, local: LocalTask | None) -> DriftMonitor | None:
    """With the bundle's reference, or one fitted on the calibration split of the same data."""
    from smallhold.assist.drift import DriftMonitor
    from smallhold.assist.drift_reference import DriftReference
    from smallhold.assist.drift_ward import fit_ward_reference

    if local is None or not (args.drift or args.silent):
        return None
    path = f"drift/{local.task.name}.json"
    if path in local.bundle.manifest.files:
        return DriftMonitor(DriftReference.from_bytes(local.bundle.read(path)), local.task.signal)
    try:
        calibration = choose_stays(argparse.Namespace(**{**vars(args), "split": "calibration"}))
        note(f"drift is measured against {len(calibration)} patients of the calibration split")
        return DriftMonitor(fit_ward_reference(local, calibration), local.task.signal)
    except DataError as error:
        if args.drift:
            raise
        note(f"drift is not watched: {error}")
        return None


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


def _show_silent(report: dict[str, Any], args: argparse.Namespace) -> None:
    """Print the report of silent weeks, and write it where `--out` says."""
    from smallhold.device.durable_file import write_durably
    from smallhold.records import canonical_json

    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        write_durably(args.out / "silent.json", [canonical_json(report)], mode=0o644)
    if args.json:
        print_json(report)
        return
    label = " (simulated)" if report["is_simulated"] else ""
    if report["is_model_simulated"] and not report["is_simulated"]:
        label = "; THE MODEL WAS TRAINED ON SIMULATED PATIENTS"
    again = (
        f", {report['distinct_patients']} different ones" if report["distinct_patients"] < report["patients"] else ""
    )
    rows = [] if report["is_complete"] else [("PARTIAL", "stopped before the end; run the same command to go on")]
    rows += [
        ("patients", f"{report['patients']}{again} of {report['data_set']}{label}, {report['patient_days']:.1f} days"),
        ("events", f"{report['events']} among {report['outcomes_known']} patients with a known outcome"),
    ]
    for who in ("model", "floor"):
        told = report[who]
        rows.append(
            (
                who,
                f"{told['alerts']} alerts{' withheld' if who == 'model' else ''}, {_rate(told)} a patient-day; "
                f"PPV {_percent(told['ppv'])}; found {_percent(told['sensitivity'])} of the events",
            )
        )
    rows += [
        (name.replace("_", " "), f"{group['patients']} patients, {_percent(group['events'])} with the event")
        for name, group in report["agreement"].items()
    ]
    lead = report["model_before_floor"]["both"]
    if lead["patients"]:
        rows.append(
            (
                "lead",
                f"model first in {lead['model_first']} of {lead['patients']}, median {lead['median_hours']:+.1f} h",
            )
        )
    rows.append(
        ("decision", "p50 {p50_ms:.2f} ms, p99 {p99_ms:.2f} ms, max {max_ms:.2f} ms".format(**report["decision"]))
    )
    if report["drift"] is None:
        rows.append(("drift", "not watched"))
    else:
        for name, told in report["drift"]["now"].items():
            rows.append((name, f"drift {told['state']} after {told['counted']:,}; {told['reason']}".rstrip("; ")))
    for name, text in rows:
        print(f"{name:12} {text}")


def _rate(told: dict[str, Any]) -> str:
    return "-" if told["alerts_per_patient_day"] is None else f"{told['alerts_per_patient_day']:.2f}"


def _percent(told: dict[str, Any]) -> str:
    if told["share"] is None:
        return "unknown"
    return f"{told['share']:.0%} ({told['low']:.0%} to {told['high']:.0%}, {told['k']} of {told['n']})"
