"""`smallhold feedback`: what people made of alerts, what became of patients, and training rows that stay on site."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from smallhold.cli.journal_options import add_action, journal_of, key_if_any
from smallhold.cli.options import home_of
from smallhold.cli.output import next_commands, print_json
from smallhold.errors import InputError

EXAMPLE = "smallhold feedback outcome --patient p17 --happened no --actor 'Dr. Roe' && smallhold feedback rate"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    answering = add_action(actions, "answer", "write down what a person made of an alert")
    answering.add_argument("--alert", required=True, metavar="ID", help="as the journal names it")
    answering.add_argument("--response", required=True, metavar="WORD", help="accept, override or snooze")
    answering.add_argument("--reason", default="", metavar="CODE", help="why; an override needs one")
    answering.add_argument("--actor", required=True, metavar="NAME", help="the person")
    answering.add_argument(
        "--after", type=float, metavar="SECONDS", help="how long after the alert; default: now, on a live ward"
    )
    outcome = add_action(actions, "outcome", "write down what became of a patient; said again it corrects")
    outcome.add_argument("--patient", required=True, metavar="NAME", help="as the journal names them")
    outcome.add_argument("--task", default="icu-risk", metavar="NAME", help="whose event it is (default: icu-risk)")
    outcome.add_argument("--happened", required=True, choices=("yes", "no"), help="icu-risk: died in hospital")
    outcome.add_argument("--actor", required=True, metavar="NAME", help="the person")
    add_action(actions, "rate", "how often alerts of each condition were overridden, and why")
    exporting = add_action(actions, "export", "write training rows of patients with a known outcome, on this machine")
    exporting.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder on this machine's disk")
    exporting.add_argument("--run", dest="run_id", metavar="ID", help="only readings of this run or ward")
    exporting.add_argument(
        "--withdrawals", type=Path, metavar="FILE", help="who may not be learnt from; default: the home's, if any"
    )


def run(args: argparse.Namespace) -> int:
    """Carry out one action."""
    from smallhold.assist.feedback import read_feedback
    from smallhold.device.journal import Journal

    match args.action:
        case "rate":
            with Journal.open(journal_of(args), key=key_if_any(home_of(args))) as journal:
                _print_rates(read_feedback(journal).override_rates(), as_json=args.json)
        case "export":
            return _export(args)
        case _:
            with Journal.open(journal_of(args), key=home_of(args).device_key()) as journal:
                told = _answer(journal, args) if args.action == "answer" else _outcome(journal, args)
            print_json(told) if args.json else print(", ".join(f"{name} {value}" for name, value in told.items()))
            next_commands("smallhold feedback rate")
    return 0


def _answer(journal: Any, args: argparse.Namespace) -> dict[str, Any]:
    from smallhold.assist.feedback import find_alert, record_answer
    from smallhold.device.wall_clock import wall_ms

    alert = find_alert(journal, args.alert)
    if args.after is None and alert.provenance.clock != "utc":
        raise InputError("feedback: the alert is not dated by a wall clock: say --after SECONDS")
    t_ms = wall_ms() if args.after is None else alert.t_ms + int(args.after * 1e3)
    feedback = record_answer(journal, alert, response=args.response, reason=args.reason, actor=args.actor, t_ms=t_ms)
    return {"alert": alert.id, "condition": alert.condition, "response": feedback.response, "reason": feedback.reason}


def _outcome(journal: Any, args: argparse.Namespace) -> dict[str, Any]:
    from smallhold.assist.feedback import Outcome, record_outcome
    from smallhold.device.wall_clock import wall_ms

    has_happened = args.happened == "yes"
    record_outcome(
        journal,
        Outcome(patient=args.patient, task=args.task, has_happened=has_happened, actor=args.actor, t_ms=wall_ms()),
    )
    return {"patient": args.patient, "task": args.task, "happened": args.happened}


def _export(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from smallhold.assist.feedback_export import export_rows
    from smallhold.device.journal import Journal
    from smallhold.federate.consent import ConsentList

    home = home_of(args)
    if args.withdrawals is not None and not args.withdrawals.is_file():
        raise InputError(f"feedback export: {args.withdrawals} is no file; without the list nobody may be learnt from")
    consent = ConsentList(args.withdrawals or home.path / "withdrawals.jsonl")
    with Journal.open(journal_of(args), key=home.device_key()) as journal:
        done = export_rows(
            journal, args.out, is_withdrawn=lambda patient: not consent.allowed([patient]), run_id=args.run_id
        )
    told = {"out": str(args.out), **asdict(done)}
    print_json(told) if args.json else print(
        f"{done.patients} patients and {done.answers} answers in {args.out}; left out: {done.withdrawn} who withdrew, "
        f"{done.without_outcome} without an outcome"
    )
    next_commands(f"smallhold evaluate BUNDLE --data {args.out} --split all")
    return 0


def _print_rates(rates: dict[str, dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(rates)
        return
    for condition, found in rates.items():
        share = "-" if found["override_rate"] is None else f"{found['override_rate']:.0%}"
        reasons = ", ".join(f"{reason} {count}" for reason, count in found["reasons"].items())
        print(f"{condition:24} {share:>4} of {found['answers']} answers overridden{f': {reasons}' if reasons else ''}")
    if not rates:
        print("no answers on record")
