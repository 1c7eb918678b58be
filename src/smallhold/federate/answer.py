"""What a site keeps of its last answer: the bytes, for who asks again, and what it left out, for the next round.

One file, so that both are there or neither: an answer that was lost in a crash is made again from the same residual.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from smallhold.device.durable_file import write_durably
from smallhold.errors import FederationError
from smallhold.federate.layout import Vector
from smallhold.records import canonical_json

ANSWER = "answer.safetensors"
_SCHEMA = "smallhold.federate.answer/1"


@dataclass(frozen=True, slots=True)
class Answer:
    """The last answer of a site.

    Attributes:
        job: Digest of the job.
        round: Which it answered.
        request: Digest of the request.
        blob: The update as it was sent.
        residual: (P,) what was left out of it, None where all numbers are sent. As private as the records.
    """

    job: str
    round: int
    request: str
    blob: bytes
    residual: Vector | None


def write_answer(path: Path, answer: Answer) -> None:
    """Replace the answer of an earlier round, which is closed once a later one asks.

    Raises:
        OSError: the disk is full; the earlier answer is still there.
    """
    about = {"schema": _SCHEMA, "job": answer.job, "round": answer.round, "request": answer.request}
    arrays: dict[str, NDArray[Any]] = {"blob": np.frombuffer(answer.blob, np.uint8)}
    if answer.residual is not None:
        arrays["residual"] = answer.residual
    write_durably(path, [save(arrays, {"about": canonical_json(about).decode()})], mode=0o600)


def read_answer(path: Path) -> Answer | None:
    """The answer that was kept; None before the first.

    Raises:
        FederationError: the file is no answer.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {})["about"])
            if about["schema"] != _SCHEMA:
                raise ValueError(f"schema {about['schema']!r}")
            has_residual = "residual" in file.keys()  # noqa: SIM118 - not a mapping
            residual = file.get_tensor("residual") if has_residual else None
            blob = file.get_tensor("blob").tobytes()
        return Answer(about["job"], about["round"], about["request"], blob, residual)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise FederationError(
            f"{path}: not a site's last answer: {error}",
            hint="remove it to go on: the site answers anew, without what earlier rounds left out",
        ) from error
