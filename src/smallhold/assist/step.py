"""One event at one bed and everything that followed from it: the unit that is journalled.

A `Step` becomes one canonical JSON payload and can be read back. All of its records share the event's provenance,
which the payload therefore holds once; a record with another one (an alert that was raised earlier) keeps its own.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

from smallhold.assist.alarm_condition import AlarmChange, Change
from smallhold.assist.alarm_inactivation import InactivationEvent
from smallhold.assist.drift import DriftChange, DriftState
from smallhold.errors import InputError, JournalError
from smallhold.records import (
    ActionClass,
    Alert,
    Ask,
    Card,
    Effect,
    GateResult,
    Observation,
    Proposal,
    Provenance,
    Record,
    Risk,
    ScoreSet,
    Verdict,
    Window,
    canonical_json,
    from_json,
    sha256_hex,
    to_json,
)

R = TypeVar("R")

#: The model that watches every patient, among the models beside a bed.
GENERAL = ""
SCHEMA = "smallhold.step/1"
#: The same with `task`: the end of a specialist's bin. Readers of version 1 alone refuse it instead of taking a
#: specialist's answer for the general model's.
SPECIALIST_SCHEMA = "smallhold.step/2"
_TREATING = (ActionClass.A3, ActionClass.A4, ActionClass.A5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One event and its consequences.

    Attributes:
        run_id: The run this belongs to.
        patient: Pseudonymous identifier.
        number: 0, 1, 2, ... within the run and the patient.
        t_ms: When the event was handled, on the clock of the observations.
        provenance: Shared by all records of this step.
        observation: The reading, None at the end of a bin.
        gate: What the gate said of it.
        window: The time bin that ended, None when a reading came.
        task: Whose bin that was: a specialist's task, or `GENERAL`.
        scores: The deterministic scores after the event.
        risk: The model's validated answer; None when it was not asked or gave none.
        card: The explanation, when the model's alert called people.
        model_error: Why the model gave no answer at the end of this bin.
        explain_error: Why there is no explanation where one was asked for.
        is_degraded: The floor speaks alone: the model was late, unsure, invalid or down, or there is none.
        is_silent: The model is on trial: what it said, and that it failed, is on record and shown to nobody.
        proposals: What a source newly suggests; a suggestion that only stands is not repeated.
        verdicts: What the policy made of each of them, in the same order.
        asks: Questions to people that follow.
        changes: What happened to alerts.
        withheld: What would have happened to alerts of the model alone, had it been allowed to call people.
        drift: Changes of the drift monitors since the last step of the ward.
        inactivations: Beginnings and ends of what people switched off, since the last step or alarm entry of the bed.
        latency_ms: `step`, `decision`, `explain` and `policy` (of one verdict), as far as they happened; differs from
            run to run.
    """

    run_id: str
    patient: str
    number: int
    t_ms: int
    provenance: Provenance
    observation: Observation | None = None
    gate: GateResult | None = None
    window: Window | None = None
    task: str = GENERAL
    scores: ScoreSet
    risk: Risk | None = None
    card: Card | None = None
    model_error: str | None = None
    explain_error: str | None = None
    is_degraded: bool
    is_silent: bool = False
    proposals: tuple[Proposal, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    asks: tuple[Ask, ...] = ()
    changes: tuple[AlarmChange, ...] = ()
    withheld: tuple[AlarmChange, ...] = ()
    drift: tuple[DriftChange, ...] = ()
    inactivations: tuple[InactivationEvent, ...] = ()
    latency_ms: Mapping[str, float]

    @property
    def announced(self) -> tuple[Alert, ...]:
        """Alerts that people are to be called for."""
        return tuple(change.alert for change in self.changes if change.is_announced)

    @property
    def must_checkpoint(self) -> bool:
        """True when an order was proposed or a treatment may start: such a step is signed at once."""
        return any(v.action in _TREATING and v.effect is not Effect.FORBID for v in self.verdicts)

    def shown(self) -> Step:
        """The step as people may see it: a model on trial has said nothing. Journal and report take the whole."""
        if not self.is_silent:
            return self
        return replace(self, risk=None, card=None, model_error=None, explain_error=None, withheld=())

    def without_latency(self) -> Step:
        """The same step with everything measured by the stopwatch removed; two runs agree on it."""
        risk = None if self.risk is None else replace(self.risk, latency_ms=0.0)
        return replace(self, risk=risk, latency_ms={})

    def to_payload(self) -> bytes:
        """Canonical JSON for one journal entry."""
        packed = {
            "observation": _pack_observation(self.observation, self.provenance),
            **{name: _pack(getattr(self, name), self.provenance) for name in _RECORDS},
            **{name: [_pack(item, self.provenance) for item in getattr(self, name)] for name in _LISTS},
            **{name: [pack_change(item, self.provenance) for item in getattr(self, name)] for name in _CHANGES},
            "inactivations": [item.to_json() for item in self.inactivations],
            "drift": [asdict(item) for item in self.drift],
            "is_silent": self.is_silent,
        }
        plain = {name: getattr(self, name) for name in _PLAIN}
        provenance = {item.name: getattr(self.provenance, item.name) for item in fields(Provenance)}
        latency_ms = {name: round(value, 4) for name, value in self.latency_ms.items()}
        shared = {"provenance": provenance, "latency_ms": latency_ms}
        # A ward without specialists writes what it always wrote.
        schema = {"schema": SCHEMA} if self.task == GENERAL else {"schema": SPECIALIST_SCHEMA, "task": self.task}
        return canonical_json({**schema, **shared, **plain, **_without_empty(packed)})

    @classmethod
    def from_payload(cls, payload: bytes) -> Step:
        """Read back what `to_payload` wrote.

        Raises:
            JournalError: not a step of this version, or a member is missing, unknown or of the wrong type.
        """
        try:
            return _read(json.loads(payload))
        except (ValueError, KeyError, TypeError, AttributeError, InputError) as error:
            raise JournalError(f"a journalled step cannot be read: {error}") from error


_PLAIN: dict[str, type | types.UnionType] = {
    "run_id": str,
    "patient": str,
    "number": int,
    "t_ms": int,
    "model_error": str | None,
    "explain_error": str | None,
    "is_degraded": bool,
}
_RECORDS: dict[str, type] = {"gate": GateResult, "window": Window, "scores": ScoreSet, "risk": Risk, "card": Card}
_LISTS: dict[str, type] = {"proposals": Proposal, "verdicts": Verdict, "asks": Ask}
_CHANGES = ("changes", "withheld")


def trace_id(run_id: str, patient: str, number: int) -> str:
    """The trace of one event: the same for the same run, patient and event number."""
    return sha256_hex(f"{run_id}|{patient}|{number}".encode())[:32]


def _without_empty(packed: dict[str, Any]) -> dict[str, Any]:
    return {name: item for name, item in packed.items() if item}


def _pack(record: Any, shared: Provenance) -> dict[str, Any] | None:
    if record is None:
        return None
    value = to_json(record)
    if record.provenance == shared:
        del value["provenance"]
    return value


def pack_change(item: AlarmChange, shared: Provenance) -> dict[str, Any]:
    """A change of an alert as a JSON object, without the provenance that it shares."""
    extra = {"role": item.role, "is_withheld": item.is_withheld}
    return {
        "change": item.change.value,
        "t_ms": item.t_ms,
        "actor": item.actor,
        "alert": _pack(item.alert, shared),
        **_without_empty(extra),
    }


def _pack_observation(observation: Observation | None, shared: Provenance) -> dict[str, Any] | None:
    value = _pack(observation, shared)
    if value is not None and not math.isfinite(value["value"]):
        value["value"] = str(value["value"])  # JSON has no NaN, and a refused reading must be on record all the same
    return value


def _unpack(cls: type[R], value: dict[str, Any], shared: dict[str, Any]) -> R:
    record: Record = from_json({"provenance": shared, **value})
    if not isinstance(record, cls):
        raise InputError(f"expected a {cls.__name__}, got {value['schema']!r}")
    return record


def unpack_change(item: dict[str, Any], shared: dict[str, Any]) -> AlarmChange:
    """Read back what `pack_change` wrote; KeyError, TypeError, ValueError or InputError where it is not that."""
    alert = _unpack(Alert, item["alert"], shared)
    extra = {name: item[name] for name in ("role", "is_withheld") if name in item}
    return AlarmChange(Change(item["change"]), item["t_ms"], alert, item["actor"], **extra)


def _unpack_drift(item: dict[str, Any]) -> DriftChange:
    return DriftChange(**{**item, "state": DriftState(item["state"])})


def _read(value: Any) -> Step:
    if not isinstance(value, dict) or value.get("schema") not in (SCHEMA, SPECIALIST_SCHEMA):
        raise InputError(f"schema: expected {SCHEMA!r} or {SPECIALIST_SCHEMA!r}")
    task = GENERAL
    if value["schema"] == SPECIALIST_SCHEMA:
        task = value["task"]
        if not isinstance(task, str) or not task or "window" not in value:
            raise InputError("task: expected the name of a task, and the window that ended")
    elif "task" in value:
        raise InputError(f"task: expected the schema {SPECIALIST_SCHEMA!r}")
    unknown = set(value) - {item.name for item in fields(Step)} - {"schema"}
    if unknown:
        raise InputError(f"unknown members {sorted(unknown)}")
    for name, cls in _PLAIN.items():
        if not isinstance(value[name], cls):
            raise InputError(f"{name}: expected {cls}, got {value[name]!r}")
    if not isinstance(value.get("is_silent", False), bool):
        raise InputError(f"is_silent: expected true or false, got {value['is_silent']!r}")
    shared = value["provenance"]
    observation = value.get("observation")
    if observation is not None and isinstance(observation["value"], str):
        observation = {**observation, "value": float(observation["value"])}
    records: dict[str, Any] = {n: _unpack(cls, value[n], shared) for n, cls in _RECORDS.items() if n in value}
    lists: dict[str, Any] = {
        **{name: tuple(_unpack(cls, item, shared) for item in value.get(name, ())) for name, cls in _LISTS.items()},
        **{name: tuple(unpack_change(item, shared) for item in value.get(name, ())) for name in _CHANGES},
    }
    return Step(
        **{name: value[name] for name in _PLAIN},
        provenance=Provenance(**shared),
        task=task,
        is_silent=value.get("is_silent", False),
        observation=None if observation is None else _unpack(Observation, observation, shared),
        **records,
        **lists,
        drift=tuple(_unpack_drift(item) for item in value.get("drift", ())),
        inactivations=tuple(map(InactivationEvent.from_json, value.get("inactivations", ()))),
        latency_ms=value["latency_ms"],
    )
