"""Prescriptions, proposed orders and doses as FHIR resources, R4 and R5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smallhold.assist.interop.fhir_base import (
    Dialect,
    Json,
    begin,
    extension,
    instant,
    patient_reference,
    person,
    quantity,
    reference,
    resource_id,
)
from smallhold.assist.interop.fhir_out import device
from smallhold.assist.medication.prescription import Kind, Prescription
from smallhold.assist.orders.amount import MICRO
from smallhold.records import Order, Provenance

_ORDER_URI = "urn:smallhold:standing-order"


def order_proposal(order: Order, dialect: Dialect) -> Json:
    """An order that a machine proposes (A3): `intent` proposal, `status` draft. It is nobody's prescription."""
    resource = begin(
        "MedicationRequest", order.provenance.trace_id, order.drug, provenance=order.provenance, is_ai=True
    )
    return resource | {
        "status": "draft",
        "intent": "proposal",
        **_drug(order.drug, dialect),
        "subject": patient_reference(order.patient),
        "requester": reference(device(order.provenance, dialect, is_model=True)),
        "authoredOn": instant(order.t_ms),
        "dosageInstruction": [{"doseAndRate": [{"doseQuantity": quantity(order.dose / MICRO, order.unit)}]}],
    }


def medication_request(item: Prescription, dialect: Dialect, *, stopped_ms: int | None = None) -> Json:
    """What persons prescribed: `intent` order."""
    resource = begin("MedicationRequest", item.patient, item.id)
    dosage: Json = {
        "route": {"text": item.route},
        "doseAndRate": [{"doseQuantity": quantity(item.dose, item.unit)}],
    }
    timing = _timing(item)
    if timing:
        dosage["timing"] = {"repeat": timing}
    if item.times_of_day:
        dosage["extension"] = [extension("zone", valueString=item.zone)]
    if item.kind is Kind.AS_NEEDED:
        dosage[dialect.pick("asNeededBoolean", "asNeeded")] = True
    if item.max_daily_dose is not None:
        ceiling = {"numerator": quantity(item.max_daily_dose, item.unit), "denominator": quantity(24, "h")}
        dosage["maxDosePerPeriod"] = [ceiling] if dialect.is_r5 else ceiling
    resource |= {
        "identifier": [{"system": "urn:smallhold:prescription", "value": item.id}],
        "status": "active" if stopped_ms is None else "stopped",
        "intent": "order",
        "priority": "stat" if item.kind is Kind.EMERGENCY else "routine",
        **_drug(item.drug, dialect),
        "subject": patient_reference(item.patient),
        "requester": person(", ".join(item.prescribers)),
        "authoredOn": instant(item.start_ms),
        "dosageInstruction": [dosage],
    }
    return resource


def dose_given(dose: Mapping[str, Any], dialect: Dialect, *, withheld: str = "") -> Json:
    """A dose under a standing order, from its journal entry (kind `dose`).

    Args:
        dose: The payload.
        dialect: Release and codes.
        withheld: Why it counts as given and was not, where that is on record.
    """
    provenance = Provenance(
        trace_id=dose["trace_id"], bundle=dose["bundle"], profile=dose["profile"], simulated=dose["simulated"]
    )
    resource = begin("MedicationAdministration", dose["patient"], "dose", dose["id"], provenance=provenance)
    resource |= {
        "status": "not-done" if withheld else "completed",
        **_drug(dose["drug"], dialect),
        "subject": patient_reference(dose["patient"]),
        _when(dialect): instant(dose["t_ms"]),
        "performer": [_performer(reference(device(provenance, dialect, is_model=False)), dialect)]
        + [_performer(person(name), dialect) for name in dose["confirmed_by"]],
        "request": {"type": "MedicationRequest", "identifier": {"system": _ORDER_URI, "value": dose["order"]}},
    }
    if withheld:
        return resource | {"statusReason": [{"text": withheld}]}
    return resource | {"dosage": {"dose": quantity(dose["dose"] / MICRO, dose["unit"])}}


def administration(
    item: Prescription,
    event: Mapping[str, Any],
    dialect: Dialect,
    *,
    is_confirmed: bool = False,
) -> Json:
    """A prescribed dose that was given, refused or held, from the event of the medication board.

    Args:
        item: What was prescribed.
        event: `given` or `settled`.
        dialect: Release and codes.
        is_confirmed: The patient said that they took it.
    """
    is_given = event["event"] == "given"
    key = event["t_ms"] if is_given else event["slot_ms"]
    resource = begin("MedicationAdministration", item.patient, item.id, event["event"], key)
    resource |= {
        "status": "completed" if is_given else "not-done",
        **_drug(item.drug, dialect),
        "subject": patient_reference(item.patient),
        _when(dialect): instant(event["t_ms"]),
        "performer": [_performer(person(event["actor"]), dialect)],
        "request": {"reference": f"MedicationRequest/{resource_id('MedicationRequest', item.patient, item.id)}"},
    }
    if is_given:
        if event["witness"]:
            resource["performer"].append(_performer(person(event["witness"]), dialect))
        resource["dosage"] = {"route": {"text": item.route}, "dose": quantity(event["dose"], item.unit)}
        if is_confirmed:
            resource["note"] = [{"text": "The patient confirmed that they took it."}]
        return resource
    return resource | {"statusReason": [{"text": f"{event['state']}: {event['reason']}"}]}


def _drug(drug: str, dialect: Dialect) -> Json:
    named = {"text": drug}
    return {"medication": {"concept": named}} if dialect.is_r5 else {"medicationCodeableConcept": named}


def _when(dialect: Dialect) -> str:
    """R5 spells it with one r."""
    return dialect.pick("effectiveDateTime", "occurenceDateTime")


def _performer(who: Json, dialect: Dialect) -> Json:
    return {"actor": {"reference": who} if dialect.is_r5 else who}


def _timing(item: Prescription) -> Json:
    bounds: Json = {"start": instant(item.start_ms)}
    if item.end_ms is not None:
        bounds["end"] = instant(item.end_ms)
    if item.times_of_day:
        times = [f"{minute // 60:02d}:{minute % 60:02d}:00" for minute in item.times_of_day]
        # FHIR: with timeOfDay it is every day, and neither frequency nor period may stand beside it.
        return {"boundsPeriod": bounds, "timeOfDay": times}
    if item.every_ms is not None:
        return {"boundsPeriod": bounds, "frequency": 1, "period": item.every_ms / 60_000, "periodUnit": "min"}
    return {}
