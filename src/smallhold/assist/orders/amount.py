"""Amounts of drugs as whole millionths of a unit: sums and ceilings are exact, and no float comes near them."""

from __future__ import annotations

import re
from typing import Any

from smallhold.errors import OrderError

MICRO = 1_000_000
#: A thousand million units. Sums of a few thousand such amounts still fit into 64 bits, for whoever keeps them there.
LARGEST = 10**9 * MICRO
#: UCUM codes. Nothing is ever converted: an amount in another unit than the order's is refused.
UNITS = ("ug", "mg", "g", "mL", "mmol", "U", "mU")
#: Ways to write them that have cost lives, and what is meant (ISMP's list of error-prone abbreviations).
_MISTAKEN = {"mcg": "ug", "µg": "ug", "μg": "ug", "IU": "U", "u": "U", "cc": "mL", "ml": "mL", "MG": "mg", "Mg": "mg"}
_DECIMAL = re.compile(r"(0|[1-9][0-9]{0,8})(?:\.([0-9]{1,6}))?", re.ASCII)


def parse_amount(value: Any, where: str) -> int:
    """A decimal number as millionths.

    Args:
        value: Text with at most 9 digits before and 6 behind the point, or a whole number.
        where: What it is, for messages.

    Returns:
        0 or more, at most `LARGEST`.

    Raises:
        OrderError: a float (it is not what was written), a sign, an exponent, too many digits, or beyond `LARGEST`.

    >>> parse_amount("0.25", "dose")
    250000
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    match = _DECIMAL.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise OrderError(
            f'{where}: expected a decimal number in quotation marks, such as "2.5", with at most 9 digits before and '
            f"6 behind the point, got {value!r}"
        )
    micro = int(match[1]) * MICRO + int((match[2] or "").ljust(6, "0"))
    return check_amount(micro, where)


def check_amount(micro: Any, where: str) -> int:
    """An amount that is already in millionths.

    Raises:
        OrderError: not a whole number, negative, or beyond `LARGEST`.
    """
    if not isinstance(micro, int) or isinstance(micro, bool):
        raise OrderError(f"{where}: expected a whole number of millionths, got {micro!r}")
    if not 0 <= micro <= LARGEST:
        raise OrderError(f"{where}: expected 0 to {LARGEST // MICRO} units, got {micro} millionths")
    return micro


def parse_unit(value: Any, where: str) -> str:
    """A unit of the closed list.

    Raises:
        OrderError: another one; the message names what may be meant.
    """
    if isinstance(value, str) and value in UNITS:
        return value
    meant = _MISTAKEN.get(value) if isinstance(value, str) else None
    raise OrderError(
        f"{where}: unknown unit {value!r}" + (f"; do you mean {meant!r}?" if meant else ""),
        hint=f"expected a UCUM code: {', '.join(UNITS)}",
    )


def format_amount(micro: int) -> str:
    """The shortest decimal that `parse_amount` reads back.

    >>> format_amount(250_000)
    '0.25'
    """
    whole, rest = divmod(micro, MICRO)
    return f"{whole}.{rest:06}".rstrip("0") if rest else str(whole)
