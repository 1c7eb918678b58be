from __future__ import annotations

from datetime import UTC, timedelta, timezone

import hl7
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallhold.assist.sources.hl7 import Hl7Error, acknowledge, escape, read_oru, write_oru
from smallhold.assist.sources.intake import Reading
from smallhold.assist.sources.plain_text import parse_hl7_ms, parse_iso_ms, parse_number

MONITOR = "\r".join(
    (
        r"MSH|^~\&|MON^00A037009B000000^EUI-64|ICU|||20260102030405+0100||ORU^R01^ORU_R01|41|P|2.6|||||"
        r"|UNICODE UTF-8",
        "PID|||4711^^^HOSP^PI~0815^^^OTHER&1.2.3&ISO^MR||^^^^^^L",
        "PV1||I|^^^",
        "OBR|1|||182777000^monitoring of patient^SCT|||20260102030400+0100",
        "OBX|1|NM|147842^MDC_ECG_HEART_RATE^MDC|1.7.4.147842|72|264864^MDC_DIM_BEAT_PER_MIN^MDC|||||F|||20260102030401+0100||||M-7",
        "OBX|2|NM|8310-5^Body temperature^LN||37.25|Cel^^UCUM|||||P",
        "OBX|3|ST|184327^MDC_ECG_STAT_RHY^MDC||sinus||||||F",
        "OBX|4|NM|150456^MDC_PULS_OXIM_SAT_O2^MDC||97|262688^MDC_DIM_PERCENT^MDC|||||X",
        "OBX|5|NM|150456^MDC_PULS_OXIM_SAT_O2^MDC||55|262688^MDC_DIM_PERCENT^MDC||QUES|||F",
        "OBX|6|NM|150456^MDC_PULS_OXIM_SAT_O2^MDC||>90|262688^MDC_DIM_PERCENT^MDC|||||F",
        "",
    )
).encode()


def changed(old: str, new: str) -> bytes:
    assert old.encode() in MONITOR
    return MONITOR.replace(old.encode(), new.encode(), 1)


def test_a_monitors_message_by_hand() -> None:
    report = read_oru(MONITOR)
    rate, temperature, saturation = report.readings
    assert (rate.patient, rate.system, rate.code, rate.value, rate.unit) == ("4711", "MDC", "147842", 72, "264864")
    assert rate.t_measured_ms == parse_iso_ms("2026-01-02T02:04:01Z")
    assert rate.device == "M-7"
    assert (temperature.system, temperature.code, temperature.unit) == ("LN", "8310-5", "Cel")
    assert temperature.t_measured_ms == parse_iso_ms("2026-01-02T02:04:00Z")  # of OBR-7
    assert saturation.quality == "ques"
    assert report.passed_over == {"not_numeric": 1, "status": 1, "value": 1}
    assert len({one.id for one in report.readings}) == 3


def test_the_same_bytes_give_the_same_ids_and_other_bytes_others() -> None:
    again = [one.id for one in read_oru(MONITOR).readings]
    assert again == [one.id for one in read_oru(MONITOR).readings]
    assert not set(again) & {one.id for one in read_oru(changed("|41|P", "|42|P")).readings}


def test_the_identifier_of_the_named_authority_is_taken() -> None:
    assert read_oru(MONITOR, authority="OTHER").readings[0].patient == "0815"
    assert read_oru(MONITOR, authority="NOBODY").passed_over["patient"] == 3


def test_a_time_without_zone_takes_the_messages_or_the_options_or_is_refused() -> None:
    bare = changed("030400+0100", "030400").replace(b"030401+0100", b"030401")
    assert read_oru(bare).readings[0].t_measured_ms == parse_iso_ms("2026-01-02T02:04:01Z")
    nowhere = bare.replace(b"030405+0100", b"030405")
    assert read_oru(nowhere).passed_over["time"] == 3
    by_option = read_oru(nowhere, zone=timezone(timedelta(hours=-5)))
    assert by_option.readings[0].t_measured_ms == parse_iso_ms("2026-01-02T08:04:01Z")


def test_other_delimiters_and_line_ends_are_read_the_same() -> None:
    other = MONITOR.decode().translate(str.maketrans("|^~\\&", "*#%/@")).replace("\r", "\r\n").encode()
    assert [(r.patient, r.code, r.value) for r in read_oru(other).readings] == [
        (r.patient, r.code, r.value) for r in read_oru(MONITOR).readings
    ]


@pytest.mark.parametrize(
    ("message", "code", "condition", "text"),
    [
        (b"", "AE", 100, "expected MSH"),
        (b"MSH||||", "AE", 100, "delimiters"),
        (b"PID" + MONITOR, "AE", 100, "expected MSH"),
        (changed("|41|P", "||P"), "AE", 101, "MSH-10"),
        (changed("ORU^R01", "ADT^A01"), "AR", 200, "ORU\\^R01"),
        (changed("|P|2.6", "|T|2.6"), "AR", 202, "MSH-11"),
        (changed("|P|2.6", "|P|3.0"), "AR", 203, "version 2"),
        (changed("UNICODE UTF-8", "ISO IR87"), "AR", 102, "MSH-18"),
        (changed("sinus", "\x00").replace(b"\x00", b"\xff"), "AE", 102, "character set"),
        (changed("PID|", "PIX|"), "AE", 100, "OBX before PID"),
        (changed("PV1|", "p|"), "AE", 100, "segment 3"),
        (MONITOR.split(b"\r")[0], "AE", 100, "no PID"),
        (MONITOR + b"NTE|1\r" * 2000, "AE", 102, "2000 segments"),
    ],
)
def test_what_is_no_such_message_is_refused_and_answered(message: bytes, code: str, condition: int, text: str) -> None:
    with pytest.raises(Hl7Error, match=text) as caught:
        read_oru(message)
    assert (caught.value.code, caught.value.condition) == (code, condition)
    answer = hl7.parse(acknowledge(caught.value.header, caught.value.code, 0, caught.value).decode())
    assert str(answer.segment("MSA")[1]) == code
    assert str(condition) in str(answer.segment("ERR")[3])


def test_an_acknowledgement_names_the_message_and_survives_hostile_names() -> None:
    message = changed("|41|P", r"|a\F\b\S\c\X0D\d|P")
    header = read_oru(message).header
    assert header.control_id == r"a|b^c\X0D\d"
    answer = acknowledge(header, "AA", 1_000)
    assert answer.count(b"\r") == 2
    assert answer.split(b"\r")[1] == rb"MSA|AA|a\F\b\S\c\E\X0D\E\d"
    parsed = hl7.parse(answer.decode())
    assert str(parsed.segment("MSA")[1]) == "AA"
    assert str(parsed.segment("MSH")[9]) == "ACK^R01^ACK"


texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp", "Cs")), min_size=1, max_size=20)
numbers = st.floats(-1e6, 1e6, allow_nan=False)


@settings(deadline=None, max_examples=30)
@given(texts, st.lists(st.tuples(texts, numbers, texts), min_size=1, max_size=4))
def test_what_is_written_is_read_back_and_agrees_with_another_reader(
    patient: str, sent: list[tuple[str, float, str]]
) -> None:
    readings = [
        Reading(
            id="", patient=patient, system="LN", code=code, value=value, unit=unit, t_measured_ms=1_767_319_445_678
        )
        for code, value, unit in sent
    ]  # fmt: skip
    message = write_oru(readings, "C1", 1_767_319_445_999)
    report = read_oru(message)
    printable = "".join(c if c.isprintable() else "?" for c in patient)
    assert [one.patient for one in report.readings] == [printable] * len(sent)
    assert [one.value for one in report.readings] == pytest.approx([value for _, value, _ in sent], rel=1e-9)
    assert {one.t_measured_ms for one in report.readings} == {1_767_319_445_678}
    oracle = hl7.parse(message.decode())
    assert len(oracle.segments("OBX")) == len(sent)
    for ours, theirs in zip(report.readings, oracle.segments("OBX"), strict=True):
        assert float(str(theirs[5])) == ours.value
        assert oracle.unescape(str(theirs[3][0][0])) == ours.code
        assert oracle.unescape(str(theirs[6][0][0])) == ours.unit


def test_escape_ends_no_segment_and_no_frame() -> None:
    assert escape("a\rb\x1c\x0bc\u2028|") == "a?b??c?\\F\\"


@pytest.mark.parametrize("text", ["٣", "1_000", "nan", "inf", " 1", "1 ", "0x10", "", "1e9999", "--1", "1,5", "9" * 41])
def test_what_is_no_decimal_number_is_none(text: str) -> None:
    assert parse_number(text) is None


def test_times_that_do_not_exist_are_none() -> None:
    for text in ("202613010000", "202602300000", "20260101", "202601010000+9900", "２0260101000000", "20260101000061"):
        assert parse_hl7_ms(text, UTC) is None
    for text in (
        "2026-01-01",
        "2026-01-01T00:00:00",
        "2026-02-30T00:00:00Z",
        "2026-01-01T24:00:00Z",
        "0000-01-01T00:00:00Z",
    ):
        assert parse_iso_ms(text) is None
    assert parse_hl7_ms("20261231235960.9999+0000", None) == parse_iso_ms("2026-12-31T23:59:59.999Z")
