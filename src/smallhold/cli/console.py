"""`smallhold console`: the ward of `smallhold bedside` with a page for staff beside it, and its accounts."""

from __future__ import annotations

import argparse
import getpass
import secrets
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallhold.cli.live_ward import RunningWard, configure_ward, print_result, running_ward
from smallhold.cli.options import home_of
from smallhold.cli.output import next_commands, note, print_json
from smallhold.errors import InputError, JournalError, MissingExtraError

if TYPE_CHECKING:
    from smallhold.assist.consent import Consent, Purpose
    from smallhold.console.accounts import Accounts
    from smallhold.console.recorder import Recorder
    from smallhold.console.server import ServerOptions
    from smallhold.decide.text_task import LocalTextTask

EXAMPLE = "smallhold console run models/hospital --trusted-keys models/trusted_keys --rehearse mqtt --simulated"

_DEMO = {
    "nurse": "nurse",
    "physician": "physician",
    "physician2": "physician",
    "officer": "officer",
    "engineer": "engineer",
}
_ROLES = ("nurse", "physician", "officer", "engineer")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    running = actions.add_parser("run", help="run a ward, and its page for staff")
    configure_ward(running)
    page = running.add_argument_group("the page for staff")
    page.add_argument("--address", default="127.0.0.1", help="where the page is; default loopback, else TLS is needed")
    page.add_argument("--port", type=int, default=8080, metavar="N", help="default 8080; 0 takes a free one")
    page.add_argument("--tls-certificate", type=Path, metavar="FILE", help="certificate of the page, PEM")
    page.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")
    page.add_argument(
        "--unsafe-without-tls", action="store_true", help="other machines may log in although others can read along"
    )
    page.add_argument(
        "--accounts", type=Path, metavar="FILE", help="who may log in; default: accounts.json in the home"
    )
    page.add_argument(
        "--demo-accounts",
        action="store_true",
        help="accounts for this run alone; their passwords are shown once",
    )
    page.add_argument("--idle-minutes", type=float, default=60.0, metavar="N", help="a session ends after; default 60")
    page.add_argument("--prescribers", type=int, choices=(1, 2), default=1, help="persons who sign a prescription")
    page.add_argument(
        "--patient-model",
        type=Path,
        metavar="DIR",
        help="what `smallhold bundle page` wrote: patients' devices read texts",
    )
    page.add_argument("--emergency-number", default="112", metavar="N", help="on the patient's page; default 112")
    page.add_argument(
        "--withdrawals",
        type=Path,
        metavar="FILE",
        help="where patients who do not want to be learnt from are listed; default: withdrawals.jsonl in the home",
    )
    page.add_argument("--federation", type=Path, metavar="DIR", help="show this run of smallhold federate")
    page.add_argument("--interactions", type=Path, metavar="FILE", help="allergies and interactions; default: shipped")
    users = actions.add_parser("user", help="add, remove or list accounts")
    verbs = users.add_subparsers(dest="user_action", required=True, metavar="WHAT")
    adding = verbs.add_parser("add", help="add an account; the password is asked for, or read from standard input")
    adding.add_argument("name", metavar="NAME", help="stands as the actor in the journal")
    adding.add_argument("--role", required=True, choices=_ROLES, help="what the account may do")
    removing = verbs.add_parser("remove", help="remove an account")
    removing.add_argument("name", metavar="NAME")
    listing = verbs.add_parser("list", help="names and roles")
    for action in (adding, removing, listing):
        action.add_argument("--accounts", type=Path, metavar="FILE", help="default: accounts.json in the home")
    for action in (running, adding, removing, listing):
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="data as JSON on stdout")


def run(args: argparse.Namespace) -> int:
    """Carry out one action."""
    return _run(args) if args.action == "run" else _user(args)


def _run(args: argparse.Namespace) -> int:
    """Run ward and page; exit code 1 when events are missing from the journal."""
    try:
        from smallhold.console.server import ServerOptions, serving
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "fastapi", "console", "smallhold console") from error
    from smallhold.assist.hospital import HospitalLimits
    from smallhold.console.recorder import Recorder

    options = ServerOptions(
        address=args.address,
        port=args.port,
        certificate=args.tls_certificate,
        key=args.tls_key,
        unsafe_without_tls=args.unsafe_without_tls,
    )
    if args.idle_minutes <= 0:
        raise InputError(f"--idle-minutes: expected more than 0, got {args.idle_minutes:g}")
    accounts, passwords = _accounts(args)
    recorder = Recorder(HospitalLimits())
    with ExitStack() as stack:
        running = stack.enter_context(running_ward(args, on_step=recorder.note))
        app = _app(args, running, recorder, accounts, options)
        url = stack.enter_context(serving(app, options))
        _announce(args, url, passwords)
        running.ward.run(running.stop)
        result = {**running.result(), "url": url}
    if not args.json:
        print_result(result)
    else:
        print_json(result)
    next_commands(f"smallhold journal verify --journal {running.journal.path}")
    return 1 if result["unjournalled"] else 0


def _app(
    args: argparse.Namespace, running: RunningWard, recorder: Recorder, accounts: Accounts, options: ServerOptions
) -> Any:
    from smallhold.assist.care import Care
    from smallhold.assist.medication.board import table_check
    from smallhold.assist.orders.interactions import SHIPPED, load_interactions
    from smallhold.assist.orders.stop import is_stopped
    from smallhold.assist.policy import load_profile
    from smallhold.console.app import ConsoleOptions, make_app
    from smallhold.console.audit import Audit
    from smallhold.console.patient import Pairings, journalled, patient_router

    home = home_of(args)
    pairings = Pairings(running.journal.path.with_name("paired.json"), write=journalled(running.journal))
    table = load_interactions(args.interactions or SHIPPED)
    care = Care(
        running.ward,
        running.journal,
        check_drug=lambda _: table_check(table, ()),
        is_stopped=lambda: is_stopped(home.path),
        language=pairings.language,
        on_consent=_to_list(args.withdrawals or home.path / "withdrawals.jsonl"),
    )

    def remind(now_ms: int) -> None:
        with suppress(JournalError):  # no reminder that is not on record; what ails the journal the ward itself says
            care.remind(now_ms)

    running.ward.on_tick = remind
    local = running.local
    recorder.alarm_choice = None if local is None else local.task.fields[0].positive
    recorder.recall(running.journal, running.ward.beds)
    federation = None
    if args.federation is not None:
        from smallhold.federate.overview import federation_overview

        folder: Path = args.federation

        def federation() -> dict[str, Any]:
            return federation_overview(folder)

    patients = patient_router(
        running.ward,
        care,
        running.journal,
        pairings,
        profile=load_profile(args.profile),
        triage=_triage(running),
        model_folder=args.patient_model,
        hosts=() if options.is_local else ("*",),
        emergency_number=args.emergency_number,
    )
    return make_app(
        running.ward,
        care,
        accounts,
        journal=running.journal,
        audit=Audit(running.journal.path, running.key),
        recorder=recorder,
        about=_about(args, running),
        drift=running.drift,
        is_silent=args.silent,
        federation=federation,
        sources=lambda: [asdict(source.status()) for source in running.sources],
        options=ConsoleOptions(
            checks_host=options.is_local,
            is_secure=options.is_secure,
            idle_seconds=args.idle_minutes * 60,
            needed_prescribers=args.prescribers,
        ),
        pairings=pairings,
        home=home.path,
        extra_routers=(patients,),
    )


def _to_list(path: Path) -> Callable[[str, Purpose, Consent], None]:
    """Write what patients say of learning to the list that exports and sites of a federation read."""
    from smallhold.assist.consent import Purpose
    from smallhold.federate.consent import ConsentList

    if not path.parent.is_dir():
        raise InputError(f"--withdrawals: {path.parent} is no folder")
    listed = ConsentList(path)

    def hear(patient: str, purpose: Purpose, consent: Consent) -> None:
        if purpose is Purpose.LEARNING and consent.state == "withheld":
            listed.withdraw(patient, said_ms=consent.t_ms)
        elif purpose is Purpose.LEARNING and consent.state == "given":
            listed.restore(patient, said_ms=consent.t_ms)

    return hear


def _triage(running: RunningWard) -> LocalTextTask | None:
    """What reads patients' texts, where the ward's bundle brings it."""
    from smallhold.decide.text_task import LocalTextTask

    local = running.local
    if local is None or "triage" not in local.bundle.manifest.tasks:
        return None
    task = local.bundle.task("triage")
    return task if isinstance(task, LocalTextTask) else None


def _about(args: argparse.Namespace, running: RunningWard) -> dict[str, Any]:
    """What runs here, for the view of the model."""
    about: dict[str, Any] = dict(running.told)
    local = running.local
    if local is None:
        return {**about, "card": None}
    manifest = local.bundle.manifest
    card = local.bundle.read("card.md").decode(errors="replace") if "card.md" in manifest.files else None
    return {
        **about,
        "name": manifest.name,
        "version": manifest.version,
        "task": local.task.name,
        "backend": args.backend,
        "deadline_ms": args.deadline_ms,
        "card": card,
    }


def _accounts(args: argparse.Namespace) -> tuple[Accounts, dict[str, str]]:
    """Who may log in, and passwords to be shown once."""
    from smallhold.console.accounts import Accounts, Role, make_account, read_accounts

    if not args.demo_accounts:
        return read_accounts(_path(args)), {}
    passwords = {name: secrets.token_urlsafe(9) for name in _DEMO}
    return Accounts(make_account(name, Role(_DEMO[name]), word) for name, word in passwords.items()), passwords


def _announce(args: argparse.Namespace, url: str, passwords: dict[str, str]) -> None:
    if args.json:
        return
    print(f"the ward's page is at {url}", flush=True)
    print(f"the patients' page is at {url.rstrip('/')}/patient/", flush=True)
    if passwords:
        note("accounts of this run alone; the passwords are not shown again:")
    for name, word in passwords.items():
        print(f"  {name:12} {word}", flush=True)
    note("not a medical device; end with ctrl-C")


def _user(args: argparse.Namespace) -> int:
    from smallhold.console.accounts import Role, add_account, list_accounts, make_account, remove_account

    path = _path(args)
    match args.user_action:
        case "add":
            add_account(path, make_account(args.name, Role(args.role), _password()))
            done: Any = {"added": args.name, "role": args.role, "accounts": str(path)}
        case "remove":
            remove_account(path, args.name)
            done = {"removed": args.name, "accounts": str(path)}
        case _:
            done = [{"name": name, "role": role.value} for name, role in list_accounts(path)]
    if args.json:
        print_json(done)
    elif isinstance(done, list):
        for item in done:
            print(f"{item['role']:10} {item['name']}")
    else:
        print(", ".join(f"{name} {value}" for name, value in done.items()))
    if args.user_action != "list":
        note("a console that runs already has the accounts that it began with: start it again")
    return 0


def _path(args: argparse.Namespace) -> Path:
    return args.accounts or home_of(args).path / "accounts.json"


def _password() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("password: ")
    if getpass.getpass("again: ") != password:
        raise InputError("the two passwords differ; nothing was changed")
    return password
