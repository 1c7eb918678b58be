import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smallhold.assist.orders import StandingOrder, add_signature, read_order, sign_order, sign_revocation
from smallhold.assist.orders.signing import unsafe_read_order, verify_order, verify_revocation
from smallhold.device.trust import key_id
from smallhold.errors import InputError, OrderError
from smallhold.records import canonical_json

from .order_ward import DOCTORS, ORDER, STRANGER, UNIT

TRUSTED = {key_id(key.public_key()): key.public_key() for key in DOCTORS}
FILE = """
format = 1
name = "insulin-night"
drug = "insulin-regular"
unit = "U"
dose_max = "2"
rate_max = "5"
rate_window_seconds = 3600
total_max = 12
count_max = 10
interval_seconds = 300
not_before = "2027-01-15T08:00:00Z"
expires = "2027-01-15T20:00:00Z"
patient = "p-17"
required_signatures = 1
allergies = ["protamine"]
interacting_drugs = ["glucagon"]
[[bound]]
code = "Glucose"
unit = "mg/dL"
min = "110"
max_age_seconds = 600
"""


def write(folder: Path, text: str, name: str = "order.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_says_what_the_order_is(tmp_path: Path) -> None:
    assert read_order(write(tmp_path, FILE)) == ORDER
    assert read_order(write(tmp_path, json.dumps(tomllib.loads(FILE)), "order.json")) == ORDER


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('dose_max = "2"', "dose_max = 2.0", 'dose_max: expected a decimal number in quotation marks, such as "2.5"'),
        ('unit = "U"', 'unit = "IU"', "unknown unit 'IU'; do you mean 'U'"),
        ('dose_max = "2"', 'dose_max = "20"', "expected 0 < dose_max <= rate_max <= total_max"),
        ('dose_max = "2"', 'dose_max = "0"', "expected 0 < dose_max"),
        ('patient = "p-17"', "", "expected a patient or a ward, and not both"),
        ('patient = "p-17"', 'patient = "p-17"\nward = "3"', "expected a patient or a ward, and not both"),
        ("required_signatures = 1", "required_signatures = 3", "required_signatures: expected 1 or 2, got 3"),
        ("required_signatures = 1", "required_signatures = true", "expected a whole number, got True"),
        ("2027-01-15T20", "2027-01-15T08", "expected expires after not_before"),
        ("2027-01-15T20", "2029-01-15T20", "within 366 days"),
        ("2027-01-15T20:00:00Z", "tomorrow", "expected a UTC time such as"),
        ("count_max = 10", "count_max = 0", "count_max: expected 1 to"),
        ("interval_seconds = 300", "interval_seconds = 0", "interval_ms: expected 1000 to"),
        ("count_max", "count_maximum", "unknown key 'count_maximum'"),
        ("count_max = 10", "", "key 'count_max' is missing"),
        ('min = "110"', "", "bound of 'Glucose' bounds nothing"),
        ('min = "110"', 'min = "110"\nmax = "90"', "min is above max"),
        ("insulin-regular", "Insulin-Regular", "written in lower case"),
        ("format = 1", "format = 2", "format: expected 1, got 2"),
        ("format = 1", "format = [", "cannot be read"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in FILE
    with pytest.raises(OrderError, match=message):
        read_order(write(tmp_path, FILE.replace(old, new)))


def test_a_file_that_is_absent_or_huge_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OrderError, match="cannot be read"):
        read_order(tmp_path / "none.toml")
    with pytest.raises(OrderError, match="has at most 65536 bytes"):
        read_order(write(tmp_path, "#" * 70_000))


def test_bytes_have_one_form() -> None:
    assert StandingOrder.from_bytes(ORDER.to_bytes()) == ORDER
    members: dict[str, Any] = json.loads(ORDER.to_bytes())
    for changed in (
        members | {"extra": 1},
        {name: value for name, value in members.items() if name != "note"},
        members | {"dose_max": 2_000_000.0},
        members | {"dose_max": True},
        members | {"count_max": 10.0},
        members | {"note": 3},
        members | {"allergies": "protamine"},
        members | {"allergies": [3]},
        members | {"bounds": [{**members["bounds"][0], "minimum": 110.5}]},
        members | {"bounds": 3},
        members | {"not_before_ms": "now"},
        [members],
    ):
        with pytest.raises(OrderError):
            StandingOrder.from_bytes(canonical_json(changed))
    with pytest.raises(OrderError, match="canonical"):
        StandingOrder.from_bytes(json.dumps(members, indent=1).encode())


def test_one_doctor_signs_and_a_stranger_does_not_count() -> None:
    signed = verify_order(sign_order(ORDER, [DOCTORS[0], STRANGER]), TRUSTED)
    assert (signed.order, signed.signers, signed.digest) == (ORDER, (key_id(DOCTORS[0].public_key()),), ORDER.digest)
    with pytest.raises(OrderError, match="signed by nobody for orders this home trusts"):
        verify_order(sign_order(ORDER, [STRANGER]), TRUSTED)


def test_two_people_means_two_keys() -> None:
    two = replace(ORDER, required_signatures=2)
    once = sign_order(two, [DOCTORS[0]])
    with pytest.raises(OrderError, match="expected signatures of 2 distinct people, got 1"):
        verify_order(once, TRUSTED)
    with pytest.raises(OrderError, match="got 1"):  # signing twice is no second person
        verify_order(add_signature(once, DOCTORS[0]), TRUSTED)
    with pytest.raises(OrderError, match="got 1"):  # nor is the same signature written twice
        envelope = json.loads(once)
        verify_order(canonical_json(envelope | {"signatures": envelope["signatures"] * 2}), TRUSTED)
    with pytest.raises(OrderError, match="got 1"):  # nor a stranger
        verify_order(add_signature(once, STRANGER), TRUSTED)
    assert len(verify_order(add_signature(once, DOCTORS[1]), TRUSTED).signers) == 2
    with pytest.raises(OrderError, match="expected signatures of 2"):  # the site may want more than the order says
        verify_order(sign_order(ORDER, DOCTORS[:1]), TRUSTED, minimum_signatures=2)


def test_no_byte_of_an_order_changes_unseen() -> None:
    envelope = sign_order(ORDER, [DOCTORS[0]])
    for position in range(0, len(envelope), 7):
        changed = bytearray(envelope)
        changed[position] ^= 1
        with pytest.raises(OrderError):
            verify_order(bytes(changed), TRUSTED)


def test_a_signature_of_another_type_or_order_is_none() -> None:
    other = replace(ORDER, dose_max=3 * UNIT)
    swapped = json.loads(sign_order(other, [DOCTORS[0]]))
    swapped["signatures"] = json.loads(sign_order(ORDER, [DOCTORS[0]]))["signatures"]
    with pytest.raises(OrderError, match="does not match the standing order"):
        verify_order(canonical_json(swapped), TRUSTED)
    with pytest.raises(OrderError, match="payloadType"):
        verify_order(sign_revocation(ORDER.digest, "wrong drug", 1, DOCTORS[0]), TRUSTED)
    with pytest.raises(OrderError, match="payloadType"):
        verify_revocation(sign_order(ORDER, [DOCTORS[0]]), TRUSTED)


def test_only_an_order_is_ever_signed() -> None:
    with pytest.raises(InputError, match="at least one private key"):
        sign_order(ORDER, [])
    with pytest.raises(OrderError, match="not a signed envelope"):
        add_signature(b"{}", DOCTORS[0])
    with pytest.raises(OrderError, match="expected an order's digest, a reason"):
        sign_revocation("abc", "why", 1, DOCTORS[0])
    with pytest.raises(OrderError, match="expected an order's digest, a reason"):
        sign_revocation(ORDER.digest, " ", 1, DOCTORS[0])
    assert unsafe_read_order(sign_order(ORDER, [STRANGER])) == (ORDER, (key_id(STRANGER.public_key()),))
