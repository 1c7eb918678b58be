"""What an update passes between a site and the aggregate: a bound on its norm, and fewer bits.

A site clips and rounds; the server reads, and clips again, because it does not have to believe that a site did. The
noise of differential privacy is the server's and is added to the aggregate (`server.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
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


def encode_delta(delta: Vector, job: FederatedJob, seed: int) -> tuple[tuple[str, ...], dict[str, NDArray[Any]]]:
    """What a site sends of its delta (P,): how it is written, and the arrays."""
    if job.privacy.clip_norm:
        delta, _ = clip_update(delta, clip_norm=job.privacy.clip_norm)
    if not job.upload.bits:
        return (), {"delta": delta}
    # Rounding hides nothing and has to be the same on every engine, so its source may be a seed.
    rounded = quantize_update(delta, bits=job.upload.bits, random=UnsafeSeededRandom(seed))
    return _encoding(job), {"delta": np.frombuffer(rounded.to_bytes(), dtype=np.uint8)}


def decode_delta(update: Update, job: FederatedJob, size: int) -> Vector:
    """The delta (P,) that an update speaks of, within the norm that the job allows.

    Raises:
        UpdateRefused: `malformed`: written otherwise than the job says, of another length, or not finite.
    """
    arrays: Mapping[str, NDArray[Any]] = update.arrays
    if update.encoding != _encoding(job) or set(arrays) != {"delta"}:
        raise UpdateRefused(
            "malformed", f"expected one array `delta`, encoded as {list(_encoding(job))}, got {list(update.encoding)}"
        )
    delta = arrays["delta"]
    if job.upload.bits:
        if delta.dtype != np.uint8 or delta.ndim != 1:
            raise UpdateRefused("malformed", f"delta: expected bytes, got {delta.shape} {delta.dtype}")
        try:
            delta = QuantizedUpdate.from_bytes(delta.tobytes()).to_floats()
        except PrivacyError as error:
            raise UpdateRefused("malformed", str(error)) from error
    if delta.dtype != np.float32 or delta.shape != (size,):
        raise UpdateRefused("malformed", f"delta: expected {size} numbers of float32, got {delta.shape} {delta.dtype}")
    if not np.isfinite(delta).all():
        raise UpdateRefused("malformed", "delta: expected finite numbers")
    if job.privacy.clip_norm:
        delta, _ = clip_update(delta, clip_norm=job.privacy.clip_norm)
    return delta


def _encoding(job: FederatedJob) -> tuple[str, ...]:
    return (f"quantized-{job.upload.bits}",) if job.upload.bits else ()
