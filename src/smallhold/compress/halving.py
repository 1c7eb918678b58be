"""Successive halving: many candidates learn a little, the better part learns on, one is left; and bisection by size.

Source: Jamieson and Talwalkar 2016, arXiv:1502.07943, algorithm 1, with a factor of eta in place of 2. Every
measurement is written down before it is used, and a search that reads the same measurements makes the same choices: a
search that was killed goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from smallhold.device.durable_file import write_durably
from smallhold.errors import DataError, RecipeError

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Rung:
    """One level.

    Attributes:
        number: How many candidates are measured.
        effort: Passes of healing, as a multiple of the full recipe's.
    """

    number: int
    effort: float


def rungs(count: int, *, effort: float = 1.0, least_effort: float = 0.1, eta: int = 3) -> list[Rung]:
    """How many candidates learn how long.

    Args:
        count: Candidates at the beginning.
        effort: Of the last rung.
        least_effort: Of the first rung at least: less tells nothing.
        eta: One in eta goes on.

    Raises:
        RecipeError: no candidate, or impossible efforts.

    >>> rungs(9)
    [Rung(number=9, effort=0.1111111111111111), Rung(number=3, effort=0.3333333333333333), Rung(number=1, effort=1.0)]
    """
    if count < 1 or eta < 2 or not 0 < least_effort <= effort:
        raise RecipeError(f"halving: expected candidates and efforts, got {count}, {least_effort} to {effort}")
    levels: list[Rung] = []
    number = count
    while number > 1:
        levels.append(Rung(number, 0.0))
        number = max(1, number // eta)
    levels.append(Rung(1, effort))
    return [
        Rung(level.number, max(least_effort, effort / eta ** (len(levels) - 1 - i))) for i, level in enumerate(levels)
    ]


@dataclass(slots=True)
class Record:
    """Measurements on disk, one JSON object a key.

    Attributes:
        path: The file.
        values: What it holds.
    """

    path: Path
    values: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> Record:
        """Read what an earlier search wrote; empty where there is none.

        Raises:
            DataError: the file is malformed.
        """
        if not path.exists():
            return cls(path)
        try:
            values = json.loads(path.read_bytes())
            return cls(path, {str(k): {str(n): float(x) for n, x in v.items()} for k, v in values.items()})
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise DataError(f"{path}: cannot be read: {error}", hint=f"delete {path} to measure again") from error

    def get(self, key: str, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
        """What was measured under this key, or a new measurement, written down before it is returned."""
        if key not in self.values:
            found = measure()
            self.values = Record.open(self.path).values | {key: found}  # another search may have written meanwhile
            write_durably(self.path, [json.dumps(self.values, indent=1, sort_keys=True).encode()], mode=0o644)
        return self.values[key]


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Item]):
    """How a search ended.

    Attributes:
        ranking: The last rung's candidates, then those of earlier rungs: the order in which to try them.
        quality: Candidate's name to its last quality.
    """

    ranking: tuple[Item, ...]
    quality: dict[str, float]


def halve(
    items: Sequence[Item],
    levels: Sequence[Rung],
    *,
    name: Callable[[Item], str],
    quality: Callable[[Item, float], float],
) -> Outcome[Item]:
    """Measure, keep the better part, go on with more effort.

    Args:
        items: As many as the first rung, in an order that settles ties.
        levels: See `rungs`.
        name: A name for each.
        quality: Of a candidate after that much healing; higher is better.
    """
    left, behind = list(items), list[Item]()
    found: dict[str, float] = {}
    for level, following in zip(levels, [*levels[1:], None], strict=True):
        for item in left:
            found[name(item)] = quality(item, level.effort)
        left.sort(key=lambda item: -found[name(item)])  # stable: ties keep their order
        if following is not None:
            behind = left[following.number :] + behind
            left = left[: following.number]
    return Outcome((*left, *behind), found)


def bisect(items: Sequence[Item], quality: Callable[[Item], float], *, least: float) -> tuple[Item, ...]:
    """Look for the smallest that is good enough, if larger ones are better.

    Args:
        items: From the smallest to the largest.
        quality: Asked of about log2 of them.
        least: What is good enough.

    Returns:
        Those that were asked: the good ones from the smallest on, then the others from the best on.
    """
    low, high = 0, len(items)
    asked: dict[int, float] = {}
    while low < high:
        middle = (low + high) // 2
        asked[middle] = quality(items[middle])
        low, high = (low, middle) if asked[middle] >= least else (middle + 1, high)
    good = sorted(i for i in asked if asked[i] >= least)
    others = sorted(asked.keys() - good, key=lambda i: -asked[i])
    return tuple(items[i] for i in [*good, *others])
