"""What requests carry: every member typed and bounded, unknown ones refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from smallhold.assist.messages import LONGEST_TEXT
from smallhold.assist.orders.amount import UNITS

#: What a JavaScript number holds exactly.
_LARGEST = 2**53 - 1
_PLAIN = r"^[^\x00-\x1f\x7f]*$"

Name = Annotated[str, Field(min_length=1, max_length=64, pattern=_PLAIN)]
Identity = Annotated[str, Field(min_length=1, max_length=200, pattern=_PLAIN)]
Reason = Annotated[str, Field(min_length=1, max_length=500, pattern=_PLAIN)]
OptionalReason = Annotated[str, Field(max_length=500, pattern=_PLAIN)]
Moment = Annotated[int, Field(ge=1, le=_LARGEST)]
Unit = Literal["ug", "mg", "g", "mL", "mmol", "U", "mU"]
if tuple(Unit.__args__) != UNITS:  # type: ignore[attr-defined]  # pragma: no cover
    raise AssertionError("Unit and UNITS differ")


class Body(BaseModel):
    """A request's body: strict, closed."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Credentials(Body):
    """Name and password."""

    name: Name
    password: Annotated[str, Field(min_length=1, max_length=256)]

    def __repr__(self) -> str:
        """Without the password."""
        return f"Credentials({self.name!r})"

    __str__ = __repr__


class Acknowledge(Body):
    """Which alert was seen."""

    condition: Identity


class Inactivate(Body):
    """Which signals are switched off, and for how long."""

    state: Literal["audio paused", "alarm paused", "audio off", "alarm off"]
    condition: Annotated[str, Field(max_length=200, pattern=_PLAIN)] = ""
    reason: OptionalReason = ""
    seconds: Annotated[int, Field(ge=1, le=86_400)] | None = None


class Reactivate(Body):
    """Which signals are switched on again."""

    state: Literal["audio paused", "alarm paused", "audio off", "alarm off"]
    condition: Annotated[str, Field(max_length=200, pattern=_PLAIN)] = ""


class AnswerProposal(Body):
    """What a person made of a proposal; an override needs a reason."""

    response: Literal["accept", "override", "snooze"]
    reason: OptionalReason = ""


class AnswerAsk(Body):
    """What a person answers to a question."""

    answer: Literal["agree", "refuse"]
    reason: OptionalReason = ""


class Prescribe(Body):
    """A prescription; amounts in whole steps of the unit, times in the ward's milliseconds."""

    drug: Name
    dose: Annotated[int, Field(ge=1, le=1_000_000)]
    unit: Unit
    route: Literal["oral", "iv", "im", "sc", "inhaled", "rectal", "topical"]
    kind: Literal["scheduled", "as_needed", "emergency"]
    start_ms: Moment | None = None
    end_ms: Moment | None = None
    times_of_day: Annotated[list[Annotated[int, Field(ge=0, lt=1440)]], Field(max_length=24)] = []
    every_minutes: Annotated[int, Field(ge=5, le=10_080)] | None = None
    zone: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_+\-/]+$")] = "UTC"
    min_interval_minutes: Annotated[int, Field(ge=0, le=10_080)] = 0
    max_daily_dose: Annotated[int, Field(ge=1, le=100_000_000)] | None = None

    def values(self) -> dict[str, Any]:
        """Arguments of `Prescription`, those that the console adds left out."""
        from smallhold.assist.medication import Kind

        return {
            "drug": self.drug,
            "dose": self.dose,
            "unit": self.unit,
            "route": self.route,
            "kind": Kind(self.kind),
            "start_ms": self.start_ms,
            "end_ms": self.end_ms,
            "times_of_day": tuple(self.times_of_day),
            "every_ms": None if self.every_minutes is None else self.every_minutes * 60_000,
            "zone": self.zone,
            "min_interval_ms": self.min_interval_minutes * 60_000,
            "max_daily_dose": self.max_daily_dose,
        }


class Stop(Body):
    """Why a prescription ends."""

    reason: Reason


class Give(Body):
    """Which dose is being given now; a witness, with their own password, overrides a caution."""

    prescription: Identity
    slot_ms: Moment | None = None
    witness: Credentials | None = None
    reason: OptionalReason = ""


class Settle(Body):
    """Which planned dose is not given, and why."""

    prescription: Identity
    slot_ms: Moment
    state: Literal["refused", "held"]
    reason: Reason


class Write(Body):
    """A message to the patient."""

    text: Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT, pattern=r"^[^\x00-\x09\x0b-\x1f\x7f]*$")]


class AcknowledgeDrift(Body):
    """What somebody found when they looked into it."""

    reason: Reason


class Failure(BaseModel):
    """An error: what, where, expected and got; and what to do."""

    error: str
    hint: str | None = None


class Done(BaseModel):
    """It happened."""

    done: Literal[True] = True


class Prescribed(BaseModel):
    """What became of a prescription."""

    id: str
    is_draft: bool
    cautions: list[str]


class SessionView(BaseModel):
    """Who is logged in, and what the page needs."""

    name: str
    role: Literal["nurse", "physician", "officer", "engineer"]
    rights: list[str]
    csrf: str
    left_seconds: float
