"""Random words for noise, rounding and masks: a keystream that nobody can predict, as numpy arrays.

A statistical generator (numpy's PCG64, Mersenne Twister) can be predicted from its output, and with it the noise that
protects a record. So the words here are the AES-256-CTR keystream of a key from the operating system.
"""

from __future__ import annotations

import hashlib
import os
from typing import Protocol

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from smallhold.errors import InputError

UInt64 = npt.NDArray[np.uint64]
Int64 = npt.NDArray[np.int64]

_BLOCK_BYTES = 16


class Random(Protocol):
    """A source of uniform 64-bit words."""

    def words(self, count: int) -> UInt64:
        """(count,) independent and uniform in [0, 2^64)."""
        ...


class SecureRandom:
    """Words from the operating system's entropy, stretched by AES-256-CTR.

    Guaranteed: a process that forks never repeats its parent's words (the key is renewed in the child).
    """

    def __init__(self) -> None:
        self._renew()

    def _renew(self) -> None:
        self._process = os.getpid()
        self._keystream = Keystream(os.urandom(32))

    def words(self, count: int) -> UInt64:
        """(count,) independent and uniform in [0, 2^64)."""
        if os.getpid() != self._process:
            self._renew()
        return self._keystream.read(count * 8).view(np.uint64)


class UnsafeSeededRandom:
    """The same words for the same seed, for tests alone: whoever knows the seed can subtract the noise."""

    def __init__(self, seed: int | str) -> None:
        self._keystream = Keystream(hashlib.sha256(f"unsafe seed {seed}".encode()).digest())

    def words(self, count: int) -> UInt64:
        """(count,) words that the seed determines."""
        return self._keystream.read(count * 8).view(np.uint64)


class Keystream:
    """AES-256-CTR over zeros, from counter 0: one key gives one endless stream, used for one purpose only.

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._encryptor = Cipher(AES(key), CTR(bytes(_BLOCK_BYTES))).encryptor()

    def read(self, size_bytes: int) -> npt.NDArray[np.uint8]:
        """The next bytes of the stream, in a new array."""
        out = np.empty(size_bytes + _BLOCK_BYTES, dtype=np.uint8)
        self.read_into(np.zeros(size_bytes, dtype=np.uint8), out)
        return out[:size_bytes]

    def read_into(self, zeros: npt.NDArray[np.uint8], out: npt.NDArray[np.uint8]) -> None:
        """Fill the front of `out` with as many bytes as `zeros` has; `out` is 16 bytes longer than that."""
        self._encryptor.update_into(zeros.data, out.data)


def uniform_below(bound: int, count: int, random: Random) -> Int64:
    """Independent whole numbers, exactly uniform in [0, bound).

    Words at or above the highest multiple of `bound` are drawn again, so that no residue is likelier than another.

    Args:
        bound: 1 to 2^62.
        count: How many.
        random: Where the words come from.
    """
    if not 1 <= bound <= 2**62:
        raise InputError(f"bound: expected 1 to 2^62, got {bound}")
    limit = (2**64 // bound) * bound  # words below it are taken
    out = np.empty(count, dtype=np.int64)
    filled = 0
    while filled < count:
        words = random.words(count - filled)
        if limit < 2**64:
            words = words[words < np.uint64(limit)]
        out[filled : filled + words.size] = (words % np.uint64(bound)).astype(np.int64)
        filled += words.size
    return out


def unit_floats(count: int, random: Random) -> npt.NDArray[np.float64]:
    """(count,) multiples of 2^-53, uniform in [0, 1)."""
    return (random.words(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53
