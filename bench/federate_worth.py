"""What a federation is worth, and what is left of it under differential privacy of every record.

    make bench-federate-worth                             # needs SMALLHOLD_DATA; half an hour
    .venv/bin/python -m bench.federate_worth heart-disease
    .venv/bin/python -m bench.federate_worth --with-trunk     # icu-risk too, without privacy: hours

Each shipped job is carried out by the server and the sites that `smallhold federate run` starts, once as it is and once
for each epsilon with DP-SGD at the sites, for three seeds. Test rows are looked at here and were chosen on nowhere. A
seed moves batches; the noise is secure, so that private figures differ from run to run. How the private jobs train was
chosen on other rows, and that choice is outside the epsilon that is stated.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallhold.device.durable_file import write_durably
from smallhold.evaluate.picture import INK, LOOKS, draw
from smallhold.federate.compare import NAMES, compare
from smallhold.federate.engines.in_process import run_in_process
from smallhold.federate.job import FederatedJob, LocalChoice, RecordPrivacyChoice, read_job
from smallhold.federate.layout import Vector
from smallhold.federate.local_model import LocalModel, Rows
from smallhold.federate.record_privacy import fit_record_noise
from smallhold.federate.server import RoundServer
from smallhold.federate.site import Site
from smallhold.federate.tasks import find_federated_task
from smallhold.sectors.splits import Split

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "docs/figures/federate-worth.json"
PICTURE = ROOT / "docs/images/federate-worth.svg"
EPSILONS = (1.0, 4.0, 8.0)
DELTA = 1e-5  # below 1 / n of every site
SEEDS = (0, 1, 2)
TRUNK = "icu-risk"


@dataclass(frozen=True, slots=True)
class PrivateWay:
    """How a job trains under DP-SGD: few large steps, because every one is paid for."""

    rounds: int
    local: LocalChoice
    clip_norm: float


#: Of the tables: chosen at epsilon 4 on calibration and validation rows (docs/experiments.md). Of the texts: every
#: record in every step, not chosen.
PRIVATE_WAYS = {
    "heart-disease": PrivateWay(10, LocalChoice(batch_size=64, learning_rate=0.5), 1.0),
    "eicu-death": PrivateWay(10, LocalChoice(batch_size=64, learning_rate=0.5), 1.0),
    "icu-death": PrivateWay(5, LocalChoice(batch_size=256, learning_rate=4.0), 1.0),
    "assistant-intent": PrivateWay(10, LocalChoice(batch_size=1024, learning_rate=4.0), 1.0),
}


def main() -> int:
    """Measure, then write the figures and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*PRIVATE_WAYS, TRUNK, []], help="default: all but icu-risk")
    parser.add_argument("--with-trunk", action="store_true", help="icu-risk too: hours")
    parser.add_argument("--data", type=Path, default=os.environ.get("SMALLHOLD_DATA"), help="default $SMALLHOLD_DATA")
    parser.add_argument("--draw-only", action="store_true", help="measure nothing, draw the picture again")
    args = parser.parse_args()
    result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    if not args.draw_only:
        if not args.data:
            parser.error("real data are needed: set SMALLHOLD_DATA or give --data")
        for name in args.names or [*PRIVATE_WAYS, *([TRUNK] if args.with_trunk else [])]:
            result[name] = measure(name, Path(args.data))
            write_durably(RESULT, [f"{json.dumps(result, indent=1, sort_keys=True)}\n".encode()], mode=0o644)
    draw(PICTURE, (3.4 * len(result), 3.0), lambda figure: paint(figure, result))
    return 0


def measure(name: str, data: Path) -> dict[str, Any]:
    """All figures of one job: each seed's comparison, and their means."""
    shipped = read_job(name)
    task = find_federated_task(shipped.task)
    parts = {part: task.rows(shipped, data, part) for part in (Split.TRAIN, Split.CALIBRATION, Split.TEST)}
    training, choosing, held_out = ({s: rows[s] for s in shipped.sites if s in rows} for rows in parts.values())
    model = task.model(shipped)
    private = private_jobs(shipped, model, training) if name in PRIVATE_WAYS else {}
    runs = []
    for seed in SEEDS:
        vectors = {}
        for kind, job in {"": shipped, **private}.items():
            print(f"{name}, seed {seed}, {kind or 'without privacy'}", file=sys.stderr, flush=True)
            vectors[kind] = carry_out(replace(job, seed=seed), model, training)
        federated = vectors.pop("")
        job = replace(shipped, seed=seed)
        runs.append(compare(job, model, federated, training, held_out, choosing, task.measure, vectors))
    return {
        "data_set": task.data_set,
        "split": "test",
        "metric": task.measure.name,
        "seeds": list(SEEDS),
        "delta": DELTA,
        "noise_multiplier": {kind: job.record_privacy.noise_multiplier for kind, job in private.items()},
        "training_rows": {site: len(rows) for site, rows in training.items()},
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "rows": [_over_seeds(rows) for rows in zip(*(run["rows"] for run in runs), strict=True)],
        "mean": _over_seeds([run["mean"] for run in runs]),
        "runs": [{"seed": seed, **run} for seed, run in zip(SEEDS, runs, strict=True)],
    }


def private_jobs(job: FederatedJob, model: LocalModel, training: Mapping[str, Rows]) -> dict[str, FederatedJob]:
    """`epsilon N` -> the job with the noise that its rounds need for that budget at every site."""
    way = PRIVATE_WAYS[job.name]
    found = {}
    for epsilon in EPSILONS:
        privacy = RecordPrivacyChoice(clip_norm=way.clip_norm, noise_multiplier=1.0, epsilon=epsilon, delta=DELTA)
        asked = replace(job, rounds=way.rounds, local=way.local, record_privacy=privacy)
        counts = [len(rows) for rows in training.values()]
        found[f"epsilon {epsilon:g}"] = fit_record_noise(asked, counts, num_parameters=model.layout.size)
    return found


def carry_out(job: FederatedJob, model: LocalModel, training: Mapping[str, Rows]) -> Vector:
    """(P,) the last global model, by the rounds, ledgers and messages of a real run."""
    with tempfile.TemporaryDirectory(prefix="federate-worth-") as folder:
        out = Path(folder)
        server = RoundServer(job, model.layout, model.initial(job.seed), out / "server")
        try:
            sites = {site: Site(site, job, model, training[site], out / "sites" / site) for site in job.sites}
            run_in_process(server, sites, progress=lambda *_: None)
            return server.model
        finally:
            server.close()


def _over_seeds(rows: Any) -> dict[str, Any]:
    """Means over seeds of a row's figures, differences and share, with the least and the most; counts as they are."""
    found: dict[str, Any] = {}
    for name, value in rows[0].items():
        if name == "share":
            found[name] = statistics.mean(row[name] for row in rows)
        if not isinstance(value, dict):
            found.setdefault(name, value)
            continue
        values = [row[name]["value"] for row in rows]
        found[name] = {"value": statistics.mean(values), "least": min(values), "most": max(values)}
        for end in ("low", "high"):  # of the interval over rows, which is much the wider of the two
            ends = [row[name][end] for row in rows]
            found[name][end] = None if None in ends else statistics.mean(ends)
    return found


def paint(figure: Figure, result: Mapping[str, Any]) -> None:
    """For each job the mean over sites against epsilon, between the lines of what has no noise."""
    titles = {"auroc": "AUROC", "accuracy": "accuracy"}
    panels = figure.subplots(1, len(result), squeeze=False)[0]
    for axes, (name, found) in zip(panels, result.items(), strict=True):
        mean = found["mean"]
        places = [f"{epsilon:g}" for epsilon in EPSILONS]
        points = [mean.get(f"epsilon {place}") for place in places]
        if all(points):
            ends = [[p["value"] - p["least"] for p in points], [p["most"] - p["value"] for p in points]]
            private = [p["value"] for p in points]
            axes.errorbar(places, private, ends, marker="o", capsize=3, color=INK, label="federated, private")
        lines = [kind for kind in NAMES if kind in mean and kind != "personalised"]  # its gain is in the table
        for kind, (colour, dash) in zip(lines, LOOKS, strict=False):
            axes.axhline(mean[kind]["value"], color=colour, linestyle=dash, label=kind)
        axes.set(
            title=name,
            xlabel="epsilon of a record",
            ylabel=f"{titles[found['metric']]}, sites in the mean: {len(mean['sites'])}",
        )
    # Below the panels, where it covers no line; not every job has every kind.
    shown = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=len(shown), fontsize=8)


if __name__ == "__main__":
    sys.exit(main())
