"""A table of counts that sites add up: what it asks, how far a person reaches into it, and the noise that covers that.

A table is a vector: one round of a job whose updates are the sites' counts gives their sum. Neighbouring data differ by
one person at one site, with all their rows. A site counts a person in at most `max_cells` cells, once in each, so that
one person changes the sum by at most `max_cells` in L1 and sqrt(max_cells) in L2 norm. Every cell gets noise, those of
nobody like the others: which cells are empty would be a release of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smallhold.device.knowledge import Dimension, check_dimensions
from smallhold.errors import RecipeError
from smallhold.records import sha256_hex

_MOST_COUNTED = 2**24  # beyond it float32 knows no odd numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class StatisticsChoice:
    """What is counted, and what that may say about a person.

    Attributes:
        dimensions: Of the table; none where the job trains a model.
        max_cells: In how many cells one person is counted at most, by each site; of more, some are drawn.
        max_count: Largest count of a cell at one site; more are counted as this many.
        min_cohort: A noisy count below it is withheld from the knowledge pack.
        noise_multiplier: Standard deviation of the noise on the sum, in L2 sensitivities.
        epsilon: Budget of a person at a site; what would exceed it is refused.
        delta: Of the budget.
    """

    dimensions: tuple[Dimension, ...] = ()
    max_cells: int = 1
    max_count: int = 2**16
    min_cohort: int = 10
    noise_multiplier: float = 0.0
    epsilon: float = 0.0
    delta: float = 1e-5

    def __post_init__(self) -> None:
        """Refuse tables that are none, and promises that nothing stands behind."""
        if not self.dimensions and (self.noise_multiplier or self.epsilon):
            raise RecipeError("statistics.dimensions: expected at least one: nothing is counted")
        for name, most in (("max_cells", self.num_cells or 1), ("max_count", _MOST_COUNTED), ("min_cohort", 2**53)):
            if not 1 <= getattr(self, name) <= most:
                raise RecipeError(f"statistics.{name}: expected 1 to {most}, got {getattr(self, name)}")
        numbers = (self.noise_multiplier, self.epsilon)
        if min(numbers) < 0 or any(numbers) != all(numbers):
            raise RecipeError(
                f"statistics: noise_multiplier and epsilon belong together, above 0, got {numbers[0]} and {numbers[1]}"
            )
        if not 0 < self.delta < 1:
            raise RecipeError(f"statistics.delta: expected a number above 0 and below 1, got {self.delta}")

    @property
    def num_cells(self) -> int:
        """P; 0 where nothing is counted."""
        return check_dimensions(self.dimensions) if self.dimensions else 0

    @property
    def sensitivity(self) -> float:
        """L2 norm of what one person changes at most."""
        return math.sqrt(self.max_cells)

    @property
    def stddev(self) -> float:
        """Of the noise on the sum, in persons."""
        return self.noise_multiplier * self.sensitivity

    def check_room(self, sites: int, stddev: float) -> None:
        """Refuse sums that float32 could not hold exactly.

        Args:
            sites: In a sum at most.
            stddev: Of all noise in it.

        Raises:
            RecipeError: names the keys.
        """
        if (most := self.max_count * sites + math.ceil(10 * stddev)) > _MOST_COUNTED:
            raise RecipeError(
                f"statistics.max_count: {self.max_count} persons a cell at {sites} sites, with their noise, are up to "
                f"{most}; expected at most {_MOST_COUNTED}, the whole numbers of float32"
            )


def check_answers(dimensions: Iterable[Dimension], known: Mapping[str, Iterable[str]]) -> None:
    """Refuse a table that asks what the rows of a task cannot answer: its cells would be of noise alone.

    Args:
        dimensions: Of the table.
        known: Dimension -> the categories that the rows know.

    Raises:
        RecipeError: names the dimension or category, and those that there are.
    """
    for dimension in dimensions:
        if dimension.name not in known:
            raise RecipeError(
                f"statistics.dimensions: {dimension.name!r} is not known here; expected {', '.join(known)}"
            )
        for category in dimension.categories:
            if category not in known[dimension.name]:
                raise RecipeError(
                    f"statistics.dimensions: {dimension.name} knows no {category!r}; expected some of "
                    f"{', '.join(known[dimension.name])}"
                )


def cells_of(dimensions: Iterable[Dimension], answers: Mapping[str, Iterable[str]]) -> list[int]:
    """Cells that one row falls into, row-major.

    A dimension may have several answers; every combination is a cell. Answers that the table does not ask for count
    nowhere.

    Args:
        dimensions: Of the table.
        answers: Dimension -> categories.
    """
    cells = [0]
    for dimension in dimensions:
        places = {category: place for place, category in enumerate(dimension.categories)}
        given = [places[category] for category in answers[dimension.name] if category in places]
        cells = [cell * len(places) + place for cell in cells for place in given]
    return cells


def count_persons(
    cells: NDArray[np.int64], persons: Iterable[str], *, num_cells: int, max_cells: int, max_count: int, seed: int
) -> NDArray[np.int64]:
    """How many persons each cell has; of a person who is in more than `max_cells`, so many drawn by a hash count.

    Guaranteed: leaving out one person changes at most `max_cells` cells, by at most 1 each. Drawn, for the first ones
    of their rows would favour some cells over others.

    Args:
        cells: (N,) one a row, 0 <= cell < num_cells.
        persons: N, whom each row is about.
        num_cells: P.
        max_cells: Of one person.
        max_count: Largest count that is told.
        seed: Of the draw, which is a person's own: it does not depend on anybody else's rows.

    Returns:
        (P,) int64.
    """
    touched: dict[str, set[int]] = {}
    for cell, person in zip(cells.tolist(), persons, strict=True):
        touched.setdefault(person, set()).add(cell)
    counts = np.zeros(num_cells, np.int64)
    for person, own in touched.items():
        drawn = sorted(own, key=lambda cell: sha256_hex(f"{seed} {cell} {person}".encode()))[:max_cells]
        counts[drawn] += 1  # no cell twice
    return np.minimum(counts, max_count)
