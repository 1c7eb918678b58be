from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallhold.errors import InputError
from smallhold.records import canonical_json, sha256_hex

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def test_one_value_by_hand() -> None:
    assert (
        canonical_json({"b": [1, 1.5, True, None], "a": "Ω\n", "B": (2,)})
        == '{"B":[2],"a":"Ω\\n","b":[1,1.5,true,null]}'.encode()
    )


def without_surrogates(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


@given(PLAIN.filter(without_surrogates))
def test_the_form_is_a_fixed_point(value: object) -> None:
    data = canonical_json(value)
    assert canonical_json(json.loads(data)) == data


@given(st.dictionaries(st.text("abc", max_size=3), st.integers(), max_size=6))
def test_the_order_of_members_does_not_count(value: dict) -> None:
    assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, {"a": [-math.inf]}, {1, 2}, b"bytes", {"a": object()}, "\ud800"])
def test_what_json_cannot_express_is_refused(value: object) -> None:
    with pytest.raises(InputError, match="value has no canonical JSON form"):
        canonical_json(value)


def test_the_digest_is_sha_256() -> None:
    # FIPS 180-2, appendix B.1
    assert sha256_hex(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
