from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallhold.assist.orders.amount import LARGEST, MICRO, check_amount, format_amount, parse_amount, parse_unit
from smallhold.errors import OrderError


@pytest.mark.parametrize(
    ("written", "micro"),
    [
        ("0", 0),
        ("2", 2_000_000),
        ("0.25", 250_000),
        ("0.000001", 1),
        (3, 3_000_000),
        ("999999999", 999_999_999 * MICRO),
    ],
)
def test_what_is_written_is_what_is_meant(written: Any, micro: int) -> None:
    assert parse_amount(written, "dose") == micro


@pytest.mark.parametrize(
    "written",
    [
        *("1,5", "1e3", "-1", "+1", " 1", "1 ", "1.", ".5", "01", "0.0000001", "1000000000", "1.5 U", "", "١", "１"),
        *(1.5, 0.1, True, None, [], b"1", float("nan"), 10**30, -1),
    ],
)
def test_what_could_be_mistaken_is_refused(written: Any) -> None:
    with pytest.raises(OrderError, match=r"dose: expected a decimal number in quotation marks"):
        parse_amount(written, "dose")


@given(st.integers(0, LARGEST))
def test_formatting_is_read_back(micro: int) -> None:
    text = format_amount(micro)
    assert Decimal(text) * MICRO == micro
    assert text == "1000000000" or parse_amount(text, "dose") == micro


@pytest.mark.parametrize("value", [-1, LARGEST + 1, 1.0, True, "1", None])
def test_an_amount_has_its_range_and_type(value: Any) -> None:
    with pytest.raises(OrderError, match="dose: expected"):
        check_amount(value, "dose")


@pytest.mark.parametrize(("unit", "meant"), [("mcg", "ug"), ("µg", "ug"), ("μg", "ug"), ("IU", "U"), ("cc", "mL")])
def test_error_prone_units_are_refused_with_what_is_meant(unit: str, meant: str) -> None:
    with pytest.raises(OrderError, match=f"do you mean '{meant}'"):
        parse_unit(unit, "unit")
    with pytest.raises(OrderError, match="unknown unit 'kg'"):
        parse_unit("kg", "unit")
