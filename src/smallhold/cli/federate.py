"""`smallhold federate`: carry a job out among sites, compare or pack what came out, verify what happened."""

from __future__ import annotations

import argparse
import math
import signal
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from smallhold.cli import federate_machines
from smallhold.cli.options import home_of
from smallhold.cli.output import ProgressBar, next_commands, note, print_json
from smallhold.errors import RecipeError

if TYPE_CHECKING:
    from smallhold.federate.job import FederatedJob
    from smallhold.federate.members import Members
    from smallhold.federate.resident import Frame

EXAMPLE = "smallhold federate run heart-disease --out runs/federation"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    running = actions.add_parser("run", help="carry a job out; run it again to go on")
    running.add_argument("job", metavar="JOB", help="a .toml file, or the name of a shipped job")
    running.add_argument(
        "--engine",
        choices=("in_process", "flower", "nvflare", "substra"),
        default="in_process",
        help="what carries the messages",
    )
    running.add_argument(
        "--simulate", action="store_true", help="nvflare: in its simulator, without TLS and processes of its own"
    )
    running.add_argument("--out", type=Path, metavar="DIR", help="folder of the job's state; default runs/JOB")
    running.add_argument("--data", type=Path, metavar="DIR", help="where the data sets lie; default $SMALLHOLD_DATA")
    running.add_argument(
        "--programs", type=Path, metavar="DIR", help="where the engine's programs lie; default .venv-ENGINE/bin"
    )
    running.add_argument(
        "--tasks",
        choices=("subprocess", "memory"),
        help="substra: each task in a process of its own, or all in one; default subprocess",
    )
    running.add_argument(
        "--deadline", type=float, default=86_400.0, metavar="SECONDS", help="for the whole job; default a day"
    )
    comparing = actions.add_parser("compare", help="the global model beside each site alone, all pooled, and trees")
    comparing.add_argument("job", metavar="JOB", help="the job that was carried out")
    comparing.add_argument(
        "--run", dest="folder", type=Path, metavar="DIR", help="folder of its state; default runs/JOB"
    )
    comparing.add_argument("--data", type=Path, metavar="DIR", help="where the data sets lie; default $SMALLHOLD_DATA")
    comparing.add_argument("--split", choices=("validation", "test"), default="test", help="rows; default test")
    serving = actions.add_parser("server", help="keep a job's rounds behind a local socket, for an engine to call")
    serving.add_argument("job", metavar="JOB", help="a .toml file, or the name of a shipped job")
    serving.add_argument("--out", type=Path, metavar="DIR", help="folder of the job's state; default runs/JOB")
    taking_part = actions.add_parser("site", help="hold a site's rows and model behind a local socket")
    taking_part.add_argument("job", metavar="JOB", help="a .toml file, or the name of a shipped job")
    taking_part.add_argument("--name", required=True, metavar="SITE", help="which of the job's sites this is")
    taking_part.add_argument(
        "--data", type=Path, metavar="DIR", help="where the data sets lie; default $SMALLHOLD_DATA"
    )
    taking_part.add_argument("--out", type=Path, metavar="DIR", help="folder of the site's state; default runs/JOB")
    for action in (serving, taking_part):
        action.add_argument("--socket", required=True, type=Path, metavar="PATH", help="where to listen")
        action.add_argument(
            "--keys", type=Path, metavar="DIR", help="a machine's folder, with its keys for secure sums; default: --out"
        )
    simulating = actions.add_parser("simulate", help="a job's rules with thousands of simulated sites, some faulty")
    simulating.add_argument("job", metavar="JOB", help="whose rules; sites and rows are simulated")
    simulating.add_argument("--sites", type=int, default=200, metavar="N", help="simulated sites; default 200")
    simulating.add_argument("--rounds", type=int, metavar="N", help="default: as the job says")
    simulating.add_argument(
        "--features", type=int, default=32, metavar="N", help="of a simulated row: parameters less one; default 32"
    )
    for name, what in {
        "lag": "answer a round too late",
        "drop": "never answer",
        "lie": "claim a million times their examples",
        "replay": "send an old answer again",
        "malform": "send what is no update",
        "poison": "send an update turned round, ten times as long",
    }.items():
        simulating.add_argument(f"--{name}", type=float, default=0.0, metavar="SHARE", help=f"of the sites that {what}")
    simulating.add_argument("--out", type=Path, metavar="DIR", help="new folder of its state; default runs/JOB-N")
    simulating.add_argument("--alone", action="store_true", help="leave out the same job without faulty sites")
    packing = actions.add_parser("knowledge", help="a signed knowledge pack out of a finished job that counts")
    packing.add_argument("job", metavar="JOB", help="the job that was carried out")
    packing.add_argument("--run", dest="folder", type=Path, metavar="DIR", help="folder of its state; default runs/JOB")
    packing.add_argument("--out", required=True, type=Path, metavar="FILE", help="where the pack goes")
    packing.add_argument(
        "--valid-days", type=float, default=365.0, metavar="DAYS", help="then devices refuse it; default 365"
    )
    verifying = actions.add_parser(
        "verify", help="recompute the journal's chain, the digests of its files and the receipts of its models"
    )
    verifying.add_argument("folder", type=Path, metavar="DIR", help="folder of a job's state")
    verifying.add_argument(
        "--key", type=Path, metavar="PEM", help="of whoever signed the receipts; default: the one beside them"
    )
    for action in (running, comparing, serving, taking_part, simulating, packing, verifying):
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="data as JSON on stdout")
    federate_machines.configure(actions)


def run(args: argparse.Namespace) -> int:
    """Carry out one action."""
    match args.action:
        case "run":
            return _run(args)
        case "compare":
            return _compare(args)
        case "server":
            return _server(args)
        case "site":
            return _site(args)
        case "simulate":
            return _simulate(args)
        case "knowledge":
            return _knowledge(args)
        case "prepare":
            return federate_machines.prepare(args)
        case "join-request":
            return federate_machines.ask_to_join(args)
        case "admit":
            return federate_machines.admit(args)
        case "check":
            return federate_machines.check(args)
        case _:
            return _verify(args)


def _run(args: argparse.Namespace) -> int:
    if args.simulate and args.engine != "nvflare":
        raise RecipeError(f"--simulate: expected --engine nvflare, got --engine {args.engine}")
    if args.tasks and args.engine != "substra":
        raise RecipeError(f"--tasks: expected --engine substra, got --engine {args.engine}")
    job, name = _job(args.job)
    if job.upload.is_hidden:
        from smallhold.federate.members import make_members

        make_members(args.out or Path("runs") / name, job.sites)
    return _run_in_process(args) if args.engine == "in_process" else _run_deployed(args)


def _run_deployed(args: argparse.Namespace) -> int:
    job, name = _job(args.job)
    from smallhold.federate.engines.deployment import Deployment
    from smallhold.federate.engines.flower.deploy import FlowerDeployment
    from smallhold.federate.engines.nvflare.deploy import NVFlareDeployment
    from smallhold.federate.engines.substra.deploy import SubstraDeployment
    from smallhold.federate.tasks import find_federated_task

    find_federated_task(job.task)
    out = args.out or Path("runs") / name
    programs = args.programs or Path(f".venv-{args.engine}") / "bin"
    deployed: Deployment
    where = job, args.job, out, args.data, programs
    if args.engine == "flower":
        deployed = FlowerDeployment(*where)
    elif args.engine == "nvflare":
        deployed = NVFlareDeployment(*where, simulate=args.simulate)
    else:
        deployed = SubstraDeployment(*where, mode=args.tasks or "subprocess")
    progress = ProgressBar()
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))  # both end all processes on the way out
    try:
        with deployed as deployment:
            status = deployment.run(
                progress=lambda done, total: progress(f"rounds on {args.engine}", done, total),
                deadline_seconds=args.deadline,
            )
    finally:
        progress.close()
    found = {"run": str(out), "rounds": status["round"], "model": status["model"]}
    if args.json:
        print_json(found)
    else:
        print(f"{status['round']} rounds, {len(job.sites)} sites, model {status['model'][:16]}")
    _next(job, args.job, out)
    return 0


def _run_in_process(args: argparse.Namespace) -> int:
    job, name = _job(args.job)
    from smallhold.federate.engines.in_process import run_in_process
    from smallhold.federate.server import RoundServer
    from smallhold.federate.site import Site
    from smallhold.federate.tasks import find_federated_task
    from smallhold.sectors.splits import Split

    task = find_federated_task(job.task)
    out = args.out or Path("runs") / name
    rows = task.rows(job, args.data, Split.TRAIN)
    if missing := sorted(set(job.sites) - set(rows)):
        raise RecipeError(f"job {job.name}: no rows of {', '.join(missing)}; the data have {', '.join(rows)}")
    model = task.model(job)
    progress = ProgressBar()
    server = RoundServer(
        job, model.layout, model.initial(job.seed), out / "server", members=_members(job, out, "server")
    )
    try:
        sites = {
            site: Site(site, job, model, rows[site], out / "sites" / site, _members(job, out, f"sites/{site}"))
            for site in job.sites
        }
        run_in_process(
            server,
            sites,
            progress=lambda done, total, loss: progress(
                f"round {done}" if math.isnan(loss) else f"round {done}, loss {loss:.3f}", done, total
            ),
        )
        found = {"run": str(out), "rounds": server.round, "model": server.base, "parameters": model.layout.size}
    finally:
        progress.close()
        server.close()
    if args.json:
        print_json(found)
    else:
        print(
            f"{job.rounds} rounds, {len(job.sites)} sites, {model.layout.size:,} parameters, model {server.base[:16]}"
        )
    _next(job, args.job, out)
    return 0


def _next(job: FederatedJob, name: str, out: Path) -> None:
    commands = [f"smallhold federate verify {out}"]
    if job.statistics.stddev:
        pack = f"{job.name}.knowledge.json"
        commands.insert(0, f"smallhold federate knowledge {name} --run {out} --out {pack}")
    elif not job.is_counting:
        commands.insert(0, f"smallhold federate compare {name} --run {out}")
    next_commands(*commands)


def _server(args: argparse.Namespace) -> int:
    job, name = _job(args.job)
    from smallhold.federate.resident import answer_for_server
    from smallhold.federate.server import RoundServer
    from smallhold.federate.tasks import find_federated_task

    model = find_federated_task(job.task).model(job)
    out = args.out or Path("runs") / name
    server = RoundServer(
        job, model.layout, model.initial(job.seed), out / "server", members=_members(job, out, "server", args.keys)
    )
    try:
        _listen(args.socket, answer_for_server(server), f"job {job.name}, round {server.round} of {job.rounds}")
    finally:
        server.close()
    return 0


def _site(args: argparse.Namespace) -> int:
    job, name = _job(args.job)
    from smallhold.federate.resident import answer_for_site
    from smallhold.federate.site import Site
    from smallhold.federate.tasks import find_federated_task
    from smallhold.sectors.splits import Split

    task = find_federated_task(job.task)
    rows = task.rows(job, args.data, Split.TRAIN)
    if args.name not in rows:
        raise RecipeError(f"--name {args.name}: the data have {', '.join(rows)}")
    out, own = args.out or Path("runs") / name, f"sites/{args.name}"
    site = Site(args.name, job, task.model(job), rows[args.name], out / own, _members(job, out, own, args.keys))
    _listen(args.socket, answer_for_site(site), f"site {args.name}, {len(rows[args.name])} rows")
    return 0


def _members(job: FederatedJob, out: Path, own: str, machine: Path | None = None) -> Members | None:
    """Keys for secure sums, seen by the party whose folder is `own`; None where the job takes none.

    They lie in the run, or in the folder of this machine, which has one private key.
    """
    if not job.upload.is_hidden:
        return None
    from smallhold.federate.members import FOLDER, KEY, load_members

    private = out / own / KEY if machine is None else machine / "keys" / KEY
    return load_members((machine or out) / FOLDER, private, job.sites)


def _listen(socket: Path, answer: Callable[[Frame], Frame], what: str) -> None:
    """Answer until SIGINT or SIGTERM."""
    from smallhold.federate.resident import listening

    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with listening(socket, answer):
        note(f"{what}: listening on {socket}")
        stopped.wait()


def _compare(args: argparse.Namespace) -> int:
    job, name = _job(args.job)
    from smallhold.federate.compare import compare, format_comparison
    from smallhold.federate.server import JOURNAL, RoundServer
    from smallhold.federate.tasks import find_federated_task
    from smallhold.sectors.splits import Split

    task = find_federated_task(job.task)
    folder = (args.folder or Path("runs") / name) / "server"
    if not (folder / JOURNAL).is_file():  # a server would begin the job there
        raise RecipeError(
            f"job {job.name}: was not begun in {folder.parent}", hint=f"smallhold federate run {args.job}"
        )
    model = task.model(job)
    server = RoundServer(job, model.layout, model.initial(job.seed), folder)
    vector = server.model
    is_finished = server.is_finished
    server.close()
    if not is_finished:
        raise RecipeError(f"job {job.name}: not finished", hint=f"smallhold federate run {args.job}")
    parts = [task.rows(job, args.data, part) for part in (Split.TRAIN, Split(args.split), Split.CALIBRATION)]
    training, held_out, choosing = ({site: part[site] for site in job.sites if site in part} for part in parts)
    found = compare(job, model, vector, training, held_out, choosing, task.measure)
    found |= {"job": job.name, "data_set": task.data_set, "split": args.split, "seed": job.seed}
    if args.json:
        print_json(found)
    else:
        print(f"{task.what}; {task.data_set}, {args.split} rows, {task.measure.title} with 95 % bootstrap intervals")
        print(format_comparison(found, task.measure.title))
    return 0


def _simulate(args: argparse.Namespace) -> int:
    job, name = _job(args.job)
    from smallhold.federate import simulated
    from smallhold.federate.fleet import Faults, RoundReport, fleet_job, format_reports, simulate, to_json
    from smallhold.federate.logistic import Logistic

    for option in ("sites", "features"):
        if getattr(args, option) < 1:
            raise RecipeError(f"--{option}: expected 1 or more, got {getattr(args, option)}")
    faults = Faults(**{fault: getattr(args, fault) for fault in ("lag", "drop", "lie", "replay", "malform", "poison")})
    job = replace(job, rounds=args.rounds or job.rounds)
    model = Logistic(args.features)
    few = max(20, min(200, 200_000 // args.features))  # the process is watched for its memory
    held_out = simulated.held_out_rows(job.seed, num_sites=few, num_features=args.features)
    out = args.out or Path("runs") / f"{name}-{args.sites}"
    bar = ProgressBar()

    def carry_out(kind: str, of: Faults) -> list[RoundReport]:
        return simulate(
            fleet_job(job, simulated.site_names(args.sites), of),
            model,
            lambda site: simulated.rows_of(site, job.seed, num_features=args.features),
            held_out,
            of,
            out / kind,
            progress=lambda number, rounds, done, total: bar(
                f"{kind}, round {number + 1} of {rounds}, simulated sites", done, total
            ),
        )

    try:
        reports = {"faulty": carry_out("faulty", faults)}
        if not args.alone and faults != Faults():
            reports["honest"] = carry_out("honest", Faults())
    finally:
        bar.close()
    if args.json:
        found = {"is_simulated": True, "sites": args.sites, "parameters": model.layout.size, "faults": asdict(faults)}
        print_json(found | {kind: to_json(report) for kind, report in reports.items()})
    else:
        print(
            f"{args.sites} simulated sites, {model.layout.size:,} parameters, {len(held_out)} held-out simulated rows"
        )
        print(format_reports(reports["faulty"], reports.get("honest")))
    next_commands(f"smallhold federate verify {out / 'faulty'}")
    return 0


def _knowledge(args: argparse.Namespace) -> int:
    job, name = _job(args.job)
    from smallhold.device.durable_file import write_durably
    from smallhold.federate.knowledge import make_pack
    from smallhold.federate.tasks import find_federated_task
    from smallhold.sectors.splits import Split

    key = home_of(args).publisher_key()
    pack = make_pack(
        job,
        (args.folder or Path("runs") / name) / "server",
        data=f"{find_federated_task(job.task).data_set}, {Split.TRAIN}",
        created=datetime.now(UTC),
        valid_days=args.valid_days,
    )
    write_durably(args.out, [pack.sign(key)], mode=0o644)
    shown = sum(count is not None for count in pack.counts)
    found = {"pack": str(args.out), "digest": pack.digest, "cells": len(pack.counts), "shown": shown}
    found |= {"sites": pack.sites, "stddev": pack.stddev, "epsilon": pack.epsilon, "delta": pack.delta}
    if args.json:
        print_json(found)
    else:
        print(
            f"{shown} of {len(pack.counts)} cells are {pack.min_cohort} or more; {pack.sites} sites, noise of standard "
            f"deviation {pack.stddev:.1f}, epsilon {pack.epsilon:.3g} at delta {pack.delta:g}"
        )
        print(f"signed: {pack.digest}")
    next_commands(f"smallhold knowledge show {args.out}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from smallhold.device.trust import load_public_key
    from smallhold.federate.verify import verify_run

    report = verify_run(args.folder / "server", None if args.key is None else load_public_key(args.key))
    if args.json:
        print_json(report)
    else:
        for line in report["problems"] or [report["line"]]:
            print(line)
    return 1 if report["problems"] else 0


def _job(name: str) -> tuple[FederatedJob, str]:
    from smallhold.federate.job import read_job

    return read_job(name), Path(name).stem
