"""Numbers and times from text, in the few forms that the standards allow; None for everything else."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo

# ASCII alone: `int` and `float` would also take digits of other scripts, underscores, blanks, `nan` and `1e999`.
_NUMBER = re.compile(r"[+-]?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_WHOLE = re.compile(r"[0-9]{1,15}", re.ASCII)
_ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,9}))?)?(Z|[+-][0-9]{2}:[0-9]{2})",
    re.ASCII,
)
_HL7 = re.compile(
    r"([0-9]{4})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})(?:([0-9]{2})(?:\.([0-9]{1,4}))?)?([+-][0-9]{4})?", re.ASCII
)
_HL7_ZONE = re.compile(r"[0-9.]*([+-][0-9]{4})", re.ASCII)


def parse_number(text: str) -> float | None:
    """A decimal number; may be infinite where the exponent is too large, which the intake refuses."""
    return float(text) if _NUMBER.fullmatch(text) else None


def parse_whole(text: str) -> int | None:
    """Up to 15 decimal digits."""
    return int(text) if _WHOLE.fullmatch(text) else None


def parse_iso_ms(text: str) -> int | None:
    """`dateTime` or `instant` of FHIR (ISO 8601) with a time of day and a zone, in milliseconds UTC.

    >>> parse_iso_ms("1970-01-01T01:00:01.5+01:00")
    1500
    """
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    zone = match[8].replace(":", "")
    return _to_ms(match, UTC if zone == "Z" else _offset(zone))


def parse_hl7_ms(text: str, zone: tzinfo | None) -> int | None:
    """DTM of HL7 v2 (section 2A.3.22), at least to the minute, in milliseconds UTC.

    Args:
        text: As received.
        zone: Used where the text names none; None refuses such a time.

    >>> parse_hl7_ms("197001010200+0100", None), parse_hl7_ms("197001010000", None)
    (3600000, None)
    """
    match = _HL7.fullmatch(text)
    if match is None:
        return None
    own = zone if match[8] is None else _offset(match[8])
    return None if own is None else _to_ms(match, own)


def hl7_zone(text: str) -> tzinfo | None:
    """The offset at the end of a DTM."""
    match = _HL7_ZONE.fullmatch(text)
    return None if match is None else _offset(match[1])


def _offset(text: str) -> tzinfo | None:
    minutes = int(text[1:3]) * 60 + int(text[3:5])
    if minutes > 14 * 60 or int(text[3:5]) > 59:
        return None
    return timezone(timedelta(minutes=-minutes if text[0] == "-" else minutes))


def _to_ms(match: re.Match[str], zone: tzinfo | None) -> int | None:
    if zone is None:
        return None
    year, month, day, hour, minute = (int(match[group]) for group in range(1, 6))
    try:
        # A leap second counts as the second before it: clocks of computers have none.
        when = datetime(year, month, day, hour, minute, min(int(match[6] or 0), 59), tzinfo=zone)
        whole = round((when - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(seconds=1))
    except (ValueError, OverflowError):
        return None
    if int(match[6] or 0) > 60:
        return None
    return whole * 1000 + int((match[7] or "0").ljust(3, "0")[:3])
