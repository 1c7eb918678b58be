"""HL7 v2: unsolicited observations (ORU^R01, version 2.3 to 2.8) in, acknowledgements out; functions of bytes alone.

Of a message this reads MSH, PID-3, OBR-7 and the OBX segments of value type NM (IHE PCD-01 for monitors, LAB-3 for
laboratories). A message is understood as a whole or refused as a whole; what is in one reading is judged later.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Literal

from smallhold.assist.sources.intake import Reading
from smallhold.assist.sources.plain_text import hl7_zone, parse_hl7_ms, parse_number
from smallhold.records import sha256_hex

MAX_SEGMENTS = 2_000
#: HL7 table 0085: final, corrected, preliminary, entered but not verified. The others carry no value to act on.
USED_STATUS = frozenset("FCPR")
#: OBX-8 of IHE PCD-01: what a device says against its own reading.
_AGAINST = frozenset({"INV", "QUES", "NAV", "CAL", "TEST", "DEMO", "OFF", "EARLY"})
_TRIGGER = re.compile(r"[A-Z][A-Z0-9]{2}", re.ASCII)
_CHARSETS = {"": "utf-8", "ASCII": "ascii", "UNICODE UTF-8": "utf-8", "8859/1": "latin-1"}

Code = Literal["AA", "AE", "AR"]
_ACCEPT = {"AA": "CA", "AE": "CE", "AR": "CR"}


class Hl7Error(ValueError):
    """A message that is not taken.

    Args:
        reason: `malformed` or `unsupported`, for counting.
        condition: HL7 table 0357.
        text: Short, plain, and without what was sent.
        header: What is known of the message, for the acknowledgement.
    """

    def __init__(self, reason: str, condition: int, text: str, header: Header | None = None) -> None:
        super().__init__(text)
        self.reason = reason
        self.condition = condition
        self.header = header

    @property
    def code(self) -> Code:
        """AR where this receiver does not take such messages at all, AE where this one is wrong."""
        return "AR" if self.reason == "unsupported" else "AE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """MSH, as far as it is needed; texts are without escapes.

    Attributes:
        accept_when: MSH-15, when an accept acknowledgement is wanted (table 0155: AL, NE, ER, SU; empty).
        answer_when: MSH-16, the same of the application acknowledgement.
    """

    application: str = ""
    facility: str = ""
    control_id: str = ""
    version: str = "2.6"
    zone: tzinfo | None = None
    kind: str = "ORU"
    trigger: str = "R01"
    accept_when: str = ""
    answer_when: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """An ORU^R01 that was understood.

    Attributes:
        header: For the acknowledgement.
        readings: Of value type NM with a usable status.
        passed_over: How many OBX were not, by reason: `not_numeric`, `status`, `value`, `time`, `patient`.
    """

    header: Header
    readings: tuple[Reading, ...]
    passed_over: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Encoding:
    """The five delimiters that a message declares for itself."""

    field: str
    component: str
    repetition: str
    escape: str
    subcomponent: str

    def plain(self, text: str) -> str:
        """Without the escapes of the delimiters; other escapes are left as they are."""
        if self.escape not in text:
            return text
        letters = {
            "F": self.field,
            "S": self.component,
            "T": self.subcomponent,
            "R": self.repetition,
            "E": self.escape,
        }
        parts = text.split(self.escape)
        out, position = [parts[0]], 1
        while position < len(parts):
            if position + 1 < len(parts) and parts[position] in letters:
                out += [letters[parts[position]], parts[position + 1]]
                position += 2
            else:
                out += [self.escape, parts[position]]
                position += 1
        return "".join(out)


def read_oru(data: bytes, *, zone: tzinfo | None = None, authority: str = "") -> Report:
    """Understand one message.

    Args:
        data: Without the frame of MLLP.
        zone: Of times that name none where the message's own time (MSH-7) names none either; None refuses them.
        authority: Of the identifiers in PID-3 the one with this assigning authority (CX.4.1); empty takes the first.

    Raises:
        Hl7Error: it is no such message.
    """
    text, encoding = _decode(data)
    segments = [line for line in text.replace("\n", "\r").split("\r") if line]
    if len(segments) > MAX_SEGMENTS:
        raise Hl7Error("malformed", 102, f"expected at most {MAX_SEGMENTS} segments, got {len(segments)}")
    msh = segments[0].split(encoding.field)
    header = _read_header(msh, encoding)
    own_zone = header.zone or zone
    digest = sha256_hex(data)[:24]
    patient, observed = "", ""
    has_patient = False
    readings: list[Reading] = []
    passed_over: dict[str, int] = {}
    for number, segment in enumerate(segments[1:], start=1):
        fields = segment.split(encoding.field)
        match fields[0]:
            case "PID":
                patient, observed, has_patient = _patient_id(_at(fields, 3), encoding, authority), "", True
            case "OBR":
                observed = _at(fields, 7)
            case "OBX":
                if not has_patient:
                    raise Hl7Error("malformed", 100, "OBX before PID", header)
                item = _read_obx(fields, encoding, patient, observed, own_zone, f"{digest}-{number}")
                if isinstance(item, Reading):
                    readings.append(item)
                else:
                    passed_over[item] = passed_over.get(item, 0) + 1
            case name if not (len(name) == 3 and name.isascii() and name.isalnum() and name.isupper()):
                raise Hl7Error("malformed", 100, f"segment {number + 1} has no name of three letters", header)
    if not has_patient:
        raise Hl7Error("malformed", 100, "no PID", header)
    return Report(header=header, readings=tuple(readings), passed_over=passed_over)


def _decode(data: bytes) -> tuple[str, _Encoding]:
    head = data[:9].decode("latin-1")
    marks = head[3:8]
    if not head.startswith("MSH") or len(marks) < 5 or len(set(marks)) != 5 or any(
        c.isalnum() or not "!" <= c <= "~" for c in marks
    ):  # fmt: skip
        raise Hl7Error("malformed", 100, "expected MSH and five different delimiters at the beginning")
    encoding = _Encoding(*marks)
    first = data.replace(b"\n", b"\r").split(b"\r", 1)[0].decode("latin-1").split(encoding.field)
    charset = _at(first, 17).split(encoding.repetition)[0]
    if charset not in _CHARSETS:
        raise Hl7Error("unsupported", 102, "MSH-18: expected ASCII, UNICODE UTF-8 or 8859/1")
    try:
        return data.decode(_CHARSETS[charset]), encoding
    except UnicodeDecodeError as error:
        raise Hl7Error("malformed", 102, "bytes that are not in the character set of MSH-18") from error


def _read_header(msh: Sequence[str], encoding: _Encoding) -> Header:
    """MSH-1 is the delimiter itself, so that field n stands at n - 1."""

    def component(number: int, index: int = 0) -> str:
        parts = _at(msh, number - 1).split(encoding.component)
        return encoding.plain(parts[index]) if index < len(parts) else ""

    header = Header(
        application=component(3),
        facility=component(4),
        control_id=component(10),
        version=component(12) or "2.6",
        zone=hl7_zone(component(7)),
        kind=component(9),
        trigger=trigger if _TRIGGER.fullmatch(trigger := component(9, 1)) else "R01",
        accept_when=component(15),
        answer_when=component(16),
    )
    if not header.control_id:
        raise Hl7Error("malformed", 101, "MSH-10: the control id is missing", header)
    if component(9) != "ORU" or component(9, 1) != "R01":
        raise Hl7Error("unsupported", 200, "MSH-9: expected ORU^R01", header)
    if component(11) != "P":  # training and debugging messages are about nobody
        raise Hl7Error("unsupported", 202, "MSH-11: expected P", header)
    if not header.version.startswith("2."):
        raise Hl7Error("unsupported", 203, "MSH-12: expected version 2", header)
    return header


def _patient_id(text: str, encoding: _Encoding, authority: str) -> str:
    for repetition in text.split(encoding.repetition):
        parts = repetition.split(encoding.component)
        assigned = _at(parts, 3).split(encoding.subcomponent)[0]
        if parts[0] and authority in ("", encoding.plain(assigned)):
            return encoding.plain(parts[0])
    return ""


def _read_obx(
    fields: Sequence[str], encoding: _Encoding, patient: str, observed: str, zone: tzinfo | None, identifier: str
) -> Reading | str:
    """The reading, or why it is passed over."""
    if _at(fields, 2) != "NM":
        return "not_numeric"
    if _at(fields, 11) not in USED_STATUS:
        return "status"
    value = parse_number(_at(fields, 5).strip(" "))
    if value is None:
        return "value"
    measured_ms = parse_hl7_ms(_at(fields, 14) or observed, zone)
    if measured_ms is None:
        return "time"
    if not patient:
        return "patient"
    code = [encoding.plain(part) for part in _at(fields, 3).split(encoding.component)]
    units = [encoding.plain(part) for part in _at(fields, 6).split(encoding.component)]
    against = sorted(_AGAINST.intersection(_at(fields, 8).split(encoding.repetition)))
    return Reading(
        id=identifier,
        patient=patient,
        # A code without a system is nobody's: "-" is no system that a sector knows.
        system=_at(code, 2) or "-",
        code=code[0],
        value=value,
        unit=units[0],
        t_measured_ms=measured_ms,
        quality=against[0].lower() if against else "good",
        device=encoding.plain(_at(fields, 18).split(encoding.component)[0]),
    )


def _at(parts: Sequence[str], index: int) -> str:
    return parts[index] if index < len(parts) else ""


def answers(header: Header | None, code: Code, now_ms: int, error: Hl7Error | None = None) -> tuple[bytes, ...]:
    """The answers that a message asks for (HL7 v2.6, sections 2.9.2 and 2.9.3).

    Without MSH-15 and MSH-16 that is one, in original mode. In enhanced mode it is the accept acknowledgement (CA, CE,
    CR) where MSH-15 asks for it, then the application acknowledgement (AA, AE, AR) where MSH-16 does; or none. Both say
    the same here: a message is understood and on record, or it is neither.

    Args:
        header: Of the message; None where it could not be read.
        code: AA taken, AE wrong, AR not taken by this receiver.
        now_ms: Milliseconds UTC.
        error: Why it was not taken.
    """
    if header is not None and header.kind == "ACK":
        return ()  # nobody acknowledges an acknowledgement: two machines would never stop
    if header is None or not (header.accept_when or header.answer_when):
        return (acknowledge(header, code, now_ms, error),)
    wanted = ((header.accept_when, _ACCEPT[code]), (header.answer_when, code))
    return tuple(
        acknowledge(header, one, now_ms, error) for when, one in wanted if _is_wanted(when, is_good=code == "AA")
    )


def _is_wanted(when: str, *, is_good: bool) -> bool:
    # What stands in neither table nor standard is taken for AL: a sender that hears nothing sends for ever.
    return {"": False, "NE": False, "SU": is_good, "ER": not is_good}.get(when, True)


def acknowledge(header: Header | None, code: str, now_ms: int, error: Hl7Error | None = None) -> bytes:
    """One acknowledgement.

    Args:
        header: Of the message; None where it could not be read: then the control id is empty.
        code: MSA-1.
        now_ms: Milliseconds UTC.
        error: Why it was not taken.
    """
    header = header or Header()
    fields = [
        "MSH",
        "^~\\&",
        "SMALLHOLD",
        "",
        escape(header.application),
        escape(header.facility),
        dtm(now_ms),
        "",
        f"ACK^{header.trigger}^ACK",
        f"{'C' if code.startswith('C') else 'A'}{now_ms}",
        "P",
        escape(header.version),
    ]
    if header.accept_when or header.answer_when:
        fields += ["", "", "NE", "NE"]
    lines = ["|".join(fields), f"MSA|{code}|{escape(header.control_id)}"]
    if error is not None:
        lines.append(f"ERR|||{error.condition}^^HL70357|E||||{escape(str(error))}")
    return "".join(f"{line}\r" for line in lines).encode()


def write_oru(readings: Sequence[Reading], control_id: str, now_ms: int) -> bytes:
    """An ORU^R01 of readings of one patient at one time.

    Args:
        readings: At least one; `system` is what OBX-3 calls it.
        control_id: MSH-10.
        now_ms: MSH-7.
    """
    return "".join(f"{line}\r" for line in _oru_lines(readings, control_id, now_ms)).encode()


def _oru_lines(readings: Sequence[Reading], control_id: str, now_ms: int) -> Iterator[str]:
    first = readings[0]
    measured = dtm(first.t_measured_ms)
    yield (
        f"MSH|^~\\&|SMALLHOLD-FEED||||{dtm(now_ms)}||ORU^R01^ORU_R01|{escape(control_id)}|P|2.6|||NE|AL||UNICODE UTF-8"
    )
    yield f"PID|1||{escape(first.patient)}^^^FEED^PI"
    yield f"OBR|1|||monitoring^patient monitoring^99SMALLHOLD|||{measured}"
    for number, one in enumerate(readings, start=1):
        yield (
            f"OBX|{number}|NM|{escape(one.code)}^^{escape(one.system)}||{one.value:.10g}|{escape(one.unit)}^^UCUM"
            f"|||||F|||{dtm(one.t_measured_ms)}||||{escape(one.device)}"
        )


def escape(text: str) -> str:
    """Text for a field with the usual delimiters; characters that end a segment or a frame become `?`."""
    marks = {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"}
    return "".join(marks.get(c, c if c.isprintable() else "?") for c in text[:200])


def dtm(time_ms: int) -> str:
    """A time in UTC with milliseconds, as DTM."""
    when = datetime.fromtimestamp(time_ms / 1000, UTC)
    return f"{when:%Y%m%d%H%M%S}.{time_ms % 1000:03d}+0000"
