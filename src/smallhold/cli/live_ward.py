"""A live ward as `bedside` and `console` run it: options, readings from monitors or a rehearsal, journal and state."""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallhold.cli.bedside_sources import add_source_options, addresses, check_sources, connect
from smallhold.cli.options import add_bundle_options, add_patient_options, choose_stays, home_of, open_task
from smallhold.cli.output import note, paint
from smallhold.errors import InputError, SmallholdError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from smallhold.assist.drift import DriftMonitor
    from smallhold.assist.live import LiveWard
    from smallhold.assist.policy import Profile
    from smallhold.assist.sources.inbox import Inbox
    from smallhold.assist.sources.source import Source
    from smallhold.assist.step import Step
    from smallhold.assist.ward import Admitted, Specialists
    from smallhold.decide.local import LocalTask
    from smallhold.device.journal import Journal
    from smallhold.records import Alert

_KEEP_BINS = 24
_STOP_SECONDS = 10.0


def configure_ward(parser: argparse.ArgumentParser) -> None:
    """Declare arguments."""
    add_bundle_options(parser)
    parser.add_argument("--profile", default="base-clinical", metavar="NAME", help="policy: a shipped name or a file")
    parser.add_argument("--language", default="en", metavar="LANG", help="of the alerts: en, fr or ru")
    parser.add_argument("--state", type=Path, metavar="DIR", help="journal and state; default: the home's")
    parser.add_argument("--seconds", type=float, metavar="N", help="end after so long; default: until Ctrl-C")
    parser.add_argument(
        "--deadline-ms", type=float, default=250.0, metavar="MS", help="a later decision is passed over; default 250"
    )
    parser.add_argument(
        "--general-only", action="store_true", help="ask no specialist, only --task, which watches everybody"
    )
    parser.add_argument(
        "--drift", action="store_true", help="demote the model when the ward is not what it was fitted on"
    )
    parser.add_argument("--silent", action="store_true", help="the model is on trial: it is asked and calls nobody")
    live = parser.add_argument_group("a ward with monitors")
    live.add_argument("--roster", type=Path, metavar="FILE", help="TOML: who lies here, and what is known of them")
    live.add_argument(
        "--lost-after", type=float, metavar="SECONDS", help="a signal missing for so long is an alarm; default 120"
    )
    add_source_options(live)
    rehearsal = parser.add_argument_group("a rehearsal with recorded or simulated patients")
    rehearsal.add_argument(
        "--rehearse",
        choices=("mqtt", "mllp", "both"),
        help="start mosquitto, a listener or both on loopback, and play patients into them",
    )
    rehearsal.add_argument("--patients", type=int, default=30, metavar="N", help="how many; default 30")
    rehearsal.add_argument(
        "--speed", type=float, default=1.0, metavar="X", help="seconds of the ward that pass in one; default 1"
    )
    rehearsal.add_argument("--resume", action="store_true", help="go on with the beds of the rehearsal before")
    add_patient_options(parser, split="test")


@dataclass(slots=True, kw_only=True)
class RunningWard:
    """A ward that is ready to run.

    Attributes:
        ward: Call `run(stop)`.
        stop: Set by SIGINT, SIGTERM and the end of `--seconds`.
        sources: What feeds it, started.
        told: What the run is made of, for the journal and for people.
        journal: Open for appending.
        key: The device's.
        inbox: Where readings wait.
        local: The task beside the beds, None for the floor alone.
        drift: Shared by the beds, None where drift is not watched.
        folder: Of the journal and the state.
    """

    ward: LiveWard
    stop: threading.Event
    sources: list[Source]
    told: dict[str, Any]
    journal: Journal
    key: Ed25519PrivateKey
    inbox: Inbox
    local: LocalTask | None
    drift: DriftMonitor | None
    folder: Path

    def result(self) -> dict[str, Any]:
        """What it has done, as JSON."""
        from smallhold.assist.ward_view import summary

        result = {**summary(self.ward), **self.told, "dropped": self.inbox.dropped, "journal": str(self.journal.path)}
        return {**result, "sources": [asdict(source.status()) for source in self.sources]}


@contextmanager
def running_ward(
    args: argparse.Namespace,
    *,
    on_alert: Callable[[Alert], None] | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Iterator[RunningWard]:
    """A ward with its sources started; everything ends with the context.

    Raises:
        InputError: the options contradict each other, or a file is wrong.
        JournalError: the journal or the state cannot be opened.
        EndpointError: the broker of a rehearsal does not start.
    """
    from smallhold.assist.live import LiveSettings, LiveWard
    from smallhold.assist.live_state import LiveState
    from smallhold.assist.policy import load_profile
    from smallhold.assist.sources.inbox import Inbox
    from smallhold.assist.sources.receipts import Receipts
    from smallhold.assist.words import load_words
    from smallhold.cli.rehearsal import start_feed
    from smallhold.device.journal import Journal

    _check(args)
    load_words(args.language)  # refuses an unknown language before anything starts
    profile = load_profile(args.profile)
    home = home_of(args)
    key = home.device_key()
    local, bundle_error = _open(args)
    drift = _drift(args, local)
    roster, is_simulated = _roster(args)
    specialists = _specialists(args, local)
    folder = args.state or home.path
    folder.mkdir(parents=True, exist_ok=True)
    told = {
        "bundle": None if local is None else local.bundle.manifest.digest,
        "bundle_error": bundle_error,
        "profile": profile.name,
        "is_simulated": is_simulated,
        "is_rehearsal": args.rehearse is not None,
        "is_silent": args.silent,
        "specialists": [] if specialists is None else list(specialists.tasks),
    }
    stop = threading.Event()
    inbox = Inbox(receipts=Receipts())
    with ExitStack() as stack:
        journal = stack.enter_context(Journal.open(folder / "journal.db", key=key))
        if args.rehearse is not None and not args.resume:
            _forget(folder)  # under the journal's lock: no other ward uses it
        state = LiveState(folder / "ward.db")
        stack.callback(state.close)
        ward = LiveWard(
            inbox,
            _beds(args, roster, local, profile, drift, specialists),
            journal,
            LiveSettings(
                bin_ms=3_600_000 if local is None else local.task.signal.bin_minutes * 60_000,
                session_bins=None if local is None else local.task.num_bins,
                keep_bins=_KEEP_BINS,
                beside={} if specialists is None else specialists.live_bins(_KEEP_BINS),
            ),
            state=state,
            speed=args.speed,
            on_alert=on_alert,
            on_step=on_step,
            identity=told,
        )
        sources = connect(args, stack, folder, is_simulated=is_simulated)
        for source in sources:
            source.start(inbox)
            stack.callback(source.stop, _STOP_SECONDS)
        if args.rehearse is not None:
            found = addresses(sources)
            for number, address in enumerate(found):
                start_feed(stack, args, address, folder, part=(number + 1, len(found)))
        for one in (signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, one, signal.signal(one, lambda *_: stop.set()))
        if args.seconds is not None:
            timer = threading.Timer(args.seconds, stop.set)
            timer.daemon = True
            timer.start()
        yield RunningWard(
            ward=ward,
            stop=stop,
            sources=sources,
            told=told,
            journal=journal,
            key=key,
            inbox=inbox,
            local=local,
            drift=drift,
            folder=folder,
        )


def print_result(result: dict[str, Any]) -> None:
    """What a ward has done, a line a topic."""
    label = " (simulated)" if result["is_simulated"] else ""
    refused = ", ".join(f"{reason} {count}" for reason, count in result["refused"].items())
    dropped = ", ".join(f"{reason} {count}" for reason, count in result["dropped"].items())
    rows = [
        ("beds", f"{result['beds']}{label}"),
        ("readings", f"{result['readings']:,}, {result['accepted']:,} accepted" + (f"; {refused}" if refused else "")),
        ("dropped", dropped or "none"),
        (
            "decisions",
            f"{result['decisions']:,}, {result['abstained']:,} abstained, {result['model_failures']:,} failed",
        ),
        ("alerts", f"{result['alerts']:,}"),
    ]
    titles = {"alarm_ms": "floor alarm", "decision_ms": "decision", "model_alarm_ms": "its alarm", "step_ms": "event"}
    for name, title in titles.items():
        told = result[name]
        if told["n"]:
            rows.append((title, f"p50 {told['p50']:.1f} ms, p99 {told['p99']:.1f} ms, max {told['max']:.1f} ms"))
    rows.append(("journal", f"{result['journal']}, {result['unjournalled']:,} events are missing from it"))
    for name, text in rows:
        print(f"{name:12} {text}")


def _check(args: argparse.Namespace) -> None:
    has_monitors = check_sources(args)
    if has_monitors and args.roster is None:
        raise InputError("--roster: a ward with monitors needs to know who lies on it")
    if has_monitors and args.speed != 1:
        raise InputError("--speed is for rehearsals: a person's hour lasts an hour")
    if args.lost_after is not None and args.lost_after <= 0:
        raise InputError(f"--lost-after must be positive, got {args.lost_after:g}")
    if args.patients < 1 or not 0 < args.deadline_ms <= 60_000 or (args.seconds is not None and args.seconds <= 0):
        raise InputError(
            "--patients and --seconds must be positive and --deadline-ms in (0, 60000], got "
            f"{args.patients}, {args.seconds} and {args.deadline_ms:g}"
        )


def _open(args: argparse.Namespace) -> tuple[LocalTask | None, str | None]:
    """The task, or why the bundle is refused: then the floor goes on alone, and every alert says so."""
    try:
        return open_task(args), None
    except (SmallholdError, OSError) as error:
        note(paint(f"error: the bundle is refused: {error}", "red"))
        note("the deterministic scores go on alone; every alert is marked degraded")
        return None, str(error)


def _roster(args: argparse.Namespace) -> tuple[dict[str, Admitted], bool]:
    from smallhold.assist.roster import read_roster, roster_of

    if args.rehearse is None:
        return read_roster(args.roster), False
    stays = choose_stays(args, args.patients)
    return roster_of(stays), stays[0].is_simulated


def _drift(args: argparse.Namespace, local: LocalTask | None) -> DriftMonitor | None:
    """The bundle's own reference; a live ward has no calibration split to fit one on."""
    from smallhold.assist.drift import DriftMonitor
    from smallhold.assist.drift_reference import DriftReference

    if local is None or not (args.drift or args.silent):
        return None
    name = f"drift/{local.task.name}.json"
    if name not in local.bundle.manifest.files:
        if args.drift:
            raise InputError(f"--drift: the bundle {local.bundle.manifest.name} has no reference for {local.task.name}")
        return None
    return DriftMonitor(DriftReference.from_bytes(local.bundle.read(name)), local.task.signal)


def _specialists(args: argparse.Namespace, local: LocalTask | None) -> Specialists | None:
    """Those of the bundle, unless none is wanted; one that cannot be loaded leaves the general model alone."""
    from smallhold.assist.ward import Specialists

    if local is None or args.general_only:
        return None
    try:
        return Specialists.of(local)
    except (SmallholdError, OSError) as error:
        note(paint(f"error: the specialists cannot be loaded: {error}", "red"))
        note("the general model and the scores go on without them")
        return None


def _beds(
    args: argparse.Namespace,
    roster: dict[str, Admitted],
    local: LocalTask | None,
    profile: Profile,
    drift: DriftMonitor | None,
    specialists: Specialists | None,
) -> Any:
    from smallhold.assist.gate import Tolerances
    from smallhold.assist.hospital import LABORATORY_MAX_AGE_MS, WATCHED_MS
    from smallhold.assist.ward import MONITORED_WATCHED_MS, live_ward

    is_rehearsal = args.rehearse is not None
    # A recorded stay played faster is dated to the second, and a second is `speed` seconds of the ward.
    slack_ms = int(5_000 * max(1.0, args.speed))
    max_age_ms = max(15 * 60_000, 12 * slack_ms)
    watched = dict(WATCHED_MS if is_rehearsal else MONITORED_WATCHED_MS)
    if args.lost_after is not None:
        watched = dict.fromkeys(watched, int(args.lost_after * 1e3))
    return live_ward(
        roster,
        local,
        profile,
        deadline_seconds=args.deadline_ms / 1e3,
        keep_bins=_KEEP_BINS,
        watched=watched,
        max_age_h=24.0 if is_rehearsal else 1.0,
        language=args.language,
        tolerances=Tolerances(
            clock_future_ms=slack_ms,
            max_age_ms=max_age_ms,
            max_age_of_ms={code: max(age_ms, max_age_ms) for code, age_ms in LABORATORY_MAX_AGE_MS.items()},
        ),
        drift=drift,
        is_silent=args.silent,
        specialists=specialists,
    )


def _forget(folder: Path) -> None:
    """Patients of an earlier rehearsal; the journal keeps what happened."""
    for name in ("ward.db", "ward.db-wal", "ward.db-shm"):
        (folder / name).unlink(missing_ok=True)
