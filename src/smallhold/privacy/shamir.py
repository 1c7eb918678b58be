"""Split a secret of 32 bytes so that any `threshold` shares give it back, and fewer say nothing about it.

Source: Shamir 1979, "How to Share a Secret", Communications of the ACM 22(11).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping

from smallhold.errors import InputError, SecureSumError
from smallhold.privacy.checks import check_count

SECRET_BYTES = 32
SHARE_BYTES = 33
# The smallest prime above 2^256 (tests prove that it is prime): every secret of 32 bytes is an element of the field.
PRIME = 2**256 + 297


def split_secret(secret: bytes, *, holders: Iterable[int], threshold: int) -> dict[int, bytes]:
    """Shares of a secret: values at the holders' points of a random polynomial of degree threshold - 1.

    Args:
        secret: 32 bytes.
        holders: Distinct points from 1 to 2^32, one a holder.
        threshold: Shares that give the secret back.

    Returns:
        Point to share of 33 bytes.

    Raises:
        InputError: a secret of another size, a point that is 0 or repeated, or fewer holders than `threshold`.
    """
    points = list(holders)
    check_count(threshold, "threshold")
    if len(secret) != SECRET_BYTES:
        raise InputError(f"secret: expected {SECRET_BYTES} bytes, got {len(secret)}")
    if len(set(points)) != len(points) or any(not 1 <= point <= 2**32 for point in points):
        raise InputError("holders: expected distinct points from 1 to 2^32 (the point 0 is the secret itself)")
    if len(points) < threshold:
        raise InputError(f"threshold: {threshold} shares are needed, but there are {len(points)} holders")
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    shares = {}
    for point in points:
        value = 0
        for coefficient in reversed(coefficients):
            value = (value * point + coefficient) % PRIME
        shares[point] = value.to_bytes(SHARE_BYTES, "big")
    return shares


def lagrange_at_zero(points: Iterable[int]) -> dict[int, int]:
    """What each share weighs in the secret; the same for every secret that is opened from the same holders."""
    chosen = list(points)
    weights = {}
    for own in chosen:
        numerator, denominator = 1, 1
        for other in chosen:
            if other != own:
                numerator = numerator * other % PRIME
                denominator = denominator * (other - own) % PRIME
        weights[own] = numerator * pow(denominator, -1, PRIME) % PRIME
    return weights


def join_shares(shares: Mapping[int, bytes], weights: Mapping[int, int]) -> bytes:
    """The secret of shares at exactly the points of `weights` (from `lagrange_at_zero`).

    Whether it is the secret that was split, the caller has to check: one wrong share gives another value.

    Raises:
        SecureSumError: a share that no field element has, or shares whose secret has more than 32 bytes: not of one
            secret.
    """
    total = 0
    for point, weight in weights.items():
        if len(shares[point]) != SHARE_BYTES or int.from_bytes(shares[point], "big") >= PRIME:
            raise SecureSumError(f"the share of holder {point} is no element of the field")
        total = (total + int.from_bytes(shares[point], "big") * weight) % PRIME
    if total >> (8 * SECRET_BYTES):
        raise SecureSumError("the shares are not of one secret")
    return total.to_bytes(SECRET_BYTES, "big")
