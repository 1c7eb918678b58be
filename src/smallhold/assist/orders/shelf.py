"""The folder of orders: which are signed by enough people, and which were taken back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from smallhold.assist.orders.order_file import MAX_BYTES
from smallhold.assist.orders.signing import SignedOrder, verify_order, verify_revocation
from smallhold.device.durable_file import write_durably
from smallhold.device.trust import load_trusted_keys
from smallhold.errors import InputError, OrderError

TRUST, REVOKED = "trust", "revoked"
_MAX_ENVELOPE = 4 * MAX_BYTES


@dataclass(frozen=True, slots=True)
class Shelf:
    """What a folder of orders holds.

    Attributes:
        orders: By digest; believed.
        revoked: Digest of an order -> why it was taken back.
        problems: File name -> why it is not used.
        unreadable_revocation: A revocation that cannot be believed. It may be for any order, so that none is used.
    """

    orders: Mapping[str, SignedOrder]
    revoked: Mapping[str, str]
    problems: Mapping[str, str]
    unreadable_revocation: str | None


def read_shelf(folder: Path, *, minimum_signatures: int = 1) -> Shelf:
    """Read and verify everything; what cannot be believed is not used, and a reason is kept.

    Args:
        folder: The home's `orders`; absent means no orders.
        minimum_signatures: What this site requires of every order.

    Raises:
        InputError: a key in `trust/` is not a public key.
    """
    trusted = load_trusted_keys(folder / TRUST)
    orders: dict[str, SignedOrder] = {}
    problems: dict[str, str] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            signed = verify_order(_read(path), trusted, minimum_signatures=minimum_signatures)
        except OrderError as error:
            problems[path.name] = str(error)
        else:
            orders[signed.digest] = signed
    revoked: dict[str, str] = {}
    unreadable = None
    try:
        papers = sorted((folder / REVOKED).iterdir())  # glob would pass over a folder that cannot be read
    except FileNotFoundError:
        papers = []
    except OSError as error:
        papers, unreadable = [], f"{REVOKED}/ cannot be read: {error.strerror}"
        problems[REVOKED] = unreadable
    for path in papers:
        if path.name.endswith(".partial"):  # being written at this moment, or left by a process that was killed
            continue
        try:
            revocation = verify_revocation(_read(path), trusted)
        except OrderError as error:
            problems[f"{REVOKED}/{path.name}"] = str(error)
            unreadable = f"{REVOKED}/{path.name}: {error}"
        else:
            revoked[revocation.order] = revocation.reason
    return Shelf(orders, revoked, problems, unreadable)


def put_order(folder: Path, signed: SignedOrder, envelope: bytes) -> Path:
    """Keep a signed order under its digest.

    Raises:
        InputError: it cannot be written.
    """
    return _write(folder / f"{signed.order.name}-{signed.digest[:16]}.json", envelope)


def put_revocation(folder: Path, order: str, envelope: bytes) -> Path:
    """Keep a revocation; from the next look on the order is void.

    Raises:
        InputError: it cannot be written. The order stays in force: stop everything instead.
    """
    return _write(folder / REVOKED / f"{order}.json", envelope)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_ENVELOPE + 1)
    except OSError as error:
        raise OrderError(f"{path.name} cannot be read: {error}") from error
    if len(data) > _MAX_ENVELOPE:
        raise OrderError(f"{path.name} is larger than {_MAX_ENVELOPE} bytes")
    return data


def _write(path: Path, data: bytes) -> Path:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(path, [data])
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}", hint="smallhold order stop") from error
    return path
