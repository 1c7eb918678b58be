"""What a CDS client sends, member by member; what is not as CDS Hooks 2.0 says is refused and never repeated."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from smallhold.assist.interop.cds_cards import OVERRIDE_REASONS

MOST_ORDERS = 100
MOST_FEEDBACK = 100


class CdsError(Exception):
    """A request that is not answered with cards.

    Args:
        status: HTTP status.
        text: What was expected where; nothing of what was sent.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def read_accepted(value: Any, where: str) -> str:
    """The accepted suggestions; none where only the card was."""
    if value is None:
        return ""
    if not isinstance(value, list) or len(value) > MOST_FEEDBACK:
        raise CdsError(400, f"{where}.acceptedSuggestions: expected a list")
    ids = [
        take_uuid(take_object(one, f"{where}.acceptedSuggestions").get("id"), f"{where}.acceptedSuggestions.id")
        for one in value
    ]
    return "suggestion " + ", ".join(ids) if ids else ""


def read_overridden(value: Any, where: str) -> str:
    """`code: comment`; a code that this service did not offer counts as `other`."""
    if value is None:
        return "other"
    reason = take_object(value, f"{where}.overrideReason")
    comment = reason.get("userComment", "")
    coding = reason.get("reason")
    code = None if coding is None else take_object(coding, f"{where}.overrideReason.reason").get("code")
    if not isinstance(comment, str) or len(comment) > 1000:
        raise CdsError(400, f"{where}.overrideReason.userComment: expected at most 1000 characters")
    plain = "".join(c if c.isprintable() else " " for c in comment).strip()
    known = code if isinstance(code, str) and code in OVERRIDE_REASONS else "other"
    return f"{known}: {plain}" if plain else known


def read_prefetch(value: Any, patient: str) -> Mapping[str, Any]:
    """What was prefetched, checked: the Patient must be the one that the hook is about."""
    if value is None:
        return {}
    prefetch = take_object(value, "prefetch")
    resource = prefetch.get("patient")
    if resource is not None:
        held = take_object(resource, "prefetch.patient")
        if held.get("resourceType") != "Patient" or held.get("id") != patient:
            raise CdsError(400, "prefetch.patient: expected the Patient of context.patientId")
    return prefetch


def read_drugs(context: Mapping[str, Any], *, only_selected: bool) -> tuple[str, ...]:
    """Drugs of the draft orders, in lower case as the tables name them, each once and in order."""
    bundle = take_object(context.get("draftOrders"), "context.draftOrders")
    entries = bundle.get("entry", [])
    if bundle.get("resourceType") != "Bundle" or not isinstance(entries, list) or len(entries) > MOST_ORDERS:
        raise CdsError(400, f"context.draftOrders: expected a Bundle of at most {MOST_ORDERS} entries")
    selected: set[str] | None = None
    if only_selected:
        chosen = context.get("selections")
        if not isinstance(chosen, list) or not all(isinstance(one, str) for one in chosen):
            raise CdsError(400, "context.selections: expected a list of references")
        selected = set(chosen)
    drugs: dict[str, None] = {}
    for number, entry in enumerate(entries):
        order = take_object(
            take_object(entry, f"context.draftOrders.entry[{number}]").get("resource"), f"entry[{number}].resource"
        )
        is_drug = order.get("resourceType") == "MedicationRequest"
        if is_drug and (selected is None or f"MedicationRequest/{order.get('id')}" in selected):
            drugs |= dict.fromkeys(_names(order))
    return tuple(drugs)


def _names(order: Mapping[str, Any]) -> list[str]:
    """The drug of a MedicationRequest of R4 or R5: the displays of its codes, else its text."""
    medication = order.get("medication")
    concept = order.get("medicationCodeableConcept")
    if concept is None and isinstance(medication, dict):
        concept = medication.get("concept")
    if not isinstance(concept, dict):
        return []
    codings = concept.get("coding", [])
    shown = [one.get("display") for one in codings if isinstance(one, dict)] if isinstance(codings, list) else []
    named = [*shown, concept.get("text")]
    plain = [" ".join(one.lower().split()) for one in named if isinstance(one, str) and one.strip() and len(one) <= 200]
    return plain[:1]


def take_object(value: Any, where: str) -> dict[str, Any]:
    """An object; CdsError otherwise."""
    if not isinstance(value, dict):
        raise CdsError(400, f"{where}: expected an object")
    return value


def take_text(context: Mapping[str, Any], name: str) -> str:
    """A member of the context: 1 to 256 printable characters; CdsError otherwise."""
    value = context.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= 256 or not value.isprintable():
        raise CdsError(400, f"context.{name}: expected a text")
    return value


def take_uuid(value: Any, where: str) -> str:
    """A UUID in lower case; CdsError otherwise."""
    try:
        return str(uuid.UUID(value)) if isinstance(value, str) and len(value) == 36 else _refuse(where)
    except ValueError:
        return _refuse(where)


def _refuse(where: str) -> str:
    raise CdsError(400, f"{where}: expected a UUID")
