"""Ten budgets, drawn from a seed: is each met, is an impossible one named, and how far off were the predictions?

    smallhold doctor --profile runs/device.json          # on the machine that is meant, while nothing else runs
    python bench/budgets.py                              # needs runs/hospital-train and SMALLHOLD_DATA

Costs are what is checked here, so the healing is short and the quality of these students says nothing. Of every model
that is found a bundle is built and weighed, and its graph is timed again in five fresh processes. The result lies in
`docs/figures/budgets.json`; trials, and what an interrupted call left of them, in `runs/budgets/`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import figures
import numpy as np
from place import RUNS, Place, carry_out, publisher, smallhold

from smallhold.bundle.onnx_graph import trunk_onnx
from smallhold.bundle.weights import read_weights
from smallhold.cli.output import ProgressBar
from smallhold.compress.budget import Budget
from smallhold.compress.device_profile import DeviceProfile
from smallhold.compress.quantize import twin_folder
from smallhold.compress.search import SearchResult, SearchSettings, Space, run_search
from smallhold.compress.shrink_recipe import read_shrink_recipe

_SEED, _NUMBER, _REPEATS = 0, 10, 5
_LIMITS = {"max_bytes": "bytes", "max_ms_p95": "p95_ms", "max_rss": "resident_bytes"}
#: Below the least of all shapes, as a share of the way to the most: such a limit cannot be met.
_BELOW = 0.2
_COSTS = ("p95_ms", "resident_bytes")
_HEALING_EPOCHS = 0.02
_SEARCH = SearchSettings(trained=3, least_effort=0.3)


def main() -> int:
    """Carry it out."""
    return carry_out(__doc__, {"budgets": budgets})


def budgets(place: Place) -> None:
    """Draw, search, build, weigh and time."""
    recipe = read_shrink_recipe("hospital-small")
    recipe = replace(recipe, healing=replace(recipe.healing, epochs=_HEALING_EPOCHS))
    profile = DeviceProfile.read(RUNS / "device.json")
    rows, folder = [], RUNS / "budgets"  # one for all: what was measured or trained holds for any budget
    space = Space.of(recipe, profile, place.data)
    for number, budget in enumerate(drawn([space.foretell(shape) for shape in space.all])):
        with closing(ProgressBar()) as progress:
            result = run_search(
                recipe, budget, profile, place.data, folder, settings=_SEARCH, progress=progress, threads=place.threads
            )
        rows.append(_row(budget, result, profile, folder, place))
        print(f"budget {number}: {result.line()}", file=sys.stderr, flush=True)
    value = {"seed": _SEED, "device": profile.machine, "rows": rows}
    text = json.dumps(figures.without(value), indent=1, sort_keys=True) + "\n"
    figures.write(figures.FIGURES / "budgets.json", text)


def drawn(costs: Sequence[Mapping[str, float]]) -> list[Budget]:
    """The budgets: one to three limits each, from a little below what the least of all shapes costs to the most."""
    rng = np.random.default_rng(_SEED)
    found = []
    for _ in range(_NUMBER):
        names = rng.permutation(list(_LIMITS))[: rng.integers(1, len(_LIMITS) + 1)]
        limits = {}
        for name in map(str, names):
            least, most = (pick(cost[_LIMITS[name]] for cost in costs) for pick in (min, max))
            limits[name] = float(rng.uniform(least - _BELOW * (most - least), most))
        whole = {name: int(limit) for name, limit in limits.items() if name != "max_ms_p95"}
        found.append(Budget(**(limits | whole)))  # type: ignore[arg-type]
    return found


def _row(budget: Budget, result: SearchResult, profile: DeviceProfile, folder: Path, place: Place) -> dict[str, Any]:
    limits = {name: value for name, value in asdict(budget).items() if value}
    row: dict[str, Any] = {"limits": limits, "said": result.line(), "label": result.label, "found": result.is_feasible}
    if not result.is_feasible:
        return row | {"predicted": result.predicted, "broken": result.broken}
    run = folder / result.run
    bundle = run / "bundle"
    if not bundle.exists():
        smallhold(
            "bundle", "build", str(run), "--bits", str(result.bits), "--out", str(bundle),
            "--data", str(place.data), *publisher(),
        )  # fmt: skip
    weighed = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    graph = trunk_onnx(read_weights(twin_folder(run, result.bits)))
    costs = [profile.measure(graph) for _ in range(_REPEATS)]
    built = {"bytes": float(weighed)} | {name: median(cost[name] for cost in costs) for name in _COSTS}
    off = {name: result.measured[name] / cost - 1 for name, cost in built.items()}
    foretold = {name: result.predicted[name] / cost - 1 for name, cost in built.items()}
    return row | {"built": built, "off": off, "foretold_off": foretold, "broken": budget.broken(built)}


if __name__ == "__main__":
    sys.exit(main())
