from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.bundle import Bundle
from fhir.resources.observation import Observation as R5Observation
from fhir.resources.R4B.observation import Observation as R4BObservation
from pydantic import ValidationError
from tests.assist.sources.waiting import take

from smallhold.assist.sources import Inbox
from smallhold.assist.sources.fhir import FhirFile, bundle_entries, read_observation, read_resource
from smallhold.assist.sources.intake import Intake, Reading
from smallhold.assist.sources.plain_text import parse_iso_ms
from smallhold.assist.sources.strict_json import MalformedError
from smallhold.errors import InputError, RecipeError
from smallhold.sectors.hospital.codes import HospitalCodes

CODES = HospitalCodes()
UCUM = "http://unitsofmeasure.org"
HEART_RATE: dict[str, Any] = {
    "resourceType": "Observation",
    "id": "hr-1",
    "status": "final",
    "code": {
        "coding": [
            {"system": "http://hospital.example/codes", "code": "puls"},
            {"system": "http://loinc.org", "code": "8867-4", "display": "Heart rate"},
        ]
    },
    "subject": {"reference": "Patient/p-17"},
    "effectiveDateTime": "2026-01-02T03:04:05.250+01:00",
    "valueQuantity": {"value": 72.5, "unit": "beats/minute", "system": UCUM, "code": "/min"},
    "device": {"reference": "Device/mon-3"},
}
PRESSURE: dict[str, Any] = {
    "resourceType": "Observation",
    "status": "amended",
    "code": {"coding": [{"system": "http://loinc.org", "code": "85354-9"}]},
    "subject": {"reference": "urn:uuid:742fc10a-c565-f636-3c05-5dcd28672194"},
    "effectiveInstant": "2026-01-02T02:04:05Z",
    "component": [
        {
            "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
            "valueQuantity": {"value": value, "system": UCUM, "code": "mm[Hg]"},
        }
        for code, value in (("8480-6", 118), ("8462-4", 71))
    ],
}


def changed(**changes: Any) -> dict[str, Any]:
    resource = copy.deepcopy(HEART_RATE) | changes
    return {name: value for name, value in resource.items() if value is not None}


def test_an_observation_by_hand() -> None:
    (one,) = read_observation(HEART_RATE, CODES)
    assert isinstance(one, Reading)
    assert (one.patient, one.system, one.code, one.value, one.unit) == (
        "p-17",
        "http://loinc.org",
        "8867-4",
        72.5,
        "/min",
    )
    assert (one.t_measured_ms, one.device) == (parse_iso_ms("2026-01-02T02:04:05.25Z"), "mon-3")


def test_a_blood_pressure_is_two_readings_of_one_time() -> None:
    systolic, diastolic = read_observation(PRESSURE, CODES)
    assert isinstance(systolic, Reading)
    assert isinstance(diastolic, Reading)
    assert (systolic.code, systolic.value, diastolic.code, diastolic.value) == ("8480-6", 118, "8462-4", 71)
    assert systolic.patient == "742fc10a-c565-f636-3c05-5dcd28672194"
    assert systolic.id != diastolic.id


@pytest.mark.parametrize(
    ("resource", "reason"),
    [
        (changed(status="entered-in-error"), "status"),
        (changed(status="cancelled"), "status"),
        (changed(subject=None), "subject"),
        (changed(effectiveDateTime="2026-01-02"), "time"),
        (changed(effectiveDateTime="2026-01-02T03:04:05"), "time"),
        (changed(effectiveDateTime=None, effectivePeriod={"start": "2026-01-02T03:04:05Z"}), "time"),
        (changed(valueQuantity={"value": 5, "comparator": "<", "system": UCUM, "code": "/min"}), "value"),
        (changed(valueQuantity={"value": "5", "system": UCUM, "code": "/min"}), "value"),
        (changed(valueQuantity={"value": True, "system": UCUM, "code": "/min"}), "value"),
        (changed(valueQuantity={"value": 5, "unit": "/min"}), "unit"),
        (changed(valueQuantity={"value": 5, "unit": "/min", "code": "/min"}), "unit"),
        (changed(valueQuantity=None, valueString="72"), "not_numeric"),
        (changed(dataAbsentReason={"text": "off"}), "value"),
        (changed(modifierExtension=[{"url": "http://not", "valueBoolean": True}]), "modifier"),
    ],
)
def test_what_has_no_usable_reading_says_why(resource: dict[str, Any], reason: str) -> None:
    assert read_observation(resource, CODES) == [reason]


@pytest.mark.parametrize(
    ("resource", "message"),
    [
        (changed(resourceType="Patient"), "expected Observation"),
        (changed(status=None), "status is missing"),
        (changed(status=5), "status: expected a string"),
        (changed(code=None), "code is missing"),
        (changed(code="8867-4"), "code: expected an object"),
        (changed(code={"coding": {}}), "coding: expected an array"),
        (changed(code={"coding": ["8867-4"]}), "coding: expected objects"),
        (changed(subject="Patient/1"), "subject: expected an object"),
        (changed(valueQuantity=[]), "valueQuantity: expected an object"),
        (changed(component={}), "component: expected an array"),
        (changed(valueQuantity=None, valueInteger=1.5), "valueInteger"),
    ],
)
def test_what_is_no_observation_is_malformed_here_and_for_another_reader(
    resource: dict[str, Any], message: str
) -> None:
    with pytest.raises(MalformedError, match=message):
        read_observation(resource, CODES)
    for model in (R5Observation, R4BObservation):
        with pytest.raises((ValidationError, ValueError)):
            model.model_validate(resource)


@pytest.mark.parametrize("resource", [HEART_RATE, PRESSURE, changed(status="cancelled"), changed(subject=None)])
def test_what_another_reader_takes_is_not_malformed_here(resource: dict[str, Any]) -> None:
    for model in (R5Observation, R4BObservation):
        kept = json.loads(model.model_validate(resource).model_dump_json())
        ours = [one for one in read_observation(kept, CODES) if isinstance(one, Reading)]
        mine = [one for one in read_observation(resource, CODES) if isinstance(one, Reading)]
        assert [(one.patient, one.code, one.value, one.t_measured_ms) for one in ours] == [
            (one.patient, one.code, one.value, one.t_measured_ms) for one in mine
        ]


def test_a_bundle_gives_its_observations_and_passes_the_rest_over() -> None:
    bundle = {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [
            {"resource": {"resourceType": "Patient", "id": "p-17"}, "request": {"method": "POST", "url": "Patient"}},
            {"resource": HEART_RATE, "request": {"method": "POST", "url": "Observation"}},
            {"resource": PRESSURE},
            {"request": {"method": "DELETE", "url": "Observation/1"}},
            {"resource": HEART_RATE, "request": {"method": "PATCH", "url": "Observation/1"}},
        ],
    }
    assert [entry is not None for entry in bundle_entries(bundle)] == [False, True, True, False, False]
    assert len(read_resource(json.dumps(bundle).encode(), CODES)) == 3
    for wrong in (
        {"type": "nonsense"},
        {"type": ["batch"]},
        {"entry": {}},
        {"entry": [1]},
        {"entry": [{"resource": "x"}]},
    ):
        with pytest.raises(MalformedError):
            list(bundle_entries(bundle | wrong))
    for body in (b"[]", b"{}", b"[" * 100_000, b'{"resourceType":"Observation","id":"\\ud800"}', b'{"a":1e999}'):
        with pytest.raises(MalformedError):
            read_resource(body, CODES)


def test_a_file_of_resources_is_read_around_its_bad_lines(tmp_path: Path) -> None:
    path = tmp_path / "ward.ndjson"
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": PRESSURE}]}
    Bundle.model_validate(bundle)
    lines = [json.dumps(HEART_RATE), "{", json.dumps({"resourceType": "Patient"}), json.dumps(bundle), ""]
    path.write_text("\n".join([*lines, json.dumps(HEART_RATE), json.dumps(changed(status="unknown"))]))
    inbox, source = Inbox(), FhirFile(path, Intake("fhir", CODES), CODES)
    source.start(inbox)
    assert source.wait(10)
    taken = take(inbox, 3)
    assert sorted(one.code for one in taken) == ["HR", "NIDiasABP", "NISysABP"]
    assert source.status().refused == {"malformed": 2, "duplicate": 1, "status": 1}


def test_codes_and_units_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "codes.toml"
    path.write_text('[units]\n"beats/minute" = "/min"\n[codes."http://hospital.example/codes"]\npuls = "HR"\n')
    own = HospitalCodes.from_file(path)
    assert own.name_of("http://hospital.example/codes", "puls") == "HR"
    assert (own.unit_of("beats/minute"), own.unit_of("%")) == ("/min", "%")
    (one,) = read_observation(HEART_RATE, own)
    assert isinstance(one, Reading)
    assert one.code == "puls"
    path.write_text('[codes.x]\na = "Pulse"\n')
    with pytest.raises(InputError, match="'Pulse' is no parameter"):
        HospitalCodes.from_file(path)
    path.write_text("[units]\na = 1\n")
    with pytest.raises(RecipeError, match="strings alone"):
        HospitalCodes.from_file(path)
    with pytest.raises(RecipeError, match="cannot be read"):
        HospitalCodes.from_file(tmp_path / "missing.toml")


@pytest.mark.data
def test_synthea_bundles_are_read_whole() -> None:
    zstandard = pytest.importorskip("zstandard")
    folder = os.environ.get("SMALLHOLD_DATA")
    path = Path(folder or "/nonexistent") / "synthea_fhir_r4" / "bundles.jsonl.zst"
    if not path.exists():
        pytest.skip("SMALLHOLD_DATA has no synthea_fhir_r4")
    # This module of Synthea writes codes of CIEL as if they were LOINC, and units that UCUM does not know.
    ciel = {("http://loinc.org", f"{number}{'A' * 32}"): name for number, name in
            ((5087, "HR"), (5088, "Temp"), (5089, "Weight"), (5092, "SaO2"))}  # fmt: skip
    codes = HospitalCodes(ciel, {"beats/minute": "/min", "C": "Cel"})
    intake, inbox = Intake("fhir", codes), Inbox(per_patient=1000)
    intake.open(inbox)
    bundles, reasons, accepted = 0, {}, 0
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
        text = stream.read()
    for line in text.splitlines():
        bundles += 1
        for item in read_resource(line, codes):
            reason = item if isinstance(item, str) else intake.offer(item)
            reasons[reason] = reasons.get(reason, 0) + 1
            accepted += reason is None
    assert bundles == 66
    assert accepted == 3 * 209 + 66 - reasons["time"]
    assert reasons["time"] == 26  # weights from before 1970
    assert reasons.keys() <= {None, "unknown_code", "not_numeric", "unit", "time"}
    assert sum(reasons.values()) == 13583
    assert {one.code for one in inbox.take(2000, 0)} == {"HR", "Temp", "Weight", "SaO2"}
