"""A deployed round of ours beside the same job written the usual way, both on Flower over TLS with node keys.

The usual way is that of Flower's own guides: the ClientApp imports torch, loads model and rows, and trains, in the new
process that Flower starts for every message; the server is `FedAvg`. Rows lie ready in one file for each site there,
which is kinder than reading a data set. Both do the same local steps on the same rows. What a round costs is the
difference between a run of many rounds and one of few, so that starting the engine does not count.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from bench.descendants import cpu_of_descendants

from smallhold.device.durable_file import write_durably
from smallhold.federate.engines.flower.app import CONNECTION, write_app, write_connection
from smallhold.federate.engines.flower.credentials import make_credentials
from smallhold.federate.engines.flower.deploy import FlowerDeployment
from smallhold.federate.engines.processes import Process, free_port, is_open
from smallhold.federate.job import FederatedJob, read_job
from smallhold.federate.tasks import find_federated_task
from smallhold.sectors.splits import Split

ROOT = Path(__file__).parents[1]
FEW, MANY = 2, 6
#: Some nine steps of 16 stays at each site: what is compared is a round's cost around them.
_EPOCHS, _BATCH = 0.08, 16
_DEADLINE_SECONDS = 900.0


def measure_usual(out: Path, ours: Path, usual: Path) -> dict[str, Any]:
    """Cost of a round of all four sites, CPU and wall seconds, and theirs over ours.

    Args:
        out: Scratch; emptied.
        ours: Programs of the environment that our deployment uses.
        usual: Programs of an environment with torch beside Flower.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    shipped = read_job("icu-risk")
    job = replace(shipped, local=replace(shipped.local, epochs=_EPOCHS, batch_size=_BATCH))
    task = find_federated_task(job.task)
    model = task.model(job)
    rows = task.rows(job, None, Split.TRAIN)
    for site in job.sites:
        np.savez(out / f"{site}.npz", label=rows[site].label, **rows[site].inputs)
    np.save(out / "initial.npy", model.initial(job.seed), allow_pickle=False)
    found: dict[str, dict[str, float]] = {}
    for name, run in (("usual", lambda n: _usual(job, n, out, usual)), ("ours", lambda n: _ours(job, n, out, ours))):
        few, many = run(FEW), run(MANY)
        found[name] = {
            "cpu_s": (many[0] - few[0]) / (MANY - FEW),
            "wall_s": statistics.median(np.diff(many[1])),
        }
    return {
        "deployed_speedup": round(found["usual"]["cpu_s"] / found["ours"]["cpu_s"], 2),
        "deployed_speedup_wall": round(found["usual"]["wall_s"] / found["ours"]["wall_s"], 2),
        "deployed_round": {name: {key: round(value, 2) for key, value in cost.items()} for name, cost in found.items()},
    }


def _ours(job: FederatedJob, rounds: int, out: Path, programs: Path) -> tuple[float, list[float]]:
    """CPU seconds of all processes, and when each round ended."""
    path, ended = out / f"ours-{rounds}.toml", list[float]()
    lines = (ROOT / "src/smallhold/federate/jobs/icu-risk.toml").read_text()
    lines = lines.replace("rounds = 6", f"rounds = {rounds}").replace("epochs = 1.0", f"epochs = {_EPOCHS}")
    lines = lines.replace("batch_size = 64", f"batch_size = {_BATCH}")
    write_durably(path, [lines.replace('"models/base"', f'"{ROOT / "models/base"}"').encode()], mode=0o644)
    asked = read_job(str(path))
    if (asked.rounds, asked.local) != (rounds, job.local):
        raise RuntimeError(f"{path}: not the job that is meant: {asdict(asked)}")
    before = cpu_of_descendants()
    with FlowerDeployment(asked, str(path), out / f"ours-{rounds}", _data(), programs) as deployed:
        deployed.run(progress=lambda *_: ended.append(time.time()), deadline_seconds=_DEADLINE_SECONDS)
        return cpu_of_descendants() - before, ended


def _usual(job: FederatedJob, rounds: int, out: Path, programs: Path) -> tuple[float, list[float]]:
    """The same of the usual way."""
    folder = out / f"usual-{rounds}"
    keys, app = folder / "keys", folder / "app"
    folder.mkdir()
    shutil.copy(out / "initial.npy", folder)
    make_credentials(keys, tuple(sorted(job.sites)))
    port = free_port()
    settings = {
        "folder": str(folder), "rounds": rounds, "sites": len(job.sites), "rank": job.local.rank,
        "epochs": job.local.epochs, "batch_size": job.local.batch_size, "rate": job.local.learning_rate,
    }  # fmt: skip
    write_app(app, "bench.flower_usual", settings)
    home = folder / "home"
    write_connection(home, port, keys / "ca.crt")
    environment = {
        **os.environ, "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}", "PYTHONPATH": str(ROOT),
        "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1",
        "OMP_NUM_THREADS": "1", "SMALLHOLD_DEPLOYMENT": f"{folder}:usual;",
    }  # fmt: skip
    before = cpu_of_descendants()
    with ExitStack() as stack:

        def start(name: str, program: str, *arguments: str) -> None:
            process = Process(name, [str(programs / program), *arguments], environment, folder / f"{name}.log")
            process.start()
            stack.callback(process.end_family)

        start(
            "superlink",
            "flower-superlink",
            *("--ssl-ca-certfile", str(keys / "ca.crt"), "--ssl-certfile", str(keys / "server.pem")),
            *("--ssl-keyfile", str(keys / "server.key"), "--enable-supernode-auth"),
            *("--disable-runtime-dependency-installation", "--database", str(folder / "state.db")),
            *("--host", "127.0.0.1", "--port", str(port)),
        )
        _until(lambda: is_open(port), "SuperLink to listen")
        for site in sorted(job.sites):
            _call(environment, programs, "supernode", "register", str(keys / f"{site}.pub"), CONNECTION)
            start(
                f"supernode-{site}",
                "flower-supernode",
                *("--root-certificates", str(keys / "ca.crt"), "--superlink", f"127.0.0.1:{port}"),
                *("--auth-supernode-private-key", str(keys / f"{site}.key")),
                *("--host", "127.0.0.1", "--port", str(free_port())),
                *("--node-config", f'rows="{out / f"{site}.npz"}" base="{ROOT / "models/base"}"'),
            )
        _call(environment, programs, "run", str(app), CONNECTION)
        _until(lambda: (folder / "ended.json").is_file(), f"{rounds} rounds the usual way; see {folder}/*.log")
        return cpu_of_descendants() - before, json.loads((folder / "ended.json").read_text())


def _call(environment: dict[str, str], programs: Path, *words: str) -> None:
    done = subprocess.run(  # noqa: S603 - Flower's program
        [str(programs / "flwr"), *words], env=environment, capture_output=True, text=True, timeout=180, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"flwr {' '.join(words)}: {(done.stdout + done.stderr)[-1000:]}")


def _until(is_so: Any, what: str) -> None:
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {_DEADLINE_SECONDS:.0f} s for {what}")
        time.sleep(0.2)


def _data() -> Path | None:
    return Path(os.environ["SMALLHOLD_DATA"]) if "SMALLHOLD_DATA" in os.environ else None
