"""FHIR R4 and R5: Observations and Bundles of them, from plain JSON; functions of their arguments.

Read are status, code, subject, effectiveDateTime or effectiveInstant, valueQuantity or valueInteger, component,
dataAbsentReason and device; the two releases agree about all of them. Nothing else of a resource is believed, and
nothing else refuses it, but for what FHIR itself says must be understood: `modifierExtension` and `implicitRules`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smallhold.assist.sources.intake import Codes, Intake, Reading
from smallhold.assist.sources.line_file import LineFile, ReadLine
from smallhold.assist.sources.plain_text import parse_iso_ms
from smallhold.assist.sources.strict_json import MalformedError, parse_json
from smallhold.records import canonical_json, sha256_hex

MAX_BYTES = 8 * 2**20
MAX_ENTRIES = 20_000
_MOST_COMPONENTS = 100
_USED_STATUS = frozenset({"preliminary", "final", "amended", "corrected"})
_UNIT_SYSTEMS = frozenset({"http://unitsofmeasure.org", "urn:iso:std:iso:11073:10101"})
_BUNDLES = frozenset({"batch", "collection", "document", "history", "message", "searchset", "transaction"})

#: A reading, or why there is none: `status`, `modifier`, `subject`, `time`, `value`, `unit`, `not_numeric`.
Item = Reading | str


def read_observation(resource: dict[str, Any], codes: Codes) -> list[Item]:
    """The readings of one Observation, its components included.

    Args:
        resource: The parsed JSON object.
        codes: Of several codings the first that the sector knows is taken.

    Raises:
        MalformedError: it is no Observation, or an element that is read has another type than FHIR says.
    """
    if resource.get("resourceType") != "Observation":
        raise MalformedError("resourceType: expected Observation")
    status = _take(resource, "status", str)
    if status is None:
        raise MalformedError("status is missing")
    if status not in _USED_STATUS:
        return ["status"]
    if resource.get("modifierExtension") or resource.get("implicitRules"):
        return ["modifier"]  # FHIR: what is not understood here may turn the meaning of the whole around
    code = _take(resource, "code", dict)
    if code is None:
        raise MalformedError("code is missing")
    patient = _reference(_take(resource, "subject", dict) or {})
    if patient is None:
        return ["subject"]
    time_text = _take(resource, "effectiveDateTime", str) or _take(resource, "effectiveInstant", str)
    measured_ms = parse_iso_ms(time_text) if time_text else None
    if measured_ms is None:
        return ["time"]
    # Not the resource's own id: an amended Observation keeps it, and would be taken for the first one sent again.
    digest = sha256_hex(canonical_json(resource))[:24]
    device = _reference(_take(resource, "device", dict) or {}) or ""
    components = _take(resource, "component", list) or []
    if len(components) > _MOST_COMPONENTS:
        raise MalformedError(f"component: expected at most {_MOST_COMPONENTS}, got {len(components)}")
    items: list[Item] = []
    for number, part in enumerate([resource, *components]):
        if not isinstance(part, dict):
            raise MalformedError("component: expected objects")
        if part.get("modifierExtension"):
            items.append("modifier")
            continue
        found = _value(part)
        if isinstance(found, str):
            # The whole of a blood pressure has no value of its own, and is no reading for that.
            if number or not components:
                items.append(found)
            continue
        value, unit = found
        system, name = _coding(_take(part, "code", dict) or {}, codes)
        items.append(
            Reading(
                id=f"{digest}-{number}",
                patient=patient,
                system=system,
                code=name,
                value=value,
                unit=unit,
                t_measured_ms=measured_ms,
                device=device,
            )
        )
    return items


def bundle_entries(bundle: dict[str, Any]) -> Iterator[dict[str, Any] | None]:
    """For each entry of a Bundle its Observation, or None where it holds none to be stored.

    Raises:
        MalformedError: it is no Bundle of a known type, has too many entries, or an entry is no object.
    """
    if bundle.get("resourceType") != "Bundle":
        raise MalformedError("resourceType: expected Bundle")
    if _take(bundle, "type", str) not in _BUNDLES:
        raise MalformedError(f"type: expected one of {', '.join(sorted(_BUNDLES))}")
    entries = _take(bundle, "entry", list) or []
    if len(entries) > MAX_ENTRIES:
        raise MalformedError(f"entry: expected at most {MAX_ENTRIES}, got {len(entries)}")
    for entry in entries:
        if not isinstance(entry, dict):
            raise MalformedError("entry: expected objects")
        resource = _take(entry, "resource", dict) or {}
        method = (_take(entry, "request", dict) or {}).get("method", "POST")
        is_stored = resource.get("resourceType") == "Observation" and method in ("POST", "PUT")
        yield resource if is_stored else None


def read_resource(data: bytes, codes: Codes) -> list[Item]:
    """The readings of an Observation or of a Bundle, from its JSON.

    Raises:
        MalformedError: it is neither, or is not as FHIR says. Of a Bundle then nothing is taken.
    """
    resource = parse_json(data, max_bytes=MAX_BYTES)
    if not isinstance(resource, dict):
        raise MalformedError("expected a JSON object")
    if resource.get("resourceType") != "Bundle":
        return read_observation(resource, codes)
    return [item for entry in bundle_entries(resource) if entry is not None for item in read_observation(entry, codes)]


class FhirFile(LineFile):
    """Observations and Bundles from an NDJSON file, one resource a line; lines of other resources are malformed.

    Args:
        path: The file.
        intake: Where readings go.
        codes: What the sector knows.
        follow: Wait for more at the end.
    """

    def __init__(self, path: Path, intake: Intake, codes: Codes, *, follow: bool = False) -> None:
        def open_reader() -> ReadLine:
            return lambda line: read_resource(line, codes)

        super().__init__(path, intake, open_reader, follow=follow, max_line_bytes=MAX_BYTES, has_header=False)


def _take(part: dict[str, Any], name: str, kind: type) -> Any:
    value = part.get(name)
    if value is not None and type(value) is not kind:
        raise MalformedError(f"{name}: expected {_KINDS[kind]}")
    return value


_KINDS: dict[Any, str] = {str: "a string", dict: "an object", list: "an array"}


def _reference(reference: dict[str, Any]) -> str | None:
    """The identifier at the end of a literal reference, or of a logical one."""
    text = _take(reference, "reference", str)
    if text is None:
        value: str | None = _take(_take(reference, "identifier", dict) or {}, "value", str)
        return value
    return text.removeprefix("urn:uuid:").rpartition("/")[2] or None


def _coding(code: dict[str, Any], codes: Codes) -> tuple[str, str]:
    """The first coding that the sector knows; else the first, which it will refuse."""
    first = ("-", "")
    for number, coding in enumerate(_take(code, "coding", list) or []):
        if not isinstance(coding, dict):
            raise MalformedError("coding: expected objects")
        # Without a system a code is nobody's: "-" is no system that a sector knows.
        found = (_take(coding, "system", str) or "-", _take(coding, "code", str) or "")
        if codes.name_of(*found) is not None:
            return found
        first = found if number == 0 else first
    return first


def _value(part: dict[str, Any]) -> tuple[float, str] | str:
    if part.get("dataAbsentReason"):
        return "value"
    quantity = _take(part, "valueQuantity", dict)
    if quantity is not None:
        value = quantity.get("value")
        if type(value) not in (int, float) or "comparator" in quantity:  # "below 5" is no 5
            return "value"
        unit = _take(quantity, "code", str)
        if unit is None or _take(quantity, "system", str) not in _UNIT_SYSTEMS:
            return "unit"  # the text in `unit` is for people
        return value, unit
    whole = part.get("valueInteger")
    if whole is None:
        return "not_numeric"
    if type(whole) is not int:
        raise MalformedError("valueInteger: expected a whole number")
    return whole, "1"
