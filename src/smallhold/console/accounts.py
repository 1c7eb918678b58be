"""Who may do what at the console: roles, rights, and accounts in one file that holds no password.

A password is kept as scrypt (RFC 7914) of it; the file has mode 0600, is replaced as a whole, and is read once, when
the console begins.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import threading
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from smallhold.device.durable_file import write_durably
from smallhold.errors import InputError

SHORTEST_PASSWORD = 10
LONGEST_PASSWORD = 256
_FORMAT = 1
_LONGEST_NAME = 64
# OWASP's password storage cheat sheet: N = 2^15 with r = 8 and p = 3; 32 MiB and about a quarter of a second.
_SCRYPT = {"n": 2**15, "r": 8, "p": 3}
_SCRYPT_MEMORY = 64 * 2**20
#: So many at once, each 32 MiB: guesses must not take the ward's memory or both of its cores.
_AT_ONCE = threading.BoundedSemaphore(2)
#: So many wait for their turn; further ones are refused at once, so that guesses cannot hold all of the server.
_MOST_WAITING = threading.BoundedSemaphore(8)


class Role(StrEnum):
    """Whom a person works as."""

    NURSE = "nurse"
    PHYSICIAN = "physician"
    OFFICER = "officer"  # data protection, compliance, quality
    ENGINEER = "engineer"


class Right(StrEnum):
    """What an account may be allowed."""

    STATUS = "status"  # figures of the ward and its model, of no patient
    VIEW = "view"  # patients
    ACKNOWLEDGE = "acknowledge"  # alerts; pause their signals; accept a proposal
    GIVE = "give"  # doses; hold them; record a refusal
    MESSAGE = "message"
    OVERRIDE = "override"  # proposals; answer what waits for a person; acknowledge drift
    PRESCRIBE = "prescribe"
    AUDIT = "audit"  # the journal
    FEDERATION = "federation"


_CARE = frozenset({Right.STATUS, Right.VIEW, Right.ACKNOWLEDGE, Right.GIVE, Right.MESSAGE})
RIGHTS: Mapping[Role, frozenset[Right]] = {
    Role.NURSE: _CARE,
    Role.PHYSICIAN: _CARE | {Right.OVERRIDE, Right.PRESCRIBE, Right.AUDIT, Right.FEDERATION},
    Role.OFFICER: frozenset({Right.STATUS, Right.AUDIT, Right.FEDERATION}),
    Role.ENGINEER: frozenset({Right.STATUS, Right.FEDERATION}),
}


@dataclass(frozen=True, slots=True, repr=False)
class Account:
    """One person; `repr` shows no digest.

    Attributes:
        name: Stands as the actor in the journal.
        role: See `Role`.
        salt: 16 bytes.
        digest: scrypt of the password, 32 bytes.
    """

    name: str
    role: Role
    salt: bytes
    digest: bytes

    def __repr__(self) -> str:
        return f"Account({self.name!r}, {self.role.value})"


class Accounts:
    """Everybody who may log in."""

    def __init__(self, accounts: Iterable[Account]) -> None:
        self._by_name = {account.name: account for account in accounts}
        self._nobody = make_account("nobody", Role.NURSE, secrets.token_urlsafe(32))

    def __len__(self) -> int:
        return len(self._by_name)

    def check(self, name: str, password: str, *, wait_seconds: float = 5.0) -> Account | None:
        """The account, None when there is none of that name or the password is another.

        An unknown name takes as long as a known one.

        Raises:
            TimeoutError: too many are being checked at this moment.
        """
        account = self._by_name.get(name)
        if not _MOST_WAITING.acquire(blocking=False):
            raise TimeoutError
        try:
            if not _AT_ONCE.acquire(timeout=wait_seconds):
                raise TimeoutError
            try:
                digest = _digest(password, (account or self._nobody).salt)
            finally:
                _AT_ONCE.release()
        finally:
            _MOST_WAITING.release()
        is_right = hmac.compare_digest(digest, (account or self._nobody).digest)
        return account if is_right else None


def make_account(name: str, role: Role, password: str) -> Account:
    """An account with a fresh salt.

    Raises:
        InputError: the name is not a plain one, or the password is too short or too long.
    """
    if (
        not 1 <= len(name) <= _LONGEST_NAME
        or any(unicodedata.category(c)[0] == "C" for c in name)
        or name != name.strip()
    ):
        raise InputError(f"account: expected a name of 1 to {_LONGEST_NAME} printable characters, got {name[:80]!a}")
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise InputError(
            f"password: expected {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters, got {len(password)}"
        )
    salt = secrets.token_bytes(16)
    return Account(name, role, salt, _digest(password, salt))


def read_accounts(path: Path) -> Accounts:
    """Read an account file.

    Raises:
        InputError: absent, readable by others, or not an account file.
    """
    return Accounts(_read(path))


def add_account(path: Path, account: Account) -> None:
    """Add one; the file is made when absent.

    Raises:
        InputError: the name is taken, or the file cannot be read or written.
    """
    held = _read(path) if path.exists() else []
    if any(item.name == account.name for item in held):
        raise InputError(f"account {account.name!r}: is there already", hint="remove it first, then add it anew")
    _write(path, [*held, account])


def remove_account(path: Path, name: str) -> None:
    """Remove one; sessions that it has end with the console that they are of.

    Raises:
        InputError: there is none of that name, or the file cannot be read or written.
    """
    held = _read(path)
    left = [item for item in held if item.name != name]
    if len(left) == len(held):
        raise InputError(f"account {name!r}: there is none in {path}")
    _write(path, left)


def list_accounts(path: Path) -> list[tuple[str, Role]]:
    """Names and roles.

    Raises:
        InputError: the file cannot be read.
    """
    return [(item.name, item.role) for item in _read(path)]


def _digest(password: str, salt: bytes) -> bytes:
    # NFC, so that é typed on two keyboards is one character.
    data = unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
    return hashlib.scrypt(data, salt=salt, dklen=32, maxmem=_SCRYPT_MEMORY, **_SCRYPT)


def _read(path: Path) -> list[Account]:
    try:
        if path.stat().st_mode & 0o077:
            raise InputError(f"accounts {path}: others may read this file", hint=f"chmod 600 {path}")
        value = json.loads(path.read_text(encoding="utf-8"))
        if value["format"] != _FORMAT or value["scrypt"] != _SCRYPT:
            raise ValueError(f"expected format {_FORMAT} and scrypt {_SCRYPT}")
        return [_account(item) for item in value["accounts"]]
    except FileNotFoundError:
        raise InputError(
            f"accounts {path}: no such file", hint="smallhold console user add NAME --role nurse"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"accounts {path}: cannot be read: {error}") from error


def _account(item: Any) -> Account:
    return Account(str(item["name"]), Role(item["role"]), bytes.fromhex(item["salt"]), bytes.fromhex(item["digest"]))


def _write(path: Path, accounts: list[Account]) -> None:
    value = {
        "format": _FORMAT,
        "scrypt": _SCRYPT,
        "accounts": [
            {"name": item.name, "role": item.role.value, "salt": item.salt.hex(), "digest": item.digest.hex()}
            for item in accounts
        ],
    }
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(path, [json.dumps(value, indent=1, ensure_ascii=False).encode() + os.linesep.encode()])
    except OSError as error:
        raise InputError(f"accounts {path}: cannot be written: {error}") from error
