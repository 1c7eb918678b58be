"""Turns summed up, and decisions compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Turn:
    """What a contestant did in its turn of one round.

    Attributes:
        round: Which round; contestants of one round ran one after the other.
        events: Decisions made.
        cpu_seconds: Processor time that they took.
        wall_ms: Of each of them.
        stolen: Share of the machine's time that the hypervisor gave to others meanwhile.
        joules: Energy of the processor meanwhile, None where it cannot be read.
    """

    round: int
    events: int
    cpu_seconds: float
    wall_ms: tuple[float, ...]
    stolen: float
    joules: float | None = None


def kept(turns: Sequence[Turn], most_stolen: float = 0.01) -> list[Turn]:
    """Turns in which hardly any time was stolen."""
    return [turn for turn in turns if turn.stolen <= most_stolen]


def summary(turns: Sequence[Turn]) -> dict[str, float]:
    """Rates and latencies of the turns that count.

    Returns:
        `events_per_second_per_core` (median over turns, with `_low` and `_high`, the 10th and 90th percentile),
        `cpu_ms` (median), `p50_ms`, `p99_ms`, `p99_over_p50` of single decisions by the wall clock, `turns`, and
        `joules` a decision where energy could be read.
    """
    rates = [turn.events / turn.cpu_seconds for turn in turns]
    low, middle, high = np.percentile(rates, (10, 50, 90)).tolist()
    joules = [turn.joules / turn.events for turn in turns if turn.joules is not None]
    p50, p99 = np.percentile([ms for turn in turns for ms in turn.wall_ms], (50, 99)).tolist()
    return {
        "events_per_second_per_core": middle,
        "events_per_second_per_core_low": low,
        "events_per_second_per_core_high": high,
        "cpu_ms": 1e3 / middle,
        "p50_ms": p50,
        "p99_ms": p99,
        "p99_over_p50": p99 / p50,
        "turns": len(turns),
        **({"joules": float(np.median(joules))} if joules else {}),
    }


def agreement(ours: Sequence[float], theirs: Sequence[float], alert: float) -> dict[str, float]:
    """How far two contestants decide the same.

    Args:
        ours: Margins of the same events in the same order.
        theirs: Theirs; infinite where they say a choice and no probability.
        alert: Margin from which an alert is due.

    Returns:
        `decisions`; `equal_choices` and, where they give probabilities, `equal_alerts`, both shares;
        `widest_disagreement`, of events decided differently the farthest that our margin is from where the decision
        turns; `largest_margin_difference` where they give probabilities.
    """
    a, b = np.array(ours), np.array(theirs)
    if a.shape != b.shape or not a.size:
        raise ValueError(f"expected margins of the same events, got {a.shape} and {b.shape}")
    found: dict[str, float] = {"decisions": len(a)}
    widest = 0.0
    has_probabilities = bool(np.isfinite(b).all())
    for name, turn in (("equal_choices", 0.0), ("equal_alerts", alert)):
        if turn and not has_probabilities:
            continue
        differs = (a >= turn) != (b >= turn)
        found[name] = float(1 - differs.mean())
        widest = max(widest, float(np.abs(a - turn)[differs].max(initial=0.0)))
    found["widest_disagreement"] = widest
    if has_probabilities:
        found["largest_margin_difference"] = float(np.abs(a - b).max())
    return found
