"""Judges of our FHIR: the models of `fhir.resources`, and the required value sets, which those do not enforce."""

from __future__ import annotations

from functools import cache
from typing import Any

from fhir.resources import get_fhir_model_class as r5_class
from fhir.resources.R4B import get_fhir_model_class as r4_class

#: Required bindings, from hl7.org/fhir/R4 and /R5, pages `valueset-<name>`: release -> path of the element -> codes.
_EVENT = "preparation in-progress not-done on-hold stopped completed entered-in-error unknown"
_OBSERVATION = "registered preliminary final amended corrected cancelled entered-in-error unknown"
_PRIORITY = "routine urgent asap stat"
_INTENT = "proposal plan order original-order reflex-order filler-order instance-order option"
_BUNDLE = "document message transaction transaction-response batch batch-response history searchset collection"
_BOTH = {
    "Observation.status": _OBSERVATION,
    "RiskAssessment.status": _OBSERVATION,
    "DetectedIssue.severity": "high moderate low",
    "Communication.status": _EVENT,
    "Communication.priority": _PRIORITY,
    "CommunicationRequest.status": "draft active on-hold revoked completed entered-in-error unknown",
    "MedicationRequest.priority": _PRIORITY,
    "MedicationAdministration.status": "in-progress not-done on-hold completed entered-in-error stopped unknown",
    "AuditEvent.action": "C R U D E",
    "Bundle.type": _BUNDLE,
    "MedicationRequest.dosageInstruction.timing.repeat.periodUnit": "s min h d wk mo a",
}
REQUIRED = {
    "r4": _BOTH
    | {
        "DetectedIssue.status": _OBSERVATION,
        "MedicationRequest.status": "active on-hold cancelled completed entered-in-error stopped draft unknown",
        "MedicationRequest.intent": _INTENT,
        "Provenance.entity.role": "derivation revision quotation source removal",
        "Device.status": "active inactive entered-in-error unknown",
        "Device.deviceName.type": "udi-label-name user-friendly-name patient-reported-name manufacturer-name "
        "model-name other",
        "AuditEvent.outcome": "0 4 8 12",
        "Consent.status": "draft proposed active rejected inactive entered-in-error",
        "Consent.provision.type": "deny permit",
    },
    "r5": _BOTH
    | {
        "Observation.status": _OBSERVATION,
        "DetectedIssue.status": "preliminary final entered-in-error mitigated",
        "CommunicationRequest.intent": "proposal plan directive order original-order reflex-order filler-order "
        "instance-order option",
        "MedicationRequest.status": "active on-hold ended stopped completed cancelled entered-in-error draft unknown",
        "MedicationRequest.intent": _INTENT,
        "Provenance.entity.role": "revision quotation source instantiates removal",
        "Device.status": "active inactive entered-in-error",
        "Device.name.type": "registered-name user-friendly-name patient-reported-name",
        "Consent.status": "draft active inactive not-done entered-in-error unknown",
        "Consent.decision": "deny permit",
    },
}


@cache
def _model(release: str, kind: str) -> Any:
    return (r4_class if release == "r4" else r5_class)(kind)


def check(resource: dict[str, Any], release: str) -> None:
    """Raises when it is not what the release says."""
    kind = resource["resourceType"]
    _model(release, kind).model_validate(resource)
    _check_codes(resource, kind, release)


def _check_codes(value: Any, kind: str, release: str) -> None:
    if isinstance(value, list):
        for one in value:
            _check_codes(one, kind, release)
    elif isinstance(value, dict):
        kind = value.get("resourceType", kind)  # of a Bundle's entry its own
        for name, item in value.items():
            allowed = REQUIRED[release].get(f"{kind}.{name}")
            if allowed is not None and isinstance(item, str):
                assert item in allowed.split(), f"{release} {kind}.{name}: {item!r}"
            if name in ("status", "severity", "intent", "decision") and isinstance(item, str):
                assert allowed is not None, f"{release} {kind}.{name} has a required value set that is not listed here"
            _check_codes(item, f"{kind}.{name}", release)


def references(value: Any) -> list[str]:
    """Every literal reference within."""
    if isinstance(value, list):
        return [one for item in value for one in references(item)]
    if isinstance(value, dict):
        own = [value["reference"]] if isinstance(value.get("reference"), str) else []
        return own + [one for item in value.values() for one in references(item)]
    return []
