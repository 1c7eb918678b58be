"""Twenty kills of a running federation: is a round lost, is an update counted twice, does the job end?

One job with many rounds over TLS with authenticated sites, on Flower or NVFlare, all processes on this machine. At
random moments one process is killed with SIGKILL: the resident server, a site, what the engine keeps running at the
server and at a site, and what it starts for a run or a message. The deployment starts again what ended. A kill counts
as *finished* when a round closes after it. At the end the journal is verified and the model compared, byte for byte,
with that of a job that nobody disturbed.

    python -m bench.kill_drill_federate [--engine flower] [--kills 20] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from smallhold.cli.output import note
from smallhold.device.durable_file import write_durably
from smallhold.federate.engines.deployment import Deployment
from smallhold.federate.engines.flower.deploy import FlowerDeployment
from smallhold.federate.engines.in_process import run_in_process
from smallhold.federate.engines.nvflare.deploy import NVFlareDeployment
from smallhold.federate.job import read_job
from smallhold.federate.journal import read_journal
from smallhold.federate.server import JOURNAL, RoundServer
from smallhold.federate.site import Site
from smallhold.federate.tasks import find_federated_task
from smallhold.federate.verify import verify_run
from smallhold.sectors.splits import Split

OUT = Path("runs/kill-drill-federate")
#: What is killed, in turn: processes of ours by their name, and those that the engine has started by their command.
KINDS = {
    "flower": ("server", "site", "superlink", "supernode", "flwr-serverapp", "flwr-clientapp"),
    "nvflare": (
        *("server", "site", "nvflare-server", "nvflare-client", "operator"),
        *("nvflare.private.fed.app.server.runner_process", "nvflare.private.fed.app.client.worker_process"),
    ),
}

#: Rounds of the job for each kill.
ROUNDS = {"flower": 2, "nvflare": 5}
# Long enough for the slowest recovery: Flower declares a server app dead after half a minute without a heartbeat.
_PATIENCE_SECONDS = 400.0


def main() -> None:
    """Run the drill and write `result.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--engine", choices=tuple(KINDS), default="flower")
    parser.add_argument("--programs", type=Path, metavar="DIR", help="default .venv-ENGINE/bin")
    args = parser.parse_args()
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    job_file = OUT / "job.toml"
    shipped = Path("src/smallhold/federate/jobs/heart-disease.toml").read_text()
    # More rounds than go by between the kills: a job that ended earlier would leave kills out. NVFlare's are shorter.
    longer = f"rounds = {ROUNDS[args.engine] * args.kills + 5}\ndeadline_seconds = 40.0"
    write_durably(job_file, [shipped.replace("rounds = 20", longer).encode()], mode=0o644)
    programs = args.programs or Path(f".venv-{args.engine}/bin")
    result = drill(job_file, args.engine, programs, kills=args.kills, seed=args.seed)
    write_durably(OUT / "result.json", [json.dumps(result, indent=1).encode()], mode=0o644)
    print(json.dumps(result, indent=1))
    if result["lost"] or result["twice"] or result["finished"] != result["kills"]:
        raise SystemExit(1)


def drill(job_file: Path, engine: str, programs: Path, *, kills: int, seed: int) -> dict[str, Any]:
    """Kill and look."""
    job = read_job(job_file)
    rng = random.Random(seed)
    killed: list[dict[str, Any]] = []
    server_folder = OUT / engine / "server"
    deployed: type[Deployment] = FlowerDeployment if engine == "flower" else NVFlareDeployment
    with deployed(job, str(job_file), OUT / engine, None, programs) as deployment:
        stopped = threading.Event()

        def kill_now_and_then() -> None:
            for turn in range(kills):
                kind = KINDS[engine][turn % len(KINDS[engine])]
                if stopped.wait(rng.uniform(0.5, 8.0)):
                    return
                killed.append(_kill(deployment, kind, rng, stopped) | {"round": _rounds(server_folder)})
                note(f"kill {turn + 1}: {killed[-1]['process']} in round {killed[-1]['round']}")
                if not _wait_for_round(server_folder, killed[-1]["round"] + 1, stopped):
                    return
                killed[-1]["recovered_seconds"] = round(time.monotonic() - killed[-1].pop("at"), 1)

        killer = threading.Thread(target=kill_now_and_then, daemon=True)
        killer.start()
        deployment.run(progress=lambda *_: None, deadline_seconds=_PATIENCE_SECONDS * (kills + 1))
        stopped.set()
        killer.join(timeout=30)
    entries = read_journal(server_folder / JOURNAL)
    counted = Counter((e.body["round"], e.body["site"]) for e in entries if e.kind == "update")
    closed = [e.body["round"] for e in entries if e.kind == "round_closed"]
    oracle = _undisturbed(job_file)
    verified = verify_run(server_folder)
    return {
        "engine": engine,
        "kills": kills,
        "lost": len(set(range(job.rounds)) - set(closed)) + len(verified["problems"]),
        "twice": sum(count - 1 for count in counted.values()) + len(closed) - len(set(closed)),
        "finished": sum("recovered_seconds" in kill for kill in killed),
        "byte_identical": verified["summary"]["model"] == oracle,
        "rounds": job.rounds,
        "seed": seed,
        "killed": killed,
    }


def _kill(deployment: Deployment, kind: str, rng: random.Random, stopped: threading.Event) -> dict[str, Any]:
    """Kill one process of a kind, waiting for it to be there."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline and not stopped.is_set():
        candidates = _candidates(deployment, kind)
        if candidates:
            name, process = rng.choice(candidates)
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
            return {"process": name, "at": time.monotonic()}
        time.sleep(0.01)
    raise TimeoutError(f"no process of the kind {kind} to kill")


def _candidates(deployment: Deployment, kind: str) -> list[tuple[str, psutil.Process]]:
    ours = [p for p in deployment.processes.values() if p.name == kind or p.name.startswith(f"{kind}-")]
    if ours:
        return [(p.name, psutil.Process(p.running.pid)) for p in ours if p.running.poll() is None]
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if any(Path(word).name == kind for word in process.cmdline()[:4]):
                found.append((kind, process))
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def _rounds(folder: Path) -> int:
    return (folder / JOURNAL).read_bytes().count(b'"kind":"round_closed"') if (folder / JOURNAL).exists() else 0


def _wait_for_round(folder: Path, number: int, stopped: threading.Event) -> bool:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if _rounds(folder) >= number:
            return True
        if stopped.wait(0.1):
            return False
    return False


def _undisturbed(job_file: Path) -> str:
    job = read_job(job_file)
    task = find_federated_task(job.task)
    model, rows = task.model(job), task.rows(job, None, Split.TRAIN)
    server = RoundServer(job, model.layout, model.initial(job.seed), OUT / "oracle" / "server")
    sites = {site: Site(site, job, model, rows[site], OUT / "oracle" / "sites" / site) for site in job.sites}
    run_in_process(server, sites, progress=lambda *_: None)
    server.close()
    return server.base


if __name__ == "__main__":
    main()
