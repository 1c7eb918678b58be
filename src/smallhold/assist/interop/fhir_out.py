"""A ward's records as FHIR resources, R4 and R5, from plain JSON templates; functions of their arguments.

What a model said carries the security label AIAST, what the simulator made carries HTEST. A model, and the floor, are
Devices. Provenance names the device, the policy profile and the readings; its shape follows HL7's AI Transparency on
FHIR guide, which is a ballot draft, so that no conformance to its profiles is claimed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from smallhold.assist.interop.fhir_base import (
    BUNDLE_URI,
    PROFILE_URI,
    Dialect,
    Json,
    add_extension,
    at,
    begin,
    code,
    concept,
    extension,
    instant,
    observation_key,
    patient_reference,
    person,
    quantity,
    reference,
    resource_id,
)
from smallhold.assist.messages import Message
from smallhold.records import (
    Alert,
    AlertState,
    Ask,
    AuditEntry,
    Evidence,
    Observation,
    Priority,
    Provenance,
    Risk,
    Score,
    ScoreSet,
)

#: FHIR DetectedIssue.severity (required: high, moderate, low). INFO is below the scale and has none.
SEVERITY = {Priority.HIGH: "high", Priority.MEDIUM: "moderate", Priority.LOW: "low"}
#: FHIR request-priority (required: routine, urgent, asap, stat), least urgent first.
URGENCY = {Priority.HIGH: "stat", Priority.MEDIUM: "asap", Priority.LOW: "urgent", Priority.INFO: "routine"}

_CATEGORY_URI = "http://terminology.hl7.org/CodeSystem/observation-category"
_COMMUNICATION_URI = "http://terminology.hl7.org/CodeSystem/communication-category"
_ABSENT_URI = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
_AGENT_URI = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
_OPERATION_URI = "http://terminology.hl7.org/CodeSystem/v3-DataOperation"
_DICOM_URI = "http://dicom.nema.org/resources/ontology/DCM"
CONDITION_URI, QUESTION_URI = "urn:smallhold:condition", "urn:smallhold:question"
MODEL_URI, KIND_URI = "urn:smallhold:model", "urn:smallhold:journal-kind"
ENTRY_URI, TRACE_URI = "urn:smallhold:journal-entry", "urn:smallhold:trace"


def device(provenance: Provenance, dialect: Dialect, *, is_model: bool) -> Json:
    """The software that spoke: the model of a bundle, or the deterministic scores and rules.

    Args:
        provenance: Whose bundle digest identifies the model.
        dialect: Release and codes.
        is_model: The model, otherwise the floor; without a bundle there is only the floor.
    """
    bundle = provenance.bundle if is_model else None
    resource = begin("Device", "floor" if bundle is None else bundle)
    name = "Smallhold, deterministic scores" if bundle is None else f"Smallhold, bundle {bundle[:12]}"
    resource |= {
        "status": "active",
        "manufacturer": "Smallhold",
        dialect.pick("deviceName", "name"): [
            {dialect.pick("name", "value"): name, "type": dialect.pick("model-name", "registered-name")}
        ],
    }
    if bundle is not None:
        resource["identifier"] = [{"system": BUNDLE_URI, "value": bundle}]
    return resource


def observation(record: Observation, dialect: Dialect, run_id: str) -> Json:
    """A reading; what `sources.fhir.read_observation` reads back as the same code, value, unit and time."""
    terms = dialect.terms
    key = observation_key(record.provenance, run_id, record.patient, record.id)
    category = terms.category(record.code)
    resource = begin("Observation", *key, provenance=record.provenance)
    resource |= {
        "identifier": [{"system": "urn:smallhold:reading", "value": record.id}],
        "status": "final",
        **({"category": [code(_CATEGORY_URI, category)]} if category else {}),
        "code": concept(terms.parameter(record.code), terms.title(record.code)),
        "subject": patient_reference(record.patient),
        "valueQuantity": quantity(record.value, record.unit),
    }
    if record.device:
        resource["device"] = {"type": "Device", "identifier": {"value": record.device}}
    return at(resource, "effectiveDateTime", record.t_measured_ms, record.provenance)


def score_observation(scores: ScoreSet, score: Score, dialect: Dialect, basis: Sequence[Json] = ()) -> Json:
    """A score's total, with a component for each part; a missing part says so instead of counting 0 silently."""
    resource = begin("Observation", "score", scores.provenance.trace_id, score.name, provenance=scores.provenance)
    missing = set(score.missing)
    components = []
    for part in sorted({*score.parts, *missing}):
        coded: Json = {"code": concept(dialect.terms.part(score.name, part))}
        if part in missing:
            coded["dataAbsentReason"] = code(_ABSENT_URI, "unknown")
        else:
            coded["valueQuantity"] = quantity(score.parts[part], "{score}")
        components.append(coded)
    resource |= {
        "status": "final",
        "code": concept(dialect.terms.score(score.name), score.name.upper()),
        "subject": patient_reference(scores.patient),
        "device": reference(device(scores.provenance, dialect, is_model=False)),
        "valueQuantity": quantity(score.total, "{score}"),
        "interpretation": [{"text": score.band}],
    }
    if components:
        resource["component"] = components
    if missing:
        resource["note"] = [{"text": f"Lower bound: no usable reading of {', '.join(sorted(missing))}."}]
    if basis:
        resource["derivedFrom"] = list(basis)
    return at(resource, "effectiveDateTime", scores.t_ms, scores.provenance)


def risk_assessment(risk: Risk, dialect: Dialect, basis: Sequence[Json] = ()) -> Json:
    """What a model said: every closed choice with its calibrated probability (0 to 1), and whether it abstained."""
    provenance = risk.provenance
    question = f"{risk.task}.{risk.field}"
    resource = begin("RiskAssessment", provenance.trace_id, question, provenance=provenance, is_ai=True)
    said = "abstains: more than one answer is possible" if risk.has_abstained else f"answers {risk.choice}"
    add_extension(resource, extension("abstained", valueBoolean=risk.has_abstained))
    resource |= {
        "status": "final",
        "method": code(MODEL_URI, risk.model),
        "code": code(QUESTION_URI, question),
        "subject": patient_reference(risk.patient),
        "performer": reference(device(provenance, dialect, is_model=True)),
        "prediction": [
            {"outcome": code(f"{QUESTION_URI}:{question}", choice), "probabilityDecimal": round(p, 6)}
            for choice, p in risk.probabilities.items()
        ],
        "note": [{"text": f"The model {said}. Rests on {risk.horizon_h} h of record."}],
    }
    if basis:
        resource["basis"] = list(basis)
    return at(resource, "occurrenceDateTime", risk.t_ms, provenance)


def detected_issue(
    alert: Alert,
    dialect: Dialect,
    *,
    evidence: Sequence[Json] = (),
    implicated: Sequence[Json] = (),
    mitigations: Iterable[tuple[int, str]] = (),
) -> Json:
    """An alert as it stands.

    Args:
        alert: The alert.
        dialect: Release and codes.
        evidence: References to readings.
        implicated: References to what the model said.
        mitigations: Time and name of whoever acknowledged it.
    """
    is_model = alert.source == "model"
    resource = begin("DetectedIssue", alert.patient, alert.id, provenance=alert.provenance, is_ai=is_model)
    add_extension(
        resource,
        extension("alert-state", valueCode=alert.state.value),
        extension("alert-kind", valueCode=alert.kind),
        extension("alert-priority", valueCode=alert.priority.value),
        extension("degraded", valueBoolean=alert.is_degraded),
    )
    done = [_mitigation(t_ms, actor, alert.provenance) for t_ms, actor in mitigations]
    is_seen = dialect.is_r5 and alert.state in (AlertState.ACKNOWLEDGED, AlertState.RESOLVED) and bool(done)
    resource |= {
        "status": "mitigated" if is_seen else "final",
        "code": concept([(CONDITION_URI, alert.condition, "")], alert.message),
        dialect.pick("patient", "subject"): patient_reference(alert.patient),
        "author": reference(device(alert.provenance, dialect, is_model=is_model)),
        "detail": alert.message,
    }
    if alert.priority in SEVERITY:
        resource["severity"] = SEVERITY[alert.priority]
    if evidence:
        resource["evidence"] = [{"detail": list(evidence)}]
    if implicated:
        resource["implicated"] = list(implicated)
    if done:
        resource["mitigation"] = done
    return at(resource, "identifiedDateTime", alert.t_ms, alert.provenance)


def alert_communication(alert: Alert, dialect: Dialect, t_ms: int, trace: str, role: str = "") -> Json:
    """The call of staff for an alert."""
    is_model = alert.source == "model"
    resource = begin("Communication", trace, alert.id, provenance=alert.provenance, is_ai=is_model)
    resource |= {
        "status": "completed",
        "category": [code(_COMMUNICATION_URI, "alert")],
        "priority": URGENCY[alert.priority],
        "subject": patient_reference(alert.patient),
        "about": [{"reference": f"DetectedIssue/{resource_id('DetectedIssue', alert.patient, alert.id)}"}],
        "sender": reference(device(alert.provenance, dialect, is_model=is_model)),
        "recipient": [person(role or "ward staff")],
        "payload": [_payload(alert.message, dialect)],
    }
    return at(resource, "sent", t_ms, alert.provenance)


def message_communication(message: Message, dialect: Dialect) -> Json:
    """A message to a patient, from a person or from the machine; completed once their device has shown it."""
    resource = begin("Communication", message.patient, message.id)
    floor = device(Provenance(trace_id=""), dialect, is_model=False)
    resource |= {
        "status": "in-progress" if message.seen_ms is None else "completed",
        "category": [code(_COMMUNICATION_URI, "reminder" if message.about else "notification")],
        "subject": patient_reference(message.patient),
        "sender": reference(floor) if message.is_machine else person(message.sender),
        "recipient": [patient_reference(message.patient)],
        "sent": instant(message.t_ms),
        "payload": [_payload(message.text, dialect)],
    }
    if message.seen_ms is not None:
        resource["received"] = instant(message.seen_ms)
    return resource


def communication_request(ask: Ask, dialect: Dialect) -> Json:
    """A proposal that waits for people: what is asked, of how many, until when."""
    resource = begin("CommunicationRequest", ask.provenance.trace_id, ask.action, provenance=ask.provenance)
    add_extension(resource, extension("confirmations", valueInteger=ask.confirmations))
    resource |= {
        "status": "active",
        **({"intent": "proposal"} if dialect.is_r5 else {}),
        "subject": patient_reference(ask.patient),
        "requester": reference(device(ask.provenance, dialect, is_model=True)),
        "recipient": [person("ward staff")],
        "payload": [_payload(ask.question, dialect)],
    }
    if ask.provenance.clock != "stay":
        resource["occurrencePeriod"] = {"start": instant(ask.t_ms), "end": instant(ask.expires_ms)}
    return at(resource, "authoredOn", ask.t_ms, ask.provenance)


def provenance_of(
    targets: Sequence[Json], shared: Provenance, recorded_ms: int, dialect: Dialect, *, inputs: Sequence[Json] = ()
) -> Json:
    """Who made the resources of one event, under which policy, from what.

    Args:
        targets: The resources, at least one.
        shared: Trace, bundle and profile of the event.
        recorded_ms: Wall clock when it was journalled.
        dialect: Release and codes.
        inputs: References to the readings.
    """
    resource = begin("Provenance", shared.trace_id, *(one["id"] for one in targets), provenance=shared)
    add_extension(resource, extension("trace", valueString=shared.trace_id))
    speakers = [False] if shared.bundle is None else [True, False]
    resource |= {
        "target": [reference(one) for one in targets],
        "recorded": instant(recorded_ms),
        "activity": code(_OPERATION_URI, "CREATE"),
        "agent": [
            {
                "type": code(_AGENT_URI, "author" if is_model else "assembler"),
                "who": reference(device(shared, dialect, is_model=is_model)),
            }
            for is_model in speakers
        ],
    }
    if shared.profile is not None:
        resource["policy"] = [f"{PROFILE_URI}:{shared.profile}"]
    if inputs:
        resource["entity"] = [{"role": "source", "what": one} for one in inputs]
    return resource


def audit_event(entry: AuditEntry, dialect: Dialect, *, patient: str = "", actor: str = "") -> Json:
    """A journal entry: its kind, hash and payload digest, so that the record can be checked against the chain."""
    resource = begin("AuditEvent", entry.hash)
    floor = reference(device(Provenance(trace_id=""), dialect, is_model=False))
    activity = {"system": _DICOM_URI, "code": "110100", "display": "Application Activity"}
    kind = {"system": KIND_URI, "code": entry.kind}
    agents: list[Json] = [{"who": floor, "requestor": not actor}]
    if actor:
        agents.append({"who": person(actor), "requestor": True})
    details = {"sequence": str(entry.seq), "hash": entry.hash, "payload-digest": entry.payload_digest}
    what: Json = {"what": {"identifier": {"system": ENTRY_URI, "value": entry.hash}}}
    what["detail"] = [
        {"type": {"text": name} if dialect.is_r5 else name, "valueString": value} for name, value in details.items()
    ]
    entities = [what]
    if dialect.is_r5:
        resource |= {"category": [{"coding": [activity]}], "code": {"coding": [kind]}}
        if patient:
            resource["patient"] = patient_reference(patient)
    else:
        resource |= {"type": activity, "subtype": [kind], "outcome": "0"}
        if patient:
            entities.append({"what": patient_reference(patient)})
    return resource | {
        "action": "E",
        "recorded": instant(entry.t_ms),
        "agent": agents,
        "source": {"observer": floor},
        "entity": entities,
    }


def consent(patient: str, purpose: str, state: str, actor: str, t_ms: int, dialect: Dialect) -> Json:
    """What a patient said last about one purpose; alerts to staff depend on none.

    Args:
        patient: Whose consent.
        purpose: `messages`, `treatment` or `learning`.
        state: `given`, `withheld`, or `unknown` for what was said and no longer holds.
        actor: Who said it.
        t_ms: When, UTC.
        dialect: Release and codes.
    """
    resource = begin("Consent", patient, purpose)
    add_extension(resource, extension("purpose", valueCode=purpose))
    resource |= {
        "status": "inactive" if state == "unknown" else "active",
        "category": [code("http://loinc.org", "59284-0")],  # consent document
    }
    decision = "permit" if state == "given" else "deny"
    if dialect.is_r5:
        return resource | {
            "subject": patient_reference(patient),
            "date": instant(t_ms)[:10],
            "grantor": [person(actor)],
            "decision": decision,
        }
    scope = "research" if purpose == "learning" else "treatment"
    rule = "OPTIN" if state == "given" else "OPTOUT"
    return resource | {
        "scope": code("http://terminology.hl7.org/CodeSystem/consentscope", scope),
        "patient": patient_reference(patient),
        "dateTime": instant(t_ms),
        "performer": [person(actor)],
        # ppc-1: a policy or a rule must be there.
        "policyRule": code("http://terminology.hl7.org/CodeSystem/v3-ActCode", rule),
        "provision": {"type": decision},
    }


def evidence_ids(evidence: Iterable[Evidence]) -> tuple[str, ...]:
    """The readings that carried a decision, each once, in order."""
    return tuple(dict.fromkeys(name for one in evidence for name in one.observations))


def _mitigation(t_ms: int, actor: str, provenance: Provenance) -> Json:
    done: Json = {"action": {"text": "acknowledged"}, "author": person(actor)}
    return done if provenance.clock == "stay" else done | {"date": instant(t_ms)}


def _payload(text: str, dialect: Dialect) -> Json:
    """R5 took `contentString` away."""
    return {"contentCodeableConcept": {"text": text}} if dialect.is_r5 else {"contentString": text}
