"""What a federation costs: engines beside each other, bytes on the wire, hiding, noise.

    make bench-federate             # needs SMALLHOLD_DATA; ten minutes; writes runs/bench-federate/result.json

Flat numbers, and next to each how it was measured (`how`). CPU time throughout. `upload_*` is a way to send updates:
bytes of one as it goes on the wire, full float32 weights and float32 adapters over that, and the held-out loss of the
job. `secagg_bytes` is a multiple of the same update quantized to the field, `he_bytes` of float32. What is not measured
yet is null.
"""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from bench.descendants import cpu_of_descendants
from bench.federate_usual import measure_usual
from bench.privacy import measure_encryption, measure_secure_sum
from safetensors.numpy import load_file

from smallhold.device.durable_file import write_durably
from smallhold.federate.engines.in_process import run_in_process
from smallhold.federate.job import FederatedJob, LocalChoice, RecordPrivacyChoice, UploadChoice, read_job
from smallhold.federate.journal import read_journal
from smallhold.federate.layout import Vector
from smallhold.federate.local_model import LocalModel, Rows
from smallhold.federate.record_privacy import RecordGuard
from smallhold.federate.server import JOURNAL, RoundServer
from smallhold.federate.site import Site
from smallhold.federate.tasks import find_federated_task
from smallhold.sectors.splits import Split

ROOT = Path(__file__).parents[1]
OUT = ROOT / "runs/bench-federate"
PROGRAMS = {engine: ROOT / f".venv-{engine}/bin" for engine in ("flower", "nvflare", "substra")}
#: Engine to how it is run.
_WAYS = {"flower": "flower", "nvflare": "nvflare", "substra": "substra", "substra_memory": "substra"}
FEW, MANY = 4, 16


def main() -> None:
    """Measure everything and write the result."""
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    shipped = read_job("heart-disease")
    result: dict[str, Any] = {}
    how: dict[str, str] = {}
    engines = measure_engines(shipped)
    result |= engines
    how["overhead_cpu_s"] = (
        f"heart-disease, 4 sites; in_process: CPU of {MANY} rounds less local training, a site and round; flower and "
        f"nvflare: difference of a run of {MANY} and one of {FEW} rounds over TLS with authenticated sites, a site and "
        "round, up to the last round's close; ENGINE_start_cpu_s: the shorter run less its rounds; substra: a process "
        "for each task; substra_memory: all tasks in one process"
    )
    how["wire_bytes"] = (
        "the same difference of all that passed through loopback, a site and round: request, update, what the engine "
        "says besides, headers too; in a network of its own (unshare --net), not measured elsewhere. blob_bytes: the "
        "request and the update alone"
    )
    usual = ROOT / ".venv-flower-usual/bin"
    if PROGRAMS["flower"].is_dir() and usual.is_dir():
        result |= measure_usual(OUT / "usual", PROGRAMS["flower"], usual)
    else:
        result["deployed_speedup"] = None
    how["deployed_speedup"] = "CPU of a round of icu-risk, the usual way over ours; bench/federate_usual.py"
    result |= measure_upload()
    how["upload"] = (
        "icu-risk on models/base, adapters of rank 8, 96 training stays at each of four sites, four rounds, batches of "
        "16, seed 0; updates with everything around them; log loss on 300 stays of validation"
    )
    result |= {name: round(value, 4) for name, value in measure_secure_sum(1_000_000).items()}
    how["secagg"] = "fifty sites, a million parameters, fifteen leave after the shares; bench/privacy.py"
    result |= {name: round(value, 4) for name, value in measure_encryption(1_000_000).items()}
    how["he"] = "ten sites, a million parameters, one key holder; bench/privacy.py"
    result["dp_step_ratio"] = measure_dp_step()
    how["dp_step_ratio"] = "epochs of two batches of 64 invented stays, one thread, median of five interleaved pairs"
    result["how"] = how
    write_durably(OUT / "result.json", [json.dumps(result, indent=1).encode()], mode=0o644)
    print(json.dumps(result, indent=1))


def measure_engines(job: FederatedJob) -> dict[str, Any]:
    """Equal bytes, and what an engine takes for itself."""
    task = find_federated_task(job.task)
    rows = task.rows(job, None, Split.TRAIN)
    many = replace(job, rounds=MANY)
    model = _Timed(task.model(many))
    begun = time.process_time()
    digest, blob_bytes = _run(many, model, rows, "in-process")
    digests = {"in_process": {digest}}
    overhead = {"in_process": (time.process_time() - begun - model.seconds) / (MANY * len(job.sites))}
    start, wire = {}, {}
    for engine, needed in _WAYS.items():
        if not PROGRAMS[needed].is_dir():
            continue
        short, long = _deployed(job, engine, FEW), _deployed(job, engine, MANY)
        counted = (MANY - FEW) * len(job.sites)
        overhead[engine] = (long.cpu_seconds - short.cpu_seconds) / counted
        if long.wire_bytes is not None and short.wire_bytes is not None:
            wire[engine] = round((long.wire_bytes - short.wire_bytes) / counted)
        start[engine] = round(short.cpu_seconds - FEW * len(job.sites) * overhead[engine], 2)
        digests[engine] = {long.model}
    return {
        "byte_identical": len(set.union(*digests.values())) == 1 and len(digests) > 1,
        "engines": sorted(digests),
        "overhead_cpu_s": {name: round(value, 4) for name, value in overhead.items()},
        **{f"{engine}_start_cpu_s": start.get(engine) for engine in PROGRAMS},
        "wire_bytes": wire,
        "blob_bytes": blob_bytes,
    }


class _Timed:
    """A model that counts the CPU time of its training."""

    def __init__(self, model: LocalModel) -> None:
        self._model, self.seconds = model, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def train(self, *arguments: Any) -> Any:
        """See `LocalModel`."""
        begun = time.process_time()
        trained = self._model.train(*arguments)
        self.seconds += time.process_time() - begun
        return trained


def _run(job: FederatedJob, model: Any, rows: dict[str, Rows], name: str) -> tuple[str, int]:
    """The final model's digest, and the bytes of a request with a mean update."""
    folder = OUT / name
    server = RoundServer(job, model.layout, model.initial(job.seed), folder / "server")
    request = len(server.request())
    sites = {site: Site(site, job, model, rows[site], folder / "sites" / site) for site in job.sites}
    run_in_process(server, sites, progress=lambda *_: None)
    server.close()
    updates = [path.stat().st_size for path in (folder / "server" / "updates").rglob("*.safetensors")]
    return server.base, request + round(statistics.mean(updates))


@dataclass(frozen=True, slots=True)
class _Run:
    """What a deployment has taken when its last round closed, all its processes together; the digest of its model."""

    cpu_seconds: float
    wire_bytes: int | None
    model: str


def _deployed(job: FederatedJob, engine: str, rounds: int) -> _Run:
    from smallhold.federate.engines.deployment import Deployment
    from smallhold.federate.engines.flower.deploy import FlowerDeployment
    from smallhold.federate.engines.nvflare.deploy import NVFlareDeployment
    from smallhold.federate.engines.substra.deploy import SubstraDeployment

    path = OUT / f"job-{rounds}.toml"
    shipped = (ROOT / "src/smallhold/federate/jobs/heart-disease.toml").read_text()
    write_durably(path, [shipped.replace("rounds = 20", f"rounds = {rounds}").encode()], mode=0o644)
    what = replace(job, rounds=rounds), str(path), OUT / f"{engine}-{rounds}", None, PROGRAMS[_WAYS[engine]]
    deployment: Deployment
    if engine == "flower":
        deployment = FlowerDeployment(*what)
    elif engine == "nvflare":
        deployment = NVFlareDeployment(*what)
    else:
        deployment = SubstraDeployment(*what, mode="memory" if engine == "substra_memory" else "subprocess")
    cpu, wire = cpu_of_descendants(), _through_loopback()
    with deployment:
        status = deployment.run(progress=lambda *_: None, deadline_seconds=600)
        passed = None if wire is None else (_through_loopback() or 0) - wire
        return _Run(cpu_of_descendants() - cpu, passed, status["model"])


def _through_loopback() -> int | None:
    """Bytes so far; None where others use this loopback as well: it counts as ours where it is the only interface."""
    counters = psutil.net_io_counters(pernic=True)
    return int(counters["lo"].bytes_sent) if set(counters) == {"lo"} else None


#: Losses that differ by less than this share are equal.
EQUAL = 0.01
#: How an update may travel, beside float32.
UPLOADS = {
    "float32": UploadChoice(),
    "bits_4": UploadChoice(bits=4),
    "top_10_percent_bits_4": UploadChoice(top_k=0.1, bits=4),
    "top_1_percent_bits_4": UploadChoice(top_k=0.01, bits=4),
}


def measure_upload(*, stays: int = 96, rounds: int = 4, held_out: int = 300) -> dict[str, Any]:
    """The same short job with its updates sent in different ways: bytes, and the loss that comes of it.

    Args:
        stays: Training rows of each of the four sites.
        rounds: Of the job, with an epoch at each site.
        held_out: Validation rows.
    """
    from smallhold.federate.trunk_risk import TrunkRisk

    model = TrunkRisk(ROOT / "models/base", rank=8)
    shipped = read_job("icu-risk")
    shipped = replace(shipped, rounds=rounds, local=replace(shipped.local, batch_size=16))
    task = find_federated_task(shipped.task)
    training = {name: rows.take(list(range(stays))) for name, rows in task.rows(shipped, None, Split.TRAIN).items()}
    validation = Rows.together(list(task.rows(shipped, None, Split.VALIDATION).values()))
    chosen = np.random.default_rng(0).permutation(len(validation))[:held_out]
    full = 4 * sum(p.numel() for p in model.frozen_parameters())
    found: dict[str, Any] = {
        "upload_loss_before": _log_loss(model, model.initial(shipped.seed), validation.take(chosen))
    }
    for name, upload in UPLOADS.items():
        job = replace(shipped, upload=upload)
        folder = OUT / f"upload-{name}"
        _run(job, model, training, folder.name)
        sent = [entry.body["bytes"] for entry in read_journal(folder / "server" / JOURNAL) if entry.kind == "update"]
        vector = load_file(folder / "server" / "models" / f"{rounds}.safetensors")["model"]
        found[f"upload_{name}"] = {
            "bytes": round(statistics.mean(sent)),
            "vs_full": round(full / statistics.mean(sent), 1),
            "vs_lora": round(4 * model.layout.size / statistics.mean(sent), 2),
            "loss": _log_loss(model, vector, validation.take(chosen)),
        }
        exact = found["upload_float32"]["loss"]
        found[f"upload_{name}"]["loss_vs_float32"] = round(found[f"upload_{name}"]["loss"] / exact - 1, 5)
    # The smallest upload that ends at the same loss: one that ends lower after so few rounds is another model.
    equal = [found[f"upload_{name}"] for name in UPLOADS if abs(found[f"upload_{name}"]["loss_vs_float32"]) <= EQUAL]
    least = min(equal, key=lambda way: way["bytes"])
    return found | {"upload_vs_full": least["vs_full"], "upload_vs_lora": least["vs_lora"]}


def _log_loss(model: LocalModel, vector: Vector, rows: Rows) -> float:
    odds = model.predict(vector, rows)
    return round(float(np.logaddexp(0, np.where(rows.label == 1, -odds, odds)).mean()), 5)


def measure_dp_step() -> float:
    """A step of DP-SGD over a plain one."""
    import torch

    from smallhold.federate.trunk_risk import TrunkRisk

    torch.set_num_threads(1)
    model = TrunkRisk(ROOT / "models/base", rank=8)
    rng, count = np.random.default_rng(0), 128
    inputs = {
        "channels": rng.normal(size=(count, 48, model.num_channels)).astype(np.float16),
        "static": rng.normal(size=(count, model.num_static)).astype(np.float32),
    }
    rows = Rows(inputs, rng.integers(0, 2, count), tuple(map(str, range(count))))
    start, choice = model.initial(0), LocalChoice(epochs=1.0, batch_size=64, learning_rate=1e-3)
    privacy = RecordPrivacyChoice(clip_norm=1.0, noise_multiplier=1.0, epsilon=8.0)

    def seconds(train: Callable[[], object]) -> float:
        begun = time.process_time()
        train()
        return time.process_time() - begun

    pairs = [
        (
            seconds(lambda: model.train(start, rows, choice, 0)),
            seconds(lambda: model.train(start, rows, choice, 0, RecordGuard(privacy, choice, count))),
        )
        for _ in range(5)
    ]
    return round(statistics.median(noisy / plain for plain, noisy in pairs), 3)


if __name__ == "__main__":
    main()
