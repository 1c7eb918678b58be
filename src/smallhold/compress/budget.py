"""What a device can afford, and how far a candidate is from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from smallhold.errors import RecipeError


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Any subset of limits; 0 sets none.

    Attributes:
        max_bytes: Of the whole bundle.
        max_ms_p95: Processor time of one decision, 95th percentile.
        max_rss: Resident set of a process that holds the model and one session, in bytes.
        max_joules: Energy of one decision; the device has to count it.
        min_quality: Share of the teacher's gain over the floor that has to be kept, on validation rows.
    """

    max_bytes: int = 0
    max_ms_p95: float = 0.0
    max_rss: int = 0
    max_joules: float = 0.0
    min_quality: float = 0.0

    def __post_init__(self) -> None:
        """Refuse limits that nothing meets."""
        for name, value in asdict(self).items():
            if not value >= 0:  # and what is not a number
                raise RecipeError(f"budget.{name}: expected 0 or more, got {value}")
        if self.min_quality > 1:
            raise RecipeError(
                f"budget.min_quality: expected a share of the teacher's gain, 0 to 1, got {self.min_quality}"
            )

    @property
    def costs(self) -> dict[str, float]:
        """Limits on what is spent: quantity to its highest allowed value."""
        names = {"max_bytes": "bytes", "max_ms_p95": "p95_ms", "max_rss": "resident_bytes", "max_joules": "joules"}
        return {quantity: float(getattr(self, name)) for name, quantity in names.items() if getattr(self, name)}

    def require_known(self, quantities: Mapping[str, float]) -> None:
        """Refuse a limit on what the device does not measure.

        Raises:
            RecipeError: names the limit.
        """
        if missing := sorted(set(self.costs) - set(quantities)):
            raise RecipeError(
                f"budget: this device does not measure {', '.join(missing)}",
                hint="leave the limit out, or profile a device that counts it: smallhold doctor --profile FILE",
            )

    def excess(self, cost: Mapping[str, float], quality: float | None = None) -> float:
        """Largest ratio of a cost to its limit, or of the least quality to what there is.

        At most 1 where every limit is met, 0 where there is none.
        """
        ratios = [cost[name] / limit for name, limit in self.costs.items()]
        if quality is not None and self.min_quality:
            ratios.append(self.min_quality / quality if quality > 0 else math.inf)
        return max(ratios, default=0.0)

    def broken(self, cost: Mapping[str, float]) -> list[str]:
        """Each limit that is not met, in words."""
        return [
            f"{name} {_number(cost[name])} of at most {_number(limit)}"
            for name, limit in self.costs.items()
            if cost[name] > limit
        ]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
