"""What all FHIR resources share: release, identifiers, references, times, labels.

Source: HL7 FHIR R4 (4.0.1) and R5 (5.0.0). Identifiers are UUIDs of version 5 over what a resource is about, so that
the same journal always gives the same resources.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from smallhold.assist.interop.terms import Coding, Terms
from smallhold.records import Provenance

Json = dict[str, Any]

UCUM = "http://unitsofmeasure.org"
PATIENT_URI = "urn:smallhold:patient"
BUNDLE_URI, PROFILE_URI = "urn:smallhold:bundle", "urn:smallhold:profile"
_EXTENSION = "urn:smallhold:extension:"
_NAMESPACE = uuid.UUID("6f0c1c5e-6a53-5c0e-9d5c-5f7d3d1f8a10")
#: v3-ObservationValue, "Artificial Intelligence asserted": the label of HL7's AI Transparency on FHIR guide (a draft).
_AI_ASSERTED = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "AIAST"}
#: v3-ActReason, "test health data": what came from the simulator must never be taken for a patient's.
_TEST_DATA = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HTEST"}


class Release(StrEnum):
    """Release of FHIR; the elements used here are the same in R4 (4.0.1) and R4B."""

    R4 = "r4"
    R5 = "r5"


@dataclass(frozen=True, slots=True)
class Dialect:
    """How resources are written: for which release, with whose codes."""

    release: Release
    terms: Terms

    @property
    def is_r5(self) -> bool:
        """True for R5."""
        return self.release is Release.R5

    def pick(self, r4: str, r5: str) -> str:
        """The name of an element that the releases call differently."""
        return r5 if self.is_r5 else r4


def resource_id(kind: str, *about: object) -> str:
    """The id of a resource: the same for the same words."""
    return str(uuid.uuid5(_NAMESPACE, "\n".join([kind, *map(str, about)])))


def begin(kind: str, *about: object, provenance: Provenance | None = None, is_ai: bool = False) -> Json:
    """An empty resource with its id and labels."""
    labels = ([_AI_ASSERTED] if is_ai else []) + (
        [_TEST_DATA] if provenance is not None and provenance.simulated else []
    )
    resource: Json = {"resourceType": kind, "id": resource_id(kind, *about)}
    return resource | ({"meta": {"security": labels}} if labels else {})


def reference(resource: Mapping[str, Any]) -> Json:
    """A literal reference."""
    return {"reference": f"{resource['resourceType']}/{resource['id']}"}


def patient_reference(patient: str) -> Json:
    """A logical reference: the pseudonym is an identifier here, not the id of a Patient resource that exists."""
    return {"type": "Patient", "identifier": {"system": PATIENT_URI, "value": patient}}


def person(name: str) -> Json:
    """A reference to somebody of whom the name alone is known."""
    return {"display": name}


def observation_key(provenance: Provenance, run_id: str, patient: str, observation: str) -> tuple[str, ...]:
    """What an Observation's id is made of; a replayed stay is played anew in every run, a live reading is one."""
    return (run_id if provenance.clock == "stay" else "", patient, observation)


def observation_reference(provenance: Provenance, run_id: str, patient: str, observation: str) -> Json:
    """A reference to a reading."""
    key = observation_key(provenance, run_id, patient, observation)
    return {"reference": f"Observation/{resource_id('Observation', *key)}"}


def concept(codings: Iterable[Coding] = (), text: str = "") -> Json:
    """A CodeableConcept."""
    coded = [_coding(*one) for one in codings]
    return ({"coding": coded} if coded else {}) | ({"text": text} if text else {})


def code(system: str, value: str, display: str = "") -> Json:
    """A CodeableConcept of one code."""
    return concept([(system, value, display)])


def quantity(value: float | int, unit: str) -> Json:
    """A Quantity in UCUM."""
    return {"value": value, "unit": unit, "system": UCUM, "code": unit}


def extension(name: str, **value: Any) -> Json:
    """One extension of ours: `extension("abstained", valueBoolean=True)`."""
    return {"url": _EXTENSION + name, **value}


def instant(t_ms: int) -> str:
    """UTC with milliseconds; a valid `instant` and `dateTime` of both releases."""
    return datetime.fromtimestamp(t_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{t_ms % 1000:03d}Z"


def at(resource: Json, element: str, t_ms: int, provenance: Provenance) -> Json:
    """Say when: in `element` for a wall clock; for a replayed stay, whose clock began at 0, in an extension."""
    if provenance.clock == "stay":
        add_extension(resource, extension("stay-time", valueQuantity=quantity(t_ms, "ms")))
    else:
        resource[element] = instant(t_ms)
    return resource


def add_extension(resource: Json, *more: Json) -> Json:
    """Add extensions of ours."""
    if more:
        resource.setdefault("extension", []).extend(more)
    return resource


def bundle_of(resources: Iterable[Json], *about: object) -> Json:
    """A Bundle of type collection; references between its resources become those of its entries."""
    held = list(resources)
    known = {f"{one['resourceType']}/{one['id']}": f"urn:uuid:{one['id']}" for one in held}
    entries = [{"fullUrl": f"urn:uuid:{one['id']}", "resource": _relink(one, known)} for one in held]
    return {**begin("Bundle", *about), "type": "collection", "entry": entries}


def _relink(value: Any, known: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {
            name: known.get(item, item) if name == "reference" and isinstance(item, str) else _relink(item, known)
            for name, item in value.items()
        }
    return [_relink(item, known) for item in value] if isinstance(value, list) else value


def _coding(system: str, value: str, display: str) -> Json:
    return {"system": system, "code": value} | ({"display": display} if display else {})
