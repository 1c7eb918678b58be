from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given, settings
from hypothesis import strategies as st

from smallhold.assist.sources.plain_text import hl7_zone, parse_hl7_ms, parse_iso_ms, parse_number, parse_whole

MOMENTS = st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(2099, 12, 30))
OFFSETS = st.integers(-14 * 60, 14 * 60)


@settings(max_examples=200, deadline=None)
@given(MOMENTS, OFFSETS)
def test_times_agree_with_the_standard_library(moment: datetime, offset: int) -> None:
    when = moment.replace(tzinfo=timezone(timedelta(minutes=offset)))
    expected = (when.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert parse_iso_ms(when.isoformat(timespec="microseconds")) == expected
    assert parse_iso_ms(when.isoformat(timespec="milliseconds")) == expected
    text = f"{when:%Y%m%d%H%M%S}.{when.microsecond // 1000:03d}"
    zone = f"{'-' if offset < 0 else '+'}{abs(offset) // 60:02d}{abs(offset) % 60:02d}"
    assert parse_hl7_ms(text + zone, None) == expected
    assert parse_hl7_ms(text, when.tzinfo) == expected
    assert hl7_zone(text + zone) == when.tzinfo


@given(st.text(max_size=30))
def test_any_text_is_a_number_or_none_and_never_an_error(text: str) -> None:
    value, whole = parse_number(text), parse_whole(text)
    parse_iso_ms(text)
    parse_hl7_ms(text, UTC)
    hl7_zone(text)
    assert value is None or (text.isascii() and value == float(text))
    assert whole is None or whole == int(text)


@given(st.floats(-1e30, 1e30, allow_nan=False))
def test_what_python_writes_is_read_back(value: float) -> None:
    assert parse_number(repr(value)) == value
