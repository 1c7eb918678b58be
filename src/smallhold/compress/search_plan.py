"""What a search would do and take, from the cost model alone: nothing is measured, trained or written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from smallhold.compress.budget import Budget
from smallhold.compress.device_profile import DeviceProfile
from smallhold.compress.halving import rungs
from smallhold.compress.search import SearchSettings, Space, worth_measuring
from smallhold.compress.shrink import healing_steps, recipe_of_teacher
from smallhold.compress.shrink_recipe import ShrinkRecipe
from smallhold.compress.student_quality import UnseenRows

#: A graph is built, exported, and timed in a fresh process; measured on one core of an AMD EPYC with AVX2.
_SECONDS_A_SHAPE = 6.0


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """A search before it begins.

    Attributes:
        shapes: All shapes below the teacher's.
        fitting: Those that the cost model foretells within the budget.
        measured: Those that would be built and timed first.
        trained: Those that would learn, at most.
        healings: What they would learn in all, in full healings of the recipe.
        seconds: Of measuring and healing, on a machine like the teacher's; 0 where the teacher's time was not taken.
        closest: Where none is foretold to fit, the one that comes closest.
        broken: The limits that it would break, in words.
    """

    shapes: int
    fitting: int
    measured: int
    trained: int
    healings: float
    seconds: float
    closest: str
    broken: list[str]

    def lines(self) -> list[str]:
        """In words."""
        said = [f"{self.shapes:,} shapes, {self.fitting:,} of them within the budget, as the cost model foretells it"]
        if self.closest:
            said.append(f"closest is {self.closest}: {'; '.join(self.broken)}")
        time = f"about {self.seconds / 60:.0f} minutes" if self.seconds else "time unknown: the teacher's was not taken"
        learn = f"{self.trained} to learn, {self.healings:.1f} times the recipe's healing in all"
        return [*said, f"{self.measured} to be built and timed", f"{learn}; {time}"]


def plan_search(
    recipe: ShrinkRecipe, budget: Budget, profile: DeviceProfile, data_dir: Path | None, settings: SearchSettings
) -> SearchPlan:
    """Say what `run_search` would do with the same arguments.

    Raises:
        DataError: the teacher's run or a data set is missing, or the teacher has seen the validation rows.
        RecipeError: a limit on what the device does not measure.
    """
    taught, teacher_recipe = recipe_of_teacher(Path(recipe.teacher))
    UnseenRows.of(teacher_recipe, data_dir)
    space = Space.of(recipe, profile, data_dir)
    foretold = {candidate: space.foretell(candidate) for candidate in space.all}
    budget.require_known(foretold[space.all[0]])
    fitting = [candidate for candidate, cost in foretold.items() if budget.excess(cost) <= 1]
    chosen = worth_measuring(space, budget, foretold, settings)
    trained = min(len(chosen), settings.trained) if fitting else 0
    healings = 0.0
    if trained and budget.costs:
        levels = rungs(trained, least_effort=settings.least_effort, eta=settings.eta)
        healings = sum(level.number * level.effort for level in levels)
    elif trained:
        healings = float(trained.bit_length())  # bisection
    largest = max((space.parameters(candidate) for candidate in chosen), default=0)
    share = healing_steps(recipe, taught, teacher_recipe) / sum(taught.steps.values())
    seconds = taught.training_seconds * share * healings * largest / taught.parameters
    closest = min(foretold, key=lambda candidate: (budget.excess(foretold[candidate]), candidate))
    return SearchPlan(
        shapes=len(space.all),
        fitting=len(fitting),
        measured=len(chosen),
        trained=trained,
        healings=healings,
        seconds=seconds + _SECONDS_A_SHAPE * len(chosen) if seconds else 0.0,
        closest="" if fitting else closest.label(),
        broken=budget.broken(foretold[closest]),
    )
