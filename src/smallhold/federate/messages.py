"""What server and sites say to each other: one opaque blob a message, the same bytes on every engine.

A blob is a safetensors file: named arrays, and one metadata entry `about` with a header in canonical JSON. Nothing is
unpickled. Engines carry blobs as they are and never look inside, so that no engine can change a type, drop a tensor or
average what must not be averaged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from smallhold.errors import UpdateRefused
from smallhold.records import canonical_json

#: A larger message is refused before it is parsed.
MAX_BYTES = 2**31
_REQUEST, _UPDATE = "smallhold.federate.request/1", "smallhold.federate.update/1"
_SECURE_REQUEST, _SECURE_ANSWER = "smallhold.federate.secure-request/1", "smallhold.federate.secure-answer/1"
_SECURE_MEMBERS = ("job", "round", "base", "attempt", "turn")
_SITE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_HEADER = 8  # bytes of the length of safetensors' own header


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """What a round asks of every site of its cohort.

    Attributes:
        job: Digest of the job.
        round: 0 for the first.
        base: Digest of the global model.
        arrays: `model` (P,) float32, the global model.
    """

    job: str
    round: int
    base: str
    arrays: Mapping[str, NDArray[Any]]

    def to_bytes(self) -> bytes:
        """The blob."""
        return _pack(_REQUEST, {"job": self.job, "round": self.round, "base": self.base}, self.arrays)

    @classmethod
    def from_bytes(cls, blob: bytes) -> TrainRequest:
        """Read a blob.

        Raises:
            UpdateRefused: `malformed`.
        """
        about, arrays = _unpack(_REQUEST, blob, ("job", "round", "base"))
        _check(about, job=_is_digest, round=_is_count, base=_is_digest)
        model = arrays.get("model")
        if set(arrays) != {"model"} or model is None or model.ndim != 1 or model.dtype != np.float32:
            raise UpdateRefused("malformed", "expected one array `model` (P,) of float32")
        return cls(arrays=arrays, **about)


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """A site's answer: how its model differs from the global one, and of how much data it speaks.

    Attributes:
        job: Digest of the job.
        site: Who.
        round: Which round it answers.
        base: Digest of the global model that it began from.
        num_examples: Rows that were learnt from.
        withdrawn: Rows left out because consent was withdrawn.
        encoding: What was done to the delta, in order; empty for plain float32.
        metrics: Losses and the like.
        arrays: The delta; `delta` (P,) float32 where nothing was done to it.
    """

    job: str
    site: str
    round: int
    base: str
    num_examples: int
    withdrawn: int = 0
    encoding: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[Any]]

    def to_bytes(self) -> bytes:
        """The blob."""
        about = {name: value for name, value in asdict(self).items() if name != "arrays"}
        return _pack(_UPDATE, about | {"encoding": list(self.encoding)}, self.arrays)

    @classmethod
    def from_bytes(cls, blob: bytes) -> Update:
        """Read a blob; whether it fits the round is not checked here.

        Raises:
            UpdateRefused: `malformed`.
        """
        names = ("job", "site", "round", "base", "num_examples", "withdrawn", "encoding", "metrics")
        about, arrays = _unpack(_UPDATE, blob, names)
        _check(
            about,
            job=_is_digest,
            site=is_site_name,
            round=_is_count,
            base=_is_digest,
            num_examples=_is_count,
            withdrawn=_is_count,
            encoding=lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
            metrics=lambda value: isinstance(value, dict) and all(_is_number(item) for item in value.values()),
        )
        return cls(arrays=arrays, **about | {"encoding": tuple(about["encoding"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class SecureRequest:
    """What one turn of a secure round asks; the same for every site, so that engines carry it like any other request.

    Attributes:
        job: Digest of the job.
        round: 0 for the first.
        base: Digest of the global model.
        attempt: 0 for the first; later ones follow where too few sites stayed.
        turn: One of `secure_sum.TURNS`.
        arrays: `message`, what the server says to all; in the turn `input` the global model as `model` (P,) and what
            each site is to get as `inbox/SITE`.
    """

    job: str
    round: int
    base: str
    attempt: int
    turn: str
    arrays: Mapping[str, NDArray[Any]]

    def to_bytes(self) -> bytes:
        """The blob."""
        return _pack(_SECURE_REQUEST, {name: getattr(self, name) for name in _SECURE_MEMBERS}, self.arrays)

    @classmethod
    def from_bytes(cls, blob: bytes) -> SecureRequest:
        """Read a blob.

        Raises:
            UpdateRefused: `malformed`.
        """
        about, arrays = _unpack(_SECURE_REQUEST, blob, _SECURE_MEMBERS)
        _check(about, job=_is_digest, round=_is_count, base=_is_digest, attempt=_is_count, turn=is_site_name)
        return cls(arrays=arrays, **about)

    def said(self, name: str = "message") -> bytes:
        """A message of the server's.

        Raises:
            UpdateRefused: `malformed`: it is not there.
        """
        return _bytes_of(self.arrays, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecureAnswer:
    """A site's answer in one turn of a secure round. What it learnt is under masks; how much it learnt from, too.

    Attributes:
        job: Digest of the job.
        site: Who.
        round: Which round it answers.
        base: Digest of the global model.
        attempt: As in the request.
        turn: As in the request.
        arrays: `message`, signed by the site.
    """

    job: str
    site: str
    round: int
    base: str
    attempt: int
    turn: str
    arrays: Mapping[str, NDArray[Any]]

    @property
    def metrics(self) -> Mapping[str, float]:
        """None: how well a site's rows fit would be a release of its own."""
        return {}

    def to_bytes(self) -> bytes:
        """The blob."""
        about = {name: getattr(self, name) for name in (*_SECURE_MEMBERS, "site")}
        return _pack(_SECURE_ANSWER, about, self.arrays)

    @classmethod
    def from_bytes(cls, blob: bytes) -> SecureAnswer:
        """Read a blob.

        Raises:
            UpdateRefused: `malformed`.
        """
        about, arrays = _unpack(_SECURE_ANSWER, blob, (*_SECURE_MEMBERS, "site"))
        _check(about, job=_is_digest, round=_is_count, base=_is_digest, attempt=_is_count, turn=is_site_name)
        _check(about, site=is_site_name)
        return cls(arrays=arrays, **about)

    def said(self) -> bytes:
        """What the site signed.

        Raises:
            UpdateRefused: `malformed`: it is not there.
        """
        return _bytes_of(self.arrays, "message")


def message_arrays(**messages: bytes) -> dict[str, NDArray[Any]]:
    """Messages as arrays."""
    return {name: np.frombuffer(message, np.uint8) for name, message in messages.items()}


def _bytes_of(arrays: Mapping[str, NDArray[Any]], name: str) -> bytes:
    found = arrays.get(name)
    if found is None or found.dtype != np.uint8 or found.ndim != 1:
        raise UpdateRefused("malformed", f"expected an array `{name}` of bytes")
    return found.tobytes()


def is_site_name(value: object) -> bool:
    """Whether this may name a site: it becomes a file name and a column of a table."""
    return isinstance(value, str) and _SITE.fullmatch(value) is not None


def _pack(schema: str, about: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    # One metadata entry: safetensors writes several in no particular order, and equal messages must be equal bytes.
    ordered = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
    return save(ordered, {"about": canonical_json({"schema": schema, **about}).decode()})


def _unpack(schema: str, blob: bytes, names: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    if len(blob) > MAX_BYTES:
        raise UpdateRefused("malformed", f"expected at most {MAX_BYTES} bytes, got {len(blob)}")
    try:
        arrays = load(blob)
        length = int.from_bytes(blob[:_HEADER], "little")
        about = json.loads(json.loads(blob[_HEADER : _HEADER + length])["__metadata__"]["about"])
        if not isinstance(about, dict) or about.pop("schema", None) != schema:
            raise ValueError(f"expected the schema {schema}")
        if set(about) != set(names):
            raise ValueError(f"expected the members {', '.join(names)}, got {', '.join(map(str, about))}")
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UpdateRefused("malformed", str(error)) from error
    return about, arrays


def _check(about: dict[str, Any], **rules: Any) -> None:
    for name, rule in rules.items():
        if not rule(about[name]):
            raise UpdateRefused("malformed", f"member {name} has an impossible value")


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < float("inf")  # type: ignore[arg-type]
