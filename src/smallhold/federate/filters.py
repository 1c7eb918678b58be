"""What an update passes between a site and the aggregate: a bound on its norm, fewer numbers, and fewer bits.

A site clips, leaves out and rounds; the server reads, and clips again, because it does not have to believe that a site
did. The noise of differential privacy is the server's and is added to the aggregate (`server.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smallhold.errors import PrivacyError, UpdateRefused
from smallhold.federate.job import FederatedJob
from smallhold.federate.layout import Vector
from smallhold.federate.messages import Update
from smallhold.privacy.clip import clip_update
from smallhold.privacy.quantize_update import QuantizedUpdate, quantize_update
from smallhold.privacy.randomness import UnsafeSeededRandom
from smallhold.privacy.sparsify import keep_largest, sparse_from_bytes, sparse_size, sparse_to_bytes

_FLOAT_BITS = 32  # of a number that is sent as it is


def encode_delta(
    delta: Vector, job: FederatedJob, seed: int, residual: Vector | None = None
) -> tuple[tuple[str, ...], dict[str, NDArray[Any]], Vector | None]:
    """What a site sends of its delta.

    Args:
        delta: (P,) how training changed the model.
        job: Says what is done to it.
        seed: Of the rounding.
        residual: (P,) what earlier rounds left out, where the job sends a part of the numbers; None at the first.

    Returns:
        How it is written, the arrays, and the residual for the next round: None where the job sends all numbers.
    """
    if job.privacy.clip_norm:
        delta, _ = clip_update(delta, clip_norm=job.privacy.clip_norm)
    # Rounding hides nothing and has to be the same on every engine, so its source may be a seed.
    random = UnsafeSeededRandom(seed)
    if job.upload.top_k:
        data, residual = _largest(delta, residual, job, random)
    elif job.upload.bits:
        data, residual = quantize_update(delta, bits=job.upload.bits, random=random).to_bytes(), None
    else:
        return (), {"delta": delta}, None
    return _encoding(job), {"delta": np.frombuffer(data, dtype=np.uint8)}, residual


def _largest(
    delta: Vector, residual: Vector | None, job: FederatedJob, random: UnsafeSeededRandom
) -> tuple[bytes, Vector]:
    """The largest numbers of delta and residual as bytes, and all that those do not say."""
    sparse, rest = keep_largest(delta, residual, count=job.upload.count(delta.size))
    if job.privacy.clip_norm:  # with what earlier rounds left, the norm may be beyond the bound again
        values, _ = clip_update(sparse.values, clip_norm=job.privacy.clip_norm)
        rest[sparse.indices] += sparse.values - values
        sparse = replace(sparse, values=values)
    data, lost = sparse_to_bytes(sparse, bits=job.upload.bits or _FLOAT_BITS, random=random)
    rest[sparse.indices] += lost
    return data, rest


def decode_delta(update: Update, job: FederatedJob, size: int) -> Vector:
    """The delta (P,) that an update speaks of, within the norm that the job allows.

    Raises:
        UpdateRefused: `malformed`: written otherwise than the job says, of another length, not finite, or no counts
            where the job counts.
    """
    arrays: Mapping[str, NDArray[Any]] = update.arrays
    if update.encoding != _encoding(job) or set(arrays) != {"delta"}:
        raise UpdateRefused(
            "malformed", f"expected one array `delta`, encoded as {list(_encoding(job))}, got {list(update.encoding)}"
        )
    delta = arrays["delta"]
    if _encoding(job):
        if delta.dtype != np.uint8 or delta.ndim != 1:
            raise UpdateRefused("malformed", f"delta: expected bytes, got {delta.shape} {delta.dtype}")
        try:
            delta = _read(delta.tobytes(), job, size)
        except PrivacyError as error:
            raise UpdateRefused("malformed", str(error)) from error
    if delta.dtype != np.float32 or delta.shape != (size,):
        raise UpdateRefused("malformed", f"delta: expected {size} numbers of float32, got {delta.shape} {delta.dtype}")
    if not np.isfinite(delta).all():
        raise UpdateRefused("malformed", "delta: expected finite numbers")
    if job.is_counting and not (
        delta.min() >= 0 and delta.max() <= job.statistics.max_count and (delta % 1 == 0).all()
    ):
        raise UpdateRefused("malformed", f"delta: expected whole counts up to {job.statistics.max_count}")
    if job.privacy.clip_norm:
        delta, _ = clip_update(delta, clip_norm=job.privacy.clip_norm)
    return delta


def _read(data: bytes, job: FederatedJob, size: int) -> Vector:
    if not job.upload.top_k:
        return QuantizedUpdate.from_bytes(data).to_floats()
    # Before anything of the size that the bytes speak of is made.
    expected = sparse_size(size, job.upload.count(size), bits=job.upload.bits or _FLOAT_BITS)
    if len(data) != expected:
        raise PrivacyError(f"not a sparse update of this job: expected {expected} bytes, got {len(data)}")
    sparse = sparse_from_bytes(data)
    if sparse.size != size:
        raise PrivacyError(f"not a sparse update of this job: expected {size} parameters, got {sparse.size}")
    return sparse.to_dense()


def _encoding(job: FederatedJob) -> tuple[str, ...]:
    sparse = ("top-k",) if job.upload.top_k else ()
    return (*sparse, f"quantized-{job.upload.bits}") if job.upload.bits else sparse
