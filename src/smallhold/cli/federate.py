"""`smallhold federate`: carry a job out among sites, compare it with each site alone, verify what happened."""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from smallhold.cli.output import ProgressBar, next_commands, note, print_json
from smallhold.errors import RecipeError

if TYPE_CHECKING:
    from smallhold.federate.job import FederatedJob
    from smallhold.federate.resident import Frame

EXAMPLE = "smallhold federate run heart-disease --out runs/federation"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    running = actions.add_parser("run", help="carry a job out; run it again to go on")
    running.add_argument("job", metavar="JOB", help="a .toml file, or the name of a shipped job")
    running.add_argument(
        "--engine", choices=("in_process", "flower"), default="in_process", help="what carries the messages"
    )
    running.add_argument("--out", type=Path, metavar="DIR", help="folder of the job's state; default runs/JOB")
    running.add_argument("--data", type=Path, metavar="DIR", help="where the data sets lie; default $SMALLHOLD_DATA")
    running.add_argument(
        "--programs", type=Path, default=Path(".venv-flower/bin"), metavar="DIR", help="where the engine's programs lie"
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
    verifying = actions.add_parser("verify", help="recompute the journal's chain and the digests of its files")
    verifying.add_argument("folder", type=Path, metavar="DIR", help="folder of a job's state")
    for action in (running, comparing, serving, taking_part, verifying):
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="data as JSON on stdout")


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
        case _:
            return _verify(args)


def _run(args: argparse.Namespace) -> int:
    return _run_in_process(args) if args.engine == "in_process" else _run_flower(args)


def _run_flower(args: argparse.Namespace) -> int:
    job, name = _job(args.job)
    from smallhold.federate.engines.flower.deploy import FlowerDeployment
    from smallhold.federate.tasks import find_federated_task

    find_federated_task(job.task)
    out = args.out or Path("runs") / name
    progress = ProgressBar()
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))  # both end all processes on the way out
    try:
        with FlowerDeployment(job, args.job, out, args.data, args.programs) as deployment:
            status = deployment.run(
                progress=lambda done, total: progress("rounds on Flower", done, total), deadline_seconds=args.deadline
            )
    finally:
        progress.close()
    found = {"run": str(out), "rounds": status["round"], "model": status["model"]}
    if args.json:
        print_json(found)
    else:
        print(f"{status['round']} rounds, {len(job.sites)} sites, model {status['model'][:16]}")
    next_commands(f"smallhold federate compare {args.job} --run {out}", f"smallhold federate verify {out}")
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
    server = RoundServer(job, model.layout, model.initial(job.seed), out / "server")
    try:
        sites = {site: Site(site, job, model, rows[site], out / "sites" / site) for site in job.sites}
        run_in_process(
            server, sites, progress=lambda done, total, loss: progress(f"round {done}, loss {loss:.3f}", done, total)
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
    next_commands(f"smallhold federate compare {args.job} --run {out}", f"smallhold federate verify {out}")
    return 0


def _server(args: argparse.Namespace) -> int:
    job, name = _job(args.job)
    from smallhold.federate.resident import answer_for_server
    from smallhold.federate.server import RoundServer
    from smallhold.federate.tasks import find_federated_task

    model = find_federated_task(job.task).model(job)
    folder = (args.out or Path("runs") / name) / "server"
    server = RoundServer(job, model.layout, model.initial(job.seed), folder)
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
    folder = (args.out or Path("runs") / name) / "sites" / args.name
    site = Site(args.name, job, task.model(job), rows[args.name], folder)
    _listen(args.socket, answer_for_site(site), f"site {args.name}, {len(rows[args.name])} rows")
    return 0


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
    parts = [task.rows(job, args.data, part) for part in (Split.TRAIN, Split(args.split))]
    training, held_out = ({site: part[site] for site in job.sites if site in part} for part in parts)
    found = compare(job, model, vector, training, held_out)
    found |= {"job": job.name, "data_set": task.data_set, "split": args.split, "seed": job.seed}
    if args.json:
        print_json(found)
    else:
        print(f"{task.what}; {task.data_set}, {args.split} rows, AUROC with 95 % bootstrap intervals")
        print(format_comparison(found))
    return 0


def _verify(args: argparse.Namespace) -> int:
    from smallhold.federate.verify import verify_run

    report = verify_run(args.folder / "server")
    if args.json:
        print_json(report)
    else:
        for line in report["problems"] or [report["line"]]:
            print(line)
    return 1 if report["problems"] else 0


def _job(name: str) -> tuple[FederatedJob, str]:
    from smallhold.federate.job import read_job

    return read_job(name), Path(name).stem
