"""Contestants take turns: every round asks each of them once, in an order that changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from bench.decide.machine import Energy, Stolen, hog
from bench.decide.process import ContestantError, Outcome
from bench.decide.turns import Turn

Say = Callable[[str], None]


class Running(Protocol):
    """A contestant that has been started."""

    pid: int

    def run(self, group: int) -> Outcome:
        """Answer a group of events."""

    def first(self) -> None:
        """Answer the first event of the first group alone."""

    def stop(self) -> None:
        """End it."""


def take_turns(
    contestants: Mapping[str, Running],
    groups: Sequence[int],
    *,
    rounds: int,
    seconds: float,
    is_hogged: bool,
    say: Say,
) -> dict[str, list[Turn]]:
    """Let each answer all the groups again and again until its time in the round is over; at least once.

    Args:
        contestants: Name to contestant; one that fails is left out from then on, and that is said.
        groups: Numbers of groups of events; every turn is whole passes over them, so that all answer the same mix.
        rounds: How often.
        seconds: Wall time of a turn.
        is_hogged: Beside a process that spins.
        say: Where progress goes.
    """
    turns: dict[str, list[Turn]] = {name: [] for name in contestants}
    fallen: set[str] = set()
    rng = np.random.default_rng(0)
    names = list(contestants)
    with hog(is_hogged):
        for number in range(rounds):
            for i in rng.permutation(len(names)):
                name = names[i]
                if name in fallen:
                    continue
                try:
                    turns[name].append(_turn(contestants[name], groups, number, seconds))
                except ContestantError as error:
                    fallen.add(name)
                    say(f"  {name} fell out: {error}")
    return turns


def _turn(contestant: Running, groups: Sequence[int], number: int, seconds: float) -> Turn:
    stolen, energy, until = Stolen(), Energy(), time.monotonic() + seconds
    outcome = Outcome()
    while True:
        for group in groups:
            outcome.add(contestant.run(group))
        if time.monotonic() >= until:
            break
    return Turn(
        number, len(outcome.wall_ms), outcome.cpu_seconds, tuple(outcome.wall_ms), stolen.share(), energy.joules()
    )
