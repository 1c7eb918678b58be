"""Masks: keystreams of AES-256-CTR as vectors of the field, added or taken away many at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from smallhold.privacy.key_agreement import KEY_BYTES
from smallhold.privacy.packing import UInt
from smallhold.privacy.randomness import Keystream

# A piece of every mask is made and added before the next piece: 256 KiB stay in the processor's second cache.
_PIECE_BYTES = 2**18


def add_masks(total: UInt, masks: Iterable[tuple[bytes, int]]) -> None:
    """Add masks to a vector in place, modulo the width of its words.

    Reducing the result modulo 2^bits is right whenever the words have `bits` bits or more, for 2^bits divides theirs.

    Args:
        total: (P,) unsigned.
        masks: Key of 32 bytes and sign, +1 or -1, of each; one key gives one mask, used in one session.
    """
    streams = [(Keystream(key), sign) for key, sign in masks]
    words = _PIECE_BYTES // total.dtype.itemsize
    zeros = np.zeros(_PIECE_BYTES, dtype=np.uint8)
    buffer = np.empty(_PIECE_BYTES + 16, dtype=np.uint8)
    little = total.dtype.newbyteorder("<")
    for start in range(0, total.size, words):
        piece = total[start : start + words]
        size = piece.size * total.dtype.itemsize
        mask = buffer[:size].view(little)
        for stream, sign in streams:
            stream.read_into(zeros[:size], buffer)
            if sign > 0:
                np.add(piece, mask, out=piece)
            else:
                np.subtract(piece, mask, out=piece)


def self_mask_key(seed: bytes, *, context: bytes) -> bytes:
    """The key of a site's own mask."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=context, info=b"self mask").derive(seed)


def commit_seed(seed: bytes, *, context: bytes, sender: str) -> bytes:
    """What a site shows of its seed beforehand; a seed put together from wrong shares does not match it."""
    return hashlib.sha256(b"seed commitment\0" + context + sender.encode() + b"\0" + seed).digest()
