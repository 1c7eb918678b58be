from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from tests.assist.sources.injections import INJECTIONS

from smallhold.assist.hospital import HospitalLimits
from smallhold.assist.sources import Inbox
from smallhold.assist.sources.address import parse_address
from smallhold.assist.sources.csv_file import read_header, read_row
from smallhold.assist.sources.fhir import read_resource
from smallhold.assist.sources.hl7 import escape
from smallhold.assist.sources.intake import IDENTIFIER, Intake, Reading
from smallhold.assist.sources.mllp import MllpOptions, MllpSource
from smallhold.assist.sources.mqtt import MqttOptions, MqttSource
from smallhold.assist.sources.strict_json import MalformedError
from smallhold.records import Observation
from smallhold.sectors.hospital.codes import HospitalCodes
from smallhold.sectors.hospital.parameters import INDEX

CODES = HospitalCodes()
NOW_MS = 1_767_319_445_000
#: Puts a text into one field, has it received, and returns what a sender would see of it.
Receive = Callable[[Intake, str], bytes]


def _mqtt(place: str) -> Receive:
    def receive(intake: Intake, text: str) -> bytes:
        body: dict[str, Any] = {"id": "m1", "value": 72, "unit": "/min", "t": NOW_MS, "quality": "good", "device": "d"}
        levels = {"ward": "icu", "patient": "bed-1", "code": "8867-4"}
        if place in levels:
            levels[place] = text
        elif place == "member":
            body[text] = 1
        else:
            body[place] = text
        source = MqttSource(MqttOptions(address=parse_address("mqtt://localhost"), ward="icu", client_id="c"), intake)
        topic = f"smallhold/{levels['ward']}/{levels['patient']}/{levels['code']}"
        source.receive(SimpleNamespace(topic=topic, payload=json.dumps(body).encode()))
        return b""

    return receive


HL7_FIELDS = {
    "MSH-3": (0, 2), "MSH-4": (0, 3), "MSH-5": (0, 4), "MSH-8": (0, 7), "MSH-10": (0, 9), "MSH-11": (0, 10),
    "MSH-12": (0, 11), "MSH-18": (0, 17), "PID-3": (1, 3), "PID-5": (1, 5), "OBR-4": (2, 4), "OBR-7": (2, 7),
    "OBX-2": (3, 2), "OBX-3": (3, 3), "OBX-4": (3, 4), "OBX-5": (3, 5), "OBX-6": (3, 6), "OBX-8": (3, 8),
    "OBX-11": (3, 11), "OBX-14": (3, 14), "OBX-18": (3, 18), "NTE-3": (4, 3),
}  # fmt: skip


def _hl7(place: str, *, is_escaped: bool) -> Receive:
    def receive(intake: Intake, text: str) -> bytes:
        head = r"MSH|^~\&|MON|ICU|||20260102020405+0000||ORU^R01|41|P|2.6||||||UNICODE UTF-8"
        reading = "OBX|1|NM|8867-4^Heart rate^LN||72|/min^^UCUM|||||F|||20260102020405+0000||||d"
        rest = ("PID|1||bed-1^^^HOSP^PI||NAME", "OBR|1|||x^y^z|||20260102020405+0000", reading, "NTE|1||note")
        segments = [segment.split("|") for segment in (head, *rest)]
        segment, number = HL7_FIELDS[place]
        segments[segment][number] = escape(text) if is_escaped else text
        message = "\r".join("|".join(fields) for fields in segments).encode("utf-8", "replace")
        # A text that brings delimiters moves later fields, and may so ask for two answers of one form.
        return next(iter(MllpSource(MllpOptions(port=0), intake).receive(message)), b"")

    return receive


FHIR_PATHS: dict[str, tuple[str | int, ...]] = {
    "id": ("id",), "status": ("status",), "div": ("text", "div"), "system": ("code", "coding", 0, "system"),
    "code": ("code", "coding", 0, "code"), "display": ("code", "coding", 0, "display"), "code text": ("code", "text"),
    "subject": ("subject", "reference"), "subject display": ("subject", "display"), "time": ("effectiveDateTime",),
    "value": ("valueQuantity", "value"), "unit": ("valueQuantity", "unit"), "unit code": ("valueQuantity", "code"),
    "unit system": ("valueQuantity", "system"), "device": ("device", "reference"), "note": ("note", 0, "text"),
    "type": ("resourceType",),
}  # fmt: skip


def _fhir(place: str) -> Receive:
    def receive(intake: Intake, text: str) -> bytes:
        resource: Any = {
            "resourceType": "Observation",
            "id": "o1",
            "status": "final",
            "text": {"status": "generated", "div": "<div/>"},
            "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4", "display": "x"}], "text": "x"},
            "subject": {"reference": "Patient/bed-1", "display": "x"},
            "effectiveDateTime": "2026-01-02T02:04:05Z",
            "valueQuantity": {"value": 72, "unit": "x", "system": "http://unitsofmeasure.org", "code": "/min"},
            "device": {"reference": "Device/d"},
            "note": [{"text": "x"}],
        }
        *way, last = FHIR_PATHS[place]
        part = resource
        for step in way:
            part = part[step]
        part[last] = text
        try:
            for item in read_resource(json.dumps(resource).encode(), CODES):
                _ = intake.pass_over(item) if isinstance(item, str) else intake.offer(item)
        except MalformedError as error:
            intake.refuse("malformed", str(error))
        return b""

    return receive


def _csv(place: str) -> Receive:
    def receive(intake: Intake, text: str) -> bytes:
        names = ("id", "patient", "code", "value", "unit", "t", "quality", "device")
        row = dict(zip(names, ("c1", "bed-1", "HR", "72", "/min", str(NOW_MS), "good", "d"), strict=True))
        quoted = text.replace('"', '""')
        row[place] = f'"{quoted}"'
        try:
            columns = read_header(",".join(names).encode())
            intake.offer(read_row(",".join(row.values()).encode("utf-8", "replace"), columns))
        except MalformedError as error:
            intake.refuse("malformed", str(error))
        return b""

    return receive


def _places() -> Iterator[tuple[str, Receive]]:
    for place in ("ward", "patient", "code", "id", "value", "unit", "t", "quality", "device", "seq", "member"):
        yield f"mqtt {place}", _mqtt(place)
    for place in HL7_FIELDS:
        yield f"hl7 {place}", _hl7(place, is_escaped=True)
        yield f"hl7 raw {place}", _hl7(place, is_escaped=False)
    for place in FHIR_PATHS:
        yield f"fhir {place}", _fhir(place)
    for place in ("id", "patient", "code", "value", "unit", "t", "quality", "device"):
        yield f"csv {place}", _csv(place)


PLACES = dict(_places())


def _facts(one: Observation) -> dict[str, object]:
    return {"patient": one.patient, "code": one.code, "value": one.value, "unit": one.unit, "t": one.t_measured_ms}


def _receive(place: str, text: str) -> tuple[list[Observation], Intake, bytes]:
    inbox, intake = Inbox(), Intake("hostile", CODES, clock=lambda: NOW_MS + 1000)
    intake.open(inbox)
    answer = PLACES[place](intake, text)
    return inbox.take(1000, 0), intake, answer


def test_there_are_two_hundred_different_texts() -> None:
    assert len(set(INJECTIONS)) == 200


@pytest.mark.parametrize("place", PLACES)
def test_a_hostile_text_is_refused_or_changes_nothing(
    place: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = {"patient": "bed-1", "code": "HR", "value": 72.0, "unit": "/min", "t": NOW_MS}
    limits = HospitalLimits()
    with caplog.at_level(logging.DEBUG):
        for text in INJECTIONS:
            observations, intake, answer = _receive(place, text)
            is_sender_of_more = "raw" in place and any(c in text for c in "\r\n|^~\\&")
            if not is_sender_of_more:  # with delimiters in the raw, it is another message and not a text in a field
                assert len(observations) <= 1, text
            for one in observations:
                for word in (one.id, one.patient, one.quality, one.device or "d"):
                    assert IDENTIFIER.fullmatch(word), text
                assert one.code in INDEX
                assert one.unit.isascii()
                assert one.unit.isprintable()
                assert abs(one.value) < float("inf")
                different = {name for name, fact in _facts(one).items() if fact != usual[name]}
                if different and not is_sender_of_more:
                    # Only what was put there may differ: it then is a plain identifier, code, number or unit.
                    assert len(different) == 1, (text, different)
                    name = different.pop()
                    if name == "value":
                        assert (text, one.value) == ("1e-999", 0.0)  # a number, which the gate then judges
                        continue
                    assert name in ("patient", "unit"), (text, name)
                    if name == "unit":
                        with pytest.raises(Exception, match="is not a unit of"):
                            limits.to_canonical(one.code, one.value, one.unit)
                    else:
                        assert one.patient in text
            status = intake.status()
            assert bool(observations) or sum(status.refused.values()) > 0, text
            assert len(status.last_error) <= 200
            assert status.last_error.isascii()
            assert not status.last_error or status.last_error.isprintable()
            if answer:
                assert b"\x0b" not in answer
                assert b"\x1c" not in answer
                lines = answer.decode().split("\r")
                assert [line[:4] for line in lines[:2]] == ["MSH|", "MSA|"]
                assert len(lines) in (3, 4)
                assert all(c.isprintable() for line in lines for c in line)
    assert caplog.records == []
    assert capsys.readouterr() == ("", "")


def test_none_of_the_texts_passes_for_an_ordinary_reading() -> None:
    inbox, intake = Inbox(), Intake("hostile", CODES)
    intake.open(inbox)
    for text in INJECTIONS:
        for name in ("id", "patient", "system", "code", "unit", "quality"):
            fields: dict[str, Any] = {"id": "1", "patient": "p", "system": "", "code": "HR", "unit": "/min"}
            reading = Reading(**(fields | {name: text}), value=72, t_measured_ms=NOW_MS)
            reason = intake.offer(reading)
            if reason is None and name in ("id", "patient", "quality"):
                assert IDENTIFIER.fullmatch(text)
            elif name in ("system", "code"):
                assert reason == "unknown_code" or (name == "system" and text == "")


@pytest.mark.parametrize(
    "place", ["hl7 PID-5", "hl7 NTE-3", "hl7 OBX-18", "fhir display", "fhir note", "fhir div", "csv device"]
)
def test_where_text_means_nothing_every_reading_is_taken(place: str) -> None:
    taken = [_receive(place, text)[0] for text in INJECTIONS]
    assert [len(observations) for observations in taken] == [1] * 200
