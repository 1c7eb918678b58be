"""What would have taken NEWS2 below a limit: the smallest change of one vital sign, then of two, from the chart itself.

Every candidate is the value nearest to the present one in a box of the chart that gives fewer points, so that within
one parameter no smaller change exists; the chart then scores it again. Changes of different parameters are compared by
the share that they are of the parameter's row, from its first boundary to its last; oxygen and consciousness, which are
yes or no, count as a whole row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from smallhold.records import Score
from smallhold.sectors.hospital.news2 import Vitals, news2, round_half_up, row_of

#: Steps of one unit in which the chart rounds.
_STEPS: Mapping[str, int] = {"resp_rate": 1, "spo2": 1, "systolic": 1, "pulse": 1, "temperature": 10}
_FLAGS = ("on_oxygen", "is_alert")


@dataclass(frozen=True, slots=True)
class Otherwise:
    """Vital signs at other values, and the score they would give.

    Attributes:
        changes: Part of the score to its value; `on_oxygen` to 0 and `is_alert` to 1.
        score: With these changes.
    """

    changes: dict[str, float]
    score: Score


def news2_otherwise(
    values: Vitals, holds: Callable[[Score], bool], *, is_hypercapnic: bool = False
) -> Otherwise | None:
    """The smallest change with which a limit would not be reached.

    Args:
        values: The vital signs; it is one of those present that changes, never a missing one.
        holds: Whether a score reaches the limit.
        is_hypercapnic: See `news2`.

    Returns:
        One change, or two where no single one is enough; None when two are not enough either.
    """
    single = sorted(_changes(values, is_hypercapnic), key=lambda change: change[0])
    pairs = ((a[0] + b[0], {**a[1], **b[1]}) for a, b in combinations(single, 2) if not a[1].keys() & b[1].keys())
    for _, changes in [*single, *sorted(pairs, key=lambda change: change[0])]:
        score = news2(_with(values, changes), is_hypercapnic=is_hypercapnic)
        if not holds(score):
            return Otherwise(changes, score)
    return None


def _changes(values: Vitals, is_hypercapnic: bool) -> Iterator[tuple[float, dict[str, float]]]:
    present = news2(values, is_hypercapnic=is_hypercapnic)
    for part, steps in _STEPS.items():
        value = getattr(values, part)
        if part in present.missing or value is None or not present.parts[part]:
            continue
        upper, points = row_of(part, values, is_hypercapnic=is_hypercapnic)
        now = round_half_up(value, steps)
        for box, given in enumerate(points):
            if given < present.parts[part]:
                # The end of the box that lies towards the present value.
                edge = upper[box] if box < len(upper) and upper[box] < now else upper[box - 1] + 1
                yield abs(edge - now) / (upper[-1] - upper[0]), {part: edge / steps}
    if values.on_oxygen:
        yield 1.0, {"on_oxygen": 0.0}
    if values.is_alert is False:
        yield 1.0, {"is_alert": 1.0}


def _with(values: Vitals, changes: Mapping[str, float]) -> Vitals:
    changed: dict[str, Any] = {part: bool(v) if part in _FLAGS else v for part, v in changes.items()}
    return replace(values, **changed)
