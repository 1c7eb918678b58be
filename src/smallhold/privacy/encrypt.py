"""Homomorphic encryption of updates: a server adds ciphertexts that it cannot read (CKKS, through TenSEAL).

Source: Cheon, Kim, Kim, Song 2017, "Homomorphic Encryption for Arithmetic of Approximate Numbers"; Microsoft SEAL 4
under TenSEAL (extra `he`). Parameters: ring dimension 4096, a ciphertext modulus of one 60-bit prime and a 49-bit one
for keys, 109 bits in all: the most that the Homomorphic Encryption Standard's table allows at 128 bits for this ring,
and SEAL checks it.

Threat model: the sites share one secret key (or leave it to one party that never meets the server's data); the server
has the public key. The server, alone, learns nothing. A site that hands the secret key to the server opens every
other site's update: prefer secure aggregation where sites might. Ciphertexts are not authenticated: sign what carries
them. Nothing here is a threshold scheme.

Why whole numbers: a CKKS ciphertext decrypts to the sum plus a noise that depends on the secret key, and publishing
that noise gives the key away (Li, Micciancio 2021, "On the Security of Homomorphic Encryption on Approximate
Numbers"). Here the sum is a whole number and the noise is rounded away before anybody sees it, so that what is
published does not depend on it. And a whole number leaves room: several levels ride in one slot as digits.
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from smallhold.errors import EncryptionError, InputError, MissingExtraError, ShapeError
from smallhold.privacy.checks import check_count
from smallhold.privacy.randomness import Int64

RING = 4096
SLOTS = RING // 2
_MODULUS_BITS, _KEY_BITS = 60, 49
# Fresh encryption at the key's level is divided by the special prime; what remains is the rounding of that division,
# r0 + s r1 with r uniform in (-1/2, 1/2) and s ternary, in each coefficient. Its real part in a slot has this variance.
_NOISE_STDDEV = math.sqrt(RING * (1 + 2 * RING / 3) / 24)  # 683; tests measure it
# s r1 has the tails of a Laplace distribution in a slot: 40 standard deviations have probability exp(-56) = 2^-81.
_NOISE_TAIL = 40.0
_HEADER = struct.Struct("<4sB3xII8s")  # magic, bits, three bytes to align, entries, summands, key
_MAGIC = b"SHE1"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptionConfig:
    """How levels ride in slots; equal on all sides.

    Attributes:
        bits: Width of one entry of the sum, sign included: `FixedPoint.bits`.
        num_sites: How many ciphertexts may be added.
    """

    bits: int
    num_sites: int

    def __post_init__(self) -> None:
        """Check that at least one entry fits into a slot."""
        check_count(self.bits, "bits", at_least=2, at_most=62)
        check_count(self.num_sites, "num_sites")
        if self.digits < 1:
            raise InputError(
                f"bits: {self.bits} bits do not fit a slot beside the noise of {self.num_sites} sites",
                hint=f"take at most {int(self._room)} bits",
            )

    @property
    def scale(self) -> float:
        """What a whole number is multiplied by: half of it is 40 standard deviations of the noise of all sites."""
        return 2 * _NOISE_TAIL * _NOISE_STDDEV * math.sqrt(self.num_sites)

    @property
    def digits(self) -> int:
        """Entries in one slot: 2^(bits * digits - 1) * scale stays below half the modulus."""
        return int(self._room // self.bits)

    @property
    def _room(self) -> float:
        return _MODULUS_BITS - 0.02 - math.log2(self.scale)

    def num_ciphertexts(self, length: int) -> int:
        """Ciphertexts for a vector of so many entries."""
        return -(-length // (SLOTS * self.digits))


@dataclass(frozen=True, slots=True)
class EncryptionKeys:
    """Keys as bytes.

    Attributes:
        public: For everybody: encrypts and adds.
        secret: Decrypts; for the sites alone. Not printed.
    """

    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"EncryptionKeys({key_name(self.public).hex()})"


def check_available() -> None:
    """Refuse before anybody is asked.

    Raises:
        MissingExtraError: TenSEAL is absent.
    """
    _tenseal()


def make_keys() -> EncryptionKeys:
    """A new pair of keys.

    Raises:
        MissingExtraError: TenSEAL is absent.
    """
    ts = _tenseal()
    context = ts.context(ts.SCHEME_TYPE.CKKS, RING, -1, [_MODULUS_BITS, _KEY_BITS])
    secret = context.serialize(save_secret_key=True, save_galois_keys=False, save_relin_keys=False)
    public = context.serialize(save_secret_key=False, save_galois_keys=False, save_relin_keys=False)
    return EncryptionKeys(public, secret)


def key_name(public: bytes) -> bytes:
    """Eight bytes that tell one key from another by mistake; not a proof of anything."""
    return hashlib.sha256(public).digest()[:8]


def encrypt_levels(levels: Int64, public: bytes, config: EncryptionConfig) -> bytes:
    """Encrypt the levels of an update.

    Args:
        levels: (P,) int64 from `FixedPoint.quantize` (or `encode_weighted`); `num_sites` of them sum to `bits` bits.
        public: The public key.
        config: How levels ride in slots.

    Returns:
        A header and `config.num_ciphertexts(P)` ciphertexts of some 65 KB.

    Raises:
        InputError: an entry so large that a sum of `num_sites` could wrap.
        MissingExtraError: TenSEAL is absent.
    """
    if levels.ndim != 1 or levels.size == 0 or levels.dtype != np.int64:
        raise ShapeError(f"levels: expected a flat int64 array, got {levels.dtype} {levels.shape}")
    bound = (2 ** (config.bits - 1) - 1) // config.num_sites
    if (largest := int(np.max(np.abs(levels)))) > bound:
        raise InputError(
            f"levels: {config.num_sites} sites with {config.bits} bits allow levels up to {bound}, got {largest}"
        )
    ts, context = _open_context(public, config)
    blobs = [ts.ckks_vector(context, slots).serialize() for slots in _to_slots(levels, config)]
    return _write(config, levels.size, 1, key_name(public), blobs)


class EncryptedSum:
    """The server's running sum of ciphertexts.

    Args:
        public: The public key.
        config: As the sites have it.

    Raises:
        MissingExtraError: TenSEAL is absent.
    """

    def __init__(self, public: bytes, config: EncryptionConfig) -> None:
        self._ts, self._context = _open_context(public, config)
        self._config, self._key = config, key_name(public)
        self._vectors: list[Any] = []
        self._length = 0
        self._summands = 0

    def add(self, encrypted: bytes, *, expected_length: int | None = None) -> None:
        """Add one site's update.

        Args:
            encrypted: From `encrypt_levels`.
            expected_length: P; None takes the first update's.

        Raises:
            EncryptionError: malformed, of another key, length or width, or more than `num_sites` in all. The sum is
                then as before.
        """
        length, summands, blobs = _read(encrypted, self._config, self._key)
        if self._summands + summands > self._config.num_sites:
            raise EncryptionError(
                f"encrypted update: the sum would hold {self._summands + summands} sites, its headroom is for "
                f"{self._config.num_sites}"
            )
        if length != (expected := expected_length or self._length or length):
            raise EncryptionError(f"encrypted update: expected {expected} entries, got {length}")
        vectors = [_load(self._ts, self._context, blob) for blob in blobs]
        # TenSEAL adds into a new vector; the old list stays whole until every one of them is made.
        self._vectors = [a + b for a, b in zip(self._vectors, vectors, strict=True)] if self._vectors else vectors
        self._length, self._summands = length, self._summands + summands

    def to_bytes(self) -> bytes:
        """The sum, encrypted, for a holder of the secret key.

        Raises:
            EncryptionError: nothing was added.
        """
        if not self._vectors:
            raise EncryptionError("encrypted sum: nothing was added yet")
        blobs = [vector.serialize() for vector in self._vectors]
        return _write(self._config, self._length, self._summands, self._key, blobs)


def decrypt_sum(encrypted: bytes, keys: EncryptionKeys, config: EncryptionConfig) -> tuple[Int64, int]:
    """Open a sum.

    Returns:
        (P,) int64, exactly the sum of the levels, and how many sites are in it, as the server says.

    Raises:
        EncryptionError: malformed, of another key, or noise beyond what fresh ciphertexts of `num_sites` sites have.
    """
    length, summands, blobs = _read(encrypted, config, key_name(keys.public))
    ts, context = _open_context(keys.secret, config)
    rows = []
    for blob in blobs:
        try:
            slots = np.array(_load(ts, context, blob).decrypt())
        except (ValueError, RuntimeError, MemoryError) as error:
            raise EncryptionError(f"encrypted sum: cannot be decrypted: {error}") from error
        whole = np.rint(slots)
        if slots.shape != (SLOTS,) or not np.isfinite(slots).all() or float(np.max(np.abs(slots - whole))) > 0.45:
            raise EncryptionError(
                "encrypted sum: its noise is larger than that of the sites' ciphertexts",
                hint="another key, more sites than configured, or an altered ciphertext",
            )
        rows.append(whole.astype(np.int64))
    return _from_slots(np.concatenate(rows), length, config), summands


def _to_slots(levels: Int64, config: EncryptionConfig) -> npt.NDArray[np.float64]:
    """(ciphertexts, SLOTS): slot = sum over digits j of level_j * 2^(bits * j)."""
    count = config.num_ciphertexts(levels.size)
    padded = np.zeros(count * SLOTS * config.digits, dtype=np.int64)
    padded[: levels.size] = levels
    digits = padded.reshape(config.digits, count * SLOTS)
    slots = np.zeros(count * SLOTS, dtype=np.int64)
    for j in range(config.digits):
        slots += digits[j] << (config.bits * j)
    return slots.reshape(count, SLOTS).astype(np.float64)  # below 2^53: exact


def _from_slots(slots: Int64, length: int, config: EncryptionConfig) -> Int64:
    """The signed digits of each slot, lowest first."""
    half, base = 2 ** (config.bits - 1), 2**config.bits
    digits = np.empty((config.digits, slots.size), dtype=np.int64)
    rest = slots
    for j in range(config.digits):
        digits[j] = (rest + half) % base - half
        rest = (rest - digits[j]) >> config.bits
    if rest.any():
        raise EncryptionError("encrypted sum: a slot holds more than its digits: levels out of range were added")
    return digits.reshape(-1)[:length]


def _write(config: EncryptionConfig, length: int, summands: int, key: bytes, blobs: list[bytes]) -> bytes:
    parts = [_HEADER.pack(_MAGIC, config.bits, length, summands, key)]
    for blob in blobs:
        parts += [len(blob).to_bytes(4, "little"), blob]
    return b"".join(parts)


def _read(data: bytes, config: EncryptionConfig, key: bytes) -> tuple[int, int, list[bytes]]:
    if len(data) < _HEADER.size:
        raise EncryptionError(f"encrypted update: {len(data)} bytes are less than a header")
    magic, bits, length, summands, found = _HEADER.unpack_from(data)
    if magic != _MAGIC or bits != config.bits or length < 1:
        raise EncryptionError(
            f"encrypted update: not one, or of another width: expected {config.bits} bits, got {bits}"
        )
    if found != key:
        raise EncryptionError("encrypted update: made with another public key")
    if not 1 <= summands <= config.num_sites:
        raise EncryptionError(f"encrypted update: a sum of {summands} sites, expected 1 to {config.num_sites}")
    blobs, at = [], _HEADER.size
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        if at + 4 + size > len(data):
            raise EncryptionError("encrypted update: cut short")
        blobs.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    if len(blobs) != config.num_ciphertexts(length):
        raise EncryptionError(
            f"encrypted update: expected {config.num_ciphertexts(length)} ciphertexts for {length} entries, "
            f"got {len(blobs)}"
        )
    return length, summands, blobs


def _load(ts: Any, context: Any, blob: bytes) -> Any:
    try:
        vector = ts.ckks_vector_from(context, blob)
        size = vector.size()
    except (ValueError, RuntimeError, MemoryError) as error:
        raise EncryptionError(f"encrypted update: not a ciphertext of this key's parameters: {error}") from error
    if size != SLOTS:
        raise EncryptionError(f"encrypted update: a ciphertext of {size} slots, expected {SLOTS}")
    return vector


def _open_context(key: bytes, config: EncryptionConfig) -> tuple[Any, Any]:
    ts = _tenseal()
    try:
        context = ts.context_from(key)
    except (ValueError, RuntimeError, MemoryError) as error:
        raise EncryptionError(f"key: not one of this scheme: {error}") from error
    context.global_scale = config.scale
    return ts, context


def _tenseal() -> Any:
    try:
        import tenseal
    except ImportError as error:
        raise MissingExtraError("tenseal", "he", "homomorphic encryption") from error
    return tenseal
