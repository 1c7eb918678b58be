"""The engine's verdict over signatures is OpenSSL's, on genuine, random and hand-made ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from tests.engine import edwards25519 as curve
from tests.engine.verifier import Verifier, running


def python_accepts(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except InvalidSignature:
        return False
    return True


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with running("signatures") as started:
        yield started


@pytest.fixture(scope="module")
def agreed(verifier: Verifier) -> Callable[[bytes, bytes, bytes], bool]:
    """agreed(key, message, signature) is the verdict of both."""

    def verdict(key: bytes, message: bytes, signature: bytes) -> bool:
        accepted = verifier.ask(key, message, signature)[0] == "ok"
        assert accepted == python_accepts(key, message, signature), (key.hex(), message.hex(), signature.hex())
        return accepted

    return verdict


def test_random_and_changed_signatures(agreed: Callable[[bytes, bytes, bytes], bool]) -> None:
    rng = random.Random(0)
    accepted = 0
    for number in range(3000):
        private = Ed25519PrivateKey.from_private_bytes(rng.randbytes(32))
        parts = [private.public_key().public_bytes_raw(), rng.randbytes(rng.choice((0, 1, 111, 112, 300, 2000)))]
        parts.append(private.sign(parts[1]))
        part, change = number % 3, number % 4
        if change == 0 and parts[part]:
            changed = bytearray(parts[part])
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
            parts[part] = bytes(changed)
        elif change == 1:
            parts[part] = rng.randbytes(len(parts[part]))
        elif change == 2 and part:
            parts[part] = rng.choice((parts[part][:-1], parts[part] + b"\0", b""))
        accepted += agreed(*parts)
    assert 700 < accepted < 2000


def test_keys_and_commitments_of_small_and_mixed_order(agreed: Callable[[bytes, bytes, bytes], bool]) -> None:
    torsion, nonces = curve.torsion(), [(nonce, curve.multiply(nonce, curve.BASE)) for nonce in (0, 7, 2**251 + 5)]
    accepted = rejected = 0
    for secret in (0, 5):  # small order alone, and mixed with the prime order
        for key_part in torsion:
            key = curve.encode(curve.add(curve.multiply(secret, curve.BASE), key_part))
            for commitment_part in torsion:
                for nonce, point in nonces:
                    commitment = curve.encode(curve.add(point, commitment_part))
                    response = (nonce + curve.challenge(commitment, key, b"x") * secret) % curve.ORDER
                    if agreed(key, b"x", commitment + response.to_bytes(32, "little")):
                        accepted += 1
                    else:
                        rejected += 1
    assert min(accepted, rejected) > 20  # the equation holds in the prime order; the rest of each decides


def test_responses_at_and_beyond_the_order(agreed: Callable[[bytes, bytes, bytes], bool]) -> None:
    private = Ed25519PrivateKey.from_private_bytes(bytes(32))
    key, neutral = private.public_key().public_bytes_raw(), curve.encode(curve.NEUTRAL)
    for message in (b"", b"x", b"abc" * 99):
        signature = private.sign(message)
        response = int.from_bytes(signature[32:], "little")
        for times in range(1, 16):
            larger = response + times * curve.ORDER
            if larger < 2**256:
                assert not agreed(key, message, signature[:32] + larger.to_bytes(32, "little"))
    for response in (0, 1, curve.ORDER - 1, curve.ORDER, curve.ORDER + 1, 2 * curve.ORDER, 2**255, 2**256 - 1):
        commitment = curve.encode(curve.multiply(response % curve.ORDER, curve.BASE))
        verdict = agreed(neutral, b"x", commitment + response.to_bytes(32, "little"))
        assert verdict == (response < curve.ORDER)


def test_encodings_that_are_not_canonical(verifier: Verifier) -> None:
    """Commitments: both refuse. Keys: RFC 8032 refuses them, and so does the engine; OpenSSL takes some."""
    largest = 2**255
    others = [value | sign for value in range(curve.P, largest) for sign in (0, largest)]
    others += [1 | largest, curve.P - 1 | largest]  # x = 0, which has no sign
    small, taken_by_python = [curve.encode(point) for point in curve.torsion()], 0
    for value in others:
        odd = value.to_bytes(32, "little")
        for canonical in small:
            signature = odd + bytes(32)
            assert not python_accepts(canonical, b"x", signature)
            assert verifier.ask(canonical, b"x", signature)[0] == "Untrusted"
            taken_by_python += python_accepts(odd, b"x", canonical + bytes(32))
            assert verifier.ask(odd, b"x", canonical + bytes(32))[0] == "Untrusted"
    assert taken_by_python > 0
