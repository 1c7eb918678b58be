"""The best smaller model within a device's budget: shapes are foretold, measured, trained, and halved.

1. Every shape below the teacher's is foretold: bytes by counting, time and memory by the device's cost model.
2. Of those that fit, a shortlist is measured for real: a graph of that shape with random weights, in its own process.
   Where none of them fits after all, the cost model is corrected by what was measured, and another is.
3. Those that still fit learn in rungs of growing length, taught by the teacher; the better part goes on (`halving.py`).
4. The best of the last rung is measured again with its own weights. If it breaks a limit, the next one is tried.

Where nothing but quality is asked for, the smallest that has it is looked for: shapes from small to large learn in
full, the middle one of those that are left first.

Everything measured is written down first (`measured-*.json`), so a search that was killed goes on where it was, the
same measurements lead to the same model, and another budget asks for nothing twice.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from smallhold.bundle.onnx_graph import trunk_onnx
from smallhold.bundle.weights import read_weights
from smallhold.compress.budget import Budget
from smallhold.compress.bundle_size import Door, count_parameters, model_bytes, rest_bytes
from smallhold.compress.candidates import Candidate, candidates, ladder, shortlist
from smallhold.compress.device_profile import DeviceProfile, random_graph
from smallhold.compress.halving import Record, bisect, halve, rungs
from smallhold.compress.quantize import twin_folder
from smallhold.compress.shrink import recipe_of_teacher, run_shrink, training_texts
from smallhold.compress.shrink_recipe import ShrinkRecipe
from smallhold.compress.student_quality import UnseenRows, measure_gain
from smallhold.compress.trim_vocabulary import count_tokens, trim_tokenizer
from smallhold.device.durable_file import write_durably
from smallhold.evaluate.device_cost import machine
from smallhold.evaluate.run_folder import CHECKPOINT_FOLDER
from smallhold.learn.checkpoint import load_signal_model
from smallhold.learn.trunk_config import TrunkConfig
from smallhold.records import canonical_json, sha256_hex
from smallhold.teach.model_teacher import ModelTeacher, digest_of_run

Progress = Callable[[str, int, int], None]
#: Measured for real before anything is trained, as a multiple of those that are trained.
_MEASURED_PER_TRAINED = 3
#: So many of the best that fall short of the least quality, and the rest of the ranking will as well.
_MOST_SHORT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSettings:
    """How a search goes about it.

    Attributes:
        trained: Candidates of the first rung.
        least_effort: Of the first rung, as a share of the recipe's healing.
        eta: One in eta goes on.
    """

    trained: int = 9
    least_effort: float = 0.1
    eta: int = 3


@dataclass(frozen=True, slots=True)
class SearchResult:
    """How a search ended; the contents of `result.json`.

    Attributes:
        is_feasible: Whether a model within the budget was found.
        label: Of the model that was found, or of the closest.
        bits: Its encoding.
        run: Its run, relative to the search's folder; empty when nothing was trained.
        broken: Limits that it does not meet, in words.
        predicted: Its costs as foretold by the cost model.
        measured: Its costs as measured, with its own weights where it was trained; see `is_measured_here`.
        quality: Share of the teacher's gain that it keeps on validation rows; None when nothing was trained.
        looked_at: Shapes foretold, measured, and trained.
        trials: Every trained candidate: label, effort, quality, and what its shape costs.
        is_measured_here: Whether this machine is the one of the profile. On another, time, memory and energy stay
            foretold, and only bytes are counted.
    """

    is_feasible: bool
    label: str
    bits: int
    run: str
    broken: list[str]
    predicted: dict[str, float]
    measured: dict[str, float]
    quality: float | None
    looked_at: dict[str, int]
    trials: list[dict[str, Any]]
    is_measured_here: bool

    def line(self) -> str:
        """The end in a sentence."""
        kept = "" if self.quality is None else f", keeps {self.quality:.1%} of the teacher's gain"
        if self.is_feasible:
            where = "" if self.is_measured_here else "; time and memory are foretold: this is not the profile's machine"
            return f"found {self.label}{kept}{where}"
        return f"infeasible; closest is {self.label}{kept}: {'; '.join(self.broken)}"


def run_search(
    recipe: ShrinkRecipe,
    budget: Budget,
    profile: DeviceProfile,
    data_dir: Path | None,
    run: Path,
    *,
    settings: SearchSettings,
    progress: Progress,
    threads: int = 2,
) -> SearchResult:
    """Look for the best model within a budget; continues what an earlier call left.

    Args:
        recipe: Teacher, healing and rounding; its shape is replaced.
        budget: Limits.
        profile: Of the device that the model is for.
        data_dir: What the user gave as `--data`, or None.
        run: Folder of the search.
        settings: How many are tried.
        progress: Called with a caption, steps done and steps in all.
        threads: Threads of torch.

    Raises:
        DataError: the teacher's run or a data set is missing, or the teacher has seen the validation rows.
        RecipeError: a limit on what the device does not measure.
        InterruptedRun: stopped on request.
    """
    space = Space.of(recipe, profile, data_dir)
    budget.require_known({"bytes": 0, **space.foretell(space.all[0])})
    rows = UnseenRows.of(recipe_of_teacher(Path(recipe.teacher))[1], data_dir)
    # What was measured holds for any budget: only teacher, data, healing, rounding, device and this machine matter,
    # for on another machine than the profile's costs are foretold.
    taught = digest_of_run(Path(recipe.teacher))
    device = [profile.machine, profile.measured_at, machine()]
    claim = sha256_hex(canonical_json([recipe.digest, taught, rows.data_digest, *device]))
    record = Record.open(run / f"measured-{claim[:12]}.json")
    run.mkdir(parents=True, exist_ok=True)

    foretold = {candidate: space.foretell(candidate) for candidate in space.all}
    expected, measured = foretold, dict[Candidate, dict[str, float]]()
    within: list[Candidate] = []
    while chosen := [c for c in worth_measuring(space, budget, expected, settings) if c not in measured]:
        for number, candidate in enumerate(chosen):
            measured[candidate] = record.get(f"cost {candidate.label()}", partial(space.measure, candidate))
            budget.require_known(measured[candidate])  # who profiled the device may have been allowed to count more
            progress("measuring shapes", number + 1, len(chosen))
        within = [candidate for candidate in chosen if budget.excess(measured[candidate]) <= 1][: settings.trained]
        expected = _corrected(foretold, measured)
        if within or all(budget.excess(cost) > 1 for cost in expected.values()):
            break
    looked_at = {"foretold": len(space.all), "measured": len(measured), "trained": len(within)}
    ended = partial(SearchResult, looked_at=looked_at, is_measured_here=space.is_here)
    if not within:
        closest = min(measured, key=lambda candidate: (budget.excess(measured[candidate]), candidate))
        result = ended(
            is_feasible=False,
            label=closest.label(),
            bits=closest.bits,
            run="",
            broken=budget.broken(measured[closest]),
            predicted=foretold[closest],
            measured=measured[closest],
            quality=None,
            trials=[],
        )
        return _written(result, run)

    trials = _Trials(recipe, data_dir, rows, run, claim, record, progress, threads)
    if budget.costs:
        levels = rungs(len(within), least_effort=settings.least_effort, eta=settings.eta)
        ranking = halve(within, levels, name=Candidate.label, quality=trials.quality).ranking
    else:
        ranking = bisect(within, lambda candidate: trials.quality(candidate, 1.0), least=budget.min_quality)
    ends: list[tuple[float, SearchResult]] = []
    num_short = 0
    for candidate in ranking:
        quality = trials.quality(candidate, 1.0)
        folder = trials.folder(candidate, 1.0)
        cost = record.get(f"final {candidate.label()}", partial(space.measure, candidate, folder))
        budget.require_known(cost)
        broken = budget.broken(cost)
        if is_short := quality < budget.min_quality:
            broken.append(f"quality {quality:.3f} of at least {budget.min_quality:.3f}")
        end = ended(
            is_feasible=not broken,
            label=candidate.label(),
            bits=candidate.bits,
            run=str(folder.relative_to(run)),
            broken=broken,
            predicted=foretold[candidate],
            measured=cost,
            quality=quality,
            trials=trials.done(),
        )
        ends.append((budget.excess(cost, quality), end))
        num_short += is_short
        if end.is_feasible or num_short == _MOST_SHORT:
            break
    return _written(min(ends, key=lambda item: item[0])[1], run)


def worth_measuring(
    space: Space, budget: Budget, foretold: dict[Candidate, dict[str, float]], settings: SearchSettings
) -> list[Candidate]:
    """Shapes that are worth a measurement."""
    if not budget.costs:
        size = {candidate: foretold[candidate]["bytes"] for candidate in space.all}
        return ladder(space.all, size, space.teacher, count=settings.trained)
    fitting = [candidate for candidate in space.all if budget.excess(foretold[candidate]) <= 1]
    if not fitting:  # the closest are measured all the same: the cost model may be wrong
        order = sorted(space.all, key=lambda candidate: (budget.excess(foretold[candidate]), candidate))
        return order[: settings.eta]
    parameters = {candidate: space.parameters(candidate) for candidate in fitting}
    return shortlist(fitting, foretold, parameters, count=_MEASURED_PER_TRAINED * settings.trained)


def _corrected(
    foretold: dict[Candidate, dict[str, float]], measured: dict[Candidate, dict[str, float]]
) -> dict[Candidate, dict[str, float]]:
    """What was measured, and of all others what was foretold, made dearer by the cost model's worst mistake so far."""
    mistakes = {
        # Who profiled the device may have been allowed to count more than whoever searches.
        name: max([1.0, *(cost[name] / foretold[c][name] for c, cost in measured.items() if name in cost)])
        for name in next(iter(foretold.values()))
    }
    dearer = {c: {name: cost[name] * mistakes[name] for name in mistakes} for c, cost in foretold.items()}
    return dearer | measured


def _written(result: SearchResult, run: Path) -> SearchResult:
    write_durably(run / "result.json", [json.dumps(asdict(result), indent=1).encode()], mode=0o644)
    return result


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """Every shape below a teacher's, and what each costs.

    Attributes:
        recipe: Whose teacher is made smaller.
        profile: Of the device that the model is for.
        teacher: The teacher's shape, of its vocabulary the part that training texts use: trimming leaves no more.
        door: Sizes of its signal door.
        rest: Bytes of a bundle beside the model.
        all: The shapes.
        is_here: Whether this machine is the one of the profile.
    """

    recipe: ShrinkRecipe
    profile: DeviceProfile
    teacher: TrunkConfig
    door: Door
    rest: int
    all: list[Candidate]
    is_here: bool

    @classmethod
    def of(cls, recipe: ShrinkRecipe, profile: DeviceProfile, data_dir: Path | None) -> Space:
        """Of a recipe's teacher.

        Raises:
            DataError: the teacher's run or a data set is missing.
        """
        run = Path(recipe.teacher)
        model = load_signal_model(run / CHECKPOINT_FOLDER)
        tokenizer = ModelTeacher(run).tokenizer
        counts = count_tokens(tokenizer, training_texts(recipe_of_teacher(run)[1], data_dir))
        least, used = (len(trim_tokenizer(tokenizer, kept).kept) for kept in (Counter[int](), counts))
        config = replace(model.trunk.config, vocab_size=used)
        bits = (8, 4) if recipe.rounding.bits == 8 else (recipe.rounding.bits,)
        found = candidates(config, least_vocab=least, bits=bits)
        return cls(recipe, profile, config, Door.of(model), rest_bytes(run), found, profile.machine == machine())

    def foretell(self, candidate: Candidate) -> dict[str, float]:
        """Costs without building anything."""
        config = candidate.shape().of(self.teacher)
        size = self.rest + model_bytes(config, self.door, candidate.bits)
        return {"bytes": float(size), **self.profile.foretell(config, candidate.bits)}

    def parameters(self, candidate: Candidate) -> int:
        """Of trunk and signal encoder."""
        return count_parameters(candidate.shape().of(self.teacher), self.door)

    def measure(self, candidate: Candidate, trained: Path | None = None) -> dict[str, float]:
        """Costs of a real graph, of random weights or of the trained ones; foretold where this is another machine."""
        if not self.is_here:
            return self.foretell(candidate)
        config = candidate.shape().of(self.teacher)
        if trained is None:
            graph = random_graph(config, candidate.bits)
        else:
            graph = trunk_onnx(read_weights(twin_folder(trained, candidate.bits)))
            config = load_signal_model(trained / CHECKPOINT_FOLDER).trunk.config
        size = self.rest + model_bytes(config, self.door, candidate.bits)
        return {"bytes": float(size), **self.profile.measure(graph)}


@dataclass(eq=False)
class _Trials:
    """Candidates that learn, each in a run of its own."""

    recipe: ShrinkRecipe
    data_dir: Path | None
    rows: UnseenRows
    run: Path
    claim: str
    record: Record
    progress: Progress
    threads: int

    def __post_init__(self) -> None:
        self.gain = measure_gain(Path(self.recipe.teacher), self.rows)

    def folder(self, candidate: Candidate, effort: float) -> Path:
        """Where a candidate's run lies: beside those that learnt from the same teacher and data in the same way."""
        return self.run / "trials" / self.claim[:12] / f"{candidate.label().replace('/', '-')}-{effort:.3f}"

    def quality(self, candidate: Candidate, effort: float) -> float:
        """Share of the teacher's gain that it keeps after that much healing."""

        def measure() -> dict[str, float]:
            recipe = replace(
                self.recipe,
                shape=candidate.shape(),
                rounding=candidate.rounding(self.recipe.rounding.method),
                healing=replace(self.recipe.healing, epochs=self.recipe.healing.epochs * effort),
            )
            folder = self.folder(candidate, effort)
            run_shrink(
                recipe,
                self.data_dir,
                folder,
                progress=self._named(candidate, effort),
                threads=self.threads,
                answers=self.run / "answers",
            )
            found = measure_gain(folder, self.rows, checkpoint=twin_folder(folder, candidate.bits))
            return {"quality": found.share_of(self.gain)}

        return self.record.get(f"quality {candidate.label()} {effort:.3f}", measure)["quality"]

    def done(self) -> list[dict[str, Any]]:
        """Every trial so far."""
        found = []
        for key, value in self.record.values.items():
            kind, *rest = key.split(" ")
            if kind == "quality":
                cost = self.record.values.get(f"cost {rest[0]}", {})
                found.append({"label": rest[0], "effort": float(rest[1]), "quality": value["quality"], "cost": cost})
        return sorted(found, key=lambda item: (item["effort"], -item["quality"], item["label"]))

    def _named(self, candidate: Candidate, effort: float) -> Progress:
        name = f"{candidate.label()} at {effort:.0%}"
        return lambda caption, done, total: self.progress(f"{name}: {caption}", done, total)
