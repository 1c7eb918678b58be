"""`smallhold federate prepare`, `join-request`, `admit` and `check`: a federation over several machines."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from smallhold.cli.output import next_commands, note, print_json


def configure(actions: Any) -> None:
    """Declare the actions."""
    preparing = actions.add_parser(
        "prepare", help="make a folder for each machine of a federation; run it again to add what lacks"
    )
    preparing.add_argument("job", metavar="JOB", help="a .toml file, or the name of a shipped job")
    preparing.add_argument("--engine", choices=("flower",), default="flower", help="what carries the messages")
    preparing.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the folders")
    preparing.add_argument(
        "--server-host", required=True, metavar="HOST", help="name or IPv4 address by which the sites reach the server"
    )
    preparing.add_argument("--port", type=int, default=9091, metavar="PORT", help="of the server; default 9091")
    asking = actions.add_parser(
        "join-request", help="on a site's machine: make its keys, and the request that the operator admits"
    )
    asking.add_argument("folder", type=Path, metavar="DIR", help="the machine's folder")
    admitting = actions.add_parser("admit", help="on the operator's machine: let the site in that sent a request")
    admitting.add_argument("out", type=Path, metavar="DIR", help="folder of the folders, as prepared")
    admitting.add_argument("request", type=Path, metavar="REQUEST", help="what the site sent: request.pem")
    admitting.add_argument(
        "--fingerprint",
        required=True,
        metavar="HEX",
        help="as the site told it by another way; 20 digits or more of it",
    )
    checking = actions.add_parser(
        "check", help="on a machine: whether keys, certificates, data, clock and server are in order"
    )
    checking.add_argument("folder", type=Path, metavar="DIR", help="the machine's folder")
    checking.add_argument(
        "--data", type=Path, metavar="DIR", help="where the data sets lie; default: where the services look"
    )
    for action in (preparing, asking, admitting, checking):
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="data as JSON on stdout")


def prepare(args: argparse.Namespace) -> int:
    """Make the folders."""
    from smallhold.federate.job import read_job, read_job_text
    from smallhold.federate.machines.prepare import prepare

    job, text = read_job(args.job), read_job_text(args.job)
    made = prepare(job, text, args.out, host=args.server_host, port=args.port)
    if args.json:
        print_json({"out": str(args.out), "job": job.digest, "made": made})
    else:
        print(f"job {job.name}, {job.digest[:16]}: made {', '.join(made) or 'nothing, all is there'} in {args.out}")
    note(f"{args.out / 'operator' / 'ca.key'} can make another server: keep it offline, out of reach of every machine")
    next_commands(f"cat {args.out / 'server' / 'README.md'}   (each folder has one, for its machine)")
    return 0


def ask_to_join(args: argparse.Namespace) -> int:
    """Make a site's keys and its request."""
    from smallhold.federate.machines.admission import make_request
    from smallhold.federate.machines.machine import REQUEST

    fingerprint = make_request(args.folder)
    path = args.folder / REQUEST
    if args.json:
        print_json({"request": str(path), "fingerprint": fingerprint})
    else:
        print(f"{path}, fingerprint {fingerprint}")
    note("send the file to the operator, and tell the fingerprint by another way, say by telephone")
    next_commands(f"smallhold federate check {args.folder}")
    return 0


def admit(args: argparse.Namespace) -> int:
    """Let a site in."""
    from smallhold.federate.machines.admission import admit

    site = admit(args.out, args.request, args.fingerprint)
    if args.json:
        print_json({"site": site})
    else:
        print(f"site {site} is admitted")
    note(f"copy {args.out / 'server' / 'nodes'} to the server's machine; with secure sums, each machine its members/")
    return 0


def check(args: argparse.Namespace) -> int:
    """Look at a machine; exit code 1 when something is not in order."""
    from smallhold.federate.machines.check import check_machine

    findings = check_machine(args.folder, args.data, now=datetime.now(UTC))
    if args.json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"{'ok ' if finding.is_good else 'BAD'} {finding.what}: {finding.said}")
    is_good = all(finding.is_good for finding in findings)
    if is_good:
        note("all is in order")
    return 0 if is_good else 1
