"""An update in 8 or 4 bits: one scale a group, stochastic rounding, a compact form on the wire.

Source: QSGD, Alistarh et al. 2017, arXiv:1610.02132 (unbiased stochastic rounding); group scales as in the bundle's own
eight-bit weights.

Not linear: two quantized updates have different scales and cannot be added. Under secure aggregation use `FixedPoint`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from smallhold.errors import InputError, PrivacyError
from smallhold.privacy.checks import check_count, check_vector
from smallhold.privacy.fixed_point import round_levels
from smallhold.privacy.packing import pack_bits, packed_size, unpack_bits
from smallhold.privacy.randomness import Random, SecureRandom

_HEADER = struct.Struct("<4sBBxxQ")  # magic, bits, log2 of the group size, two bytes to align, P
_MAGIC = b"SHQ1"
_BITS = (4, 8)
_MAX_PARAMETERS = 2**40


@dataclass(frozen=True, slots=True)
class QuantizedUpdate:
    """Values in groups: value = (code - 2^(bits-1)) * scale of its group.

    Attributes:
        codes: (P,) uint8, 1 to 2^bits - 1.
        scales: (groups,) float32, 0 for a group of zeros.
        bits: 4 or 8.
        group_size: A power of two, 8 to 32768.
    """

    codes: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float32]
    bits: int
    group_size: int

    def to_floats(self) -> npt.NDArray[np.float32]:
        """(P,) float32."""
        scales = np.repeat(self.scales, self.group_size)[: self.codes.size]
        return (self.codes.astype(np.float32) - np.float32(2 ** (self.bits - 1))) * scales

    def to_bytes(self) -> bytes:
        """`encoded_size` bytes: header, scales, packed codes."""
        header = _HEADER.pack(_MAGIC, self.bits, self.group_size.bit_length() - 1, self.codes.size)
        return header + self.scales.astype("<f4").tobytes() + pack_bits(self.codes, self.bits).tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> QuantizedUpdate:
        """Read what `to_bytes` wrote.

        Raises:
            PrivacyError: malformed: not of this form, of another size, or with a scale or code that no update has.
        """
        try:
            if len(data) < _HEADER.size:
                raise InputError(f"{len(data)} bytes are less than a header")
            magic, bits, log_group, size = _HEADER.unpack_from(data)
            if magic != _MAGIC:
                raise InputError("it does not begin as one")
            group_size = _check_form(bits, 2**log_group if log_group < 64 else 0)
            check_count(size, "number of parameters", at_most=_MAX_PARAMETERS)
            if len(data) != encoded_size(size, bits=bits, group_size=group_size):
                raise InputError(f"{len(data)} bytes, expected {encoded_size(size, bits=bits, group_size=group_size)}")
            groups = -(-size // group_size)
            scales = np.frombuffer(data, dtype="<f4", count=groups, offset=_HEADER.size).astype(np.float32)
            if not np.isfinite(scales).all() or (scales < 0).any():
                raise InputError("a scale is negative, infinite or NaN")
            packed = np.frombuffer(data, dtype=np.uint8, offset=_HEADER.size + 4 * groups)
            codes = unpack_bits(packed, size, bits).astype(np.uint8)
            if (codes == 0).any():
                raise InputError("a code is 0, which no value has")
        except InputError as error:
            raise PrivacyError(f"not a quantized update: {error}") from error
        return cls(codes, scales, bits, group_size)


def quantize_update(
    update: npt.NDArray[np.floating], *, bits: int, group_size: int = 256, random: Random | None = None
) -> QuantizedUpdate:
    """Quantize an update with stochastic rounding.

    Guarantees: each value decodes to within one scale of it; the mean over the rounding is the value, up to float32;
    zero decodes to zero. The scale is the group's largest absolute value over 127 (8 bits) or 7 (4 bits).

    Args:
        update: (P,) finite floats.
        bits: 4 or 8.
        group_size: Values to a scale: a power of two, 8 to 32768.
        random: Source of uniform words; default: a fresh `SecureRandom`.

    Raises:
        PrivacyError: NaN or an infinity inside.
        InputError: another width or group size.
    """
    _check_form(bits, group_size)
    values = check_vector(update, "update").astype(np.float64)
    groups = -(-values.size // group_size)
    padded = np.zeros(groups * group_size)
    padded[: values.size] = values
    rows = padded.reshape(groups, group_size)
    max_code = 2 ** (bits - 1) - 1
    with np.errstate(over="ignore"):
        exact = np.max(np.abs(rows), axis=1) / max_code
        scales = exact.astype(np.float32)
        scales = np.where(
            scales < exact, np.nextafter(scales, np.float32(np.inf)), scales
        )  # rounded up: codes stay in range
    if not np.isfinite(scales).all():
        raise PrivacyError("update: an entry does not fit float32, the type of a group's scale")
    divisors = np.where(scales > 0, scales, np.float32(1)).astype(np.float64)
    source = SecureRandom() if random is None else random
    levels = round_levels((rows / divisors[:, None]).reshape(-1), source).clip(-max_code, max_code)
    codes = (levels[: values.size] + 2 ** (bits - 1)).astype(np.uint8)
    return QuantizedUpdate(codes, scales, bits, group_size)


def encoded_size(num_parameters: int, *, bits: int, group_size: int = 256) -> int:
    """Bytes of an update of P parameters in this form."""
    return _HEADER.size + 4 * -(-num_parameters // group_size) + packed_size(num_parameters, bits)


def _check_form(bits: int, group_size: int) -> int:
    if bits not in _BITS:
        raise InputError(f"bits: expected 4 or 8, got {bits!r}")
    if not 8 <= group_size <= 32768 or group_size & (group_size - 1):
        raise InputError(f"group_size: expected a power of two from 8 to 32768, got {group_size!r}")
    return group_size
