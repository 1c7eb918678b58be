"""Secret sharing and key agreement."""

import itertools
import random

import pytest

from smallhold.errors import InputError, SecureSumError
from smallhold.privacy.key_agreement import agree, private_key, public_bytes
from smallhold.privacy.shamir import PRIME, join_shares, lagrange_at_zero, split_secret


def is_probably_prime(number, rounds=40):
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in random.Random(0).sample(range(2, 10**6), rounds):
        value = pow(base, odd, number)
        if value not in (1, number - 1) and all(
            (value := value * value % number) != number - 1 for _ in range(twos - 1)
        ):
            return False
    return True


def test_the_field_is_the_first_prime_that_holds_every_secret():
    assert is_probably_prime(PRIME)
    assert not any(is_probably_prime(2**256 + offset, rounds=2) for offset in range(1, 297, 2))


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, bytes(range(32))])
def test_any_threshold_of_shares_gives_the_secret_back(secret):
    shares = split_secret(secret, holders=[1, 2, 5, 9, 70000], threshold=3)
    for chosen in itertools.combinations(shares, 3):
        assert join_shares(shares, lagrange_at_zero(chosen)) == secret


def test_one_share_less_fits_every_secret():
    """With two of three shares there is a third for any other secret: the two say nothing."""
    shares = split_secret(b"a" * 32, holders=[1, 2, 3], threshold=3)
    weights = lagrange_at_zero([1, 2, 3])
    wanted = int.from_bytes(b"b" * 32, "big")
    known = sum(int.from_bytes(shares[point], "big") * weights[point] for point in (1, 2))
    third = (wanted - known) * pow(weights[3], -1, PRIME) % PRIME
    forged = {**shares, 3: third.to_bytes(33, "big")}
    assert join_shares(forged, weights) == b"b" * 32


def test_shares_of_two_splits_do_not_mix():
    first, second = (split_secret(b"a" * 32, holders=[1, 2, 3], threshold=2) for _ in range(2))
    assert first != second
    try:
        assert join_shares({1: first[1], 2: second[2]}, lagrange_at_zero([1, 2])) != b"a" * 32
    except SecureSumError as error:
        assert "not of one secret" in str(error)  # about once in 2^250: the value has a bit too many


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="expected 32 bytes, got 31"):
        split_secret(bytes(31), holders=[1, 2], threshold=2)
    with pytest.raises(InputError, match="the point 0 is the secret itself"):
        split_secret(bytes(32), holders=[0, 1], threshold=2)
    with pytest.raises(InputError, match="distinct points"):
        split_secret(bytes(32), holders=[1, 1], threshold=2)
    with pytest.raises(InputError, match="3 shares are needed, but there are 2 holders"):
        split_secret(bytes(32), holders=[1, 2], threshold=3)
    with pytest.raises(SecureSumError, match="no element of the field"):
        join_shares({1: b"\xff" * 33}, {1: 1})


def test_both_ends_agree_and_purposes_and_contexts_differ():
    own, other = private_key(b"\1" * 32), private_key(b"\2" * 32)
    key = agree(own, public_bytes(other), context=b"c", purpose=b"p")
    assert key == agree(other, public_bytes(own), context=b"c", purpose=b"p")
    assert len({key, agree(own, public_bytes(other), context=b"d", purpose=b"p")}) == 2
    assert len({key, agree(own, public_bytes(other), context=b"c", purpose=b"q")}) == 2


def test_a_key_of_low_order_is_refused():
    with pytest.raises(SecureSumError, match="not a usable X25519 key"):
        agree(private_key(b"\1" * 32), bytes(32), context=b"", purpose=b"")
