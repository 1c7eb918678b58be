"""Points of edwards25519 in plain integers, to make keys and signatures that no honest signer makes.

Source: RFC 8032, sections 5.1 and 6.
"""

from __future__ import annotations

import hashlib

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P

Point = tuple[int, int]
NEUTRAL: Point = (0, 1)


def add(left: Point, right: Point) -> Point:
    (x1, y1), (x2, y2) = left, right
    product = D * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, P)
    y = (y1 * y2 + x1 * x2) * pow(1 - product, -1, P)
    return x % P, y % P


def multiply(number: int, point: Point) -> Point:
    result = NEUTRAL
    while number:
        if number & 1:
            result = add(result, point)
        point, number = add(point, point), number >> 1
    return result


def with_y(y: int) -> Point | None:
    """The point of that y whose x is even, where there is one."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    root = pow(square, (P + 3) // 8, P)
    if root * root % P != square:
        root = root * pow(2, (P - 1) // 4, P) % P
    if root * root % P != square:
        return None
    return (P - root) % P if root & 1 else root, y


def encode(point: Point) -> bytes:
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def torsion() -> list[Point]:
    """The eight points whose order divides 8, the neutral one first."""
    candidates = (multiply(ORDER, point) for point in map(with_y, range(2, 99)) if point is not None)
    generator = next(point for point in candidates if multiply(4, point) != NEUTRAL)
    return [multiply(i, generator) for i in range(8)]


BASE = with_y(4 * pow(5, -1, P) % P)
assert BASE is not None


def challenge(commitment: bytes, key: bytes, message: bytes) -> int:
    return int.from_bytes(hashlib.sha512(commitment + key + message).digest(), "little") % ORDER
