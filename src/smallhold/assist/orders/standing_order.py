"""What a clinician allows in advance: one drug, for a patient or a ward, within bounds that are all written down."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import Any

from smallhold.assist.orders.amount import MICRO, check_amount, parse_unit
from smallhold.device.manifest import is_bundle_name
from smallhold.errors import InputError, OrderError
from smallhold.records import canonical_json, sha256_hex

FORMAT = 1
_LONGEST_MS = 366 * 24 * 3_600_000


@dataclass(frozen=True, slots=True)
class Bound:
    """A reading that must be there, fresh, and within limits before a dose.

    Attributes:
        code: What is measured, as observations name it.
        unit: UCUM code; a reading in another unit counts as missing.
        minimum: Lowest allowed value, millionths of `unit`; may be negative. None = no limit below.
        maximum: Highest, likewise.
        max_age_ms: An older reading counts as missing.
    """

    code: str
    unit: str
    minimum: int | None
    maximum: int | None
    max_age_ms: int

    def allows(self, value: float) -> bool:
        """Whether a reading lies within; never for NaN or an infinity."""
        if not math.isfinite(value):
            return False
        exact = Fraction(value) * MICRO
        return (self.minimum is None or exact >= self.minimum) and (self.maximum is None or exact <= self.maximum)


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingOrder:
    """A standing order; one that contradicts itself cannot be constructed. Amounts are millionths of `unit`.

    Attributes:
        name: What people call it.
        drug: As the interaction table and the pump name it, lower case.
        unit: UCUM code of all amounts.
        dose_max: Largest single dose.
        rate_max: Largest sum within any stretch of `rate_window_ms`.
        total_max: Largest sum for one patient while the order is valid.
        count_max: Most doses for one patient while the order is valid.
        interval_ms: Shortest time between two doses.
        not_before_ms: Valid from then on, UTC milliseconds.
        expires_ms: Invalid from then on.
        patient: For this patient alone; or
        ward: for every patient of this ward. Exactly one of the two.
        required_signatures: How many distinct people must have signed, 1 or 2.
        allergies: Allergies that forbid it.
        interacting_drugs: Drugs that forbid it.
        bounds: Readings that must lie within limits.
        note: For people.
    """

    format: int = FORMAT
    name: str
    drug: str
    unit: str
    dose_max: int
    rate_max: int
    rate_window_ms: int
    total_max: int
    count_max: int
    interval_ms: int
    not_before_ms: int
    expires_ms: int
    patient: str | None
    ward: str | None
    required_signatures: int
    allergies: tuple[str, ...] = ()
    interacting_drugs: tuple[str, ...] = ()
    bounds: tuple[Bound, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        where = "standing order"
        if self.format != FORMAT:
            raise OrderError(f"{where}: format: expected {FORMAT}, got {self.format!r}")
        for member in ("name", "drug"):
            if not is_bundle_name(getattr(self, member)):
                raise OrderError(
                    f"{where}: {member}: expected letters, digits, '.', '_' and '-', got {getattr(self, member)!r}"
                )
        for word in (self.drug, *self.allergies, *self.interacting_drugs):
            if not isinstance(word, str) or not word.strip() or word != word.strip().lower():
                raise OrderError(f"{where}: drugs and allergies are written in lower case, got {word!r}")
        parse_unit(self.unit, f"{where}: unit")
        for member in ("dose_max", "rate_max", "total_max"):
            check_amount(getattr(self, member), f"{where}: {member}")
        if not 0 < self.dose_max <= self.rate_max <= self.total_max:
            raise OrderError(
                f"{where}: expected 0 < dose_max <= rate_max <= total_max, got {self.dose_max}, {self.rate_max}, "
                f"{self.total_max} millionths"
            )
        for member, least in (("rate_window_ms", 1000), ("interval_ms", 1000), ("count_max", 1)):
            value = getattr(self, member)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _LONGEST_MS:
                raise OrderError(f"{where}: {member}: expected {least} to {_LONGEST_MS}, got {value!r}")
        if not 0 <= self.not_before_ms < self.expires_ms <= self.not_before_ms + _LONGEST_MS:
            raise OrderError(f"{where}: expected expires after not_before, and within 366 days of it")
        if (self.patient is None) == (self.ward is None):
            raise OrderError(f"{where}: expected a patient or a ward, and not both")
        if not str(self.patient or self.ward or "").strip():
            raise OrderError(f"{where}: patient or ward is empty")
        if self.required_signatures not in (1, 2) or isinstance(self.required_signatures, bool):
            raise OrderError(f"{where}: required_signatures: expected 1 or 2, got {self.required_signatures!r}")
        for bound in self.bounds:
            if bound.minimum is None and bound.maximum is None:
                raise OrderError(f"{where}: bound of {bound.code!r} bounds nothing: give min, max or both")
            if bound.minimum is not None and bound.maximum is not None and bound.minimum > bound.maximum:
                raise OrderError(f"{where}: bound of {bound.code!r}: min is above max")
            if not bound.code or not bound.unit or not 1000 <= bound.max_age_ms <= _LONGEST_MS:
                raise OrderError(f"{where}: bound of {bound.code!r}: expected a code, a unit and an age of 1 s or more")

    def to_bytes(self) -> bytes:
        """The one canonical form, which is signed."""
        return canonical_json(asdict(self))

    @property
    def digest(self) -> str:
        """SHA-256 of `to_bytes()`: the order's identity."""
        return sha256_hex(self.to_bytes())

    @classmethod
    def from_bytes(cls, data: bytes) -> StandingOrder:
        """Read what `to_bytes` wrote, and nothing else.

        Raises:
            OrderError: not canonical, or a member is unknown, missing, wrong-typed or impossible.
        """
        try:
            value = json.loads(data)
            if canonical_json(value) != data or not isinstance(value, dict):
                raise ValueError("not an object in canonical form")
            names = {item.name for item in fields(cls)}
            if value.keys() != names:
                raise ValueError(f"unknown or missing members: {', '.join(sorted(value.keys() ^ names))}")
            bounds = tuple(_typed_bound(item) for item in value.pop("bounds"))
            for member in ("allergies", "interacting_drugs"):
                value[member] = tuple(value[member])
            order = cls(**value, bounds=bounds)
            # Catches what Python takes for equal, such as 1.0 for 1, and a wrong type that nothing above looked at.
            if order.to_bytes() != data or not isinstance(order.note, str):
                raise ValueError("a member has the wrong type")
        except OrderError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, InputError) as error:
            raise OrderError(f"standing order is malformed: {error}") from error
        return order


def _typed_bound(data: Mapping[str, Any]) -> Bound:
    bound = Bound(**data)
    if not all(item is None or (isinstance(item, int)) for item in (bound.minimum, bound.maximum)):
        raise TypeError("a bound is not a whole number")
    if not isinstance(bound.max_age_ms, int) or not isinstance(bound.code, str) or not isinstance(bound.unit, str):
        raise TypeError("a bound has a wrong type")
    return bound
